"""Nearest centres by float16 products: each label proven, or decided in float64.

Every score lies between two bounds (`ops.bounded`). Where the lower bound of one centre is above
the upper bounds of all others, no rounding can have changed the label. Of the other rows, the
centres that bounds do not rule out are compared by differences in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.device.kernels import FOLD_NEAREST, prepared
from gpucluster.device.memory import rows_per_block
from gpucluster.errors import InternalError
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.bounded import FLOAT_MAX, BoundedScores
from gpucluster.ops.half import HalfRows, each_tile, half_rows
from gpucluster.ops.pairs import EXACT_BYTES, by_distance, pair_sqdist

NO_INDEX = np.iinfo(np.int32).max
MANY = 16  # candidates a row, from which float64 products thin them out before differences


@dataclass(frozen=True, slots=True)
class Certified:
    """Nearest centres, equal to those of a search in float64.

    Attributes
    ----------
    labels : array of shape (n_rows,), int32
        Ties to the lower centre; -1 where there is none but the one skipped.
    n_rechecked : int
        Rows whose label the float16 products left open.
    """

    labels: Any
    n_rechecked: int


def certified_nearest(
    X: Any,
    centers: Any,
    half: HalfRows | None = None,
    shift: Any = None,
    *,
    weights: Any = None,
    skip: Any = None,
) -> Certified:
    """Find the centre with the least ``|x - c|^2 + weight`` for each row.

    Parameters
    ----------
    X : array of shape (n_rows, n_features), float32, C-contiguous
        Finite; its device decides where the work runs.
    centers : array of shape (n_centers, n_features), float32 or float64
        On the same device.
    half : HalfRows, optional
        Of `X`.
    shift : array of shape (n_features,), float32, optional
        What copies are less: the nearer to the centres, the more is proven. Omitted: that of
        `half`, or the mean of the centres.
    weights : array of shape (n_centers,), float64, optional
        Of the centres; all 0 if omitted.
    skip : array of shape (n_rows,), int32, optional
        A centre that is none for this row; negative for none.

    Returns
    -------
    Certified

    Notes
    -----
    Extra memory: a tile of products, 2 bytes for each value of `X` unless `half` is given, 36
    bytes a row, 8 bytes for each value of `centers`, and for rows that are looked at again
    some tens of bytes for each of `ops.bounded.MOST_PAIRS` and `EXACT_BYTES`.
    """
    if half is not None:
        shift = half.shift
    elif shift is None:
        shift = centers.mean(axis=0, dtype=np.float64).astype(np.float32)
    return CertifiedSearch.of(centers, shift, weights).nearest(X, half, skip)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The two largest upper bounds of each row, where the largest is, and the lower bound there."""

    best: Any
    second: Any
    floor: Any
    label: Any


@dataclass(frozen=True, slots=True)
class CertifiedSearch:
    """Centres, made ready for any number of searches among them; see `certified_nearest`.

    Attributes
    ----------
    scores : BoundedScores
        The centres as float16 products see them.
    shift : array of shape (n_features,), float32
        What copies of rows are less.
    centers : array of shape (n_centers, n_features), float64
    weights : array of shape (n_centers,), float64
    """

    scores: BoundedScores
    shift: Any
    centers: Any
    weights: Any

    @classmethod
    def of(cls, centers: Any, shift: Any, weights: Any = None) -> CertifiedSearch:
        """Make centres ready; they, the shift and the weights are on the device of the searches."""
        xp = namespace(centers)
        centers = centers.astype(np.float64)
        if weights is None:
            weights = xp.zeros(len(centers), np.float64)
        shifted = centers - shift.astype(np.float64)
        half = half_rows(shifted.astype(np.float32), xp.zeros_like(shift))
        squares = xp.einsum("ij,ij->i", shifted, shifted)
        off = (len(shift) + 4) * np.finfo(np.float64).eps * (squares + abs(weights))
        scores = BoundedScores.of(half, 0.5 * (squares + weights), off)
        return cls(scores, shift, centers, weights)

    def nearest(self, X: Any, half: HalfRows | None = None, skip: Any = None) -> Certified:
        """Find the nearest centre of each row; arguments are those of `certified_nearest`."""
        xp = namespace(X)
        rows = half_rows(X, self.shift) if half is None else half
        if rows.shift is not self.shift:
            raise InternalError("copies of rows are less another shift than those of the centres")
        if skip is None:
            skip = xp.full(len(X), -1, np.int32)
        found = self.bounds(rows, skip)
        labels = found.label
        open_rows = xp.flatnonzero(~(found.floor > found.second))  # no NaN proves anything
        half = rows[open_rows]
        for part, near, candidates in self.scores.each_candidates(
            half, found.floor[open_rows], skip[open_rows]
        ):
            at = open_rows[part]
            labels[at] = self.decided(X[at], near, candidates)
        return Certified(labels, len(open_rows))

    def bounds(self, rows: HalfRows, skip: Any) -> _Bounds:
        """Bound the scores of all centres, tile by tile, and keep what decides."""
        xp, n_rows = namespace(skip), len(skip)
        best, second, floor = (xp.full(n_rows, -FLOAT_MAX, np.float32) for _ in range(3))
        found = _Bounds(best, second, floor, xp.full(n_rows, NO_INDEX, np.int32))

        kept = found.best, found.second, found.floor, found.label
        launches: list[Callable[..., None]] = []

        def fold(dots: Any, part: slice, cols: slice) -> None:
            if not is_on_gpu(dots):
                self._fold(dots, part, cols.start, rows, skip, found)
                return
            numbers = part.start, *dots.shape, cols.start, len(self.centers)
            if not launches:
                of_rows = rows.scales, rows.norms, rows.residuals, skip
                given = dots, *numbers, self.scores.columns, *of_rows, *kept
                launches.append(prepared(FOLD_NEAREST, *given))
            launches[0](*numbers)

        each_tile(rows.cast, self.scores.cast, fold)
        found.label[found.label == NO_INDEX] = -1
        return found

    def _fold(
        self, dots: Any, part: slice, first: int, rows: HalfRows, skip: Any, found: _Bounds
    ) -> None:
        """Keep what decides of a tile and of what was there before, in place."""
        found = _Bounds(
            *(each[part] for each in (found.best, found.second, found.floor, found.label))
        )
        lower, upper = self.scores.interval(dots, first, rows[part], skip[part])
        own = np.arange(len(dots))
        at = upper.argmax(axis=1)
        best, floor = upper[own, at], lower[own, at]
        upper[own, at] = -FLOAT_MAX
        runner_up = upper.max(axis=1)
        wins = best > found.best
        found.second[:] = np.where(
            wins, np.maximum(found.best, runner_up), np.maximum(found.second, best)
        )
        found.best[wins], found.floor[wins] = best[wins], floor[wins]
        found.label[wins] = at[wins] + first

    def thinned(self, X: Any, near: Any, candidates: Any) -> tuple[Any, Any]:
        """Return the pairs that float64 products do not rule out."""
        xp = namespace(X)
        middle = self.centers.mean(axis=0)
        rows, centers = X.astype(np.float64) - middle, self.centers - middle
        sqnorms = xp.einsum("ij,ij->i", centers, centers)
        kept_near, kept = [], []
        row_bytes = 16 * len(centers)
        for part in row_blocks(len(X), rows_per_block(row_bytes, EXACT_BYTES)):
            inside = (near >= part.start) & (near < part.stop)
            at, col = near[inside], candidates[inside]
            keys = (sqnorms + self.weights) - 2 * (rows[part] @ centers.T)
            allowed = xp.full(keys.shape, np.inf)
            local = at - part.start
            allowed[local, col] = keys[local, col]
            squares = xp.einsum("ij,ij->i", rows[part], rows[part])
            size = squares + float((sqnorms + abs(self.weights)).max())
            off = 8 * (X.shape[1] + 4) * np.finfo(np.float64).eps * size
            close = allowed <= (allowed.min(axis=1) + off)[:, None]
            at, col = xp.nonzero(close & (allowed < np.inf))
            kept_near.append(at + part.start)
            kept.append(col)
        near, candidates = xp.concatenate(kept_near), xp.concatenate(kept)
        return near.astype(np.int32), candidates.astype(np.int32)

    def decided(self, X: Any, near: Any, candidates: Any) -> Any:
        """Return the best candidate of each row by differences in float64, ties to the lower.

        A product may give equal columns other last bits, so ties are none to it.
        """
        xp = namespace(X)
        labels = xp.full(len(X), -1, np.int32)
        if len(near) > MANY * len(X):
            near, candidates = self.thinned(X, near, candidates)
        if not len(near):
            return labels
        keys = pair_sqdist(X, self.centers, near, candidates) + self.weights[candidates]
        order = by_distance(near, candidates, keys)
        near, candidates = near[order], candidates[order]
        first = xp.concatenate((xp.ones(1, bool), near[1:] != near[:-1]))
        labels[near[first]] = candidates[first]
        return labels
