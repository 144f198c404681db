"""Clusters of two runs that lie where the other lies: for runs without a document in common."""

from __future__ import annotations

import numpy as np

from gpucluster.errors import ShapeError
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.neighbors import TILE_COLS, TILE_ROWS, nearest_neighbors
from gpucluster.ops.normalize import row_norms, unit_rows
from gpucluster.ops.pairs import pair_sqdist
from gpucluster.types import Labels, Matrix, Rows, Vector64


def similar_centroids(
    previous: Matrix,
    current: Matrix,
    n_neighbors: int = 8,
    reporter: Reporter | None = None,
) -> tuple[Labels, Labels, Vector64]:
    """Find for each previous centroid the current ones of largest cosine.

    Parameters
    ----------
    previous : ndarray of shape (n_previous, n_features), float32
        Centroids of any length; a zero vector is similar to nothing.
    current : ndarray of shape (n_current, n_features), float32
    n_neighbors : int, default 8
        How many for each previous centroid; all where there are not more.
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    rows, cols : ndarray of shape (n_pairs,), int32
        Previous and current clusters, by the previous one, then by falling cosine.
    cosines : ndarray of shape (n_pairs,), float64

    Raises
    ------
    ShapeError
        The runs have another number of features.

    Notes
    -----
    ``2 * n_previous * n_current * n_features`` flop. Which ones are nearest is by float32
    products, ties to the lower; the cosines are of float64 differences. Extra memory: unit copies
    of both, ``8 * n_neighbors`` bytes a previous centroid, and a few megabytes a core.
    """
    from gpucluster.ops.compiled import scan_nearest

    if previous.shape[1] != current.shape[1]:
        raise ShapeError(
            f"centroids of {previous.shape[1]} and of {current.shape[1]} features, "
            "the same number expected"
        )
    (rows, X), (cols, Y) = _directions(previous), _directions(current)
    kept = min(n_neighbors, len(cols))
    if not kept or not len(rows):
        return np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float64)
    found = np.empty((len(rows), kept), np.int32)
    sqnorms = np.ones(len(cols), np.float32)
    numbers, nobody = np.arange(len(cols)), np.full(TILE_ROWS, -1)

    def work(block: slice) -> None:
        vectors = X[block]
        at = np.arange(len(vectors))
        keys = np.full((len(vectors), kept), np.inf, np.float32)
        for part in row_blocks(len(cols), TILE_COLS):
            dots = vectors @ Y[part].T
            scan_nearest(dots, sqnorms[part], nobody, at, numbers[part], keys, found[block])

    for _ in map_blocks(work, len(rows), TILE_ROWS, reporter):
        pass
    ends = np.repeat(np.arange(len(rows), dtype=np.int32), kept), found.ravel()
    cosines = _cosines(X, Y, *ends)
    order = np.lexsort((ends[1], -cosines, ends[0]))
    return rows[ends[0][order]], cols[ends[1][order]], cosines[order]


def separation(vectors: Matrix, reporter: Reporter | None = None) -> Vector64:
    """Return the cosine of each centroid to the nearest other one of its run.

    Parameters
    ----------
    vectors : ndarray of shape (n_clusters, n_features), float32
        Of any length.
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    ndarray of shape (n_clusters,), float64
        -1 for zero vectors and for a cluster without another.

    Notes
    -----
    Exact (`ops.neighbors.nearest_neighbors`): ``2 * n_clusters**2 * n_features`` flop. Extra
    memory: two copies of the vectors, and a few megabytes a core.
    """
    found = np.full(len(vectors), -1.0)
    rows, X = _directions(vectors)
    if len(rows) > 1:
        nearest = nearest_neighbors(X, 2, exact=True, reporter=reporter).rows[:, 1]
        found[rows] = _cosines(X, X, np.arange(len(rows), dtype=np.int32), nearest)
    return found


def _directions(vectors: Matrix) -> tuple[Labels, Matrix]:
    """Return the clusters whose vectors are not zero, and those at unit length."""
    rows: Rows = np.flatnonzero(row_norms(vectors) > 0)
    kept = vectors if len(rows) == len(vectors) else vectors[rows]
    return rows.astype(np.int32), unit_rows(np.ascontiguousarray(kept, np.float32))


def _cosines(X: Matrix, Y: Matrix, rows: Labels, cols: Labels) -> Vector64:
    """Return the cosines of pairs of unit rows: 1 for equal ones, whatever float32 made of them."""
    cosines: Vector64 = 1 - pair_sqdist(X, Y, rows, cols) / 2
    return cosines
