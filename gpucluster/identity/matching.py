"""The heaviest one-to-one matching of a sparse bipartite graph."""

from __future__ import annotations

import numpy as np

from gpucluster.errors import InputError
from gpucluster.types import Labels, Vector64


def best_matching(
    rows: Labels, cols: Labels, weights: Vector64, shape: tuple[int, int]
) -> tuple[Labels, Labels]:
    """Match rows and columns one to one so that the total weight is the largest.

    Rows and columns may stay unmatched; with positive weights that is never for nothing.

    Parameters
    ----------
    rows, cols : ndarray of shape (n_edges,), int32
        Ends of the edges; each pair at most once, in any order.
    weights : ndarray of shape (n_edges,), float64
        Positive and finite.
    shape : tuple of int
        Number of rows and of columns.

    Returns
    -------
    rows : ndarray of shape (n_matched,), int32
        Rising.
    cols : ndarray of shape (n_matched,), int32
        What each is matched with.

    Raises
    ------
    InputError
        A weight is not positive and finite.

    Notes
    -----
    Exact up to float64 rounding of the total, and always the same for the same edges. Of equally
    heavy edges a row that comes early takes the lower free column; which of several heaviest
    matchings is found is not defined beyond that.

    Each row is added along the shortest augmenting path, with a dual price for each column
    (Jonker and Volgenant 1987, doi:10.1007/BF02278710); a path may also end by leaving a row
    unmatched. What a row touches is as a rule a small part of its component: 100,000 by 100,000
    with a million random edges take seconds, components by themselves nothing more. Extra memory:
    about 40 bytes an edge, a row and a column.
    """
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise InputError("weights that are not positive and finite, a matching has no use for them")
    if not len(rows):
        return np.empty(0, np.int32), np.empty(0, np.int32)
    from scipy.sparse import csr_array

    from gpucluster.identity.compiled_matching import match_rows

    graph = csr_array((weights.astype(np.float64), (rows, cols)), shape=shape)
    graph.sort_indices()
    row_of = np.empty(shape[1], np.int32)
    col_of = np.empty(shape[0], np.int32)
    starts, ends = graph.indptr.astype(np.int64), graph.indices.astype(np.int32)
    match_rows(starts, ends, graph.data, row_of, col_of)
    matched = np.flatnonzero(col_of >= 0)
    return matched.astype(np.int32), col_of[matched]
