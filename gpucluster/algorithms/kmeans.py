"""K-means: partition rows around means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gpucluster.algorithms.base import Algorithm, Raw, require_at_most
from gpucluster.device.memory import BLOCK_BYTES
from gpucluster.device.select import Device
from gpucluster.errors import NotConvergedWarning
from gpucluster.events import Reporter
from gpucluster.ops.seeding import Seeding, first_centers, seeding_rows, seeding_seconds
from gpucluster.types import Cost, Matrix

RESTARTS_LIMIT = 1_000_000  # rows above which one start is enough
FEWER_CLUSTERS = "kmeans_fewer_clusters"  # the code of a warning


class KMeans(Algorithm):
    """Partition rows so that the sum of squared distances to the cluster means is small.

    Lloyd's iteration with greedy k-means++ seeding, on blocked BLAS. Sums are cut by rows
    alone, so labels do not depend on the number of cores.

    References
    ----------
    Lloyd 1982, doi:10.1109/TIT.1982.1056489. Arthur, Vassilvitskii 2007, *k-means++*.
    """

    name: ClassVar[str] = "kmeans"
    aliases: ClassVar[Mapping[str, str]] = {"num_clusters": "n_clusters"}

    n_clusters: Annotated[int, Field(ge=2, le=1_000_000)] = Field(
        default=8, description="Number of clusters."
    )
    max_iter: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=300, description="Most iterations of one start."
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=42, description="Seed.")
    n_init: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Starts, the best one is kept. Omitted: 10, or 1 from 1M rows on."
    )
    tol: Annotated[float, Field(ge=0)] = Field(
        default=1e-4, description="Stop when centres move less, relative to the mean variance."
    )
    init: Seeding = Field(default="k-means++", description="How the first centres are chosen.")
    algorithm: Literal["lloyd", "elkan", "auto"] = Field(
        default="auto", description="Accepted for compatibility: all give the result of lloyd."
    )

    def restarts(self, n_samples: int) -> int:
        """Return how many starts are made on `n_samples` rows."""
        return self.n_init or (10 if n_samples < RESTARTS_LIMIT else 1)

    def check(self, n_samples: int, reporter: Reporter) -> None:
        """Refuse more clusters than rows."""
        super().check(n_samples, reporter)
        require_at_most("kmeans.n_clusters", self.n_clusters, n_samples, f"{n_samples} rows")

    def cost(self, n_samples: int, n_features: int, device: Device) -> Cost:
        """Return bytes beside `X`, and seconds at the rate in docs/algorithms/kmeans.md."""
        extra = 9 * 4 * self.n_clusters * n_features + 16 * n_samples
        if device == "gpu":
            return Cost(extra + 4 * n_samples * n_features, None)
        restarts = self.restarts(n_samples)
        extra += 4 * n_samples * n_features  # a centred copy, when the rows lie far from zero
        extra += 4 * n_features * seeding_rows(n_samples, self.n_clusters)
        extra += min(12 * n_features * n_samples, 2 * BLOCK_BYTES)  # of the inertia
        seeding = 0.0
        if self.init == "k-means++":
            seeding = seeding_seconds(n_samples, n_features, self.n_clusters)
        iterations = min(self.max_iter, 100)  # 20 to 160 were seen
        flop = 2.0 * n_samples * n_features * self.n_clusters
        bytes_read = 8.0 * n_samples * n_features
        one_start = iterations * (flop / 150e9 + bytes_read / 20e9) + seeding
        return Cost(extra, restarts * one_start)

    def _fit_cpu(self, X: Matrix, reporter: Reporter) -> Raw:
        from gpucluster.ops.assign import lloyd_step
        from gpucluster.ops.normalize import spread, without_offset

        X = without_offset(X)
        tolerance = self.tol * spread(X)[1] / X.shape[1]
        restarts = self.restarts(len(X))
        streams = np.random.default_rng(self.random_state).spawn(restarts)
        best: tuple[float, Any, int, bool, Matrix] | None = None
        for start, stream in enumerate(streams):
            centers = first_centers(X, self.n_clusters, self.init, stream, reporter)
            converged = False
            for iteration in range(1, self.max_iter + 1):
                step = lloyd_step(X, centers, reporter)
                moved = _means(X, step, centers)
                shift = float(np.square(moved.astype(np.float64) - centers).sum())
                centers = moved
                converged = shift <= tolerance
                if converged:
                    break
                reporter.progress(
                    start * self.max_iter + iteration, restarts * self.max_iter, "iterations"
                )
            step = lloyd_step(X, centers, reporter)
            inertia = float(step.sqdist.sum(dtype=np.float64))
            if best is None or inertia < best[0]:
                best = (inertia, step.labels, iteration, converged, centers)
        assert best is not None  # noqa: S101 - there is at least one start
        _, labels, iteration, converged, centers = best
        self._judge(labels, reporter, converged=converged)
        return Raw(
            labels,
            backend="numpy",
            info={
                "inertia": _inertia(X, labels, centers),
                "n_iter": iteration,
                "n_init": restarts,
            },
        )

    def _fit_gpu(self, X: Matrix, reporter: Reporter) -> Raw:
        from cuml.cluster import KMeans as CumlKMeans

        model = CumlKMeans(
            n_clusters=self.n_clusters,
            max_iter=self.max_iter,
            tol=self.tol,
            random_state=self.random_state,
            init=self.init,
            n_init=self.restarts(len(X)),
            output_type="numpy",
        ).fit(X)
        self._judge(model.labels_, reporter, converged=int(model.n_iter_) < self.max_iter)
        return Raw(
            model.labels_,
            backend="cuml",
            info={
                "inertia": float(model.inertia_),
                "n_iter": int(model.n_iter_),
                "n_init": self.restarts(len(X)),
            },
        )

    def _judge(self, labels: Any, reporter: Reporter, *, converged: bool) -> None:
        if not converged:
            reporter.warn(
                "kmeans_not_converged",
                f"kmeans stopped at max_iter {self.max_iter} while its centres still moved; "
                "raise max_iter or tol",
                NotConvergedWarning,
            )
        n_found = len(np.unique(labels))
        if n_found < self.n_clusters:
            reporter.warn(
                FEWER_CLUSTERS,
                f"kmeans found {n_found} clusters of the {self.n_clusters} asked for; "
                "are there fewer distinct rows?",
                NotConvergedWarning,
            )


def _means(X: Matrix, step: Any, centers: Matrix) -> Matrix:
    """Return the mean of each cluster; an empty one moves to the row farthest from its centre."""
    sums, counts = step.sums.copy(), step.counts.copy()
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        farthest = np.argsort(-step.sqdist, kind="stable")
        donors = [row for row in farthest[: len(empty) * 4] if counts[step.labels[row]] > 1]
        for cluster, row in zip(empty, donors, strict=False):
            donor = step.labels[row]
            sums[donor] -= X[row]
            counts[donor] -= 1
            sums[cluster], counts[cluster] = X[row], 1
    filled = counts > 0
    moved = centers.copy()
    moved[filled] = sums[filled] / counts[filled, None]
    return moved


def _inertia(X: Matrix, labels: Any, centers: Matrix) -> float:
    """Return the sum of squared distances to the centres, from differences in float64."""
    from gpucluster.device.memory import rows_per_block
    from gpucluster.ops.blocks import row_blocks

    total = 0.0
    for rows in row_blocks(len(X), rows_per_block(8 * X.shape[1])):
        difference = X[rows].astype(np.float64) - centers[labels[rows]]
        total += float(np.einsum("ij,ij->", difference, difference))
    return total
