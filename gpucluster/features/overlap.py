"""How the clusters of one feature lie in those of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from gpucluster.types import NOISE, Labels


@dataclass(frozen=True, slots=True)
class Overlap:
    """A cluster of one feature that lies in a cluster of another.

    Attributes
    ----------
    parent, child : int
        Cluster of the first and of the second labelling.
    share : float
        Of the child's rows that the parent holds too.
    n_common : int
        Rows in both.
    """

    parent: int
    child: int
    share: float
    n_common: int


def overlaps(first: Labels, second: Labels, threshold: float) -> list[Overlap]:
    """Return the clusters of `second` of which one cluster of `first` holds enough.

    Parameters
    ----------
    first, second : ndarray of shape (n_samples,), int32
        Noise is -1, and lies nowhere.
    threshold : float
        Least share of the child's rows, in (0.5, 1], so that a child has one parent.

    Returns
    -------
    list of Overlap
        By child.
    """
    n_children = int(second.max(initial=NOISE)) + 1
    sizes = np.bincount(second[second >= 0], minlength=n_children)
    both = (first >= 0) & (second >= 0)
    shape = (n_children, int(first.max(initial=NOISE)) + 1)
    ones = np.ones(int(both.sum()), np.int64)
    table: Any = scipy.sparse.coo_array((ones, (second[both], first[both])), shape=shape).tocsr()
    found = []
    for child in range(n_children):
        counts = table[[child]]
        if not counts.nnz:
            continue
        best = int(counts.data.argmax())
        share = float(counts.data[best] / sizes[child])
        if share >= threshold:
            parent, common = int(counts.indices[best]), int(counts.data[best])
            found.append(Overlap(parent, child, share, common))
    return found


def nested_levels(labelings: Sequence[Labels], threshold: float) -> tuple[Any, list[list[Overlap]]]:
    """Return levels: the clusters of the first labelling, divided by those of the next ones.

    A cluster of a later labelling divides the cluster that holds at least `threshold` of it;
    rows of it that lie elsewhere, and clusters that lie in no single one, divide nothing.

    Parameters
    ----------
    labelings : sequence of ndarray of shape (n_samples,), int32
        Of each feature; noise is -1.
    threshold : float
        In (0.5, 1].

    Returns
    -------
    levels : ndarray of shape (n_levels, n_samples), int32
        Every cluster of a level lies in one of the level above; -1 where a row is not
        divided further.
    found : list of list of Overlap
        What was detected between each level and the next labelling.
    """
    levels = [labelings[0]]
    detected: list[list[Overlap]] = []
    for labels in labelings[1:]:
        above = levels[-1]
        pairs = overlaps(above, labels, threshold)
        parent = np.full(int(labels.max(initial=NOISE)) + 1, NOISE, np.int32)
        parent[[pair.child for pair in pairs]] = [pair.parent for pair in pairs]
        inside = (labels >= 0) & (above >= 0)
        inside[inside] = parent[labels[inside]] == above[inside]
        levels.append(np.where(inside, labels, NOISE).astype(np.int32))
        detected.append(pairs)
    return np.stack(levels), detected
