"""Scans over a tile of dot products, compiled once and cached on disk.

Each kernel reads a tile that BLAS has just written, while it is still in cache, and
keeps what it needs of it, so that no distance matrix ever exists. All of them work on
squared Euclidean distances ``|x|^2 + |y|^2 - 2 x.y``. Ties go to the lower row.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_compile = njit(nogil=True, cache=True)


@_compile
def scan_nearest(dots, sqnorms, first_row, first_col, keys, neighbors):  # type: ignore[no-untyped-def]
    """Merge a tile into the lists of nearest columns.

    ``dots`` (rows, cols) float32; ``keys`` (rows, k) float32, rising, holds
    ``|y|^2 - 2 x.y``; ``neighbors`` (rows, k) int32 the columns. A row is never its own
    neighbour.
    """
    rows, cols = dots.shape
    k = keys.shape[1]
    for i in range(rows):
        worst = keys[i, k - 1]
        own = first_row + i - first_col
        for j in range(cols):
            key = sqnorms[first_col + j] - np.float32(2) * dots[i, j]
            if key < worst and j != own:
                slot = k - 1
                while slot > 0 and keys[i, slot - 1] > key:
                    keys[i, slot] = keys[i, slot - 1]
                    neighbors[i, slot] = neighbors[i, slot - 1]
                    slot -= 1
                keys[i, slot] = key
                neighbors[i, slot] = first_col + j
                worst = keys[i, k - 1]


@_compile
def listed_sqdist(X, first_row, neighbors, sqdist):  # type: ignore[no-untyped-def]
    """Write the squared distances of listed pairs, from differences, without cancellation."""
    for i in range(neighbors.shape[0]):
        for slot in range(neighbors.shape[1]):
            j = neighbors[i, slot]
            total = 0.0
            for f in range(X.shape[1]):
                difference = X[first_row + i, f] - X[j, f]
                total += difference * difference
            sqdist[i, slot] = total


@_compile
def scan_leaving(dots, rows, first_col, sqnorms, sqcore, component, scale, weight, target):  # type: ignore[no-untyped-def]
    """Merge a tile into the lightest edge that leaves the component of each row.

    The weight of an edge is its squared mutual reachability
    ``max(core_i, core_j, scale * |x_i - x_j|^2)``. ``weight`` (rows,) float32 and
    ``target`` (rows,) int32 are updated.
    """
    for i in range(dots.shape[0]):
        row = rows[i]
        own, norm, core = component[row], sqnorms[row], sqcore[row]
        best, where = weight[i], target[i]
        for j in range(dots.shape[1]):
            col = first_col + j
            reach = scale * (norm + sqnorms[col] - np.float32(2) * dots[i, j])
            reach = max(reach, core, sqcore[col])
            if reach < best and component[col] != own:
                best, where = reach, col
        weight[i], target[i] = best, where


@_compile
def scan_count(dots, first_row, first_col, sqnorms, sqradius, counts):  # type: ignore[no-untyped-def]
    """Add to ``counts`` (rows,) int64 how many columns lie within the radius of each row."""
    for i in range(dots.shape[0]):
        limit = sqradius - sqnorms[first_row + i]
        inside = 0
        for j in range(dots.shape[1]):
            inside += sqnorms[first_col + j] - np.float32(2) * dots[i, j] <= limit
        counts[i] += inside


@_compile
def find(parent, row):  # type: ignore[no-untyped-def]
    """Return the root of `row` in a union-find forest, halving paths on the way."""
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@_compile
def scan_connect(dots, first_row, first_col, sqnorms, sqradius, is_core, parent, nearest, weight):  # type: ignore[no-untyped-def]
    """Unite core rows within the radius; give every other row its nearest core.

    ``parent`` (n_samples,) int32 is a union-find forest over all rows; ``nearest``
    (n_samples,) int32 and ``weight`` (n_samples,) float32 are written for rows that
    are not core.
    """
    for i in range(dots.shape[0]):
        row = first_row + i
        limit = sqradius - sqnorms[row]
        for j in range(dots.shape[1]):
            col = first_col + j
            key = sqnorms[col] - np.float32(2) * dots[i, j]
            if key > limit or not is_core[col]:
                continue
            if not is_core[row]:
                if key < weight[row]:
                    weight[row], nearest[row] = key, col
            elif col < row:
                a, b = find(parent, row), find(parent, col)
                if a != b:
                    parent[max(a, b)] = min(a, b)


@_compile
def merge_edges(edges, parent, keep):  # type: ignore[no-untyped-def]
    """Accept edges (n, 2) in order, as Kruskal does; ``keep`` (n,) bool says which joined."""
    for e in range(edges.shape[0]):
        a, b = find(parent, edges[e, 0]), find(parent, edges[e, 1])
        keep[e] = a != b
        if keep[e]:
            parent[max(a, b)] = min(a, b)
