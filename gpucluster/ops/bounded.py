"""Scores of rows and centres from products of float16 copies, each between two bounds.

A row and a centre differ from their copies by known residuals, so a product of the copies differs
from that of the originals by a known error (Cauchy-Schwarz), and so do sums and differences of
float32. What the bounds say does not depend on rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import namespace
from gpucluster.device.memory import rows_per_block
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.half import TILE_BYTES, TILE_COLS, HalfRows, half_product

ROUNDING = float(np.finfo(np.float32).eps) / 2
ACCUMULATED = 4.0 * ROUNDING  # of each addition: tensor cores cut off, and keep no guard bits
VANISHING = 2.0**-62  # values whose squares are lost, on a GPU denormal ones as well
DENORMAL = 2.0**-126  # what a score may lose where a GPU takes denormals for zero
MOST_PAIRS = 1 << 22  # of rows and candidates at a time
FLOAT_MAX = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class BoundedScores:
    """Scores ``x.c - offset``, where ``x`` and ``c`` are known by their copies.

    Attributes
    ----------
    cast : array of shape (n_centers, n_features), float16
        Copies of the centres.
    columns : array of shape (5, n_centers), float32
        Of each centre the power of two that its copy was divided by, the offset, and by how much
        the score may be off: for a row of norm 1, for a residual of 1, and whatever the row.
    """

    cast: Any
    columns: Any

    @classmethod
    def of(cls, centers: HalfRows, offsets: Any, off: Any = 0.0) -> BoundedScores:
        """Make the table.

        Parameters
        ----------
        centers : HalfRows
            What they are copies of may be off by a rounding to float32.
        offsets : array of shape (n_centers,), float64
        off : array of shape (n_centers,), float64, optional
            By how much these may be off.
        """
        xp = namespace(offsets)
        n_features = centers.cast.shape[1]
        vanished = VANISHING * n_features**0.5
        longest = centers.norms.astype(np.float64) + vanished
        lost = centers.residuals + ROUNDING * longest + vanished  # and what the shift rounds
        growth = n_features * ACCUMULATED / (1 - n_features * ACCUMULATED)
        per_residual = (1 + growth) * (longest + lost)
        per_norm = lost + growth * (longest + lost) + 4 * ROUNDING * longest
        alone = off + 6 * ROUNDING * abs(offsets) + vanished * (per_norm + 2 * per_residual)
        # the residual of a row is off by a rounding of its norm as well
        errors = per_norm + ROUNDING * per_residual, per_residual, alone + 4 * DENORMAL
        columns = xp.stack((centers.scales, offsets, *(1.001 * each for each in errors)))
        with np.errstate(over="ignore"):  # what is infinite is not known
            return cls(centers.cast, columns.astype(np.float32))

    def interval(self, dots: Any, first: int, rows: HalfRows, skip: Any) -> tuple[Any, Any]:
        """Return the bounds of the scores of a tile; what is skipped is below all.

        Parameters
        ----------
        dots : array of shape (n_rows, n_cols), float32
            Products of the copies with those of the centres `first`, `first` + 1, ...
        first : int
        rows : HalfRows
        skip : array of shape (n_rows,), int32
            A centre that is none for this row; negative for none.

        Returns
        -------
        lower : array of shape (n_rows, n_cols), float32
            The least float32 where nothing is known.
        upper : array of shape (n_rows, n_cols), float32
            The largest there.
        """
        xp = namespace(dots)
        scale, offset, per_norm, per_residual, alone = self.columns[
            :, first : first + dots.shape[1]
        ]
        norms, residuals = rows.norms[:, None], rows.residuals[:, None]
        with np.errstate(all="ignore"):  # what is no number is not known
            score = dots * rows.scales[:, None] * scale - offset
            error = norms * per_norm + (residuals * per_residual + alone)
            known = abs(score) + error <= FLOAT_MAX
            lower = xp.where(known, score - error, -FLOAT_MAX)
            upper = xp.where(known, score + error, FLOAT_MAX)
        skipped = xp.flatnonzero((skip >= first) & (skip < first + dots.shape[1]))
        for bound in (lower, upper):
            bound[skipped, skip[skipped] - first] = -FLOAT_MAX
        return lower, upper

    def each_candidates(
        self, rows: HalfRows, floor: Any, skip: Any
    ) -> Iterator[tuple[slice, Any, Any]]:
        """Yield the pairs whose scores may reach the floor of their row, for some rows at a time.

        Parameters
        ----------
        rows : HalfRows
        floor : array of shape (n_rows,), float32
        skip : array of shape (n_rows,), int32

        Yields
        ------
        part : slice
            Of the rows; as many as have no more than `MOST_PAIRS`, or one.
        rows : array of shape (n_pairs,), int32
            Positions in the part, rising.
        centers : array of shape (n_pairs,), int32
            Rising within a row.
        """
        parts = list(row_blocks(len(skip), rows_per_block(12 * TILE_COLS, TILE_BYTES)))
        while parts:
            part = parts.pop()
            found = self._candidates(rows[part], floor[part], skip[part])
            if found is not None:
                yield part, *found
                continue
            middle = (part.start + part.stop) // 2
            parts += [slice(middle, part.stop), slice(part.start, middle)]

    def _candidates(self, rows: HalfRows, floor: Any, skip: Any) -> tuple[Any, Any] | None:
        """Return the pairs of some rows, or None where they are too many."""
        xp, count = namespace(skip), 0
        near, found = [], []
        for cols in row_blocks(len(self.cast), TILE_COLS):
            dots = half_product(rows.cast, self.cast[cols])
            _, upper = self.interval(dots, cols.start, rows, skip)
            at, col = xp.nonzero((upper >= floor[:, None]) & (upper > -FLOAT_MAX))
            count += len(at)
            if count > MOST_PAIRS and len(skip) > 1:
                return None
            near.append(at)
            found.append(col + cols.start)
        near, found = xp.concatenate(near), xp.concatenate(found)
        by_row = xp.argsort(near, kind="stable")
        return near[by_row].astype(np.int32), found[by_row].astype(np.int32)
