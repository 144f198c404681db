"""The first centres of a partition: rows of the data, far from each other or any."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.assign import lloyd_step
from gpucluster.ops.blocks import map_blocks, one_blas_thread
from gpucluster.types import Matrix

SEEDING_ROWS = 10_000  # the first centres come from this many rows, or 50 for each cluster
PARTS_FROM = 256  # centres; so many and more are drawn part by part of the sample
PART_CENTERS = 64  # of a part, on average
PART_ROWS = 250  # for each part, to find the parts
PART_STEPS = 5
PART_SHARE = 0.9  # of the rows; a larger part is divided at random, as the rest is by distance
SEEDING_FLOP_S = 20e9  # a few candidates at a time: products as fast as memory is read

Seeding = Literal["k-means++", "random"]


def seeding_rows(n_samples: int, n_clusters: int) -> int:
    """Return how many rows the first centres are drawn from."""
    return min(n_samples, max(SEEDING_ROWS, 50 * n_clusters))


def seeding_seconds(n_samples: int, n_features: int, n_clusters: int) -> float:
    """Return the wall time of greedy k-means++, as it draws the first centres."""
    rows, flop = seeding_rows(n_samples, n_clusters), 0.0
    while n_clusters >= PARTS_FROM:
        flop += _flop(rows, PART_CENTERS, n_features)
        n_clusters //= PART_CENTERS  # the middles of the parts
        rows = min(rows, PART_ROWS * n_clusters)
    return (flop + _flop(rows, n_clusters, n_features)) / SEEDING_FLOP_S


def _flop(n_samples: int, n_clusters: int, n_features: int) -> float:
    return 2.0 * n_samples * n_clusters * _n_candidates(n_clusters) * n_features


def seeding_sample(X: Matrix, n_clusters: int, stream: np.random.Generator) -> Matrix:
    """Return the rows that the first centres are drawn from: a uniform sample, or `X` itself."""
    n_seeding = seeding_rows(len(X), n_clusters)
    if n_seeding == len(X):
        return X
    sample: Matrix = X[np.sort(stream.choice(len(X), n_seeding, replace=False))]
    return sample


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
    Extra memory: two copies of `seeding_rows` rows.

    References
    ----------
    Arthur, Vassilvitskii 2007, *k-means++: the advantages of careful seeding*.
    """
    pool = seeding_sample(X, n_clusters, stream)
    if how == "random":
        return pool[stream.choice(len(pool), n_clusters, replace=False)].copy()
    # many small products: sharing them costs more than it gains, and changes their last bits
    with one_blas_thread:
        return _far_apart(pool, n_clusters, stream, reporter)


def _far_apart(
    X: Matrix, n_clusters: int, stream: np.random.Generator, reporter: Reporter
) -> Matrix:
    """Draw rows by greedy k-means++: few from all rows, many from the parts of the rows."""
    if n_clusters < PARTS_FROM:
        return _kmeans_plusplus(X, n_clusters, stream, reporter)
    return _part_by_part(X, n_clusters, stream, reporter)


def _part_by_part(
    X: Matrix, n_clusters: int, stream: np.random.Generator, reporter: Reporter
) -> Matrix:
    """Divide the rows into parts of about `PART_CENTERS` centres, and draw them within each.

    A part gets centres by its share of the squared distances, as k-means++ would give it
    on average, and each of them costs the rows of that part alone. A part that gets many is
    divided again.
    """
    quiet = Reporter(cancel=reporter.cancel)
    n_parts = n_clusters // PART_CENTERS
    few = X
    if len(X) > PART_ROWS * n_parts:
        few = X[np.sort(stream.choice(len(X), PART_ROWS * n_parts, replace=False))]
    middles = _far_apart(few, n_parts, stream, quiet)
    for _ in range(PART_STEPS):
        step = lloyd_step(few, middles, reporter)
        filled = step.counts > 0
        middles[filled] = step.sums[filled] / step.counts[filled, None]
    step = lloyd_step(X, middles, reporter)
    mass = np.bincount(step.labels, weights=step.sqdist, minlength=n_parts)
    wanted = _shares(n_clusters, mass, step.counts)
    order = np.argsort(step.labels, kind="stable")
    ends = np.cumsum(step.counts)
    parts = np.argsort(-wanted * step.counts, kind="stable")  # the longest first, for the cores
    parts = parts[wanted[parts] > 0]
    streams = stream.spawn(n_parts)

    def work(turn: slice) -> Matrix:
        i = parts[turn.start]
        rows = X[order[ends[i] - step.counts[i] : ends[i]]]
        draw = _far_apart if len(rows) <= PART_SHARE * len(X) else _dealt
        return draw(rows, int(wanted[i]), streams[i], quiet)

    drawn = []
    for centers in map_blocks(work, len(parts), 1):
        drawn.append(centers)
        reporter.progress(sum(map(len, drawn)), n_clusters, "centres")
    return np.concatenate(drawn)


def _dealt(X: Matrix, n_clusters: int, stream: np.random.Generator, reporter: Reporter) -> Matrix:
    """Deal the rows out like cards to parts of `PART_CENTERS` centres, and draw them within each.

    What a few far rows keep from being divided by distance.
    """
    n_parts = max(1, n_clusters // PART_CENTERS)
    order = stream.permutation(len(X))
    drawn = []
    for i in range(n_parts):
        wanted = len(range(i, n_clusters, n_parts))
        drawn.append(_kmeans_plusplus(X[order[i::n_parts]], wanted, stream, reporter))
    return np.concatenate(drawn)


def _shares(total: int, mass: Any, most: Any) -> Any:
    """Divide `total` by `mass`, none above `most`; whole numbers, by largest remainders."""
    given = np.zeros(len(mass), np.int64)
    while (left := total - int(given.sum())) > 0:
        open_mass = np.where(given < most, mass + mass.mean() * 1e-9 + 1e-30, 0.0)
        exact = left * open_mass / open_mass.sum()
        more = np.minimum(exact.astype(np.int64), most - given)
        if not more.any():
            largest = np.argsort(-(exact - more), kind="stable")[:left]
            more[largest] = (given < most)[largest]
        given += more
    return given


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
