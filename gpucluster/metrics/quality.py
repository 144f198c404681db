"""Cosine cohesion and quality of a clustering, exact at any size, in one pass over the rows.

Everything here lives in the original feature space on rows of unit length. There, the
mean cosine distance from a row ``x`` to a cluster with mean ``c`` is ``1 - x.c``, so one
product of the rows with the cluster means gives silhouette, similarity to the centroid,
nearest cluster and medoid together, in O(n k d) instead of O(n^2 d).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np

from gpucluster.device.memory import rows_per_block
from gpucluster.device.select import Device
from gpucluster.events import Reporter
from gpucluster.metrics.rows import rows_on_cpu, rows_on_gpu
from gpucluster.ops.assign import LabelSums
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.normalize import row_norms, unit_rows
from gpucluster.ops.shards import ByRow, Shard, Shards
from gpucluster.types import NOISE, Labels, Matrix, Vector, Vector64

Center = Literal["mean", "median", "medoid"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a clustering.

    Attributes
    ----------
    cosine_similarity : ndarray of shape (n_samples,), float32
        To the own centroid, clipped to [0, 1]; NaN for noise.
    nearest : ndarray of shape (n_samples,), int32
        Cluster with the most similar centroid, for noise too; -1 when there is no cluster.
    nearest_similarity : ndarray of shape (n_samples,), float32
        Cosine similarity to that centroid, in [-1, 1]; NaN when there is no cluster.
    centroids : ndarray of shape (n_clusters, n_features), float32
        What stands for each cluster: the mean or median of its unit rows, themselves not of
        unit length, or the unit row of its medoid.
    num_members : ndarray of shape (n_clusters,), int64
    mean_cosine, min_cosine : ndarray of shape (n_clusters,), float32
    variance : ndarray of shape (n_clusters,), float32
        Mean squared distance of the unit rows to their mean.
    medoid_rows : ndarray of shape (n_clusters,), int64
        Row with the least mean cosine distance to its cluster; ties to the first.
    metrics : dict of str to float or None
        The run-level metrics; None where one is not defined.
    """

    cosine_similarity: Vector
    nearest: Labels
    nearest_similarity: Vector
    centroids: Matrix
    num_members: Any
    mean_cosine: Vector
    min_cosine: Vector
    variance: Vector
    medoid_rows: Any
    metrics: dict[str, float | None]


def measure(
    X: Matrix,
    labels: Labels,
    reporter: Reporter | None = None,
    *,
    center: Center = "mean",
    device: Device = "cpu",
) -> Measured:
    """Measure a clustering of the rows of `X`.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Original vectors, of any length; no zero row.
    labels : ndarray of shape (n_samples,), int32
        Canonical: ``0..n_clusters-1``, noise -1.
    reporter : Reporter, optional
        Told after each block.
    center : {"mean", "median", "medoid"}, default "mean"
        Which centroid stands for a cluster in the cosine similarities. Silhouette and the
        indices are about the means whatever it is.
    device : {"cpu", "gpu"}, default "cpu"
        Where rows and centroids are compared.

    Returns
    -------
    Measured

    Notes
    -----
    Equal to scikit-learn's ``silhouette_score(metric="cosine")``, ``davies_bouldin_score``
    and ``calinski_harabasz_score`` on the unit rows without noise. A row alone in its
    cluster has silhouette 0 (Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7).
    Distances come from differences in float64, as tight clusters need.
    Extra memory: 36 bytes a row, and a block of products and differences on each core.
    """
    n_samples, n_features = X.shape
    n_clusters = int(labels.max(initial=NOISE)) + 1
    sizes = np.bincount(labels[labels >= 0], minlength=n_clusters)
    if n_clusters == 0:
        return _nothing(n_samples, n_features, labels)
    means, variance = _unit_moments(X, labels, sizes)
    centroids = centers(X, labels, means, center)
    compare = rows_on_gpu if device == "gpu" else rows_on_cpu
    rows = compare(X, labels, means, centroids, sizes, variance, reporter)
    cosine, sqdist = rows.cosine, rows.sqdist

    clustered = labels >= 0
    members = labels[clustered]
    mean_cosine = _mean_by(members, cosine[clustered], sizes)
    min_cosine = np.full(n_clusters, np.inf, np.float32)
    np.minimum.at(min_cosine, members, cosine[clustered])
    within = sqdist[clustered]
    spread = _mean_by(members, np.sqrt(within), sizes)
    return Measured(
        cosine_similarity=cosine,
        nearest=rows.nearest,
        nearest_similarity=rows.nearest_similarity,
        centroids=centroids,
        num_members=sizes,
        mean_cosine=mean_cosine.astype(np.float32),
        min_cosine=min_cosine,
        variance=_mean_by(members, within, sizes).astype(np.float32),
        medoid_rows=_medoids(labels, sqdist, means),
        metrics={
            "silhouette_score": _silhouette(rows.silhouette[clustered], n_clusters),
            "davies_bouldin_index": _davies_bouldin(means, spread),
            "calinski_harabasz_score": _calinski_harabasz(means, sizes, float(within.sum())),
            "mean_cosine_to_centroid": float(cosine[clustered].mean(dtype=np.float64)),
            "noise_ratio": float((~clustered).mean()),
            "cluster_size_entropy": size_entropy(sizes),
            "num_clipped_cosines": float(rows.n_clipped),
        },
    )


def size_entropy(sizes: Any) -> float:
    """Return the entropy of cluster sizes over its maximum; 0 for fewer than two clusters.

    Clusters may be empty, but not all of them.
    """
    if len(sizes) < 2:
        return 0.0
    shares = sizes[sizes > 0] / sizes.sum()
    return float((shares * -np.log(shares)).sum() / np.log(len(sizes))) + 0.0  # never -0


def _nothing(n_samples: int, n_features: int, labels: Labels) -> Measured:
    """Return the measures of all noise."""
    none = np.empty(0, np.float32)
    return Measured(
        cosine_similarity=np.full(n_samples, np.nan, np.float32),
        nearest=np.full(n_samples, NOISE, np.int32),
        nearest_similarity=np.full(n_samples, np.nan, np.float32),
        centroids=np.empty((0, n_features), np.float32),
        num_members=np.empty(0, np.int64),
        mean_cosine=none,
        min_cosine=none,
        variance=none,
        medoid_rows=np.empty(0, np.int64),
        metrics={
            "silhouette_score": None,
            "davies_bouldin_index": None,
            "calinski_harabasz_score": None,
            "mean_cosine_to_centroid": None,
            "noise_ratio": float((labels < 0).mean()),
            "cluster_size_entropy": 0.0,
            "num_clipped_cosines": 0.0,
        },
    )


def _unit_moments(X: Matrix, labels: Labels, sizes: Any) -> tuple[Vector64, Vector64]:
    """Return the mean unit row of each cluster, and how far its rows are from it, squared."""
    n_features = X.shape[1]
    sums = np.zeros((len(sizes), n_features + 1), np.float64)
    found = Shards(X, "cluster means").reduce(_unit_sums, LabelSums.add, ByRow(labels))
    sums[found.touched] = found.sums
    averages = sums / sizes[:, None]
    means: Vector64 = np.ascontiguousarray(averages[:, :n_features])
    spread: Vector64 = np.maximum(averages[:, -1] - np.einsum("ij,ij->i", means, means), 0)
    return means, spread


def _unit_sums(shard: Shard, labels: Labels) -> LabelSums:
    """Return the sums of the unit rows of each cluster, and of their squared lengths."""

    def part(rows: slice) -> LabelSums:
        unit = unit_rows(shard.X[rows]).astype(np.float64)
        squares = np.einsum("ij,ij->i", unit, unit)  # not 1: rows are of float32
        return LabelSums.of(np.column_stack((unit, squares)), labels[rows])

    return reduce(LabelSums.add, map(part, shard.parts()))


def centers(X: Matrix, labels: Labels, means: Vector64, center: Center) -> Matrix:
    """Return the vector that stands for each cluster.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Vectors of any length; no zero row.
    labels : ndarray of shape (n_samples,), int32
        Clusters; noise is -1.
    means : ndarray of shape (n_clusters, n_features), float64
        Mean unit row of each cluster.
    center : {"mean", "median", "medoid"}
        The mean; the median of each coordinate; the unit row of the medoid.

    Returns
    -------
    ndarray of shape (n_clusters, n_features), float32
    """
    if center == "mean":
        return means.astype(np.float32)
    if center == "medoid":
        medoids: Matrix = unit_rows(X[_medoids(labels, _sqdist_to_own(X, labels, means), means)])
        return medoids
    medians = np.empty(means.shape, np.float32)
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(len(means) + 1))
    norms = row_norms(X)[:, None]
    for cluster in range(len(means)):
        rows = order[bounds[cluster] : bounds[cluster + 1]]
        for cols in row_blocks(X.shape[1], rows_per_block(16 * len(rows))):
            medians[cluster, cols] = np.median(X[rows, cols] / norms[rows], axis=0)
    return medians


def _sqdist_to_own(X: Matrix, labels: Labels, means: Vector64) -> Vector64:
    """Return the squared distance of each unit row to the mean of its cluster; 0 for noise."""
    sqdist = np.zeros(len(X), np.float64)

    def work(rows: slice) -> None:
        kept = rows.start + np.flatnonzero(labels[rows] >= 0)
        difference = unit_rows(X[kept]) - means[labels[kept]]
        sqdist[kept] = np.einsum("ij,ij->i", difference, difference)

    for _ in map_blocks(work, len(X), rows_per_block(24 * X.shape[1])):
        pass
    return sqdist


def _mean_by(members: Labels, values: Any, sizes: Any) -> Vector64:
    means: Vector64 = np.bincount(members, weights=values, minlength=len(sizes)) / sizes
    return means


def _medoids(labels: Labels, sqdist: Vector64, means: Vector64) -> Any:
    """Return the row nearest to each mean: on unit rows, the one nearest to all members."""
    rows = np.flatnonzero(labels >= 0)
    order = rows[np.lexsort((rows, sqdist[rows], labels[rows]))]
    return order[np.searchsorted(labels[order], np.arange(len(means)))]


def _silhouette(values: Vector, n_clusters: int) -> float | None:
    return float(values.mean(dtype=np.float64)) if n_clusters > 1 else None


def _davies_bouldin(means: Vector64, spread: Vector64) -> float | None:
    """Return the mean over clusters of the worst ratio of spread to separation."""
    n_clusters = len(means)
    if n_clusters < 2:
        return None
    means = means - means.mean(axis=0)  # close means keep their digits
    sqnorms = np.einsum("ij,ij->i", means, means)
    worst = np.zeros(n_clusters)
    block_rows = rows_per_block(8 * n_clusters)
    for start in range(0, n_clusters, block_rows):
        rows = slice(start, min(start + block_rows, n_clusters))
        squared = sqnorms[rows, None] + sqnorms - 2 * (means[rows] @ means.T)
        apart = np.sqrt(np.maximum(squared, 0))
        own = np.arange(rows.start, rows.stop)
        apart[own - rows.start, own] = np.inf
        apart[apart == 0] = np.inf  # means that coincide: as scikit-learn, no contribution
        worst[rows] = ((spread[rows, None] + spread) / apart).max(axis=1)
    return float(worst.mean())


def _calinski_harabasz(means: Vector64, sizes: Any, within: float) -> float | None:
    """Return the ratio of variance between clusters to variance within them."""
    n_clusters, n_clustered = len(means), int(sizes.sum())
    if n_clusters < 2 or n_clusters >= n_clustered:
        return None
    center = (sizes[:, None] * means).sum(axis=0) / n_clustered
    between = float((sizes * np.square(means - center).sum(axis=1)).sum())
    if within == 0:
        return None
    return between * (n_clustered - n_clusters) / (within * (n_clusters - 1))
