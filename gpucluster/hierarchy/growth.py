"""The recursion: what becomes of clusters when each is divided, level by level.

`grow` asks a `Split` for the parts of the nodes of a level, keeps the divisions that are worth
it, and numbers what comes of them. `nested` has them from labels that are nested already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpucluster.algorithms import canonical_labels
from gpucluster.ops.nesting import node_paths
from gpucluster.types import NOISE, Hierarchy, Labels, Rows

# why a node is a leaf
TOO_SMALL, DEPTH, NO_SPLIT, TOO_NOISY = "too_small", "depth", "no_split", "too_noisy"
FAILED = "failed"  # and what it said
MAX_NOISE = 0.5  # of the rows of a node; a division that loses more is none


@dataclass(frozen=True, slots=True)
class Node:
    """A cluster that may be divided: its index, its public id, its rows in rising order."""

    index: int
    id: str
    rows: Rows


# Labels of each node's rows (by falling size; noise -1), or the reason why there are none.
Split = Callable[[Sequence[Node]], Sequence[Labels | str]]


def grow(
    flat: Labels,
    levels: int,
    min_split_size: int,
    split: Split,
    *,
    least_parts: int = 2,
    max_noise: float = MAX_NOISE,
) -> Hierarchy:
    """Divide clusters, and what comes of them, until nothing is worth it.

    Parameters
    ----------
    flat : ndarray of shape (n_samples,), int32
        The roots: canonical labels; noise -1 stays noise.
    levels : int
        Levels of the hierarchy, that of the roots included.
    min_split_size : int
        Smaller nodes are leaves.
    split : Split
        Given all nodes of a level that may be divided.
    least_parts : int, default 2
        A division has that many parts or more.
    max_noise : float, default `MAX_NOISE`
        At most this share of the rows of a node may be in no part; they stay with the node.

    Returns
    -------
    Hierarchy
    """
    labels = flat.copy()
    parents = [NOISE] * (int(flat.max(initial=NOISE)) + 1)
    reasons: list[str | None] = []
    parts = [np.flatnonzero(flat == root) for root in range(len(parents))]
    for level in range(levels):
        first = len(parents) - len(parts)
        ids = (path[-1] for path in node_paths(parents)[first:])
        nodes = [Node(first + i, *part) for i, part in enumerate(zip(ids, parts, strict=True))]
        large = [node for node in nodes if len(node.rows) >= min_split_size]
        reasons += [DEPTH if len(node.rows) >= min_split_size else TOO_SMALL for node in nodes]
        parts = []
        if level + 1 == levels or not large:
            break
        for node, found in zip(large, split(large), strict=True):
            reasons[node.index] = _why_not(found, least_parts, max_noise)
            if isinstance(found, str) or reasons[node.index] is not None:
                continue
            for part in range(int(found.max()) + 1):
                rows = node.rows[found == part]
                labels[rows] = len(parents)
                parents.append(node.index)
                parts.append(rows)
    return Hierarchy(labels, np.array(parents, np.int32), tuple(reasons))


def _why_not(found: Labels | str, least_parts: int, max_noise: float) -> str | None:
    """Return why a division is not kept, or None."""
    if isinstance(found, str):
        return found
    if int(found.max(initial=NOISE)) + 1 < least_parts:
        return NO_SPLIT
    return TOO_NOISY if (found == NOISE).mean() > max_noise else None


def nested(
    flat: Labels,
    finer: Sequence[Labels],
    levels: int,
    *,
    least_parts: int = 2,
    max_noise: float = MAX_NOISE,
) -> Hierarchy:
    """Return the hierarchy of labels that are nested already.

    Parameters
    ----------
    flat : ndarray of shape (n_samples,), int32
        The roots: canonical labels; noise -1 stays noise.
    finer : sequence of ndarray of shape (n_samples,), int32
        Finer and finer clusterings of the same rows; noise is -1. A cluster lies within one of
        the clustering before, whose rows it need not exhaust, or in its noise, and is then
        left out.
    levels : int
        Levels of the hierarchy, at most.
    least_parts, max_noise : int, float
        As for `grow`.

    Returns
    -------
    Hierarchy
        A node is divided at the next granularity that parts it in `least_parts` or more. One
        cluster that is all of it is never a division, so there may be fewer levels than
        granularities.
    """

    def parts(node: Node) -> Labels | str:
        rows = np.arange(len(node.rows))
        for labels in finer:
            found = labels[node.rows[rows]]
            clusters = np.unique(found[found >= 0])
            whole_node = len(clusters) == 1 and bool((found == clusters[0]).all())
            if len(clusters) >= least_parts and not whole_node:
                whole = np.full(len(node.rows), NOISE, np.int32)
                whole[rows] = found
                return canonical_labels(whole)
            if len(clusters) == 1:
                rows = rows[found == clusters[0]]
        return NO_SPLIT

    def split(nodes: Sequence[Node]) -> list[Labels | str]:
        return [parts(node) for node in nodes]

    return grow(flat, levels, 2, split, least_parts=least_parts, max_noise=max_noise)
