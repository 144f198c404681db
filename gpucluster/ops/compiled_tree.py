"""Walks over the trees of density clustering, compiled once and cached on disk.

A node of a dendrogram below ``n_points`` is a point, node ``n_points + m`` is merge ``m``.
A cluster of a condensed tree has a greater number than its parent; cluster 0 is the root.
"""

from __future__ import annotations

import numpy as np

from gpucluster.ops.compiled import find, kernel


@kernel
def merge(edges, children, size):
    """Merge along rising edges; write the nodes that each merge joins, and the sizes of nodes.

    ``edges`` (n_points - 1, 2) int64; ``children`` of the same shape is written; ``size``
    (2 * n_points - 1,) int64 has the weights of the points and gets those of the merges.
    """
    n_points = edges.shape[0] + 1
    parent = np.arange(2 * n_points - 1)
    for m in range(n_points - 1):
        left, right = find(parent, edges[m, 0]), find(parent, edges[m, 1])
        node = n_points + m
        children[m, 0], children[m, 1] = left, right
        parent[left] = parent[right] = node
        size[node] = size[left] + size[right]


@kernel
def condense(
    children,
    height,
    size,
    min_cluster_size,
    point_cluster,
    point_density,
    node,
    parent,
    first_child,
    birth,
    death,
    cluster_size,
    stability,
):
    """Drop the merges that no cluster of `min_cluster_size` comes from; return how many are left.

    The merges are walked breadth first from the root. ``point_cluster`` and
    ``point_density`` (n_points,) say where and at which density each point falls out; the
    arrays of clusters get their node, parent, first of two children (0: none), densities of
    birth and death, size, and excess of mass. A single point is never a cluster.
    """
    n_points = len(point_cluster)
    node[0], parent[0], birth[0], death[0] = 2 * n_points - 2, -1, 0.0, 0.0
    first_child[0], cluster_size[0], stability[0] = 0, size[2 * n_points - 2], 0.0
    n_clusters = 1
    walk = np.empty(n_points - 1, np.int64)
    cluster_of = np.empty(n_points - 1, np.int64)
    fallen = np.empty(2 * n_points - 1, np.int64)
    walk[0], cluster_of[0], n_walk = 2 * n_points - 2, 0, 1
    position = 0
    while position < n_walk:
        merged, own = walk[position] - n_points, cluster_of[position]
        position += 1
        density = 1 / height[merged] if height[merged] > 0 else np.inf
        excess = density - birth[own]
        death[own] = max(death[own], density)
        stays = children[merged] >= n_points
        for side in range(2):
            stays[side] &= size[children[merged, side]] >= min_cluster_size
        if stays[0] and stays[1]:
            first_child[own] = n_clusters
        for side in range(2):
            below = children[merged, side]
            if stays[side]:
                cluster = own
                if stays[1 - side]:
                    cluster = n_clusters
                    n_clusters += 1
                    node[cluster], parent[cluster], first_child[cluster] = below, own, 0
                    birth[cluster], death[cluster] = density, 0.0
                    cluster_size[cluster], stability[cluster] = size[below], 0.0
                    stability[own] += excess * size[below]
                walk[n_walk], cluster_of[n_walk] = below, cluster
                n_walk += 1
                continue
            fallen[0], n_fallen, first = below, 1, 0
            while first < n_fallen:
                below = fallen[first]
                first += 1
                if below >= n_points:
                    fallen[n_fallen] = children[below - n_points, 0]
                    fallen[n_fallen + 1] = children[below - n_points, 1]
                    n_fallen += 2
                    continue
                point_cluster[below], point_density[below] = own, density
                stability[own] += excess * size[below]
    return n_clusters


@kernel
def choose_by_mass(first_child, size, stability, max_size, barred, selected):
    """Select the clusters of greatest total stability, none inside another.

    ``selected`` (n_clusters,) bool is written. Barred clusters, and those above `max_size`,
    are never selected. Sums are rounded to float32, as in the hdbscan package: ties are
    decided as there.
    """
    best = stability.copy()
    for c in range(len(best) - 1, -1, -1):
        below = np.float32(0)
        first = first_child[c]
        if first:
            below = np.float32(np.float64(np.float32(best[first])) + best[first + 1])
        selected[c] = not (below > best[c] or size[c] > max_size or barred[c])
        if not selected[c]:
            best[c] = below


@kernel
def drop_nested(parent, selected):
    """Deselect clusters that lie inside a selected one."""
    covered = np.zeros(len(parent), np.bool_)
    for c in range(1, len(parent)):
        covered[c] = covered[parent[c]] or selected[parent[c]]
    for c in range(len(parent)):
        selected[c] &= not covered[c]


@kernel
def mark_holders(parent, held, holders):
    """Mark the clusters with a cluster of ``held`` (n_clusters,) below them."""
    for c in range(len(parent) - 1, 0, -1):
        holders[parent[c]] |= holders[c] or held[c]


@kernel
def raise_to_distance(parent, birth, epsilon, root_too, selected, raised):
    """Exchange clusters born closer than `epsilon` for the ancestor that was not.

    ``raised`` (n_clusters,) bool is written; the root is taken only when `root_too`.
    """
    ancestor = np.zeros(len(parent), np.int64)
    raised[:] = False
    raised[0] = selected[0]
    for c in range(1, len(parent)):
        above = parent[c]
        if above == 0:
            ancestor[c] = 0 if root_too else c
        elif 1 / birth[above] > epsilon:
            ancestor[c] = above
        else:
            ancestor[c] = ancestor[above]
        if selected[c]:
            raised[ancestor[c] if 1 / birth[c] < epsilon else c] = True


@kernel
def label_points(
    point_cluster, point_density, parent, birth, root_from, strictly, selected, labels
):
    """Write for each point the selected cluster that it lies in, numbered by cluster, or -1.

    Points of the root count from the density `root_from` on. `strictly`: a point that falls
    out at the density where its cluster is born does not count.
    """
    owner = np.zeros(len(parent), np.int64)
    number = np.full(len(parent), -1)
    found = 0
    for c in range(len(parent)):
        if selected[c]:
            number[c] = found
            found += 1
        if c:
            owner[c] = c if selected[c] else owner[parent[c]]
    for p in range(len(labels)):
        c = owner[point_cluster[p]]
        if c == 0:
            counts = point_density[p] >= root_from
        else:
            counts = not strictly or point_density[p] > birth[c]
        labels[p] = number[c] if counts else -1


@kernel
def spread_labels(ends, labels):
    """Give every point without a label that of the labelled point it is joined to first.

    ``ends`` (n_points - 1, 2) int64 are the edges of a spanning tree by rising length; ``labels``
    (n_points,) int32 has -1 where there is none, and is filled. Groups without a label grow
    together until an edge joins one to a point that has one: all of it takes that label.
    """
    n_points = labels.shape[0]
    parent = np.arange(n_points)
    following = np.arange(n_points)  # the members of a group, as a ring
    labelled = labels >= 0
    for e in range(ends.shape[0]):
        a, b = ends[e, 0], ends[e, 1]
        root_a, root_b = find(parent, a), find(parent, b)
        if labelled[root_a] != labelled[root_b]:
            label, member = (labels[a], b) if labelled[root_a] else (labels[b], a)
            first = member
            while True:
                labels[member] = label
                member = following[member]
                if member == first:
                    break
        following[a], following[b] = following[b], following[a]
        parent[root_b] = root_a
        labelled[root_a] |= labelled[root_b]
