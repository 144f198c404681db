"""The silhouette by squared Euclidean distance, exact, without comparing rows with each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.device.arrays import namespace
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.assign import cluster_sums
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.shards import SHARDS, ByRow, Shard, Shards
from gpucluster.types import NOISE, Labels, Matrix, Vector, Vector64


def squared_silhouette(X: Matrix, labels: Labels, reporter: Reporter | None = None) -> Vector:
    """Return the silhouette of each row by squared Euclidean distance.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    labels : ndarray of shape (n_samples,), int32
        ``0..n_clusters-1``, every one with rows; noise is -1.
    reporter : Reporter, optional
        Told after each block.

    Returns
    -------
    ndarray of shape (n_samples,), float32
        In [-1, 1]; 0 for a row alone in its cluster and where there are fewer than two
        clusters, NaN for noise.

    Notes
    -----
    The mean squared distance from ``x`` to the rows of a cluster is ``|x - c|^2 + v``, with the
    mean ``c`` of the cluster and the mean squared distance ``v`` of its rows to it; so O(n k d)
    replaces O(n^2 d). The own cluster counts without the row itself: times ``m / (m - 1)``.
    Which other cluster is nearest is decided by float32 products, how far it is by differences in
    float64. Extra memory: a block of products and differences on each core.

    References
    ----------
    Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7.
    """
    n_clusters = int(labels.max(initial=NOISE)) + 1
    silhouette = np.where(labels >= 0, np.float32(0), np.float32(np.nan))
    if n_clusters < 2:
        return silhouette
    sizes = np.bincount(labels[labels >= 0], minlength=n_clusters)
    means = cluster_sums(X, labels, n_clusters) / sizes[:, None]
    # products of rows far from zero lose their digits
    shift = means.mean(axis=0).astype(np.float32)
    centred = (means - shift).astype(np.float32)
    block_rows = rows_per_block(24 * X.shape[1] + 8 * n_clusters)
    n_rows = block_rows * -(-len(X) // (block_rows * SHARDS))
    shards = Shards(X, "spread of clusters", reporter, rows=n_rows)
    within = np.concatenate(list(shards.map(_shard_within, ByRow(labels), means, block_rows)))
    clustered = labels >= 0
    variance = np.bincount(labels[clustered], within[clustered], minlength=n_clusters) / sizes
    level = (variance + np.einsum("ij,ij->i", means - shift, means - shift)).astype(np.float32)
    shards = Shards(X, "silhouettes", reporter, rows=n_rows, tells=True)
    known = block_rows, means, variance, sizes, shift, centred, level
    compared = shards.map(_shard_silhouettes, ByRow(labels), ByRow(within), *known)
    silhouette[clustered] = np.concatenate(list(compared))
    return silhouette


def _shard_within(shard: Shard, labels: Labels, means: Vector64, block_rows: int) -> Vector64:
    """Return the squared distance of each row to its mean; 0 for noise."""
    within = np.zeros(len(labels))
    for rows in row_blocks(len(labels), block_rows):
        own = labels[rows]
        kept = own >= 0
        within[rows][kept] = sqdist_beside(shard.X[rows][kept], means[own[kept]])
    return within


def _shard_silhouettes(
    shard: Shard,
    labels: Labels,
    within: Vector64,
    block_rows: int,
    means: Vector64,
    variance: Vector64,
    sizes: Any,
    shift: Vector,
    centred: Matrix,
    level: Vector,
) -> Vector64:
    """Return the silhouettes of rows that have a cluster."""

    def of_block(rows: slice) -> Vector64:
        kept = labels[rows] >= 0
        X, own = shard.X[rows][kept], labels[rows][kept]
        scores = level - 2 * ((X - shift) @ centred.T)
        scores[np.arange(len(X)), own] = np.inf
        other = scores.argmin(axis=1)
        apart = sqdist_beside(X, means[other]) + variance[other]
        found: Vector64 = silhouettes(within[rows][kept] + variance[own], apart, sizes[own])
        return found

    return np.concatenate([of_block(rows) for rows in row_blocks(len(labels), block_rows)])


def silhouettes(together: Any, apart: Any, size: Any) -> Any:
    """Return silhouettes, of mean squared distances to the own cluster and to the nearest other.

    The mean squared distance to a cluster is the squared distance to its mean, and what its rows
    are from there on average. On unit rows it is twice the mean cosine distance, and silhouettes
    are the same by both.

    Parameters
    ----------
    together : array of shape (n_rows,), float64
        To all rows of the own cluster, the row itself among them.
    apart : array of shape (n_rows,), float64
    size : array of shape (n_rows,), int64
        Of the own cluster.

    Returns
    -------
    array of shape (n_rows,), float64
        0 for a row alone in its cluster, and where all distances are 0.
    """
    xp = namespace(together)
    together = together * size / xp.maximum(size - 1, 1)  # without the row itself
    larger = xp.maximum(apart, together)
    defined = (size > 1) & (larger > 0)
    return xp.where(defined, (apart - together) / xp.where(larger > 0, larger, 1), 0)


def sqdist_beside(rows: Matrix, others: Any) -> Any:
    """Return the squared distance of each row to the one beside it, float64."""
    difference = rows - others
    return np.einsum("ij,ij->i", difference, difference)
