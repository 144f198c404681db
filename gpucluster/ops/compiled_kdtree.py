"""Building and searching a k-d tree, compiled once and cached on disk.

Points are numbered by their place in the tree, so that those of a node follow each other. Node 0 is
the root; a node has two children, `child` and the next one, or none (0).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gpucluster.ops.compiled import CACHE, kernel
from gpucluster.ops.compiled_lines import GROUP, sqdists
from gpucluster.ops.lines import LANES

DEPTH = 128  # of the stack of a search: twice the levels of a tree of 2**63 points
LEAF_SIZE = GROUP * LANES  # most points of a leaf: they are compared together

_fast = njit(nogil=True, cache=CACHE, fastmath={"reassoc", "contract"})


@kernel
def build(points, order, start, stop, child, low, high):
    """Split at the median of the widest side until nodes have `LEAF_SIZE` points.

    ``points`` (n, d) float64 and ``order`` (n,) int64 are rearranged together; nodes are written to
    ``start``, ``stop``, ``child`` (n_nodes,) int64 and their boxes to ``low`` and ``high``
    (n_nodes, d). Returns the number of nodes.
    """
    d = points.shape[1]
    start[0], stop[0], child[0] = 0, points.shape[0], 0
    n_nodes = 1
    node = 0
    while node < n_nodes:
        a, b = start[node], stop[node]
        widest, side = -1.0, 0
        for f in range(d):
            least, most = points[a, f], points[a, f]
            for i in range(a + 1, b):
                least, most = min(least, points[i, f]), max(most, points[i, f])
            low[node, f], high[node, f] = least, most
            if most - least > widest:
                widest, side = most - least, f
        child[node] = 0
        if b - a > LEAF_SIZE:  # equal points too
            middle = (a + b) // 2
            _select(points, order, a, b - 1, middle, side)
            child[node] = n_nodes
            start[n_nodes], stop[n_nodes] = a, middle
            start[n_nodes + 1], stop[n_nodes + 1] = middle, b
            n_nodes += 2
        node += 1
    return n_nodes


@kernel
def _select(points, order, first, last, place, side):
    """Put the point of rank `place` there, smaller ones before it and larger ones behind."""
    while first < last:
        pivot = points[(first + last) // 2, side]
        i, j = first, last
        while i <= j:
            while points[i, side] < pivot:
                i += 1
            while points[j, side] > pivot:
                j -= 1
            if i <= j:
                for f in range(points.shape[1]):
                    points[i, f], points[j, f] = points[j, f], points[i, f]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if place <= j:
            last = j
        elif place >= i:
            first = i
        else:
            return


@_fast
def _to_box(point, low, high):
    """Return the squared distance of a point to a box."""
    total = 0.0
    for f in range(point.shape[0]):
        outside = max(low[f] - point[f], point[f] - high[f], 0.0)
        total += outside * outside
    return total


@_fast
def _apart(a, b):
    total = 0.0
    for f in range(a.shape[0]):
        difference = a[f] - b[f]
        total += difference * difference
    return total


@kernel
def fill_leaves(points, nodes, leaf, leaves):
    """Write the points of leaves side by side: ``leaves`` (n_leaves, d, LEAF_SIZE) float32.

    ``leaf`` (n_nodes,) int64 numbers the nodes that are leaves. Places without a point repeat one.
    """
    start, stop, child, _, _ = nodes
    for node in range(len(start)):
        if child[node] == 0:
            for slot in range(LEAF_SIZE):
                j = min(start[node] + slot, stop[node] - 1)
                for f in range(points.shape[1]):
                    leaves[leaf[node], f, slot] = points[j, f]


@_fast
def _all_beyond(leaf, point, limit, rough):
    """Write rough squared distances of a point to those of a leaf; return if all are beyond.

    ``rough`` is in float32, ``limit`` has its rounding added. What overflows is not beyond.
    """
    sqdists(  # type: ignore[call-arg]  # numba passes the context
        leaf.ctypes.data, point.ctypes.data, point.shape[0], rough.ctypes.data
    )
    within = np.int32(0)
    for slot in range(LEAF_SIZE):
        within += np.int32(not limit < rough[slot] < np.inf)
    return within == 0


@_fast
def _rounded_up(sqdist, n_features):
    """Return a squared distance with the rounding of one in float32 added, and its underflow."""
    return np.float32(sqdist * (1.0 + 2e-7 * (n_features + 8)) + 1.2e-38 * n_features)


@kernel
def nearest(queries, first, points, order, nodes, leaves, sqdist, rows):
    """Find the nearest points of ``queries`` (count, d) float64.

    They are points ``first``, ``first + 1`` ... of the tree, and none is its own neighbour; others
    have a ``first`` of -count. ``nodes`` are start, stop, child, low and high, ``leaves`` the
    numbers of leaves and their points. ``sqdist`` (count, k) float64, rising, and ``rows``
    (count, k) int32, numbers of the input, are written; ties go to the lower row.
    """
    start, stop, child, low, high = nodes
    leaf, side_by_side = leaves
    count, k = sqdist.shape
    rough, point32 = np.empty(LEAF_SIZE, np.float32), np.empty(points.shape[1], np.float32)
    stack, reach = np.empty(DEPTH, np.int64), np.empty(DEPTH)
    for i in range(count):
        point = queries[i]
        point32[:] = point
        sqdist[i] = np.inf
        rows[i] = -1
        stack[0], reach[0], top = 0, 0.0, 1
        while top > 0:
            top -= 1
            node = stack[top]
            if reach[top] > sqdist[i, k - 1]:
                continue
            if child[node] == 0:
                limit = _rounded_up(sqdist[i, k - 1], points.shape[1])
                if _all_beyond(side_by_side[leaf[node]], point32, limit, rough):
                    continue
                for j in range(start[node], stop[node]):
                    if limit < rough[j - start[node]] < np.inf or j == first + i:
                        continue
                    found, row = _apart(point, points[j]), order[j]
                    last = sqdist[i, k - 1]
                    if found > last or (found == last and row > rows[i, k - 1] >= 0):
                        continue
                    slot = k - 1
                    while slot > 0 and (
                        sqdist[i, slot - 1] > found
                        or (sqdist[i, slot - 1] == found and rows[i, slot - 1] > row)
                    ):
                        sqdist[i, slot] = sqdist[i, slot - 1]
                        rows[i, slot] = rows[i, slot - 1]
                        slot -= 1
                    sqdist[i, slot] = found
                    rows[i, slot] = row
                continue
            near, far = child[node], child[node] + 1
            to_near = _to_box(point, low[near], high[near])
            to_far = _to_box(point, low[far], high[far])
            if to_far < to_near:
                near, far, to_near, to_far = far, near, to_far, to_near
            stack[top], reach[top] = far, to_far
            stack[top + 1], reach[top + 1] = near, to_near
            top += 2


@kernel
def summarise(nodes, sqcore, component, least_core, common):
    """Write the least core distance of each node, and its component, -1 where it has several."""
    start, stop, child, _, _ = nodes
    for node in range(len(common) - 1, -1, -1):
        if child[node]:
            left, right = child[node], child[node] + 1
            least_core[node] = min(least_core[left], least_core[right])
            common[node] = common[left] if common[left] == common[right] else -1
            continue
        least, shared = np.inf, component[start[node]]
        for i in range(start[node], stop[node]):
            least = min(least, sqcore[i])
            if component[i] != shared:
                shared = -1
        least_core[node], common[node] = least, shared


@kernel
def leaving(
    places, points, order, nodes, leaves, least_core, common, sqcore, component, scale, found, ends
):
    """Find the lightest edge that leaves the component of each of some points.

    ``places`` (count,) int64 are their numbers in the tree. The weight of an edge is
    ``max(core_i, core_j, scale * |x_i - x_j|^2)``. ``found`` (count,) float64 holds what an edge
    has to be lighter than, and gets its weight; ``ends`` (count,) int32 gets the row at its end.
    """
    start, stop, child, low, high = nodes
    leaf, side_by_side = leaves
    rough, point32 = np.empty(LEAF_SIZE, np.float32), np.empty(points.shape[1], np.float32)
    stack, reach = np.empty(DEPTH, np.int64), np.empty(DEPTH)
    for i in range(len(places)):
        place = places[i]
        point, own, core = points[place], component[place], sqcore[place]
        point32[:] = point
        best = found[i]
        stack[0], reach[0], top = 0, 0.0, 1
        while top > 0:
            top -= 1
            node = stack[top]
            if max(reach[top], least_core[node], core) >= best or common[node] == own:
                continue
            if child[node] == 0:
                limit = _rounded_up(best / scale, points.shape[1])
                if _all_beyond(side_by_side[leaf[node]], point32, limit, rough):
                    continue
                for j in range(start[node], stop[node]):
                    if limit < rough[j - start[node]] < np.inf:
                        continue
                    if component[j] == own or sqcore[j] >= best:
                        continue
                    weight = max(scale * _apart(point, points[j]), core, sqcore[j])
                    if weight < best:
                        best = weight
                        ends[i] = order[j]
                continue
            near, far = child[node], child[node] + 1
            to_near = scale * _to_box(point, low[near], high[near])
            to_far = scale * _to_box(point, low[far], high[far])
            if to_far < to_near:
                near, far, to_near, to_far = far, near, to_far, to_near
            stack[top], reach[top] = far, to_far
            stack[top + 1], reach[top + 1] = near, to_near
            top += 2
        found[i] = best
