"""From the edges of a spanning tree to flat clusters, in the steps of HDBSCAN's papers.

`dendrogram` merges along the edges, `condense` drops the merges that no cluster comes from,
`select` keeps the clusters of greatest mass (or the leaves), `flatten` labels the points.
`flat_clusters` is all of it for one size. Sizes are sums of weights, so a point may stand for
many equal rows; a single point is never a cluster, whatever its weight.

References
----------
Campello, Moulavi, Sander 2013, doi:10.1007/978-3-642-37456-2_14. Campello, Moulavi, Zimek,
Sander 2015, doi:10.1145/2733381. McInnes, Healy 2017, doi:10.1109/ICDMW.2017.12; cluster
selection by distance: Malzer, Baum 2020, doi:10.1109/MFI49285.2020.9235263.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpucluster.types import NOISE, DensityTree, Labels, Vector64, Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Flags = NDArray[np.bool_]
else:
    Flags = Any


@dataclass(frozen=True, slots=True)
class Dendrogram:
    """A single-linkage hierarchy.

    Node ``p < n_points`` is a point, node ``n_points + m`` is what merge ``m`` makes.

    Attributes
    ----------
    children : ndarray of shape (n_points - 1, 2), int64
        The nodes that each merge joins.
    height : ndarray of shape (n_points - 1,), float64
        Distance of each merge, rising.
    size : ndarray of shape (2 * n_points - 1,), int64
        Weight of each node.
    ends : ndarray of shape (n_points - 1, 2), int64
        The points whose edge each merge follows.
    """

    children: Any
    height: Vector64
    size: Weights
    ends: Any

    @property
    def n_points(self) -> int:
        """The number of points."""
        return len(self.height) + 1

    @property
    def weights(self) -> Weights:
        """The weights of the points."""
        return self.size[: self.n_points]

    @property
    def total(self) -> int:
        """The weight of all points."""
        return int(self.size[-1])


@dataclass(frozen=True, slots=True)
class CondensedTree:
    """A hierarchy of clusters; cluster 0 is the root, children have greater numbers.

    Density is the inverse of distance.

    Attributes
    ----------
    point_cluster : ndarray of shape (n_points,), int64
        The cluster that each point falls out of,
    point_density : ndarray of shape (n_points,), float64
        and the density at which it does.
    node : ndarray of shape (n_clusters,), int64
        Where each cluster begins in the dendrogram.
    parent, first_child : ndarray of shape (n_clusters,), int64
        A cluster has no children (0) or two, `first_child` and the next one. The root's
        parent is -1.
    birth, death : ndarray of shape (n_clusters,), float64
        Densities between which each cluster is one.
    size : ndarray of shape (n_clusters,), int64
        Weight at birth.
    stability : ndarray of shape (n_clusters,), float64
        Excess of mass: the sum over its points of the density that they stay for.
    weights : ndarray of shape (n_points,), int64
    """

    point_cluster: Any
    point_density: Vector64
    node: Any
    parent: Any
    first_child: Any
    birth: Vector64
    death: Vector64
    size: Weights
    stability: Vector64
    weights: Weights

    def kept(self, nodes: Any) -> DensityTree:
        """Return what is kept of it, `nodes` being those that were selected, in order."""
        cluster = np.full(len(self.parent), NOISE, np.int32)
        cluster[nodes] = np.arange(len(nodes))
        return DensityTree(
            parent=self.parent.astype(np.int32),
            birth=self.birth,
            size=self.size,
            cluster=cluster,
            row_node=self.point_cluster.astype(np.int32),
            row_density=self.point_density,
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """How clusters are selected.

    Attributes
    ----------
    method : {"eom", "leaf"}
        The clusters of greatest total stability, or those without children.
    allow_single_cluster : bool
        Whether the root may be a cluster.
    epsilon : float
        Clusters born closer than this distance give way to an ancestor that was not.
    max_cluster_size : int or None
        Larger clusters are not selected by ``eom``.
    strict : bool
        Follow the authors' Java code: a cluster needs one row more, and a point that falls out
        where its cluster is born is noise.
    """

    method: Literal["eom", "leaf"] = "eom"
    allow_single_cluster: bool = False
    epsilon: float = 0.0
    max_cluster_size: int | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class FlatClusters:
    """One partition of the points.

    Attributes
    ----------
    labels : ndarray of shape (n_points,), int32
        Noise is -1.
    strengths : ndarray of shape (n_points,), float64
        Density at which a point falls out, as a share of that of its cluster's densest.
    persistence : ndarray of shape (n_clusters,), float64
        Excess of mass of each cluster, as a share of what it would be if all its points
        stayed to the greatest density of all.
    nodes : ndarray of shape (n_clusters,), int64
        The cluster of the condensed tree that each is.
    """

    labels: Labels
    strengths: Vector64
    persistence: Vector64
    nodes: Any


def dendrogram(edges: Any, weights: Weights | None = None) -> Dendrogram:
    """Merge points along the edges of a spanning tree.

    Parameters
    ----------
    edges : ndarray of shape (n_points - 1, 3), float64
        Two points and their distance, by rising distance.
    weights : ndarray of shape (n_points,), int64, optional
        How many rows each point stands for. Omitted: one.

    Returns
    -------
    Dendrogram
    """
    from gpucluster.ops.compiled_tree import merge

    n_points = len(edges) + 1
    size = np.ones(2 * n_points - 1, np.int64)
    if weights is not None:
        size[:n_points] = weights
    joined = np.ascontiguousarray(edges[:, :2], np.int64)
    children = np.empty_like(joined)
    merge(joined, children, size)
    return Dendrogram(children, np.ascontiguousarray(edges[:, 2]), size, joined)


def condense(tree: Dendrogram, min_cluster_size: int) -> CondensedTree:
    """Keep the merges of two clusters; at all others points fall out of one.

    Parameters
    ----------
    tree : Dendrogram
        Of at least two points.
    min_cluster_size : int
        Least weight of a cluster, at least 2.

    Returns
    -------
    CondensedTree

    Notes
    -----
    One walk. Extra memory is 48 bytes a point, 32 of them while it lasts, and 56 bytes for each
    of the clusters that there could be.
    """
    from gpucluster.ops.compiled_tree import condense as walk

    n_points = tree.n_points
    point_cluster, point_density = np.empty(n_points, np.int64), np.empty(n_points)
    # each leaf has two points and enough weight, and a binary tree of leaves has as many forks
    room = 2 * max(1, min(n_points // 2, tree.total // min_cluster_size))
    node, parent, first_child, size = (np.empty(room, np.int64) for _ in range(4))
    birth, death, stability = (np.empty(room) for _ in range(3))
    clusters = (node, parent, first_child, birth, death, size, stability)
    n_clusters = walk(
        tree.children,
        tree.height,
        tree.size,
        min_cluster_size,
        point_cluster,
        point_density,
        *clusters,
    )
    return CondensedTree(
        point_cluster,
        point_density,
        node[:n_clusters],
        parent[:n_clusters],
        first_child[:n_clusters],
        birth[:n_clusters],
        death[:n_clusters],
        size[:n_clusters],
        stability[:n_clusters],
        tree.weights,
    )


def select(tree: CondensedTree, rule: Rule, barred: Flags | None = None) -> Flags:
    """Return which clusters of a condensed tree are clusters of the flat partition.

    Parameters
    ----------
    tree : CondensedTree
    rule : Rule
    barred : ndarray of shape (n_clusters,), bool, optional
        Clusters that may not be selected by mass, whatever their stability.

    Returns
    -------
    ndarray of shape (n_clusters,), bool
    """
    from gpucluster.ops.compiled_tree import choose_by_mass, drop_nested, raise_to_distance

    n_clusters = len(tree.parent)
    if rule.method == "leaf":
        selected: Flags = tree.first_child == 0
        selected[0] = False
    else:
        selected = np.empty(n_clusters, np.bool_)
        barred = np.zeros(n_clusters, np.bool_) if barred is None else barred.copy()
        barred[0] |= not rule.allow_single_cluster
        size = tree.size.copy()
        size[0] = tree.size[1:3].sum()  # of the root, the points that reach its children count
        largest = rule.max_cluster_size or np.iinfo(np.int64).max
        choose_by_mass(tree.first_child, size, tree.stability, largest, barred, selected)
        drop_nested(tree.parent, selected)
    if rule.epsilon == 0:
        return selected
    raised = np.empty_like(selected)
    raise_to_distance(
        tree.parent, tree.birth, rule.epsilon, rule.allow_single_cluster, selected, raised
    )
    return raised


def flatten(tree: CondensedTree, selected: Flags, rule: Rule) -> FlatClusters:
    """Label the points by the selected clusters.

    Parameters
    ----------
    tree : CondensedTree
    selected : ndarray of shape (n_clusters,), bool
    rule : Rule

    Returns
    -------
    FlatClusters
        Clusters without points, as `Rule.strict` may leave, are left out.
    """
    from gpucluster.ops.compiled_tree import label_points

    # alone, the root would have everything: only its densest points are taken
    root_from = math.nan
    if selected[0] and selected.sum() == 1:
        root_from = 1 / rule.epsilon if rule.epsilon else float(tree.death[0])
    labels = np.empty(len(tree.weights), np.int32)
    label_points(
        tree.point_cluster,
        tree.point_density,
        tree.parent,
        tree.birth,
        root_from,
        rule.strict,
        selected,
        labels,
    )
    member = labels >= 0
    chosen = np.flatnonzero(selected)
    mass = np.bincount(labels[member], tree.weights[member], minlength=len(chosen))
    labels[member] = (np.cumsum(mass > 0) - 1)[labels[member]]
    chosen, mass = chosen[mass > 0], mass[mass > 0]

    densest = tree.death[chosen][labels[member]]
    density = np.minimum(tree.point_density[member], densest)
    strengths = np.zeros(len(labels))
    with np.errstate(invalid="ignore"):
        # points at distance zero have infinite density, and inf/inf is their share of it
        strengths[member] = np.nan_to_num(density / densest, nan=1.0)
    greatest = float(tree.death.max())
    persistence = np.ones(len(chosen))
    if math.isfinite(greatest):
        persistence = tree.stability[chosen] / (mass * greatest)
    return FlatClusters(labels, strengths, persistence, chosen)


def flat_clusters(tree: Dendrogram, min_cluster_size: int, rule: Rule) -> FlatClusters:
    """Return the flat partition of a dendrogram for one size.

    Parameters
    ----------
    tree : Dendrogram
        Of at least two points.
    min_cluster_size : int
        Least weight of a cluster; one more if ``rule.strict``.
    rule : Rule

    Returns
    -------
    FlatClusters
    """
    return cut(tree, min_cluster_size, rule)[1]


def cut(tree: Dendrogram, min_cluster_size: int, rule: Rule) -> tuple[CondensedTree, FlatClusters]:
    """Return the condensed tree and the flat partition of a dendrogram, as `flat_clusters` does."""
    condensed = condense(tree, min_cluster_size + rule.strict)
    return condensed, flatten(condensed, select(condensed, rule), rule)


def basins(tree: Dendrogram, labels: Labels) -> Labels:
    """Return the cluster that every point belongs to, or reaches first along the spanning tree.

    Parameters
    ----------
    tree : Dendrogram
    labels : ndarray of shape (n_points,), int32
        Noise is -1.

    Returns
    -------
    ndarray of shape (n_points,), int32
        No -1, unless there is no cluster. Noise has the label of the cluster whose slope it lies
        on: going from denser to less dense, the first cluster that its surroundings grow into.
    """
    from gpucluster.ops.compiled_tree import spread_labels

    filled = labels.copy()
    spread_labels(tree.ends, filled)
    return filled
