"""Nearest rows by float16 products: each list proven complete, or looked for again in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.device.kernels import FOLD_NEIGHBORS, MOST_NEIGHBORS, prepared
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.bounded import FLOAT_MAX, BoundedScores
from gpucluster.ops.certified import NO_INDEX
from gpucluster.ops.half import HalfRows, coarse_middle, each_tile, half_rows, sample_of
from gpucluster.ops.normalize import row_norms
from gpucluster.ops.pairs import by_distance, pair_sqdist

SPARE = 8  # candidates kept beyond those asked for: what rounding may have swapped
SHIFT_ROUNDED = 1e-6  # what a row less the shift may have lost of its squared norm, and more
RANKED_BYTES = 1 << 30  # of candidates that are compared in float64 at a time


def most_half_neighbors() -> int:
    """Return the most neighbours, the row itself included, that `half_neighbors` finds."""
    return MOST_NEIGHBORS - SPARE + 1


def half_neighbors(X: Any, n_neighbors: int, reporter: Reporter | None = None) -> tuple[Any, Any]:
    """Find the nearest rows of every row, as differences in float64 have them.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32, C-contiguous
        Its device decides where the work runs.
    n_neighbors : int
        Length of the lists, the row itself included; at most ``n_samples`` and
        `most_half_neighbors`.
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    rows : array of shape (n_samples, n_neighbors), int32
        Nearest first, ties by the lower row; column 0 is the row itself.
    sqdist : array of shape (n_samples, n_neighbors), float32

    Notes
    -----
    ``2 * n_samples**2 * n_features`` flop on tensor cores. Of each row those with the largest upper
    bounds of scores are kept; no other can be nearer than the last of these says. Rows whose list
    that does not prove complete are compared with all that bounds do not rule out. Extra memory: 2
    bytes for each value of `X`, ``16 * (n_neighbors + SPARE)`` bytes a row, `RANKED_BYTES`.
    """
    xp = namespace(X)
    n_samples, k = len(X), n_neighbors - 1
    neighbors = xp.empty((n_samples, n_neighbors), np.int32)
    sqdist = xp.zeros((n_samples, n_neighbors), np.float32)
    numbers = xp.arange(n_samples, dtype=np.int32)
    neighbors[:, 0] = numbers
    if k == 0:
        return neighbors, sqdist
    shift = coarse_middle(sample_of(X))
    half = half_rows(X, shift)
    squares = xp.empty(n_samples, np.float64)
    for rows in row_blocks(n_samples, rows_per_block(8 * X.shape[1], RANKED_BYTES)):
        squares[rows] = xp.square(row_norms(X[rows] - shift))
    scores = BoundedScores.of(half, squares / 2)
    kept = min(k + SPARE, n_samples - 1)
    bounds, found = _largest(scores, half, numbers, kept, reporter)
    pair_bytes = 24 * kept
    for rows in row_blocks(n_samples, rows_per_block(pair_bytes, RANKED_BYTES)):
        own = xp.repeat(numbers[rows], kept)
        exact = pair_sqdist(X, X, own, xp.ravel(found[rows])).reshape(-1, kept)
        neighbors[rows, 1:], nearest = _ranked(found[rows], exact, k)
        sqdist[rows, 1:] = nearest
        if kept == n_samples - 1:
            continue
        # a row that was not kept is not nearer than this; the shift has rounded, so a bit less
        last = bounds[rows, -1].astype(np.float64)
        last[last == FLOAT_MAX] = np.inf  # nothing is known of that one
        outside = squares[rows] * (1 - SHIFT_ROUNDED) - 2 * last
        unsure = rows.start + xp.flatnonzero(~(nearest[:, -1] < outside))
        _look_again(X, scores, half, squares, unsure, neighbors, sqdist, nearest[:, -1], rows.start)
    return neighbors, sqdist


def _largest(
    scores: BoundedScores, half: HalfRows, numbers: Any, kept: int, reporter: Reporter | None
) -> tuple[Any, Any]:
    """Return the largest upper bounds of each row, falling, and whose they are."""
    xp, n_samples = namespace(numbers), len(numbers)
    bounds = xp.full((n_samples, kept), -FLOAT_MAX, np.float32)
    found = xp.full((n_samples, kept), NO_INDEX, np.int32)
    of_rows = half.scales, half.norms, half.residuals, numbers
    launches: list[Callable[..., None]] = []

    def fold(dots: Any, part: slice, cols: slice) -> None:
        if is_on_gpu(dots):
            numbers_of = part.start, *dots.shape, cols.start, n_samples
            if not launches:
                given = dots, *numbers_of, scores.columns, *of_rows, kept, bounds, found
                launches.append(prepared(FOLD_NEIGHBORS, *given))
            launches[0](*numbers_of, kept)
        else:
            _, upper = scores.interval(dots, cols.start, half[part], numbers[part])
            both = np.concatenate((bounds[part], upper), axis=1)
            order = np.argsort(-both, axis=1, kind="stable")[:, :kept]
            others = np.broadcast_to(np.arange(cols.start, cols.stop, dtype=np.int32), upper.shape)
            bounds[part] = np.take_along_axis(both, order, axis=1)
            found[part] = np.take_along_axis(
                np.concatenate((found[part], others), axis=1), order, axis=1
            )
        if reporter is not None and cols.stop == n_samples:
            reporter.progress(part.stop, n_samples)

    each_tile(half.cast, half.cast, fold)
    return bounds, found


def _ranked(found: Any, exact: Any, k: int) -> tuple[Any, Any]:
    """Return the `k` nearest of each row's candidates, ties to the lower row."""
    xp = namespace(found)
    order = xp.argsort(found, axis=1)
    found, exact = (xp.take_along_axis(each, order, axis=1) for each in (found, exact))
    order = xp.argsort(exact, axis=1, kind="stable")[:, :k]
    return xp.take_along_axis(found, order, axis=1), xp.take_along_axis(exact, order, axis=1)


def _look_again(
    X: Any,
    scores: BoundedScores,
    half: HalfRows,
    squares: Any,
    unsure: Any,
    neighbors: Any,
    sqdist: Any,
    limits: Any,
    first: int,
) -> None:
    """Compare rows with all that may be nearer than the last of their lists."""
    xp, k = namespace(X), neighbors.shape[1] - 1
    needed = (squares[unsure] * (1 - SHIFT_ROUNDED) - limits[unsure - first]) / 2
    needed = xp.minimum(needed, FLOAT_MAX).astype(np.float32)
    skip = unsure.astype(np.int32)
    for part, near, other in scores.each_candidates(half[unsure], needed, skip):
        at = unsure[part]
        exact = pair_sqdist(X, X, skip[part][near], other)
        order = by_distance(near, other, exact)
        starts = xp.searchsorted(near, xp.arange(len(at)))  # rows stay where they are
        taken = order[starts[:, None] + xp.arange(k)]
        neighbors[at, 1:], sqdist[at, 1:] = other[taken], exact[taken]
