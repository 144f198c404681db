"""Loops of the layout, compiled once and cached on disk."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from gpucluster.ops.compiled import CACHE, kernel
from gpucluster.ops.compiled_lines import FLAGS, add_way, line_sqdist
from gpucluster.ops.lines import LANES, LINE_BYTES

CELL_BITS = 16  # of a float32 that forces do not look at: exponent and 7 bits are left
N_CELLS = 1 << (31 - CELL_BITS)

_fast = njit(nogil=True, cache=CACHE, fastmath=set(FLAGS))


# numba passes the context of an intrinsic by itself, which mypy cannot know
@intrinsic
def _bits_of(_context, _number):
    """Return the bits of a float32 as an int32."""

    def generate(_context, builder, _signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@_fast
def _cell(number):
    """Return where the forces at a squared distance stand in their tables."""
    return _bits_of(number) >> CELL_BITS  # type: ignore[call-arg]


@kernel
def membership(sqdist, scale, root, radius, weights):
    """Write the fuzzy membership of each listed neighbour.

    ``sqdist`` (rows, k) float32 are rising squared distances of the neighbours without the row
    itself; the distance that counts is ``scale * sqdist``, or its root. ``radius`` is the sum
    of memberships that each row is given, ``weights`` (rows, k) float32 is written.
    """
    k = sqdist.shape[1]
    distance = np.empty(k)
    for i in range(sqdist.shape[0]):
        mean = 0.0
        for j in range(k):
            distance[j] = scale * sqdist[i, j]
            if root:
                distance[j] = np.sqrt(distance[j])
            mean += distance[j]
        nearest = 0.0
        for j in range(k):
            if distance[j] > 0:
                nearest = distance[j]
                break
        low, high, width = 0.0, np.inf, 1.0
        for _ in range(64):
            total = 0.0
            for j in range(k):
                beyond = distance[j] - nearest
                total += np.exp(-beyond / width) if beyond > 0 else 1.0
            if abs(total - radius) < 1e-5:
                break
            if total > radius:
                high = width
                width = (low + high) / 2
            else:
                low = width
                width = 2 * width if high == np.inf else (low + high) / 2
        width = max(width, 1e-3 * mean / (k + 1))
        for j in range(k):
            beyond = distance[j] - nearest
            weights[i, j] = np.exp(-beyond / width) if beyond > 0 else 1.0


@_fast
def _force(here, there, width, table):
    """Return what a table says of the distance of two rows, given by their addresses."""
    total = np.float32(0)
    for at in range(0, width, LINE_BYTES):
        total += line_sqdist(here + at, there + at)  # type: ignore[call-arg]
    return table[_cell(total)]


@_fast
def move(rows, layout, moved, graph, forces, steps, epoch, n_drawn, seed):
    """Move the vertices of ``rows`` once; all others stand still meanwhile.

    ``layout`` and ``moved`` are (n, d) float32, d a multiple of `LANES`. ``graph`` is starts
    (n + 1,), targets and weights: an edge of weight w acts in a share w of the epochs, as the
    numbers of both its ends say, so that both see it in the same ones. ``forces`` are pull and
    push (`N_CELLS`,) over distance, by the bits of the squared distance, ``steps`` the lengths of
    both. ``n_drawn`` rows push for each edge that acts.
    """
    n = layout.shape[0]
    width = LINE_BYTES // LANES * layout.shape[1]
    starts, targets, weights = graph
    pull, push = forces
    pull_step, push_step = steps
    most = 0
    for i in range(rows[0], rows[1]):
        most = max(most, starts[i + 1] - starts[i])
    acting = np.empty(most + 1, np.int64)
    for i in range(rows[0], rows[1]):
        here, mine = layout.ctypes.data + i * width, moved.ctypes.data + i * width
        moved[i] = layout[i]
        n_acting = 0
        for e in range(starts[i], starts[i + 1]):
            j = targets[e]
            pair = np.uint32(min(i, j)) * np.uint32(2654435761)
            pair += np.uint32(max(i, j)) * np.uint32(2246822519)
            pair ^= pair >> np.uint32(15)
            phase = np.float32(pair >> np.uint32(8)) * np.float32(2.0**-24)
            before = np.float32(epoch) * weights[e] + phase
            # no branch: whether an edge acts cannot be guessed
            acting[n_acting] = layout.ctypes.data + j * width
            n_acting += np.int32(before + weights[e]) != np.int32(before)
        for there in acting[:n_acting]:
            force = pull_step * _force(here, there, width, pull)
            for at in range(0, width, LINE_BYTES):
                add_way(mine + at, here + at, there + at, force)  # type: ignore[call-arg]
        state = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        state += np.uint64(i) * np.uint64(0xBF58476D1CE4E5B9)
        state += np.uint64(epoch + 1) * np.uint64(0x94D049BB133111EB)
        for _ in range(n_acting * n_drawn):
            state += np.uint64(0x9E3779B97F4A7C15)
            draw = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            draw ^= draw >> np.uint64(29)
            j = np.int64(((draw >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))
            there = layout.ctypes.data + j * width  # itself is no way away
            force = push_step * _force(here, there, width, push)
            for at in range(0, width, LINE_BYTES):
                add_way(mine + at, there + at, here + at, force)  # type: ignore[call-arg]
