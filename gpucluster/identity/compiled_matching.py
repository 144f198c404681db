"""Shortest augmenting paths through a sparse bipartite graph, compiled once and cached on disk."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np

from gpucluster.ops.compiled import kernel


@kernel
def match_rows(starts: Any, ends: Any, weights: Any, row_of: Any, col_of: Any) -> None:
    """Match rows one by one; after each, the matching of the rows so far is the heaviest.

    The edges of row ``i`` are ``starts[i]:starts[i + 1]`` of ``ends`` (n_edges,) int32 and
    ``weights`` (n_edges,) float64, all positive. ``row_of`` (n_cols,) and ``col_of`` (n_rows,)
    int32 are filled, -1 where unmatched.

    A matched edge costs the negative of its weight, so the heaviest matching is the cheapest.
    """
    n_cols = len(row_of)
    row_of[:] = -1
    col_of[:] = -1
    price = np.zeros(n_cols)  # the dual of a column; 0 as long as it is unmatched
    gain = np.zeros(len(col_of))  # weight of the edge by which a row is matched
    length = np.full(n_cols, np.inf)  # of the shortest path from the new row to a matched column
    before = np.full(n_cols, -1, np.int32)  # the row before a column on its path
    step = np.zeros(n_cols)  # weight of the edge between the two
    is_done = np.zeros(n_cols, np.bool_)
    reached = [np.int32(0)]
    level = [np.int32(0)]
    heap = [(0.0, np.int32(0))]
    for new in range(len(col_of)):
        reached.clear()
        level.clear()
        heap.clear()
        # A path may end at any row that it meets, the new one too: that row stays unmatched.
        shortest, last_row, last_col = 0.0, np.int32(new), np.int32(-1)
        row, base, now = np.int32(new), 0.0, -np.inf
        while True:
            for edge in range(starts[row], starts[row + 1]):
                col = ends[edge]
                through = base - weights[edge] + price[col]
                if through >= length[col] or through >= shortest or is_done[col]:
                    continue
                before[col] = row
                step[col] = weights[edge]
                if row_of[col] < 0:
                    shortest, last_col = through, col
                else:
                    _put(col, through, now, length, reached, level, heap)
            col = _nearest(length, is_done, level, heap)
            if col < 0 or length[col] >= shortest:
                break
            is_done[col] = True
            now = length[col]
            row = row_of[col]
            base = now + gain[row] - price[col]
            if base < shortest:
                shortest, last_row, last_col = base, row, np.int32(-1)
        _reprice(shortest, price, length, is_done, reached)
        _turn(new, last_row, last_col, before, step, row_of, col_of, gain)


@kernel
def _put(
    col: Any, through: Any, now: Any, length: Any, reached: Any, level: Any, heap: Any
) -> None:
    """Note a shorter path to a column. What is no farther than `now` needs no heap: ties do not."""
    if length[col] == np.inf:
        reached.append(col)
    length[col] = through
    if through <= now:
        level.append(col)
    else:
        heappush(heap, (through, col))


@kernel
def _nearest(length: Any, is_done: Any, level: Any, heap: Any) -> Any:
    """Take the nearest column that is not done; -1 when there is none."""
    while len(level) > 0:
        col = level.pop()
        if not is_done[col]:
            return col
    while len(heap) > 0:
        found, col = heappop(heap)
        if found == length[col] and not is_done[col]:  # else a shorter path was found later
            return col
    return np.int32(-1)


@kernel
def _reprice(shortest: Any, price: Any, length: Any, is_done: Any, reached: Any) -> None:
    """Raise the price of columns nearer than the end of the path; forget all paths."""
    for at in range(len(reached)):
        col = reached[at]
        if is_done[col] and length[col] < shortest:
            price[col] += shortest - length[col]
        length[col] = np.inf
        is_done[col] = False


@kernel
def _turn(
    new: Any, row: Any, col: Any, before: Any, step: Any, row_of: Any, col_of: Any, gain: Any
) -> None:
    """Match along the path that ends in `col`, or at `row` where that is -1, back to `new`."""
    if col < 0:  # the row gives its column to the one before it
        col = col_of[row]
        col_of[row] = -1
    while col >= 0:
        row = before[col]
        left = col_of[row]
        row_of[col] = row
        col_of[row] = col
        gain[row] = step[col]
        if row == new:
            break
        col = left
