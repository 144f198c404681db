"""The fuzzy neighbour graph of UMAP: how much each row belongs to the places of its neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.ops.blocks import map_blocks
from gpucluster.ops.neighbors import Neighbors

BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class FuzzyGraph:
    """A symmetric graph, in compressed rows.

    Attributes
    ----------
    starts : ndarray of shape (n_samples + 1,), int64
        Where the edges of each row begin.
    targets : ndarray of shape (n_edges,), int32
        Rising within a row.
    weights : ndarray of shape (n_edges,), float32
        In (0, 1]; the greatest is 1.
    """

    starts: Any
    targets: Any
    weights: Any


def fuzzy_graph(neighbors: Neighbors, *, cosine: bool, least: float = 0.0) -> FuzzyGraph:
    """Turn lists of nearest rows into memberships, and unite both directions.

    Parameters
    ----------
    neighbors : Neighbors
        On the host.
    cosine : bool
        Whether the distance is half the squared one of `neighbors`, else its root.
    least : float, default 0
        Edges of a smaller weight are left out.

    Returns
    -------
    FuzzyGraph

    Notes
    -----
    Membership falls with the distance beyond the nearest other row, at a rate that gives each row
    ``log2(n_neighbors)`` of it in sum; of two directions ``a`` and ``b`` the union is
    ``a + b - a * b``. Extra memory: 60 bytes a listed neighbour while it lasts.

    References
    ----------
    McInnes, Healy, Melville 2018, arXiv:1802.03426, section 3.1.
    """
    from scipy.sparse import csr_array

    from gpucluster.ops.compiled_layout import membership

    n_samples, n_neighbors = neighbors.rows.shape
    listed = n_neighbors - 1
    weights = np.empty((n_samples, listed), np.float32)
    scale = 0.5 if cosine else 1.0

    def work(rows: slice) -> None:
        sqdist = np.ascontiguousarray(neighbors.sqdist[rows, 1:])
        membership(sqdist, scale, not cosine, math.log2(n_neighbors), weights[rows])

    for _ in map_blocks(work, n_samples, BLOCK_ROWS):
        pass
    starts = np.arange(0, n_samples * listed + 1, listed)
    one_way = csr_array(
        (weights.ravel(), neighbors.rows[:, 1:].ravel(), starts), shape=(n_samples, n_samples)
    )
    other_way = one_way.T.tocsr()
    united = (one_way + other_way - one_way.multiply(other_way)).tocsr()
    united.data /= united.data.max(initial=1e-30)
    united.data[united.data < least] = 0
    united.eliminate_zeros()
    united.sort_indices()
    return FuzzyGraph(
        united.indptr.astype(np.int64),
        united.indices.astype(np.int32),
        united.data.astype(np.float32),
    )
