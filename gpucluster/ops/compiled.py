"""Scans over a tile of dot products, compiled once and cached on disk.

Each kernel reads a tile that BLAS has just written, while it is still in cache, and
keeps what it needs of it, so that no distance matrix ever exists. A tile gives squared
Euclidean distances ``|x|^2 + |y|^2 - 2 x.y`` within `relative_rounding` of
``|x|^2 + |y|^2``; what that leaves open is decided from the differences of the rows, in
float64. Ties go to the lower row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba.core import event

from gpucluster.events import announce_compilation


def _cache_is_writable() -> bool:
    """Return whether numba finds a directory for compiled code; containers may have none."""
    try:
        njit(cache=True)(lambda: None)
    except RuntimeError:
        return False
    return True


class _Announcer(event.Listener):
    """Says which of our kernels is compiled; what is loaded from disk is not."""

    def on_start(self, event: Any) -> None:
        """Say that a compilation begins."""
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith("gpucluster."):
            announce_compilation(function.__name__, is_kept=CACHE)

    def on_end(self, event: Any) -> None:
        """Say nothing."""


CACHE = _cache_is_writable()
event.register("numba:compile", _Announcer())  # type: ignore[no-untyped-call]
kernel = njit(nogil=True, cache=CACHE)
LANES = 64  # columns that a scan passes over together


def relative_rounding(n_features: int, dtype: type = np.float32) -> float:
    """Bound the error of an expanded squared distance, as a share of ``|x|^2 + |y|^2``.

    `n_features` roundings are those of a dot product in the worst order; twenty are
    enough for the norms, the radius, the sums, and the centring of the rows.
    """
    return (n_features + 20) * float(np.finfo(dtype).eps) / 2


@njit(nogil=True, cache=CACHE, fastmath={"reassoc"})
def sqdist_of(x, y):
    """Return the squared distance of two vectors, from differences in float64."""
    total = 0.0
    for f in range(x.shape[0]):
        difference = np.float64(x[f]) - np.float64(y[f])
        total += difference * difference
    return total


@kernel
def sqdist_between(X, i, j):
    """Return the squared distance of two rows, from differences in float64."""
    return sqdist_of(X[i], X[j])


@kernel
def _none_below(sqnorms, dots, worst):
    below = np.int32(0)
    for j in range(len(dots)):
        below += np.int32(sqnorms[j] - np.float32(2) * dots[j] < worst)
    return below == 0


@kernel
def scan_nearest(dots, sqnorms, rows, at, cols, keys, neighbors):
    """Merge a tile into the lists of nearest columns.

    ``dots`` (n_looking, n_cols) float32; ``keys`` (n_rows, k) float32, rising, holds
    ``|y|^2 - 2 x.y``; ``neighbors`` (n_rows, k) int32 the columns. ``rows`` (n_rows,) and
    ``cols`` (n_cols,) int64 are the numbers of the rows, ``at`` (n_looking,) int64 says
    which lists the tile belongs to. A row is never its own neighbour. Norms less their
    rounding make keys that bound the distance from below.
    """
    n_cols, k = dots.shape[1], keys.shape[1]
    for i in range(dots.shape[0]):
        slots, names, own = keys[at[i]], neighbors[at[i]], rows[at[i]]
        worst = slots[k - 1]
        for first in range(0, n_cols, LANES):
            last = min(first + LANES, n_cols)
            # most columns are too far: whole vectors of them are passed over at once
            if _none_below(sqnorms[first:last], dots[i, first:last], worst):
                continue
            for j in range(first, last):
                key = sqnorms[j] - np.float32(2) * dots[i, j]
                if key < worst and cols[j] != own:
                    slot = k - 1
                    while slot > 0 and slots[slot - 1] > key:
                        slots[slot] = slots[slot - 1]
                        names[slot] = names[slot - 1]
                        slot -= 1
                    slots[slot] = key
                    names[slot] = cols[j]
                    worst = slots[k - 1]


@kernel
def scan_nearest_exact(dots, X, rows, first_col, low, low_cols, sqdist, neighbors):
    """Merge a tile into the lists of nearest columns, by their exact distances.

    ``low`` (rows,) and ``low_cols`` (cols,) are squared norms less their rounding: only
    columns that could enter a list are looked at. ``sqdist`` (rows, k) float64 and
    ``neighbors`` (rows, k) int32 are updated.
    """
    k = sqdist.shape[1]
    for i in range(dots.shape[0]):
        worst = sqdist[i, k - 1]
        for j in range(dots.shape[1]):
            col = first_col + j
            if low[i] + low_cols[j] - 2 * dots[i, j] >= worst or worst == 0 or col == rows[i]:
                continue
            exact = sqdist_between(X, rows[i], col)
            if exact < worst:
                slot = k - 1
                while slot > 0 and sqdist[i, slot - 1] > exact:
                    sqdist[i, slot] = sqdist[i, slot - 1]
                    neighbors[i, slot] = neighbors[i, slot - 1]
                    slot -= 1
                sqdist[i, slot] = exact
                neighbors[i, slot] = col
                worst = sqdist[i, k - 1]


@kernel
def listed_sqdist(X, rows, listed, sqdist):
    """Write into ``sqdist`` the squared distance of each of `rows` to the rows listed for it."""
    for i in range(listed.shape[0]):
        for slot in range(listed.shape[1]):
            sqdist[i, slot] = sqdist_between(X, rows[i], listed[i, slot])


@kernel
def lightest_listed(listed, weights, component, weight, target):
    """Find the lightest listed edge that leaves the component of each row; the first of equal ones.

    ``listed`` (n, k) int32 are the ends of edges of ``weights`` (n, k) float64. ``weight`` (n,)
    float64, infinite where all stay inside, and ``target`` (n,) int32 are lowered.
    """
    for i in range(listed.shape[0]):
        for slot in range(listed.shape[1]):
            if weights[i, slot] < weight[i] and component[listed[i, slot]] != component[i]:
                weight[i], target[i] = weights[i, slot], listed[i, slot]


@kernel
def scan_leaving(dots, X, rows, first_col, low, sqcore, component, scale, weight, target):
    """Merge a tile into the lightest edge that leaves the component of each row.

    The weight of an edge is its squared mutual reachability
    ``max(core_i, core_j, scale * |x_i - x_j|^2)``. ``low`` (n_samples,) float32 holds
    squared norms less their rounding. ``weight`` (rows,) float64 and ``target`` (rows,)
    int32 are updated.
    """
    for i in range(dots.shape[0]):
        row = rows[i]
        own, norm, core = component[row], low[row], sqcore[row]
        best, where = weight[i], target[i]
        for j in range(dots.shape[1]):
            col = first_col + j
            reach = scale * (norm + low[col] - np.float32(2) * dots[i, j])
            if reach >= best or component[col] == own or max(core, sqcore[col]) >= best:
                continue
            exact = max(scale * sqdist_between(X, row, col), core, sqcore[col])
            if exact < best:
                best, where = exact, col
        weight[i], target[i] = best, where


@kernel
def scan_count(dots, X, first_row, first_col, sqnorms, slack, sqradius, enough, weights, counts):
    """Add to ``counts`` (rows,) int64 the weights of the columns within the radius of each row.

    ``slack`` (n_samples,) float32 is the rounding of ``sqnorms``. Rows that have `enough`
    are not counted further. ``weights`` (n_samples,) is int64.
    """
    for i in range(dots.shape[0]):
        if counts[i] >= enough:
            continue
        row = first_row + i
        limit = np.float32(sqradius) - sqnorms[row]
        surely, maybe = 0, 0
        for j in range(dots.shape[1]):
            key = sqnorms[first_col + j] - np.float32(2) * dots[i, j] - limit
            reach = slack[row] + slack[first_col + j]
            surely += weights[first_col + j] * (key <= -reach)
            maybe += weights[first_col + j] * (key <= reach)
        counts[i] += surely
        if surely == maybe:
            continue
        for j in range(dots.shape[1]):
            key = sqnorms[first_col + j] - np.float32(2) * dots[i, j] - limit
            reach = slack[row] + slack[first_col + j]
            if key <= reach and not key <= -reach:
                if sqdist_between(X, row, first_col + j) <= sqradius:
                    counts[i] += weights[first_col + j]
                if counts[i] >= enough:
                    break


@kernel
def find(parent, row):
    """Return the root of `row` in a union-find forest, halving paths on the way."""
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@kernel
def scan_connect(dots, X, rows, cores, sqnorms, slack, sqradius, is_core, parent, nearest, weight):
    """Unite core rows within the radius; give every other row its nearest core.

    ``cores`` (cols,) are the core rows of the tile's columns, rising; ``parent`` (n_samples,)
    int32 is a union-find forest over all rows; ``nearest`` (n_samples,) int32 and ``weight``
    (n_samples,) float64 are written for rows that are not core.
    """
    for i in range(dots.shape[0]):
        row = rows[i]
        limit = np.float32(sqradius) - sqnorms[row]
        for j in range(dots.shape[1]):
            core = cores[j]
            key = sqnorms[core] - np.float32(2) * dots[i, j] - limit
            reach = slack[row] + slack[core]
            if key > reach:
                continue
            if not is_core[row]:
                exact = sqdist_between(X, row, core)
                if exact <= sqradius and exact < weight[row]:
                    weight[row], nearest[row] = exact, core
            elif core < row:
                a, b = find(parent, row), find(parent, core)
                if a != b and (key <= -reach or sqdist_between(X, row, core) <= sqradius):
                    parent[max(a, b)] = min(a, b)


@kernel
def merge_edges(edges, parent, keep):
    """Accept edges (n, 2) in order, as Kruskal does; ``keep`` (n,) bool says which joined."""
    for e in range(edges.shape[0]):
        a, b = find(parent, edges[e, 0]), find(parent, edges[e, 1])
        keep[e] = a != b
        if keep[e]:
            parent[max(a, b)] = min(a, b)
