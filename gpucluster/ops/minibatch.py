"""K-means by small batches: centres that have settled before most rows were looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import to_device, to_host
from gpucluster.device.select import Device
from gpucluster.events import Reporter
from gpucluster.ops.assign import cluster_sums, filled_means, lloyd_step, nearest_center
from gpucluster.ops.compiled_bounds import sqdist_to_own
from gpucluster.ops.shards import ByRow, Shard, Shards
from gpucluster.types import Labels, Matrix, Vector64

RUN_ROWS = 64  # that lie together: rows on disk come in pages and more
WINDOW = 10  # batches whose mean distance is compared with that of those before, or a quarter pass
LEAST_GAIN = 1e-3  # of that distance, below which the centres have settled

Means = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Settled:
    """Where the centres have settled.

    Attributes
    ----------
    centers : ndarray of shape (n_clusters, n_features), float32
    n_steps : int
        Batches.
    converged : bool
    """

    centers: Matrix
    n_steps: int
    converged: bool


def settle(
    X: Matrix,
    centers: Matrix,
    counts: Any,
    batch_rows: int,
    max_passes: int,
    stream: np.random.Generator,
    reporter: Reporter,
    *,
    stands_for: Means,
    device: Device = "cpu",
) -> Settled:
    """Move centres towards the means of their rows, batch by batch.

    Each centre is the mean of all rows that it was nearest to when they came, those behind it at
    the beginning included, so it moves less and less.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        On the host, in memory or on disk.
    centers : ndarray of shape (n_clusters, n_features), float32
    counts : ndarray of shape (n_clusters,), int64
        Rows behind each.
    batch_rows : int
        Drawn anew for each pass, in runs of `RUN_ROWS` that lie together.
    max_passes : int
        Most passes over the rows.
    stream : numpy.random.Generator
    reporter : Reporter
        Told after each batch.
    stands_for : callable
        Of means and the centres before; returns the centres that stand for them.
    device : {"cpu", "gpu"}, default "cpu"
        Where batches are compared with the centres.

    Returns
    -------
    Settled

    References
    ----------
    Sculley 2010, *Web-scale k-means clustering*, doi:10.1145/1772690.1772862.
    """
    weights, exact = counts.astype(np.float64), centers.astype(np.float64)
    n_runs, per_batch = -(-len(X) // RUN_ROWS), max(1, batch_rows // RUN_ROWS)
    in_pass = -(-n_runs // per_batch)
    window = max(WINDOW, in_pass // 4)
    distances: list[float] = []
    for _ in range(max_passes):
        runs = stream.permutation(n_runs)
        for first in range(0, n_runs, per_batch):
            chosen = np.sort(runs[first : first + per_batch])
            rows = (chosen[:, None] * RUN_ROWS + np.arange(RUN_ROWS)).ravel()
            batch = to_device(X[rows[rows < len(X)]], device)
            step = lloyd_step(batch, to_device(centers, device), reporter)
            found, sums = to_host(step.counts), to_host(step.sums)
            weights += found
            near = np.flatnonzero(found)
            exact[near] += (sums[near] - found[near, None] * exact[near]) / weights[near, None]
            centers = stands_for(exact.astype(np.float32), centers)
            distances.append(float(step.sqdist.mean()))
            reporter.progress(len(distances), max_passes * in_pass, "batches")
            if len(distances) >= 2 * window and len(distances) % window == 0:
                before = float(np.mean(distances[-2 * window : -window]))
                if float(np.mean(distances[-window:])) >= before * (1 - LEAST_GAIN):
                    return Settled(centers, len(distances), converged=True)
    return Settled(centers, len(distances), converged=False)


def one_iteration(
    X: Matrix, centers: Matrix, *, stands_for: Means, device: Device = "cpu"
) -> tuple[Matrix, Labels, float]:
    """Move centres to the means of their rows, of all of them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    centers : ndarray of shape (n_clusters, n_features), float32
    stands_for : callable
        As for `settle`.
    device : {"cpu", "gpu"}, default "cpu"

    Returns
    -------
    centers : ndarray of shape (n_clusters, n_features), float32
    labels : ndarray of shape (n_samples,), int32
        The nearest of them.
    inertia : float
        Sum of squared distances.
    """
    labels = nearest_center(X, centers, device)
    sums = cluster_sums(X, labels, len(centers))
    counts = np.bincount(labels, minlength=len(centers))
    means = filled_means(X, lambda: (labels, _sqdist(X, centers, labels)), *(centers, sums, counts))
    centers = stands_for(means, centers)
    labels = nearest_center(X, centers, device)
    return centers, labels, float(_sqdist(X, centers, labels).sum())


def _sqdist(X: Matrix, centers: Matrix, labels: Labels) -> Vector64:
    return np.concatenate(list(Shards(X, "kmeans").map(_shard_sqdist, ByRow(labels), centers)))


def _shard_sqdist(shard: Shard, labels: Labels, centers: Matrix) -> Vector64:
    sqdist = np.empty(len(shard.X), np.float64)
    sqdist_to_own(shard.X, centers, labels, sqdist)
    return sqdist
