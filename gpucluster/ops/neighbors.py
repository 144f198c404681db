"""Nearest neighbours of each row among all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.normalize import without_offset
from gpucluster.types import Cost, Matrix

TILE_COLS = 4096
TILE_ROWS = 512
SPARE = 8  # candidates kept beyond those asked for: what rounding may have swapped
EXACT_LIMIT_FLOP = 2e14  # about 20 minutes on two cores; above it the graph is approximated


@dataclass(frozen=True, slots=True)
class Neighbors:
    """A list of nearest rows for every row.

    Attributes
    ----------
    rows : array of shape (n_samples, n_neighbors), int32
        Nearest first; column 0 is the row itself.
    sqdist : array of shape (n_samples, n_neighbors), float32
        Squared Euclidean distances, rising; column 0 is 0.
    method : str
        ``exact`` or ``nn_descent``.
    """

    rows: Any
    sqdist: Any
    method: str


def neighbor_method(n_samples: int, n_features: int) -> str:
    """Return how `nearest_neighbors` will work on a matrix of this shape on the host."""
    flop = 2.0 * n_samples * n_samples * n_features
    return "exact" if flop <= EXACT_LIMIT_FLOP else "nn_descent"


def neighbor_cost(n_samples: int, n_features: int, n_neighbors: int) -> Cost:
    """Return the cost of `nearest_neighbors` on the host."""
    method = neighbor_method(n_samples, n_features)
    seconds = 60 + 4e-3 * n_samples  # most of the first minute is pynndescent's compilation
    if method == "exact":
        seconds = 2.0 * n_samples**2 * n_features / 150e9
    centred = 4 * n_samples * n_features  # when the rows lie far from zero
    return Cost(8 * n_samples * n_neighbors + centred, seconds, method)


def nearest_neighbors(
    X: Any,
    n_neighbors: int,
    *,
    exact: bool = False,
    random_state: int = 42,
    reporter: Reporter | None = None,
) -> Neighbors:
    """Find the nearest rows of every row by Euclidean distance.

    For cosine, pass rows of unit length: the order is the same, and the cosine distance
    is half the squared Euclidean one.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32, C-contiguous
        Its device decides where the work runs.
    n_neighbors : int
        Length of the lists, the row itself included; at most ``n_samples``.
    exact : bool, default False
        Never approximate, however long it takes.
    random_state : int, default 42
        Seed of the approximate method.
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    Neighbors

    Notes
    -----
    Exact: blocked BLAS, ``2 * n_samples**2 * n_features`` flop; the tile of dot products
    is scanned in cache, extra memory is ``8 * n_samples * n_neighbors`` bytes, a centred
    copy of `X` when its rows lie far from zero, and a few megabytes a core. On the host
    the candidates are ordered by float64 differences, ties by the lower row; rows whose
    list float32 products cannot prove complete are compared with all others again, in
    float64. On a GPU distances are those of float32 products.

    Above `EXACT_LIMIT_FLOP` on the host, unless `exact`: nearest-neighbour descent (Dong,
    Moses, Li 2011, doi:10.1145/1963405.1963487) by pynndescent.
    """
    if is_on_gpu(X):
        return _on_gpu(X, n_neighbors, reporter)
    if not exact and neighbor_method(*X.shape) == "nn_descent":
        return _by_descent(X, n_neighbors, random_state)
    return _on_cpu(X, n_neighbors, reporter)


def _on_cpu(X: Any, n_neighbors: int, reporter: Reporter | None) -> Neighbors:
    from gpucluster.ops.compiled import listed_sqdist, scan_nearest

    n_samples, k = len(X), n_neighbors - 1
    neighbors = np.empty((n_samples, n_neighbors), np.int32)
    sqdist = np.zeros((n_samples, n_neighbors), np.float32)
    neighbors[:, 0] = np.arange(n_samples)
    if k == 0:
        return Neighbors(neighbors, sqdist, "exact")
    kept = min(k + SPARE, n_samples - 1)
    centred = without_offset(X)
    sqnorms, slack = norms_with_slack(centred)
    low = sqnorms - slack

    def work(rows: slice) -> None:
        count = rows.stop - rows.start
        keys = np.full((count, kept), np.inf, np.float32)
        found = np.empty((count, kept), np.int32)
        for cols in row_blocks(n_samples, TILE_COLS):
            scan_nearest(centred[rows] @ centred[cols].T, low, rows.start, cols.start, keys, found)
        exact = np.empty((count, kept))
        listed_sqdist(X, neighbors[rows, 0], found, exact)
        order = np.lexsort((found, exact), axis=1)[:, :k]
        found_k = np.take_along_axis(found, order, axis=1)
        exact_k = np.take_along_axis(exact, order, axis=1)
        if kept < n_samples - 1:
            outside = keys[:, -1].astype(np.float64) + low[rows]  # no other row is nearer
            unsure = np.flatnonzero(exact_k[:, -1] >= outside)
            if len(unsure):
                limit = exact_k[unsure, -1]
                found_k[unsure], exact_k[unsure] = _in_float64(X, rows.start + unsure, limit, k)
        neighbors[rows, 1:] = found_k
        sqdist[rows, 1:] = exact_k

    for _ in map_blocks(work, n_samples, TILE_ROWS, reporter):
        pass
    return Neighbors(neighbors, sqdist, "exact")


def norms_with_slack(X: Matrix) -> tuple[Any, Any]:
    """Return squared norms, and their share of the rounding of an expanded distance.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32

    Returns
    -------
    sqnorms : ndarray of shape (n_samples,), float32
    slack : ndarray of shape (n_samples,), float32
        ``|x|^2 + |y|^2 - 2 x.y`` from float32 products is off by at most the sum of the
        slacks of its two rows.
    """
    from gpucluster.ops.compiled import relative_rounding

    sqnorms = np.einsum("ij,ij->i", X, X, dtype=np.float64)
    # squares below the least float32 vanish, each by less than that
    underflow = X.shape[1] * float(np.finfo(np.float32).tiny)
    slack = relative_rounding(X.shape[1]) * sqnorms + underflow
    return sqnorms.astype(np.float32), slack.astype(np.float32)


def _in_float64(X: Matrix, rows: Any, limit: Any, k: int) -> tuple[Any, Any]:
    """Return the `k` nearest of `rows`, none farther than `limit`, and their distances."""
    from gpucluster.ops.compiled import relative_rounding, scan_nearest_exact

    shrink = 1 - relative_rounding(X.shape[1], np.float64)
    block = X[rows].astype(np.float64)
    low = shrink * np.einsum("ij,ij->i", block, block)
    # a little above the limit, so that a row at the limit enters
    sqdist = np.repeat(np.nextafter(limit, np.inf)[:, None], k, axis=1)
    found = np.empty((len(rows), k), np.int32)
    for cols in row_blocks(len(X), TILE_COLS):
        others = X[cols].astype(np.float64)
        low_cols = shrink * np.einsum("ij,ij->i", others, others)
        dots = block @ others.T
        scan_nearest_exact(dots, X, rows, cols.start, low, low_cols, sqdist, found)
    return found, sqdist


def _by_descent(X: Any, n_neighbors: int, random_state: int) -> Neighbors:
    from pynndescent import NNDescent

    graph = NNDescent(X, n_neighbors=n_neighbors, metric="sqeuclidean", random_state=random_state)
    rows, sqdist = graph.neighbor_graph
    return Neighbors(rows.astype(np.int32), sqdist.astype(np.float32), "nn_descent")


def _on_gpu(X: Any, n_neighbors: int, reporter: Reporter | None) -> Neighbors:
    xp = namespace(X)
    X = without_offset(X)
    n_samples = len(X)
    sqnorms = xp.einsum("ij,ij->i", X, X)
    neighbors = xp.empty((n_samples, n_neighbors), np.int32)
    sqdist = xp.empty((n_samples, n_neighbors), np.float32)
    block_rows = rows_per_block(n_samples * 4, budget_bytes=2 << 30)
    for rows in row_blocks(n_samples, block_rows):
        keys = sqnorms - 2 * (X[rows] @ X.T)
        own = xp.arange(rows.start, rows.stop)
        keys[own - rows.start, own] = -xp.inf
        found = xp.argpartition(keys, n_neighbors - 1, axis=1)[:, :n_neighbors]
        keys = xp.take_along_axis(keys, found, axis=1)
        order = xp.argsort(keys, axis=1)
        neighbors[rows] = xp.take_along_axis(found, order, axis=1)
        sqdist[rows] = xp.take_along_axis(keys, order, axis=1) + sqnorms[rows, None]
        if reporter is not None:
            reporter.progress(rows.stop, n_samples)
    sqdist[:, 0] = 0
    return Neighbors(neighbors, xp.maximum(sqdist, 0), "exact")
