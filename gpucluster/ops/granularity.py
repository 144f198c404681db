"""Several granularities from one dendrogram, each inside the one before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gpucluster.ops.labels import canonical_labels
from gpucluster.ops.tree import Dendrogram, Rule, condense, flatten, select
from gpucluster.types import NOISE, Labels


@dataclass(frozen=True, slots=True)
class Granularities:
    """Partitions from coarse to fine.

    Attributes
    ----------
    sizes : tuple of int
        ``min_cluster_size`` of each level, falling.
    labels_by_level : ndarray of shape (n_levels, n_points), int32
        By falling number of points, ties by smallest first point; noise is -1.
    parents : tuple of ndarray of shape (n_clusters_of_level,), int32
        For each cluster of a level the cluster of the level before that holds all its points, or
        -1 where its points are noise there; -1 throughout at the first level.
    """

    sizes: tuple[int, ...]
    labels_by_level: Labels
    parents: tuple[Labels, ...]


def granularities(tree: Dendrogram, sizes: Iterable[int]) -> Granularities:
    """Select by excess of mass at falling sizes, each time inside what was selected before.

    Parameters
    ----------
    tree : Dendrogram
        Of at least two points.
    sizes : iterable of int
        Values of ``min_cluster_size``, each at least 2; sorted here.

    Returns
    -------
    Granularities

    Notes
    -----
    A cluster of a coarse condensed tree is one of every finer condensed tree too, because where
    both sides of a merge are large enough they are so for smaller sizes. What holds a selected
    cluster may not be selected at finer sizes. So a cluster of a finer level lies inside one
    cluster of the level before, or is it, or lies outside all of them: a group too small for
    the coarse level is noise there and may be a cluster here. Points of a coarse cluster may be
    noise at a finer level.

    For each size one walk over the dendrogram.

    References
    ----------
    Campello, Moulavi, Zimek, Sander 2015, doi:10.1145/2733381, on optimal selections; restricted
    here to what leaves an earlier selection whole.
    """
    from gpucluster.ops.compiled_tree import mark_holders

    sizes = tuple(sorted(set(sizes), reverse=True))
    rule = Rule()
    labels = np.empty((len(sizes), tree.n_points), np.int32)
    parents: list[Labels] = []
    taken = np.zeros(2 * tree.n_points - 1, np.bool_)  # nodes selected at earlier levels
    for level, size in enumerate(sizes):
        condensed = condense(tree, size)
        holders = np.zeros(len(condensed.parent), np.bool_)
        mark_holders(condensed.parent, taken[condensed.node], holders)
        selected = select(condensed, rule, barred=holders)
        taken[condensed.node[selected]] = True
        labels[level] = canonical_labels(flatten(condensed, selected, rule).labels)
        parents.append(_parents(labels[level], labels[level - 1] if level else None))
    return Granularities(sizes, labels, tuple(parents))


def _parents(fine: Labels, coarse: Labels | None) -> Labels:
    """Return the coarse label of the first point of each fine cluster."""
    first = np.unique(fine[fine != NOISE], return_index=True)[1]
    if coarse is None:
        return np.full(len(first), NOISE, np.int32)
    holding: Labels = coarse[fine != NOISE][first]
    return holding
