"""Cohesion of every node of a hierarchy, by one measurement a level."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gpucluster.device.select import Device
from gpucluster.events import Reporter
from gpucluster.metrics.quality import Center, Measured, measure
from gpucluster.ops.assign import most_similar
from gpucluster.ops.nesting import labels_at, node_levels
from gpucluster.ops.normalize import unit_rows
from gpucluster.types import NOISE, Hierarchy, Labels, Matrix, Vector

PER_NODE = ("num_members", "mean_cosine", "min_cosine", "variance", "medoid_rows")


def measure_nodes(
    X: Matrix,
    hierarchy: Hierarchy,
    top: Measured,
    reporter: Reporter | None = None,
    *,
    center: Center = "mean",
    device: Device = "cpu",
) -> Measured:
    """Measure every node; what concerns a node covers the rows of all its descendants.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Original vectors, of any length; no zero row.
    hierarchy : Hierarchy
    top : Measured
        Of the roots. Its run-level metrics stay those of the result.
    reporter : Reporter, optional
        Told after each block.
    center : {"mean", "median", "medoid"}, default "mean"
        As for `measure`.
    device : {"cpu", "gpu"}, default "cpu"
        Where rows and centroids are compared.

    Returns
    -------
    Measured
        By node in place of cluster. ``cosine_similarity`` is to the own deepest node,
        ``nearest`` the nearest of the nodes that hold rows of their own.

    Notes
    -----
    Extra memory: that of `measure`, and the centroids of all nodes twice.
    """
    levels = node_levels(hierarchy.parents)
    n_levels = int(levels.max(initial=0)) + 1
    if n_levels == 1:
        return top
    cosine = top.cosine_similarity.copy()
    by_level = [top]
    for level in range(1, n_levels):
        nodes = np.flatnonzero(levels == level)  # consecutive
        at_level = labels_at(hierarchy.labels, hierarchy.parents, level) - nodes[0]
        inside = (at_level >= 0) & (at_level < len(nodes))
        inner = np.where(inside, at_level, NOISE).astype(np.int32)
        measured = measure(X, inner, reporter, center=center, device=device)
        own = np.isin(hierarchy.labels, nodes)
        cosine[own] = measured.cosine_similarity[own]
        by_level.append(measured)

    def joined(name: str) -> Any:
        return np.concatenate([getattr(measured, name) for measured in by_level])

    centroids = joined("centroids")
    nearest, nearest_similarity = _nearest(X, hierarchy, centroids, device)
    return replace(
        top,
        cosine_similarity=cosine,
        nearest=nearest,
        nearest_similarity=nearest_similarity,
        centroids=centroids,
        **{name: joined(name) for name in PER_NODE},
    )


def _nearest(
    X: Matrix, hierarchy: Hierarchy, centroids: Matrix, device: Device
) -> tuple[Labels, Vector]:
    """Return the most similar of the nodes that hold rows of their own, and its similarity."""
    holders = np.unique(hierarchy.labels[hierarchy.labels >= 0])
    found, similarity = most_similar(X, unit_rows(centroids[holders]), device)
    return holders[found], similarity
