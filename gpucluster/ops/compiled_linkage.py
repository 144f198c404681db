"""Kernels that merge clusters, compiled once and cached on disk."""

from __future__ import annotations

import numpy as np
from numba import njit

from gpucluster.ops.compiled import CACHE, kernel, sqdist_between

CHUNK = 64


# no flag that forbids infinity: it marks what is merged away
@njit(nogil=True, cache=CACHE, fastmath={"reassoc", "nnan", "nsz", "contract"})
def _least(dots, low, share, start, stop, first_col, own_low, own_share):
    least = np.float32(np.inf)
    for j in range(start, stop):
        sqdist = own_low + low[first_col + j] - np.float32(2) * dots[j]
        height = sqdist / (own_share + share[first_col + j])
        least = min(least, height)
    return least


@kernel
def scan_ward(dots, means, rows, first_col, low, share, height, target):
    """Merge a tile into the cheapest partner of each of `rows`.

    Uniting clusters of n and m rows costs ``|x - y|^2 / (1/2n + 1/2m)``. ``low``
    (n_clusters,) float32 holds the squared norms of the means less their rounding,
    infinity where a cluster is merged away; ``share`` (n_clusters,) float32 is ``1/2n``.
    ``height`` (rows,) float64 and ``target`` (rows,) int32 are updated; ties go to the
    lower row, costs are those of differences in float64.
    """
    for i in range(dots.shape[0]):
        row = rows[i]
        own_low, own_share = low[row], share[row]
        best = height[i]
        for start in range(0, dots.shape[1], CHUNK):
            if best == 0:
                break
            stop = min(start + CHUNK, dots.shape[1])
            if _least(dots[i], low, share, start, stop, first_col, own_low, own_share) >= best:
                continue
            for j in range(start, stop):
                col = first_col + j
                if col == row or low[col] == np.inf:
                    continue
                sqdist = own_low + low[col] - np.float32(2) * dots[i, j]
                divisor = np.float64(own_share) + np.float64(share[col])
                if sqdist / divisor >= best:
                    continue
                exact = sqdist_between(means, row, col) / divisor
                if exact < best:
                    best = exact
                    target[i] = col
        height[i] = best


@njit(nogil=True, cache=CACHE, fastmath={"reassoc", "nnan", "nsz"})
def _nearest_slot(distances, gone):
    """Return the lowest of the nearest slots that are not gone, with its distance."""
    best, slot = np.float32(np.inf), -1
    for start in range(0, len(distances), CHUNK):
        stop = min(start + CHUNK, len(distances))
        least = np.float32(np.inf)
        for j in range(start, stop):
            least = min(least, distances[j] + gone[j])
        if least < best:
            for j in range(start, stop):
                if distances[j] + gone[j] == least:
                    slot = j
                    break
            best = least
    return slot, best


@kernel
def grow_chain(D, gone, weights, linkage, chain, length, n_merges, pairs, heights):
    """Merge reciprocal nearest neighbours `n_merges` times; return the length of the chain.

    ``D`` (n, n) float32, symmetric, is updated by the formula of Lance and Williams, in
    float64. Its diagonal is never read as a distance. ``gone`` (n,) float32 is infinite
    for slots that are merged away, else 0; ``chain`` (n,) int64 holds the chain, of
    ``length``. ``pairs`` (n_merges, 2) int64 and ``heights`` (n_merges,) float64 are
    written; the lower slot of a pair holds the new cluster. ``linkage``: 0 single,
    1 complete, 2 average.
    """
    n = len(D)
    start = 0
    for merge in range(n_merges):
        if length == 0:
            while gone[start] != 0:
                start += 1
            chain[0], length = start, 1
        while True:
            x = chain[length - 1]
            own = D[x, x]
            D[x, x] = np.inf
            y, nearest = _nearest_slot(D[x], gone)
            D[x, x] = own
            # ties go back along the chain, or it would never end
            if length > 1 and D[x, chain[length - 2]] <= nearest:
                y = chain[length - 2]
                break
            chain[length], length = y, length + 1
        length -= 2
        low, high = min(x, y), max(x, y)
        pairs[merge, 0], pairs[merge, 1] = low, high
        heights[merge] = D[low, high]
        gone[high] = np.inf
        w_low, w_high = weights[low], weights[high]
        weights[low] = w_low + w_high
        share = w_low / (w_low + w_high)
        for k in range(n):
            a, b = D[low, k], D[high, k]
            if linkage == 0:
                D[low, k] = min(a, b)
            elif linkage == 1:
                D[low, k] = max(a, b)
            else:
                D[low, k] = share * np.float64(a) + (1 - share) * np.float64(b)
        for k in range(n):
            if gone[k] == 0:
                D[k, low] = D[low, k]
    return length


@kernel
def pack(flat, width, kept):
    """Move the rows and columns `kept`, rising, of a square matrix to the front of its memory.

    ``flat`` holds ``width**2`` values; its first ``len(kept)**2`` are the smaller matrix.
    """
    to = 0
    for i in kept:
        for j in kept:
            flat[to] = flat[i * width + j]
            to += 1
