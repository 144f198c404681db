"""Which points are drawn where all are too many: fewer of dense places, some of every cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gpucluster.types import Labels, Matrix, Rows

CELLS = 512  # along each side: about what a dot covers
FEW = 20  # points of a cluster that are kept in any case, as far as there is room for half of all
SEED = 0


def sample(labels: Labels, coordinates: Matrix, count: int) -> Rows:
    """Choose points so that dense places stay dense and sparse ones do not vanish.

    Parameters
    ----------
    labels : ndarray of shape (n_points,), int32
        Cluster of each point; noise, -1, counts as one.
    coordinates : ndarray of shape (n_points, 2) or (n_points, 3), float32
        All finite.
    count : int
        How many; of fewer points all are kept.

    Returns
    -------
    ndarray of shape (min(count, n_points),), int64
        Rising places; the same for the same points.

    Notes
    -----
    Points are drawn one by one, each with a chance that falls with the square root of how many
    lie in its cell of a grid (weighted sampling without replacement; Efraimidis and Spirakis
    2006, doi:10.1016/j.ipl.2005.11.003): where a hundred times as many lie, ten times as many
    are drawn.
    """
    if len(labels) <= count:
        return np.arange(len(labels))
    keys = _keys(coordinates)
    sizes = np.bincount(labels + 1)
    few = few_of_each(labels, count)
    by_cluster = np.lexsort((keys, labels))
    rank = np.empty(len(labels), np.int64)
    starts = np.cumsum(sizes) - sizes
    rank[by_cluster] = np.arange(len(labels)) - np.repeat(starts, sizes)
    keys[rank < few] = -1.0  # before all others
    chosen: Rows = np.sort(np.argpartition(keys, count - 1)[:count])
    return chosen


def few_of_each(labels: Labels, count: int) -> int:
    """Return how many points of every cluster are in a sample, as far as it has so many."""
    return min(FEW, count // (2 * max(1, len(np.unique(labels)))))


def _keys(coordinates: Matrix) -> np.ndarray:
    """Return when each point is drawn: waiting times, at rates that fall with density."""
    cell = np.zeros(len(coordinates), np.int64)
    for axis in (0, 1):
        values = coordinates[:, axis].astype(np.float64)
        low, width = values.min(), np.ptp(values) or 1.0
        place = np.minimum(((values - low) / width * CELLS).astype(np.int64), CELLS - 1)
        cell = cell * CELLS + place
    dense = np.bincount(cell, minlength=CELLS * CELLS)[cell]
    waiting = np.random.default_rng(SEED).standard_exponential(len(coordinates))
    return waiting * np.sqrt(dense)
