"""Clusters within clusters, given as the parent of each node: names, levels, ancestors.

A node comes after its parent; a root has the parent -1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gpucluster.types import NOISE, Hierarchy, Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


def flat(labels: Labels) -> Hierarchy:
    """Return clusters as nodes without parents and without children.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int32
        ``0..n_clusters-1``; noise is -1.

    Returns
    -------
    Hierarchy
        Nobody asked why its nodes are leaves, so it gives no reasons.
    """
    n_clusters = int(labels.max(initial=NOISE)) + 1
    return Hierarchy(labels, np.full(n_clusters, NOISE, np.int32), None)


def node_paths(parents: Iterable[int]) -> list[list[str]]:
    """Return the ids from the root to each node: ``["cl_0", "cl_0_sub_1"]``.

    Parameters
    ----------
    parents : iterable of n_nodes int
        Parent of each node; -1 for roots.

    Returns
    -------
    list of n_nodes lists of str
        Children are numbered within their parent, in the order of the nodes.
    """
    paths: list[list[str]] = []
    born: Counter[int] = Counter()
    for parent in map(int, parents):
        above = [] if parent == NOISE else paths[parent]
        prefix = f"{above[-1]}_sub" if above else "cl"
        paths.append([*above, f"{prefix}_{born[parent]}"])
        born[parent] += 1
    return paths


def paths_of(names: Iterable[str], parents: Iterable[int]) -> list[list[str]]:
    """Return the ids from the root to each node, of nodes that have names already."""
    paths: list[list[str]] = []
    for name, parent in zip(names, map(int, parents), strict=True):
        paths.append([*(() if parent == NOISE else paths[parent]), name])
    return paths


def node_levels(parents: Labels) -> Labels:
    """Return the level of each node; roots have 0.

    Parameters
    ----------
    parents : ndarray of shape (n_nodes,), int32

    Returns
    -------
    ndarray of shape (n_nodes,), int32
    """
    levels = np.zeros(len(parents), np.int32)
    for node, parent in enumerate(parents):
        if parent != NOISE:
            levels[node] = levels[parent] + 1
    return levels


def labels_at(labels: Labels, parents: Labels, level: int) -> Labels:
    """Return the ancestor of each row's node at a level, or the node itself when it lies above.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int32
        Node of each row; noise is -1 and stays it.
    parents : ndarray of shape (n_nodes,), int32
    level : int
        0 is the level of the roots.

    Returns
    -------
    ndarray of shape (n_samples,), int32
    """
    ancestors = np.arange(len(parents), dtype=np.int32)
    deeper = node_levels(parents) > level
    for node in np.flatnonzero(deeper):  # parents come first, so theirs are known
        ancestors[node] = ancestors[parents[node]]
    return np.append(ancestors, np.int32(NOISE))[labels]


def with_descendants(values: NDArray[T], parents: Labels) -> NDArray[T]:
    """Return the sum over each node and all below it.

    Parameters
    ----------
    values : ndarray of shape (n_nodes, ...)
        Of the rows that a node holds itself: counts, sums of vectors.
    parents : ndarray of shape (n_nodes,), int32

    Returns
    -------
    ndarray of shape (n_nodes, ...)
    """
    total = values.copy()
    for node in range(len(parents) - 1, -1, -1):  # children come last, so theirs are complete
        if parents[node] != NOISE:
            total[parents[node]] += total[node]
    return total
