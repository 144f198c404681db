"""The first centres of a partition: rows of the data, far from each other or any."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.blocks import one_blas_thread
from gpucluster.types import Matrix

SEEDING_ROWS = 10_000  # the first centres come from this many rows, or 50 for each cluster
SEEDING_FLOP_S = 20e9  # a few candidates at a time: products as fast as memory is read

Seeding = Literal["k-means++", "random"]


def seeding_rows(n_samples: int, n_clusters: int) -> int:
    """Return how many rows the first centres are drawn from."""
    return min(n_samples, max(SEEDING_ROWS, 50 * n_clusters))


def seeding_seconds(n_samples: int, n_features: int, n_clusters: int) -> float:
    """Return the wall time of greedy k-means++."""
    candidates = _n_candidates(n_clusters)
    flop = 2.0 * seeding_rows(n_samples, n_clusters) * n_clusters * candidates * n_features
    return flop / SEEDING_FLOP_S


def first_centers(
    X: Matrix,
    n_clusters: int,
    how: Seeding,
    stream: np.random.Generator,
    reporter: Reporter,
) -> Matrix:
    """Return rows of a uniform sample of `X`.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        On the host.
    n_clusters : int
        At most `n_samples`.
    how : {"k-means++", "random"}
        Greedy k-means++, or any rows.
    stream : numpy.random.Generator
        What is drawn from.
    reporter : Reporter
        Told of progress; asked for cancellation.

    Returns
    -------
    ndarray of shape (n_clusters, n_features), float32

    Notes
    -----
    Extra memory: a copy of `seeding_rows` rows.

    References
    ----------
    Arthur, Vassilvitskii 2007, *k-means++: the advantages of careful seeding*.
    """
    n_seeding = seeding_rows(len(X), n_clusters)
    pool = X
    if n_seeding < len(X):
        pool = X[np.sort(stream.choice(len(X), n_seeding, replace=False))]
    if how == "random":
        return pool[stream.choice(len(pool), n_clusters, replace=False)].copy()
    # many small products: sharing them costs more than it gains, and changes their last bits
    with one_blas_thread:
        return _kmeans_plusplus(pool, n_clusters, stream, reporter)


def _n_candidates(n_clusters: int) -> int:
    return 2 + int(np.log(n_clusters))


def _kmeans_plusplus(
    X: Matrix, n_clusters: int, stream: np.random.Generator, reporter: Reporter
) -> Matrix:
    """Draw rows far from each other; of a few candidates each time, keep the most useful."""
    n_candidates = _n_candidates(n_clusters)
    sqnorms = np.einsum("ij,ij->i", X, X)
    chosen = np.empty(n_clusters, np.int64)
    chosen[0] = stream.integers(len(X))
    closest = np.maximum(sqnorms + sqnorms[chosen[0]] - 2 * (X @ X[chosen[0]]), 0)
    closest[chosen[0]] = 0
    for i in range(1, n_clusters):
        mass = closest.cumsum(dtype=np.float64)
        if mass[-1] == 0:  # fewer distinct rows than clusters: any rows will do
            free = np.setdiff1d(np.arange(len(X)), chosen[:i])
            chosen[i:] = free[: n_clusters - i]
            break
        drawn = np.searchsorted(mass, stream.random(n_candidates) * mass[-1], side="right")
        drawn = np.minimum(drawn, len(X) - 1)
        sqdist = np.maximum(sqnorms + sqnorms[drawn, None] - 2 * (X[drawn] @ X.T), 0)
        sqdist[np.arange(n_candidates), drawn] = 0
        np.minimum(sqdist, closest, out=sqdist)
        winner = int(sqdist.sum(axis=1, dtype=np.float64).argmin())
        chosen[i], closest = drawn[winner], sqdist[winner]
        reporter.progress(i + 1, n_clusters, "centres")
    return X[chosen].copy()
