"""DBSCAN: clusters are what density connects at one radius."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gpucluster.algorithms.base import Algorithm, Raw
from gpucluster.device.memory import COMPILER_BYTES
from gpucluster.device.select import Device
from gpucluster.events import Reporter
from gpucluster.types import NOISE, Cost, Matrix, Weights

TREE_DIMENSIONS = 16  # above it a k-d tree looks at everything anyway, and BLAS is faster
CUML_MAX_ROWS = 4_194_240  # NVIDIA/cuml#7676


class DBSCAN(Algorithm):
    """Connect rows that lie within `eps` of each other where it is dense; the rest is noise.

    Rows on a border belong to their nearest core, ties to the core of the lower row, on
    every path (the paper leaves it to the order of the search). Equal rows are searched once,
    and each counts: the result is that of all rows.

    Notes
    -----
    `min_samples` counts the row itself, as in the paper, in scikit-learn and in cuML.

    References
    ----------
    Ester, Kriegel, Sander, Xu 1996, *A density-based algorithm for discovering clusters in
    large spatial databases with noise*. Schubert et al. 2017, doi:10.1145/3068335.
    """

    name: ClassVar[str] = "dbscan"
    collapses_duplicates: ClassVar[bool] = True
    library_bytes: ClassVar[int] = COMPILER_BYTES

    eps: Annotated[float, Field(gt=0, lt=1e18)] = Field(
        default=0.5, description="Radius, in the unit of the metric; inclusive."
    )
    min_samples: Annotated[int, Field(ge=1)] = Field(
        default=5, description="Rows within eps that make a core, the row itself counted."
    )
    metric: Literal["euclidean", "l2", "cosine", "minkowski"] = Field(
        default="euclidean", description="Distance; cosine is 1 - cosine similarity."
    )
    p: Annotated[float, Field(ge=1)] = Field(
        default=2, description="Power of the minkowski metric; 2 is euclidean."
    )
    leaf_size: Annotated[int, Field(ge=1)] = Field(
        default=30, description="Leaf size of the tree search; changes speed, never the result."
    )
    algorithm: Literal["auto", "ball_tree", "kd_tree", "brute"] = Field(
        default="auto", description="How neighbours are searched; never changes the result."
    )

    @model_validator(mode="after")
    def _power_is_used(self) -> DBSCAN:
        if self.p != 2 and self.metric != "minkowski":
            raise ValueError(
                f"p is {self.p:g}, but metric is {self.metric!r}, which has no power: "
                "use metric: minkowski, or leave p out"
            )
        return self

    @model_validator(mode="after")
    def _radius_leaves_rows_out(self) -> DBSCAN:
        if self.metric == "cosine" and self.eps > 2:
            raise ValueError(f"eps is {self.eps:g}, but no cosine distance is above 2")
        return self

    def check(self, n_samples: int, reporter: Reporter) -> None:
        """Say when no row can be core."""
        super().check(n_samples, reporter)
        if self.min_samples > n_samples:
            reporter.warn(
                "min_samples_above_rows",
                f"dbscan.min_samples is {self.min_samples}, but there are {n_samples} rows: "
                "everything is noise",
            )

    def radius(self) -> float:
        """Return `eps` as a Euclidean distance; on unit rows for cosine, ``sqrt(2 eps)``."""
        return float(np.sqrt(2 * self.eps)) if self.metric == "cosine" else self.eps

    def _searches_tree(self, n_features: int) -> bool:
        if self.metric == "minkowski" and self.p != 2:
            return True
        if self.algorithm == "auto":
            return n_features <= TREE_DIMENSIONS
        return self.algorithm != "brute"

    def cost(self, n_samples: int, n_features: int, device: Device) -> Cost:
        """Return bytes beside `X`, and seconds at the rates in docs/algorithms/dbscan.md.

        The tree search stores every neighbourhood, whose size depends on `eps`: a
        hundred rows each is assumed.
        """
        from gpucluster.ops.neighbors import TILE_COLS

        # unit rows, and the distinct ones among equal rows
        matrix = 4 * n_samples * n_features
        unit = matrix if self.metric == "cosine" else 0
        copies = matrix + unit + 48 * n_samples
        if device == "gpu":
            return Cost(copies, None, device_bytes=n_samples * (4 * n_features + 64))
        if self._searches_tree(n_features):
            seconds = 4e-6 * n_samples * math.log2(n_samples + 2)
            extra = copies + n_samples * (100 * 8 + 16 * n_features)
            return Cost(extra, seconds, rows_bytes=unit, unit_bytes=unit)
        # and a centred copy when the rows lie far from zero
        extra = copies + matrix + 48 * n_samples
        tiles = 4 * TILE_COLS * (TILE_COLS + 2 * n_features)
        return Cost(
            extra + tiles,
            3.0 * n_samples**2 * n_features / 140e9,
            rows_bytes=unit + matrix,
            unit_bytes=unit,
            far_bytes=matrix,
        )

    def _fit_cpu(self, X: Matrix, reporter: Reporter, weights: Weights | None = None) -> Raw:
        from gpucluster.ops.connectivity import radius_components

        if self._searches_tree(X.shape[1]):
            return self._fit_tree(X, weights)
        labels, is_core = radius_components(
            X, self.radius(), self.min_samples, reporter, weights=weights
        )
        return Raw(
            labels, backend="numba", info={"n_core": _mass(np.flatnonzero(is_core), weights)}
        )

    def _fit_tree(self, X: Matrix, weights: Weights | None) -> Raw:
        from sklearn.cluster import DBSCAN as SklearnDBSCAN

        model = SklearnDBSCAN(
            eps=self.radius(),
            min_samples=self.min_samples,
            metric="minkowski",
            p=self.p,
            leaf_size=self.leaf_size,
            algorithm="kd_tree" if self.algorithm == "auto" else self.algorithm,
            n_jobs=-1,
        ).fit(X, sample_weight=weights)
        core = model.core_sample_indices_
        labels: Any = model.labels_.copy()
        border = np.setdiff1d(np.flatnonzero(labels != NOISE), core)
        labels[border] = labels[self._nearest_by_tree(X, border, core)]
        return Raw(labels, backend="sklearn", info={"n_core": _mass(core, weights)})

    def _nearest_by_tree(self, X: Matrix, border: Any, core: Any) -> Any:
        """Return the nearest core of each border row, ties to the lower row."""
        from scipy.spatial import KDTree

        if not len(border):
            return border
        tree = KDTree(X[core])
        distance, nearest = tree.query(X[border], p=self.p)
        # a hair more than the nearest, so that all cores tied with it are found
        tied = tree.query_ball_point(
            X[border], distance * (1 + 1e-12), p=self.p, return_sorted=True
        )
        nearest = core[nearest]
        for position, row in enumerate(border):
            among = core[tied[position]]
            if len(among) > 1:
                difference = np.abs(X[among].astype(np.float64) - X[row])
                power = (difference**self.p).sum(axis=1)
                nearest[position] = among[power.argmin()]
        return nearest

    def gpu_limit(self, n_samples: int) -> str | None:
        """Say what cuML's DBSCAN cannot do."""
        if n_samples > CUML_MAX_ROWS:
            return f"cuML's DBSCAN takes up to {CUML_MAX_ROWS} rows"
        if self.metric == "minkowski" and self.p != 2:
            return "cuML's DBSCAN has no minkowski metric"
        return None

    def _fit_gpu(self, X: Matrix, reporter: Reporter, weights: Weights | None = None) -> Raw:
        from cuml.cluster import DBSCAN as CumlDBSCAN

        from gpucluster.ops.connectivity import nearest_cores

        model = CumlDBSCAN(
            eps=self.radius(),
            min_samples=self.min_samples,
            metric="euclidean",
            output_type="numpy",
        ).fit(X, sample_weight=None if weights is None else weights.astype(np.float32))
        core = np.asarray(model.core_sample_indices_)
        labels = np.array(model.labels_)
        # cuML leaves a border row to any of its cores: the host decides, by the same rule
        border = np.setdiff1d(np.flatnonzero(labels != NOISE), core)
        if self._searches_tree(X.shape[1]):
            nearest = self._nearest_by_tree(X, border, core)
        else:
            is_core = np.zeros(len(X), np.bool_)
            is_core[core] = True
            nearest = nearest_cores(X, border, is_core, self.radius(), reporter)
        # in float32 cuML may have reached a core that lies a rounding outside the radius
        reached = nearest != NOISE
        labels[border[reached]] = labels[nearest[reached]]
        return Raw(labels, backend="cuml", info={"n_core": _mass(core, weights)})

    def _metric_space(self, X: Matrix) -> Matrix:
        from gpucluster.ops.normalize import unit_rows

        return unit_rows(X) if self.metric == "cosine" else X


def _mass(rows: Any, weights: Weights | None) -> int:
    """Return how many rows of the input `rows` stand for."""
    return len(rows) if weights is None else int(weights[rows].sum())
