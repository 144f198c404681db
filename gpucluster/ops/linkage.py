"""Clusters merged from the closest pair up: the merges as edges of a tree over the rows.

An edge ``(row, row, height)`` unites the clusters that its two rows are in. Because no
merge is below an earlier one of its parts, the lightest edges give any cut of the tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from gpucluster.device.arrays import is_on_gpu, namespace, to_host
from gpucluster.device.memory import blocks_bytes
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.types import Cost, Labels, Matrix

SQUARE_TILE = 256  # of a distance matrix: it stays in cache through all operations
MERGES_AT_ONCE = 1024  # between two looks at the cancel token
LINKAGES = {"single": 0, "complete": 1, "average": 2}


def chain_cost(n_samples: int, n_features: int, metric: str) -> Cost:
    """Return the cost of `distance_matrix` and `chain_tree` on the host."""
    pairs = float(n_samples) ** 2
    measuring = pairs * n_features * (1e-9 if metric == "manhattan" else 1 / 60e9)
    extra = 4 * n_samples**2 + 12 * n_samples * n_features + 200 * n_samples
    extra += blocks_bytes(4 * n_samples * n_features)
    return Cost(extra, measuring + 1.2e-8 * pairs)


def distance_matrix(
    X: Any, metric: str, sqradii: Any = None, reporter: Reporter | None = None
) -> Matrix:
    """Return all distances between the rows of `X`.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        Its device decides where the products are computed.
    metric : {"euclidean", "cosine", "manhattan"}
        For cosine, rows of unit length, or means of such rows. Manhattan on the host only.
    sqradii : ndarray of shape (n_samples,), optional
        Added to the squared Euclidean distance, both of a pair: what the offsets of two
        members from their means add to it, when they stand at right angles.
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    ndarray of shape (n_samples, n_samples), float32
        On the host, symmetric, 0 on the diagonal and between equal rows.

    Notes
    -----
    Products in float64. Extra memory: a float64 copy of `X`, and a few tiles for each core.
    """
    n_samples = len(X)
    D = np.empty((n_samples, n_samples), np.float32)
    tile = _manhattan_tile(X) if metric == "manhattan" else _euclidean_tile(X, metric, sqradii)

    def work(rows: slice) -> None:
        for cols in row_blocks(rows.stop, SQUARE_TILE):
            D[rows, cols] = tile(rows, cols)
            D[cols, rows] = D[rows, cols].T

    if is_on_gpu(X):
        for rows in row_blocks(n_samples, SQUARE_TILE):
            work(rows)
            if reporter is not None:
                reporter.progress(rows.stop, n_samples)
    else:
        for _ in map_blocks(work, n_samples, SQUARE_TILE, reporter):
            pass
    np.fill_diagonal(D, 0)
    return D


def _manhattan_tile(X: Matrix) -> Any:
    from scipy.spatial.distance import cdist

    return lambda rows, cols: cdist(X[rows], X[cols], "cityblock")


def _euclidean_tile(X: Any, metric: str, sqradii: Any) -> Any:
    from gpucluster.ops.compiled import relative_rounding

    xp = namespace(X)
    centred = X - X.mean(axis=0, dtype=np.float64)
    sqnorms = xp.einsum("ij,ij->i", centred, centred)
    rounding = relative_rounding(X.shape[1], np.float64)
    extra = None if sqradii is None else xp.asarray(sqradii)

    def tile(rows: slice, cols: slice) -> Any:
        scale = sqnorms[rows, None] + sqnorms[cols]
        sqdist = centred[rows] @ (-2 * centred[cols]).T
        sqdist += scale
        scale *= rounding
        sqdist *= sqdist > scale  # else the rows are equal
        if extra is not None:
            sqdist += extra[rows, None]
            sqdist += extra[cols]
        distances = sqdist.astype(np.float32)
        if metric == "cosine":
            distances /= 2
        else:
            xp.sqrt(distances, out=distances)
        return to_host(distances)

    return tile


def chain_tree(
    D: Matrix, linkage: str, weights: Any = None, reporter: Reporter | None = None
) -> Any:
    """Merge, again and again, the two clusters that are nearest by `linkage`.

    Chains of nearest neighbours, which end in pairs that are nearest to each other; their
    distances to the others follow by the formula of Lance and Williams.

    Parameters
    ----------
    D : ndarray of shape (n_samples, n_samples), float32, C-contiguous
        Symmetric distances; they are overwritten.
    linkage : {"single", "complete", "average"}
    weights : ndarray of shape (n_samples,), optional
        How many rows each stands for.
    reporter : Reporter, optional
        Told of the merges so far.

    Returns
    -------
    ndarray of shape (n_samples - 1, 3), float64
        Row, row, height.

    References
    ----------
    Murtagh 1983, doi:10.1093/comjnl/26.4.354. Müllner 2011, arXiv:1109.2378.
    """
    from gpucluster.ops.compiled_linkage import grow_chain, pack

    n_samples = len(D)
    flat = D.reshape(-1)
    weights = np.ones(n_samples) if weights is None else weights.astype(np.float64)
    gone = np.zeros(n_samples, np.float32)
    chain = np.empty(n_samples, np.int64)
    row = np.arange(n_samples)
    merges = np.empty((n_samples - 1, 3))
    done = length = 0
    while done < n_samples - 1:
        width = len(D)
        # until half of the slots are merged away: then the rest moves together
        alive = n_samples - done
        count = max(1, min(MERGES_AT_ONCE, alive - width // 2, alive - 1))
        pairs = np.empty((count, 2), np.int64)
        heights = np.empty(count)
        code = LINKAGES[linkage]
        length = grow_chain(D, gone, weights, code, chain, length, count, pairs, heights)
        merges[done : done + count] = np.column_stack((row[pairs], heights))
        done += count
        kept = np.flatnonzero(gone == 0)
        if len(kept) <= width // 2:
            pack(flat, width, kept)
            D = flat[: len(kept) ** 2].reshape(len(kept), len(kept))
            slot = np.empty(width, np.int64)
            slot[kept] = np.arange(len(kept))
            chain[:length] = slot[chain[:length]]
            row, weights, gone = row[kept], weights[kept], gone[kept]
        if reporter is not None:
            reporter.progress(done, n_samples - 1, "merges")
    return merges


def cut_tree(merges: Any, *, n_clusters: int | None = None, height: float | None = None) -> Labels:
    """Return the clusters when only `n_clusters` are left, or before the merges at `height`.

    Merges at height 0 are made in any case: equal rows are in one cluster.

    Parameters
    ----------
    merges : ndarray of shape (n_samples - 1, 3), float64
        Row, row, height.
    n_clusters : int, optional
    height : float, optional
        Merges at this height or above are not made.

    Returns
    -------
    ndarray of shape (n_samples,), int32
    """
    n_samples = len(merges) + 1
    if n_clusters is not None:
        least = max(n_samples - n_clusters, np.count_nonzero(merges[:, 2] == 0))
        made = np.argsort(merges[:, 2], kind="stable")[:least]
    else:
        made = np.flatnonzero((merges[:, 2] < height) | (merges[:, 2] == 0))
    ends = merges[made, :2].astype(np.int64)
    graph = scipy.sparse.coo_array(
        (np.ones(len(ends), np.bool_), (ends[:, 0], ends[:, 1])), shape=(n_samples, n_samples)
    )
    labels: Labels = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    return labels
