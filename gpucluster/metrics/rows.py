"""Each row beside all clusters: its own, the most similar, the nearest other; on CPU and GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpucluster.device.arrays import to_host
from gpucluster.device.memory import BLOCK_BYTES, rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks
from gpucluster.ops.normalize import row_norms, unit_rows
from gpucluster.ops.silhouette import silhouettes, sqdist_beside
from gpucluster.types import Labels, Matrix, Vector, Vector64


@dataclass(frozen=True, slots=True)
class Rows:
    """What was measured of each row.

    Attributes
    ----------
    cosine : ndarray of shape (n_samples,), float32
        Similarity to the own centroid, clipped to [0, 1]; NaN for noise.
    nearest : ndarray of shape (n_samples,), int32
        Cluster with the most similar centroid, for noise too.
    nearest_similarity : ndarray of shape (n_samples,), float32
    silhouette : ndarray of shape (n_samples,), float32
        By cosine distance; 0 for noise, and alone in a cluster.
    sqdist : ndarray of shape (n_samples,), float64
        Squared distance of the unit row to the mean of its cluster; 0 for noise.
    n_clipped : int
        Rows whose similarity to their centroid is below 0.
    """

    cosine: Vector
    nearest: Labels
    nearest_similarity: Vector
    silhouette: Vector
    sqdist: Vector64
    n_clipped: int


def _blank(n_samples: int) -> Rows:
    return Rows(
        cosine=np.full(n_samples, np.nan, np.float32),
        nearest=np.empty(n_samples, np.int32),
        nearest_similarity=np.empty(n_samples, np.float32),
        silhouette=np.zeros(n_samples, np.float32),
        sqdist=np.zeros(n_samples, np.float64),
        n_clipped=0,
    )


def rows_on_cpu(
    X: Matrix,
    labels: Labels,
    means: Vector64,
    centroids: Matrix,
    sizes: Any,
    spread: Vector64,
    reporter: Reporter | None,
) -> Rows:
    """Compare rows with clusters by float32 products.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Of any length; no zero row.
    labels : ndarray of shape (n_samples,), int32
    means : ndarray of shape (n_clusters, n_features), float64
        Mean unit rows.
    centroids : ndarray of shape (n_clusters, n_features), float32
        What stands for the clusters; of any length.
    sizes : ndarray of shape (n_clusters,), int64
    spread : ndarray of shape (n_clusters,), float64
        Mean squared distance of the unit rows of a cluster to their mean.
    reporter : Reporter or None
        Told after each block.

    Returns
    -------
    Rows

    Notes
    -----
    Which other cluster is nearest is decided by float32 products, how far it is by differences in
    float64, as tight clusters need.
    """
    n_samples, n_features = X.shape
    n_clusters = len(means)
    found = _blank(n_samples)
    scale = _inverse_lengths(centroids).astype(np.float32)
    by_mean = np.array_equal(centroids, means.astype(np.float32))
    middle = means.mean(axis=0)  # less it, products of what lies close together keep their digits
    shift, away = middle.astype(np.float32), means - middle.astype(np.float32)
    level = ((np.einsum("ij,ij->i", away, away) + spread) / 2).astype(np.float32)
    along = (away @ shift).astype(np.float32)
    away = away.astype(np.float32)

    def work(rows: slice) -> int:
        own = labels[rows]
        unit = unit_rows(X[rows])
        products = (unit - shift) @ away.T
        if by_mean:  # x.c = (x - s).(c - s) + x.s + (c - s).s
            cosines = (products + (unit @ shift)[:, None] + along) * scale
        else:
            cosines = (unit @ centroids.T) * scale
        found.nearest[rows] = cosines.argmax(axis=1)
        found.nearest_similarity[rows] = np.clip(cosines.max(axis=1), -1, 1)
        kept = np.flatnonzero(own >= 0)
        own = own[kept]
        similarity = cosines[kept, own]
        found.cosine[rows][kept] = np.clip(similarity, 0, 1)
        found.sqdist[rows][kept] = own_sqdist = sqdist_beside(unit[kept], means[own])
        if n_clusters > 1:
            scores = products[kept] - level
            scores[np.arange(len(kept)), own] = -np.inf
            other = scores.argmax(axis=1)
            other_sqdist = sqdist_beside(unit[kept], means[other])
            found.silhouette[rows][kept] = silhouettes(
                own_sqdist + spread[own], other_sqdist + spread[other], sizes[own]
            )
        return int((similarity < 0).sum())

    block_rows = rows_per_block(24 * n_features + 8 * n_clusters, BLOCK_BYTES // 4)
    clipped = sum(map_blocks(work, n_samples, block_rows, reporter))
    return replace(found, n_clipped=clipped)


def rows_on_gpu(
    X: Matrix,
    labels: Labels,
    means: Vector64,
    centroids: Matrix,
    sizes: Any,
    spread: Vector64,
    reporter: Reporter | None,
) -> Rows:
    """Do what `rows_on_cpu` does on a GPU: searches are certified, similarities in float64.

    Rows that do not fit come block by block.
    """
    from gpucluster.ops.streaming import workplace

    rows, xp = workplace(X, "gpu")
    return compare_rows(xp, rows, labels, means, centroids, sizes, spread, reporter)


def compare_rows(
    xp: Any,
    X: Matrix,
    labels: Labels,
    means: Vector64,
    centroids: Matrix,
    sizes: Any,
    spread: Vector64,
    reporter: Reporter | None,
) -> Rows:
    """Compare rows with clusters by certified searches, in the arrays of numpy or CuPy.

    Cosines come from distances in float64: ``2 x.c = |x|^2 + |c|^2 - |x - c|^2``.
    """
    from gpucluster.ops.certified import CertifiedSearch
    from gpucluster.ops.half import coarse_middle, half_rows, sample_of
    from gpucluster.ops.pairs import pair_sqdist
    from gpucluster.ops.streaming import each_block

    n_samples = len(X)
    found = _blank(n_samples)
    directions = xp.asarray(centroids * _inverse_lengths(centroids)[:, None])
    sqnorms = xp.einsum("ij,ij->i", directions, directions)
    middles, counts, spreads = (xp.asarray(each) for each in (means, sizes, spread))
    shift = coarse_middle(unit_rows(xp.asarray(sample_of(X))))
    among_directions = CertifiedSearch.of(directions, shift, -sqnorms)
    among_middles = CertifiedSearch.of(middles, shift, spreads)
    clipped = 0

    def work(rows: slice, block: Any) -> None:
        nonlocal clipped
        unit = unit_rows(block)
        half = half_rows(unit, shift)
        numbers = xp.arange(len(unit), dtype=np.int32)
        own = xp.asarray(labels[rows])
        kept = own >= 0
        lengths = xp.square(row_norms(unit))

        def cosine(to: Any) -> Any:
            return (lengths + sqnorms[to] - pair_sqdist(unit, directions, numbers, to)) / 2

        near = among_directions.nearest(unit, half).labels
        own_cosine = cosine(own)
        own_sqdist = pair_sqdist(unit, middles, numbers, own)
        if len(means) > 1:
            other = among_middles.nearest(unit, half, own).labels
            other_sqdist = pair_sqdist(unit, middles, numbers, other)
            scores = silhouettes(
                own_sqdist + spreads[own], other_sqdist + spreads[other], counts[own]
            )
            found.silhouette[rows] = to_host(xp.where(kept, scores, 0))
        found.nearest[rows] = to_host(near)
        found.nearest_similarity[rows] = to_host(xp.clip(cosine(near), -1, 1))
        found.cosine[rows] = to_host(xp.where(kept, xp.clip(own_cosine, 0, 1), xp.nan))
        found.sqdist[rows] = to_host(own_sqdist)
        clipped += int((own_cosine[kept] < 0).sum())
        if reporter is not None:
            reporter.progress(rows.stop, n_samples)

    each_block(work, X, xp, reporter)
    return replace(found, n_clipped=clipped)


def _inverse_lengths(centroids: Matrix) -> Vector64:
    """Return 1 over the length of each centroid; 0 for one of length 0."""
    lengths = np.linalg.norm(centroids.astype(np.float64), axis=1)
    inverse: Vector64 = np.divide(1, lengths, where=lengths > 0, out=np.zeros_like(lengths))
    return inverse
