"""Connected cores within a radius: what DBSCAN is made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.neighbors import TILE_COLS, TILE_ROWS
from gpucluster.ops.normalize import without_offset
from gpucluster.types import NOISE, Labels, Matrix


def radius_components(
    X: Matrix, radius: float, min_samples: int, reporter: Reporter | None = None
) -> tuple[Labels, int]:
    """Label the rows that density connects.

    A row is core when at least `min_samples` rows, itself included, lie within `radius`.
    Cores within `radius` of each other share a label. A row that is not core takes the
    label of its nearest core within `radius`, whatever the order of the rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    radius : float
        Euclidean, inclusive.
    min_samples : int
    reporter : Reporter, optional
        Told after each block of the first of the two passes.

    Returns
    -------
    labels : ndarray of shape (n_samples,), int32
        Noise is -1; other labels are rows, one for each component.
    n_core : int

    Notes
    -----
    Two passes of blocked BLAS, ``4 * n_samples**2 * n_features`` flop. No neighbourhood is
    stored, however dense the data: extra memory is 24 bytes a row and a few megabytes a core.
    """
    from gpucluster.ops.compiled import scan_connect, scan_count

    X = without_offset(X)
    n_samples = len(X)
    sqnorms = np.einsum("ij,ij->i", X, X)
    sqradius = np.float32(radius**2)
    counts = np.zeros(n_samples, np.int64)

    def count(rows: slice) -> None:
        for cols in row_blocks(n_samples, TILE_COLS):
            dots = X[rows] @ X[cols].T
            scan_count(dots, rows.start, cols.start, sqnorms, sqradius, counts[rows])

    for _ in map_blocks(count, n_samples, TILE_ROWS, reporter):
        pass

    is_core = counts >= min_samples
    parent = np.arange(n_samples, dtype=np.int32)
    nearest = np.full(n_samples, NOISE, np.int32)
    weight = np.full(n_samples, np.inf, np.float32)
    # one thread unites, BLAS uses the others: a shared forest would need locks
    for rows in row_blocks(n_samples, TILE_COLS):
        for cols in row_blocks(n_samples, TILE_COLS):
            dots = X[rows] @ X[cols].T
            scan_connect(
                dots, rows.start, cols.start, sqnorms, sqradius, is_core, parent, nearest, weight
            )
        if reporter is not None:
            reporter.cancel.raise_if_cancelled()

    return label_components(parent, is_core, nearest), int(is_core.sum())


def label_components(parent: Labels, is_core: Any, nearest: Labels) -> Labels:
    """Return the root of each core, the root of the nearest core of the others, or -1."""
    roots = parent
    while not np.array_equal(roots[roots], roots):
        roots = roots[roots]
    labels = np.where(is_core, roots, NOISE).astype(np.int32)
    border = ~is_core & (nearest != NOISE)
    labels[border] = roots[nearest[border]]
    return labels
