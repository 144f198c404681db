"""How far the k-th neighbour of a row is."""

from __future__ import annotations

import numpy as np

from gpucluster.device.memory import rows_per_block
from gpucluster.ops.blocks import row_blocks
from gpucluster.types import Matrix, Rows, Vector64


def kth_distances(X: Matrix, asked: Rows, k: int, *, p: float = 2.0) -> Vector64:
    """Return the distance of some rows to their k-th neighbour among all rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    asked : ndarray of shape (n_asked,), int64
        Rows of `X`.
    k : int
        The row itself not counted; at least 1, below ``n_samples``.
    p : float, default 2.0
        Power of the minkowski distance; 2 is euclidean.

    Returns
    -------
    ndarray of shape (n_asked,), float64

    Notes
    -----
    ``2 * n_asked * n_samples * n_features`` flop in float64. Extra memory: the lists, and a block
    of distances.
    """
    from scipy.spatial.distance import cdist

    middle = X.mean(axis=0, dtype=np.float64)  # products of rows far from zero lose their digits
    queries = X[asked] - middle
    lengths = np.einsum("ij,ij->i", queries, queries)[:, None]
    nearest = np.full((len(asked), k + 1), np.inf)  # the row itself is among them
    for rows in row_blocks(len(X), rows_per_block(8 * (3 * len(asked) + X.shape[1]), 256 << 20)):
        block = X[rows] - middle
        if p == 2:
            found = lengths + np.einsum("ij,ij->i", block, block) - 2 * (queries @ block.T)
        else:
            found = cdist(queries, block, "minkowski", p=p)
        both = np.concatenate((nearest, found), axis=1)
        nearest = np.partition(both, k, axis=1)[:, : k + 1]
    distances: Vector64 = nearest.max(axis=1)
    return np.sqrt(np.maximum(distances, 0)) if p == 2 else distances
