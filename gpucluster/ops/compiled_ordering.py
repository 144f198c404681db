"""The sequential parts of OPTICS, compiled once: the walk with its heap, and what it scans.

All distances are squared. The heap holds the rows that are reached and not yet walked,
least reachability first, ties by the lower row; `place` says where a row is in it.
"""

from __future__ import annotations

import numpy as np

from gpucluster.ops.compiled import kernel, sqdist_between


@kernel
def _comes_before(reach, a, b):
    return reach[a] < reach[b] or (reach[a] == reach[b] and a < b)


@kernel
def _rise(heap, place, reach, slot):
    """Move the row at `slot` up to where it belongs."""
    row = heap[slot]
    while slot > 0:
        above = (slot - 1) >> 1
        if not _comes_before(reach, row, heap[above]):
            break
        heap[slot] = heap[above]
        place[heap[slot]] = slot
        slot = above
    heap[slot], place[row] = row, slot


@kernel
def _sink(heap, place, reach, size, slot):
    """Move the row at `slot` down to where it belongs."""
    row = heap[slot]
    while True:
        below = 2 * slot + 1
        if below >= size:
            break
        if below + 1 < size and _comes_before(reach, heap[below + 1], heap[below]):
            below += 1
        if not _comes_before(reach, heap[below], row):
            break
        heap[slot] = heap[below]
        place[heap[slot]] = slot
        slot = below
    heap[slot], place[row] = row, slot


@kernel
def make_heap(heap, place, reach, position):
    """Fill the heap with all reached rows that are not walked; return how many there are."""
    size = 0
    for row in range(len(reach)):
        if position[row] < 0 and reach[row] < np.inf:
            heap[size], place[row] = row, size
            size += 1
    for slot in range(size // 2 - 1, -1, -1):
        _sink(heap, place, reach, size, slot)
    return size


@kernel
def _take_first(heap, place, reach, size):
    row = heap[0]
    heap[0] = heap[size - 1]
    place[row] = -1
    if size > 1:
        _sink(heap, place, reach, size - 1, 0)
    return row


@kernel
def _reach_listed(X, row, cols, core, sqlimit, reach, predecessor, position, heap, place, size):
    """Lower the reachability of the rows listed for `row`; return the size of the heap."""
    for col in cols:
        if position[col] >= 0 or core >= reach[col]:
            continue
        exact = max(core, sqdist_between(X, row, col))
        if exact < reach[col] and exact <= sqlimit:
            reach[col], predecessor[col] = exact, row
            if place[col] < 0:
                heap[size], place[col] = col, size
                size += 1
            _rise(heap, place, reach, place[col])
    return size


@kernel
def walk(
    X, listed, sqcore, sqradius, sqlimit, reach, predecessor, order, position, heap, place, size, at
):
    """Walk on from step ``at[0]`` to step ``at[1]``, or to where the lists do not suffice.

    That is where a row not yet compared with all others (its `sqradius` is finite) could
    reach one outside its list before the next in the heap. ``at[2]`` is where a row that
    nothing reaches is looked for. ``reach`` (n_samples,) float64, ``predecessor``,
    ``order`` and ``position`` (n_samples,) int32 are written.

    Returns
    -------
    int
        Size of the heap.
    """
    step, seed = at[0], at[2]
    least = np.inf
    for row in order[:step]:
        least = min(least, sqradius[row])
    while step < at[1] and not least < (reach[heap[0]] if size > 0 else np.inf):
        if size > 0:
            row = _take_first(heap, place, reach, size)
            size -= 1
        else:
            while position[seed] >= 0:
                seed += 1
            row = np.int32(seed)
        position[row], order[step] = step, row
        step += 1
        if sqcore[row] < np.inf:
            least = min(least, sqradius[row])
            size = _reach_listed(
                X,
                row,
                listed[row],
                sqcore[row],
                sqlimit,
                reach,
                predecessor,
                position,
                heap,
                place,
                size,
            )
    at[0], at[2] = step, seed
    return size


@kernel
def scan_reach(dots, X, rows, cols, low, sqcore, sqlimit, position, reach, predecessor):
    """Lower the reachability of `cols` by what a tile of walked `rows` reaches.

    ``low`` (n_samples,) float32 holds squared norms less their rounding. Of equal reaches
    the one of the row walked first stays, as if all had been compared when it was.
    """
    low_cols, best = low[cols], np.minimum(reach[cols], sqlimit)
    for i in range(dots.shape[0]):
        row = rows[i]
        norm, core = low[row], sqcore[row]
        for j in range(dots.shape[1]):
            if norm + low_cols[j] - np.float32(2) * dots[i, j] > best[j] or core > best[j]:
                continue
            col = cols[j]
            exact = max(core, sqdist_between(X, row, col))
            earlier = predecessor[col] < 0 or position[row] < position[predecessor[col]]
            nearer = exact < reach[col] or (exact == reach[col] and earlier)
            if nearer and exact <= sqlimit:
                best[j], reach[col], predecessor[col] = exact, exact, row
