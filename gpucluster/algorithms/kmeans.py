"""K-means: partition rows around means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gpucluster.algorithms.base import Algorithm, Raw, require_at_most
from gpucluster.device.memory import COMPILER_BYTES, blocks_bytes
from gpucluster.device.select import Device
from gpucluster.errors import NotConvergedWarning
from gpucluster.events import Reporter
from gpucluster.ops.normalize import unit_rows
from gpucluster.ops.seeding import Seeding, first_centers, seeding_rows, seeding_seconds
from gpucluster.types import Cost, Matrix

RESTARTS_LIMIT = 1_000_000  # rows above which one start is enough
EARLY = 10  # iterations in which centres move far
ITERATIONS = 100  # until centres rest: 20 to 160 were seen
BATCH_PASSES = 4  # over the rows: the centres settle within one or two, two more follow
FEWER_CLUSTERS = "kmeans_fewer_clusters"  # the code of a warning


class KMeans(Algorithm):
    """Partition rows so that the sum of squared distances to the cluster means is small.

    The starts compete on a uniform sample, from greedy k-means++ to rest; the best one goes
    on with all rows. Each is Lloyd's iteration, with bounds that spare most distances and
    change no label. Sums are cut by rows alone, so labels do not depend on the number of
    cores.

    References
    ----------
    Lloyd 1982, doi:10.1109/TIT.1982.1056489. Arthur, Vassilvitskii 2007, *k-means++*.
    Elkan 2003, *Using the triangle inequality to accelerate k-means*. Dhillon, Modha 2001,
    doi:10.1023/A:1007612920971 (cosine).
    """

    name: ClassVar[str] = "kmeans"
    by_nearest_mean: ClassVar[bool] = True
    by_gpus_of_a_fleet: ClassVar[bool] = True
    library_bytes: ClassVar[int] = COMPILER_BYTES
    aliases: ClassVar[Mapping[str, str]] = {"num_clusters": "n_clusters"}

    n_clusters: Annotated[int, Field(ge=2, le=1_000_000)] = Field(
        default=8, description="Number of clusters."
    )
    max_iter: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=300, description="Most iterations of one start."
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=42, description="Seed.")
    n_init: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="Starts; they compete on a sample, where there is one, and the best is "
        "kept. Omitted: 10, or 1 from 1M rows on.",
    )
    tol: Annotated[float, Field(ge=0)] = Field(
        default=1e-4, description="Stop when centres move less, relative to the mean variance."
    )
    init: Seeding = Field(default="k-means++", description="How the first centres are chosen.")
    metric: Literal["euclidean", "cosine"] = Field(
        default="euclidean",
        description="Distance. cosine: spherical k-means, rows and centres of unit length.",
    )
    algorithm: Literal["lloyd", "elkan", "auto"] = Field(
        default="auto", description="Accepted for compatibility: all give the result of lloyd."
    )

    batch_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Rows after which the centres move, for many rows: an approximation in few "
        "passes. Omitted: all rows.",
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
        from gpucluster.ops.lloyd import n_groups
        from gpucluster.ops.streaming import STREAM_BYTES

        k, matrix = self.n_clusters, 4 * n_samples * n_features
        extra = 9 * 4 * k * n_features + 16 * n_samples
        unit = rows = matrix if self.metric == "cosine" else 0
        if device == "gpu":
            on_device = min(matrix, 2 * STREAM_BYTES)
            return Cost(
                extra + rows, None, device_bytes=on_device, rows_bytes=rows, unit_bytes=unit
            )
        sampled = seeding_rows(n_samples, k)
        bounds = n_groups(k, n_features)
        rows += 4 * bounds * n_samples
        extra += blocks_bytes(matrix)
        if sampled < n_samples:
            extra += 4 * (bounds + n_features) * sampled
        one_start = self._descent_seconds(sampled, n_features)
        if self.init == "k-means++":
            one_start += seeding_seconds(n_samples, n_features, k)
        seconds = self.restarts(n_samples) * one_start
        if sampled < n_samples and self.batch_size is not None:
            extra += 16 * n_samples + 12 * self.batch_size * n_features
            rows -= 4 * bounds * n_samples
            seconds += BATCH_PASSES * 2.0 * n_samples * n_features * k / 150e9
            return Cost(
                *(extra + rows, seconds, "minibatch"),
                rows_bytes=rows,
                unit_bytes=unit,
                passes=BATCH_PASSES,
            )
        if sampled < n_samples:
            seconds += self._descent_seconds(n_samples, n_features)
        passes = min(self.max_iter, ITERATIONS)
        return Cost(extra + rows, seconds, rows_bytes=rows, unit_bytes=unit, passes=passes)

    def _descent_seconds(self, n_samples: int, n_features: int) -> float:
        """Return the wall time of one start: full searches, then what bounds leave.

        As long as the centres still move far, bounds spare nothing.
        """
        from gpucluster.ops.lloyd import n_groups

        iterations = min(self.max_iter, ITERATIONS)
        flop = 2.0 * n_samples * n_features * self.n_clusters * (1 + min(iterations, EARLY))
        groups = n_groups(self.n_clusters, n_features)
        distances = 1 + self.n_clusters / groups  # of a row in an iteration, on average
        read = 4.0 * n_samples * (groups + n_features * (1 + distances))
        return flop / 150e9 + iterations * read / 30e9

    def _fit_cpu(self, X: Matrix, reporter: Reporter) -> Raw:
        return self._fit(X, "cpu", reporter)

    def _fit_gpu(self, X: Matrix, reporter: Reporter) -> Raw:
        return self._fit(X, "gpu", reporter)

    def _fit(self, X: Matrix, device: Device, reporter: Reporter) -> Raw:
        """Let the starts compete on a sample; the best goes on with all rows."""
        from gpucluster.device.arrays import to_device, to_host
        from gpucluster.ops.blocks import one_blas_thread
        from gpucluster.ops.normalize import spread
        from gpucluster.ops.seeding import seeding_sample

        restarts = self.restarts(len(X))
        tolerance = self.tol * spread(X)[1] / X.shape[1]
        stream, *streams = np.random.default_rng(self.random_state).spawn(1 + restarts)
        known = None if reporter.midway is None else reporter.midway.get()
        with one_blas_thread:
            sample = seeding_sample(X, self.n_clusters, stream)
            if known is None:
                contest = to_device(sample, device)
                of_contest = reporter.for_stage(reporter.stage)  # without a place to keep it
                starts = (
                    first_centers(sample, self.n_clusters, self.init, each, reporter)
                    for each in streams
                )
                found = (
                    self._descend(contest, to_device(each, device), tolerance, of_contest)
                    for each in starts
                )
                best = min(found, key=lambda each: each.inertia)
                del contest
                known = {"centers": best.centers}
            if len(sample) < len(X) and self.batch_size is not None:
                best = self._by_batches(X, best, stream, device, reporter)
            elif len(sample) < len(X):
                best = self._go_on(X, known, tolerance, device, reporter)
        labels = to_host(best.labels)
        self._judge(labels, reporter, converged=best.converged)
        info = {"inertia": best.inertia, "n_iter": best.n_iter, "n_init": restarts}
        if device == "cpu":
            return Raw(labels, backend="numba", method=best.method, info=info)
        share = best.n_rechecked / len(X)
        return Raw(
            labels, backend="cupy", method=best.method, info=info | {"rechecked_share": share}
        )

    def _go_on(
        self,
        X: Matrix,
        known: Mapping[str, Any],
        tolerance: float,
        device: Device,
        reporter: Reporter,
    ) -> _Found:
        """Descend with all rows: on a GPU that can hold them, or where they come block by block.

        What is `known` are the centres, and where an earlier descent was stopped, its state.
        """
        from gpucluster.device.arrays import is_on_gpu
        from gpucluster.ops.half_lloyd import resident_bytes
        from gpucluster.ops.streaming import placed

        rows = placed(X, resident_bytes(*X.shape)) if device == "gpu" else X
        try:
            return self._descend(rows, known["centers"], tolerance, reporter, known)
        except MemoryError:
            if not is_on_gpu(rows):
                raise
        del rows
        reporter.warn(
            "gpu_streamed",
            "kmeans ran out of GPU memory: the rows stay on the host and come block by block",
        )
        return self._descend(X, known["centers"], tolerance, reporter)

    def _descend(
        self,
        X: Any,
        centers: Any,
        tolerance: float,
        reporter: Reporter,
        known: Mapping[str, Any] | None = None,
    ) -> _Found:
        """Move the centres to the means of their rows until they rest, where the centres are."""
        from gpucluster.device.arrays import is_on_gpu
        from gpucluster.ops.half_lloyd import HalfLloyd
        from gpucluster.ops.lloyd import Lloyd

        on_gpu = is_on_gpu(centers)
        lloyd = (HalfLloyd if on_gpu else Lloyd)(X, centers, reporter)
        converged, n_before = False, 0
        if known is not None and "sums" in known:  # added up in another order, to other bits
            lloyd.sums, n_before = np.array(known["sums"]), int(known["n_iter"])
        for n_iter in range(n_before + 1, self.max_iter + 1):
            converged = lloyd.move(self._on_sphere(lloyd.means(), lloyd.centers)) <= tolerance
            if converged:
                break
            if reporter.midway is not None and reporter.midway.is_due:
                state = {"centers": lloyd.centers, "sums": lloyd.sums, "n_iter": np.array(n_iter)}
                reporter.midway.put(state)
            reporter.progress(n_iter, self.max_iter, "iterations")
        return _Found(
            centers=lloyd.centers,
            labels=lloyd.labels,
            inertia=float(lloyd.sqdist().sum()),
            n_iter=n_iter,
            converged=converged,
            method="streamed" if on_gpu and not is_on_gpu(X) else "exact",
            n_rechecked=lloyd.n_rechecked if isinstance(lloyd, HalfLloyd) else 0,
        )

    def _by_batches(
        self,
        X: Matrix,
        best: _Found,
        stream: np.random.Generator,
        device: Device,
        reporter: Reporter,
    ) -> _Found:
        """Let the centres settle batch by batch, then move them once with all rows."""
        from gpucluster.device.arrays import to_host
        from gpucluster.ops.minibatch import one_iteration, settle

        assert self.batch_size is not None  # noqa: S101 - its caller has asked
        centers, counts = to_host(best.centers), np.bincount(to_host(best.labels))
        counts = np.pad(counts, (0, len(centers) - len(counts)))
        found = settle(
            *(X, centers, counts, self.batch_size, self.max_iter, stream, reporter),
            stands_for=self._on_sphere,
            device=device,
        )
        centers, labels, inertia = one_iteration(
            X, found.centers, stands_for=self._on_sphere, device=device
        )
        return _Found(
            centers=centers,
            labels=labels,
            inertia=inertia,
            n_iter=found.n_steps,
            converged=found.converged,
            method="minibatch",
            n_rechecked=0,
        )

    def _metric_space(self, X: Matrix) -> Matrix:
        return unit_rows(X) if self.metric == "cosine" else X

    def _on_sphere(self, means: Any, before: Any) -> Any:
        """Return the centres that stand for `means`: as they are, or their directions."""
        if self.metric == "euclidean":
            return means
        nowhere = ~means.any(axis=1)  # rows that cancel out: the centre stays
        means[nowhere] = before[nowhere]
        return unit_rows(means)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Where a start came to rest."""

    centers: Any
    labels: Any
    inertia: float
    n_iter: int
    converged: bool
    method: str
    n_rechecked: int
