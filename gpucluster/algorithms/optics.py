"""OPTICS: the order in which density reaches the rows, and the clusters in its plot."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gpucluster.algorithms.base import Algorithm, Raw
from gpucluster.device.memory import BLOCK_BYTES, COMPILER_BYTES, blocks_bytes
from gpucluster.device.select import Device
from gpucluster.errors import ConfigError
from gpucluster.events import Reporter
from gpucluster.types import NOISE, Cost, Matrix, Weights

LISTED = 60  # nearest rows that are listed for each row, beside those of min_samples
POWER_MAX_ROWS = 10_000  # with p other than 2 all distances are held: 0.8 GB


class OPTICS(Algorithm):
    """Order the rows by how dense it is on the way to them, and read clusters off that order.

    The reachability plot holds the clusterings of DBSCAN for every radius up to `max_eps`:
    `cluster_method` ``xi`` finds its valleys, whatever their depth, ``dbscan`` cuts it at
    `eps`. There is no strength of membership.

    Notes
    -----
    `min_samples` counts the row itself, as in scikit-learn's OPTICS.

    References
    ----------
    Ankerst, Breunig, Kriegel, Sander 1999, doi:10.1145/304181.304187.
    """

    name: ClassVar[str] = "optics"
    collapses_duplicates: ClassVar[bool] = True
    library_bytes: ClassVar[int] = COMPILER_BYTES

    min_samples: Annotated[int, Field(ge=2)] = Field(
        default=5, description="Rows that make a neighbourhood dense, the row itself counted."
    )
    max_eps: Annotated[float, Field(gt=0, lt=1e18)] | None = Field(
        default=None,
        description="No distance beyond it counts; in the unit of the metric. Omitted: no limit.",
    )
    metric: Literal["minkowski", "euclidean", "l2", "cosine"] = Field(
        default="minkowski", description="Distance; cosine is 1 - cosine similarity."
    )
    p: Annotated[float, Field(ge=1)] = Field(
        default=2, description="Power of the minkowski metric; 2 is euclidean."
    )
    cluster_method: Literal["xi", "dbscan"] = Field(
        default="xi", description="xi: the valleys of the plot; dbscan: the plot cut at eps."
    )
    eps: Annotated[float, Field(gt=0, lt=1e18)] | None = Field(
        default=None,
        description="Where dbscan cuts the plot, in the unit of the metric. Omitted: max_eps.",
    )
    xi: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="Share by which reachability changes at the edge of a cluster."
    )
    predecessor_correction: bool = Field(
        default=True,
        description="Whether xi leaves off rows at the end that were reached from outside.",
    )
    min_cluster_size: Annotated[int, Field(ge=2)] | Annotated[float, Field(gt=0, lt=1)] | None = (
        Field(
            default=None,
            description="Rows that make a cluster of xi, or their share of all rows. "
            "Omitted: min_samples.",
        )
    )

    @model_validator(mode="after")
    def _power_is_used(self) -> OPTICS:
        if self.p != 2 and self.metric != "minkowski":
            raise ValueError(
                f"p is {self.p:g}, but metric is {self.metric!r}, which has no power: "
                "use metric: minkowski, or leave p out"
            )
        return self

    @model_validator(mode="after")
    def _plot_can_be_cut(self) -> OPTICS:
        if self.cluster_method == "dbscan" and self.eps is None and self.max_eps is None:
            raise ValueError("cluster_method is 'dbscan', and neither eps nor max_eps is given")
        if self.cluster_method == "xi" and self.eps is not None:
            raise ValueError(
                f"eps is {self.eps:g}, but only cluster_method: dbscan cuts the plot there: "
                "name that, or leave eps out"
            )
        if self.eps is not None and self.max_eps is not None and self.eps > self.max_eps:
            raise ValueError(
                f"eps is {self.eps:g}, above max_eps {self.max_eps:g}: nothing is known there"
            )
        return self

    def distance(self, value: float | None) -> float:
        """Return `eps` or `max_eps` as a distance of `metric_space`; cosine: ``sqrt(2 eps)``."""
        if value is None:
            return math.inf
        return math.sqrt(2 * value) if self.metric == "cosine" else value

    def smallest_cluster(self, n_samples: int) -> int:
        """Return how many rows make a cluster."""
        size = self.min_samples if self.min_cluster_size is None else self.min_cluster_size
        return int(size) if size >= 1 else max(2, int(size * n_samples))

    def check(self, n_samples: int, reporter: Reporter) -> None:
        """Refuse too many rows for `p`; say when no cluster is possible."""
        super().check(n_samples, reporter)
        if self._needs_power() and n_samples > POWER_MAX_ROWS:
            raise ConfigError(
                f"got {self.p:g}, which holds all distances, and there are {n_samples} rows",
                path="optics.p",
                got=self.p,
                expected=f"2 above {POWER_MAX_ROWS} rows",
                hint="use p: 2, or sample_size",
            )
        for field, size in (
            ("min_samples", self.min_samples),
            ("min_cluster_size", self.smallest_cluster(n_samples)),
        ):
            if size > n_samples:
                reporter.warn(
                    f"{field}_above_rows",
                    f"optics.{field} is {size}, but there are {n_samples} rows: "
                    "everything is noise",
                )
                break

    def gpu_limit(self, n_samples: int) -> str | None:
        """Say what only the host does."""
        if self._needs_power():
            return f"minkowski distances with p {self.p:g} are measured on the host"
        if self._is_hopeless(n_samples):
            return f"{n_samples} rows are fewer than a cluster needs"
        return None

    def cost(self, n_samples: int, n_features: int, device: Device) -> Cost:
        """Return bytes beside `X`, and seconds at the rates in docs/algorithms/optics.md."""
        if self._needs_power():
            seconds = 20e-9 * n_samples**2 * (n_features + 1)
            return Cost(8 * n_samples * (n_samples + n_features + 8), seconds)
        # the distinct ones among equal rows, unit rows, a centred copy when they lie far from zero
        matrix = 4 * n_samples * n_features
        unit = matrix if self.metric == "cosine" else 0
        extra = n_samples * (8 * self._listed(n_samples) + 240) + 2 * matrix + unit
        extra += blocks_bytes(matrix) + 2 * BLOCK_BYTES  # tiles of products, however few the rows
        if device == "gpu":  # the rows, and blocks of distances
            on_device = matrix + min(12 * n_samples**2, 4 << 30)
            return Cost(extra, None, device_bytes=on_device)
        return Cost(
            extra,
            n_samples**2 * (2e-9 + 2.7 * n_features / 150e9),
            rows_bytes=unit + matrix,
            unit_bytes=unit,
            far_bytes=matrix,
        )

    def _needs_power(self) -> bool:
        return self.metric == "minkowski" and self.p != 2

    def _is_hopeless(self, n_samples: int) -> bool:
        return max(self.min_samples, self.smallest_cluster(n_samples)) > n_samples

    def _listed(self, n_samples: int) -> int:
        return min(n_samples, self.min_samples + LISTED)

    def _fit_cpu(self, X: Matrix, reporter: Reporter, weights: Weights | None = None) -> Raw:
        if self._is_hopeless(len(X) if weights is None else int(weights.sum())):
            return Raw(np.full(len(X), NOISE), backend="numpy")
        if self._needs_power():
            return self._extracted(self._order_by_power(X, weights, reporter), weights, "scipy")
        return self._extracted(self._order(X, weights, reporter), weights, "numba")

    def _fit_gpu(self, X: Matrix, reporter: Reporter, weights: Weights | None = None) -> Raw:
        from gpucluster.device.arrays import to_device

        X = to_device(X, "gpu")
        return self._extracted(self._order(X, weights, reporter), weights, "cupy")

    def _order(self, X: Any, weights: Weights | None, reporter: Reporter) -> Any:
        from gpucluster.ops.neighbors import nearest_neighbors
        from gpucluster.ops.ordering import density_ordering

        neighbors = nearest_neighbors(X, self._listed(len(X)), exact=True, reporter=reporter)
        limit = self.distance(self.max_eps)
        return density_ordering(
            X, neighbors, self.min_samples, weights=weights, limit=limit, reporter=reporter
        )

    def _order_by_power(self, X: Matrix, weights: Weights | None, reporter: Reporter) -> Any:
        from scipy.spatial.distance import cdist

        from gpucluster.ops.ordering import ordering_of_distances

        wide = X.astype(np.float64)
        distances = cdist(wide, wide, "minkowski", p=self.p)
        limit = self.distance(self.max_eps)
        return ordering_of_distances(
            distances, self.min_samples, weights=weights, limit=limit, reporter=reporter
        )

    def _extracted(self, ordering: Any, weights: Weights | None, backend: str) -> Raw:
        """Read the clusters off the plot of all rows; return those of the distinct ones."""
        from sklearn.cluster import cluster_optics_dbscan, cluster_optics_xi

        first: Any = slice(None)
        if weights is not None:
            ordering, first = ordering.repeated(weights), np.cumsum(weights) - weights
        if self.cluster_method == "xi":
            with np.errstate(divide="ignore"):  # equal rows are at distance zero
                labels, _ = cluster_optics_xi(
                    reachability=ordering.reachability,
                    predecessor=ordering.predecessor,
                    ordering=ordering.order,
                    min_samples=self.min_samples,
                    min_cluster_size=self.smallest_cluster(len(ordering.order)),
                    xi=self.xi,
                    predecessor_correction=self.predecessor_correction,
                )
        else:
            labels = cluster_optics_dbscan(
                reachability=ordering.reachability,
                core_distances=ordering.core_distances,
                ordering=ordering.order,
                eps=self.distance(self.max_eps if self.eps is None else self.eps),
            )
        info = {
            "n_core": int(np.isfinite(ordering.core_distances).sum()),
            "n_reached": int(np.isfinite(ordering.reachability).sum()),
        }
        return Raw(labels[first], backend=backend, info=info)

    def _metric_space(self, X: Matrix) -> Matrix:
        from gpucluster.ops.normalize import unit_rows

        return unit_rows(X) if self.metric == "cosine" else X
