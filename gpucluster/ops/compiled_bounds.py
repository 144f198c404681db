"""Nearest centres behind bounds: most rows keep theirs, and that shows without looking at them.

``upper`` (rows,) bounds the distance of a row to its own centre from above, ``lower``
(rows, n_groups) that to every other centre of a group from below. Centres move, but no
bound is written for it: each is kept with what its centre or group had gone so far
(``gone``, ``group_gone``: path lengths, the longest of a group), added or taken off. What
the bounds leave open is decided from differences in float64, ties to the lower centre.
"""

from __future__ import annotations

import numpy as np

from gpucluster.ops.compiled import kernel, sqdist_of

ROUNDING = np.float32(1e-6)  # a few roundings of float32, as a share of what is added


@kernel
def fold_tile(dots, half_sqnorms, first_col, group, labels, best, lower):
    """Merge a tile into the nearest centre of each row and the nearest other of each group.

    ``dots`` (rows, cols) float32. ``best`` (rows,) and ``lower`` (rows, n_groups) float32
    hold ``|c|^2 / 2 - x.c``, ``labels`` (rows,) int32 whose the best is, -1 for none yet.
    """
    for i in range(dots.shape[0]):
        own, least = labels[i], best[i]
        for j in range(dots.shape[1]):
            col = first_col + j
            key = half_sqnorms[col] - dots[i, j]
            if key < least:
                if own >= 0 and least < lower[i, group[own]]:
                    lower[i, group[own]] = least
                own, least = col, key
            elif key < lower[i, group[col]]:
                lower[i, group[col]] = key
        labels[i], best[i] = own, least


@kernel
def open_bounds(X, centers, sqnorms, slack, labels, upper, lower):
    """Turn what `fold_tile` left in ``lower`` into bounds, and write ``upper``.

    ``sqnorms`` (rows,) are those of the rows it saw; ``slack`` bounds the rounding of a
    squared distance, as a share of ``sqnorms``, then absolutely.
    """
    for i in range(X.shape[0]):
        upper[i] = np.sqrt(sqdist_of(X[i], centers[labels[i]]))
        rounding = slack[0] * sqnorms[i] + slack[1]
        for g in range(lower.shape[1]):
            squared = sqnorms[i] - rounding + np.float32(2) * lower[i, g]
            lower[i, g] = np.sqrt(max(squared, np.float32(0)))


@kernel
def count_doubts(X, centers, sizes, run, every, group_gone, labels, lower):
    """Return how many rows were asked, and how many distances `assign_again` would compute.

    One in ``every`` runs of ``run`` rows is asked.
    """
    asked = total = 0
    for start in range(0, X.shape[0], run * every):
        for i in range(start, min(start + run, X.shape[0])):
            asked += 1
            reach = np.float32(np.sqrt(sqdist_of(X[i], centers[labels[i]])))
            for g in range(lower.shape[1]):
                if lower[i, g] - group_gone[g] <= reach:
                    total += sizes[g]
    return asked, total


@kernel
def assign_again(
    X, centers, members, starts, group, gone, group_gone, rounding, labels, upper, lower
):
    """Give rows whose bounds no longer hold their nearest centre, and new bounds.

    ``members`` (n_clusters,) lists the centres group by group from ``starts``
    (n_groups + 1,); ``rounding`` bounds that of a path length.
    """
    n_groups = lower.shape[1]
    for i in range(X.shape[0]):
        own = labels[i]
        reach = (upper[i] + gone[own]) * (1 + ROUNDING) + rounding
        doubts = 0
        for g in range(n_groups):
            doubts += lower[i, g] - group_gone[g] <= reach
        if doubts == 0:
            continue
        best = sqdist_of(X[i], centers[own])
        reach = np.float32(np.sqrt(best)) * (1 + ROUNDING) + rounding
        for g in range(n_groups):
            if lower[i, g] - group_gone[g] > reach:
                continue
            other = np.inf
            for m in range(starts[g], starts[g + 1]):
                j = members[m]
                if j == own:
                    continue
                sqdist = sqdist_of(X[i], centers[j])
                if sqdist < best or (sqdist == best and j < own):
                    left = group[own]
                    if left == g:
                        other = min(other, best)
                    else:
                        kept = np.float32(np.sqrt(best)) + group_gone[left]
                        lower[i, left] = min(lower[i, left], kept)
                    own, best = j, sqdist
                    reach = np.float32(np.sqrt(best)) * (1 + ROUNDING) + rounding
                else:
                    other = min(other, sqdist)
            lower[i, g] = np.float32(np.sqrt(other)) + group_gone[g]
        labels[i] = own
        upper[i] = np.float32(np.sqrt(best)) - gone[own]


@kernel
def sqdist_to_own(X, centers, labels, sqdist):
    """Write the squared distance of each row to its centre, from differences in float64."""
    for i in range(X.shape[0]):
        sqdist[i] = sqdist_of(X[i], centers[labels[i]])


@kernel
def carry_over(X, was, labels, place, sums):
    """Add rows whose label is another one to the sums of that, and take them from the old one's.

    ``place`` (n_clusters,) says where in ``sums`` (n_touched, n_features + 1) float64 those of a
    label are; the last column counts. ``was`` is -1 for rows that come new.
    """
    n_features = X.shape[1]
    for i in range(X.shape[0]):
        if labels[i] == was[i]:
            continue
        own = place[labels[i]]
        for j in range(n_features):
            sums[own, j] += X[i, j]
        sums[own, n_features] += 1
        if was[i] >= 0:
            left = place[was[i]]
            for j in range(n_features):
                sums[left, j] -= X[i, j]
            sums[left, n_features] -= 1
