"""Connected cores within a radius: what DBSCAN is made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.neighbors import TILE_COLS, TILE_ROWS, norms_with_slack
from gpucluster.ops.normalize import without_offset
from gpucluster.ops.shards import Shard, Shards
from gpucluster.types import NOISE, Labels, Matrix, Vector, Weights


def radius_components(
    X: Matrix,
    radius: float,
    min_samples: int,
    reporter: Reporter | None = None,
    *,
    weights: Weights | None = None,
) -> tuple[Labels, Any]:
    """Label the rows that density connects.

    A row is core when at least `min_samples` rows, itself included, lie within `radius`.
    Cores within `radius` of each other share a label. A row that is not core takes the
    label of its nearest core within `radius`, ties of the lower row.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    radius : float
        Euclidean, inclusive.
    min_samples : int
    reporter : Reporter, optional
        Told after each block of the first of the two passes.
    weights : ndarray of shape (n_samples,), int64, optional
        How many rows each counts for. Omitted: one.

    Returns
    -------
    labels : ndarray of shape (n_samples,), int32
        Noise is -1; other labels are rows, one for each component.
    is_core : ndarray of shape (n_samples,), bool

    Notes
    -----
    Two passes of blocked BLAS, ``2 * n_samples**2 * n_features`` flop to find the cores, and
    at most as many to connect them: only cores are looked at. No neighbourhood is stored,
    however dense the data: extra memory is 48 bytes a row, a centred copy of `X` when its rows
    lie far from zero, a tile of 64 MiB with its rows, and a few megabytes a core. Pairs that
    float32 products cannot tell from the radius are decided by float64 differences.
    """
    centred = without_offset(X)
    n_samples = len(X)
    norms = norms_with_slack(centred)
    weights = np.ones(n_samples, np.int64) if weights is None else weights
    shards = Shards(centred, "rows within the radius", reporter, rows=TILE_ROWS, tells=True)
    known = X, centred, *norms, weights, radius, min_samples
    counts = np.concatenate(list(shards.map(_shard_counts, *known)))
    is_core = counts >= min_samples
    parent, nearest = _connect(X, centred, norms, np.arange(n_samples), is_core, radius, reporter)
    return label_components(parent, is_core, nearest), is_core


def _shard_counts(
    shard: Shard,
    X: Matrix,
    centred: Matrix,
    sqnorms: Vector,
    slack: Vector,
    weights: Weights,
    radius: float,
    min_samples: int,
) -> Weights:
    """Count, up to `min_samples`, what lies around each row."""
    from gpucluster.ops.compiled import scan_count

    counts = np.zeros(len(shard.X), np.int64)
    for cols in row_blocks(len(X), TILE_COLS):
        dots, starts = shard.X @ centred[cols].T, (shard.start, cols.start)
        scan_count(dots, X, *starts, sqnorms, slack, radius**2, min_samples, weights, counts)
    return counts


def nearest_cores(X: Matrix, rows: Any, is_core: Any, radius: float, reporter: Reporter) -> Any:
    """Return the nearest core of each of `rows`, by the rule of `radius_components`.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    rows : ndarray of shape (n_rows,), integer
        Rows that are not core.
    is_core : ndarray of shape (n_samples,), bool
    radius : float
    reporter : Reporter

    Returns
    -------
    ndarray of shape (n_rows,), int32
        -1 where no core lies within `radius`.
    """
    centred = without_offset(X)
    norms = norms_with_slack(centred)
    _, nearest = _connect(X, centred, norms, rows, is_core, radius, reporter)
    return nearest[rows]


def _connect(
    X: Matrix,
    centred: Matrix,
    norms: tuple[Any, Any],
    rows: Any,
    is_core: Any,
    radius: float,
    reporter: Reporter | None,
) -> tuple[Labels, Labels]:
    """Return the forest that unites the cores among `rows`, and the nearest core of the others."""
    from gpucluster.ops.compiled import scan_connect

    n_samples = len(X)
    parent = np.arange(n_samples, dtype=np.int32)
    nearest = np.full(n_samples, NOISE, np.int32)
    weight = np.full(n_samples, np.inf)
    cores = np.flatnonzero(is_core)
    # one thread unites, BLAS uses the others: a shared forest would need locks
    for kind in (rows[is_core[rows]], rows[~is_core[rows]]):
        for part in row_blocks(len(kind), TILE_COLS):
            block = centred[kind[part]]
            # of two cores the higher one looks for the lower; any other row looks at all cores
            last = kind[part][-1] if is_core[kind[part][0]] else n_samples
            wanted = cores[: np.searchsorted(cores, last)]
            for cols in row_blocks(len(wanted), TILE_COLS):
                scan_connect(
                    block @ centred[wanted[cols]].T,
                    X,
                    kind[part],
                    wanted[cols],
                    *norms,
                    radius**2,
                    is_core,
                    parent,
                    nearest,
                    weight,
                )
            if reporter is not None:
                reporter.cancel.raise_if_cancelled()
    return parent, nearest


def label_components(parent: Labels, is_core: Any, nearest: Labels) -> Labels:
    """Return the root of each core, the root of the nearest core of the others, or -1."""
    roots = parent
    while not np.array_equal(roots[roots], roots):
        roots = roots[roots]
    labels = np.where(is_core, roots, NOISE).astype(np.int32)
    border = ~is_core & (nearest != NOISE)
    labels[border] = roots[nearest[border]]
    return labels
