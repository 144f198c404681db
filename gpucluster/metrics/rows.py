"""Each row beside all clusters: its own, the most similar, the nearest other; on CPU and GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from gpucluster.device.arrays import namespace, to_host
from gpucluster.device.memory import BLOCK_BYTES, rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks
from gpucluster.ops.normalize import unit_rows
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


def _silhouette(inside: Any, outside: Any, size: Any) -> Any:
    """Return silhouettes, of similarities to the own mean and to the nearest other one."""
    xp = namespace(inside)
    apart = 1 - outside
    together = (1 - inside) * size / xp.maximum(size - 1, 1)
    larger = xp.maximum(apart, together)
    defined = (size > 1) & (larger > 0)
    score = xp.where(defined, (apart - together) / xp.where(larger > 0, larger, 1), 0)
    return xp.clip(score, -1, 1)  # products round beyond it


def rows_on_cpu(
    X: Matrix,
    labels: Labels,
    means: Vector64,
    centroids: Matrix,
    sizes: Any,
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
    reporter : Reporter or None
        Told after each block.

    Returns
    -------
    Rows
    """
    n_samples, n_features = X.shape
    n_clusters = len(means)
    found = _blank(n_samples)
    average = means.astype(np.float32)
    scale = _inverse_lengths(centroids).astype(np.float32)
    by_mean = np.array_equal(centroids, average)

    def work(rows: slice) -> int:
        own = labels[rows]
        unit = unit_rows(X[rows])
        products = unit @ average.T
        cosines = (products if by_mean else unit @ centroids.T) * scale
        found.nearest[rows] = cosines.argmax(axis=1)
        found.nearest_similarity[rows] = np.clip(cosines.max(axis=1), -1, 1)
        kept = np.flatnonzero(own >= 0)
        own = own[kept]
        products = products[kept]
        inside = products[np.arange(len(kept)), own]
        similarity = cosines[kept, own]
        found.cosine[rows][kept] = np.clip(similarity, 0, 1)
        difference = unit[kept] - means[own]
        found.sqdist[rows][kept] = np.einsum("ij,ij->i", difference, difference)
        if n_clusters > 1:
            products[np.arange(len(kept)), own] = -np.inf
            outside = products.max(axis=1)
            found.silhouette[rows][kept] = _silhouette(inside, outside, sizes[own])
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
    reporter: Reporter | None,
) -> Rows:
    """Do what `rows_on_cpu` does on a GPU: searches are certified, similarities in float64.

    Rows that do not fit come block by block.
    """
    from gpucluster.ops.streaming import workplace

    rows, xp = workplace(X, "gpu")
    return compare_rows(xp, rows, labels, means, centroids, sizes, reporter)


class _Centers(NamedTuple):
    """Vectors, float64, and their squared norms."""

    vectors: Any
    sqnorms: Any

    @classmethod
    def of(cls, vectors: Any) -> _Centers:
        return cls(vectors, namespace(vectors).einsum("ij,ij->i", vectors, vectors))


def compare_rows(
    xp: Any,
    X: Matrix,
    labels: Labels,
    means: Vector64,
    centroids: Matrix,
    sizes: Any,
    reporter: Reporter | None,
) -> Rows:
    """Compare rows with clusters by certified searches, in the arrays of numpy or CuPy.

    All similarities come from distances in float64: ``2 x.c = |x|^2 + |c|^2 - |x - c|^2``.
    """
    from gpucluster.ops.certified import CertifiedSearch, pair_sqdist
    from gpucluster.ops.half import coarse_middle, half_rows, sample_of
    from gpucluster.ops.streaming import each_block

    n_samples = len(X)
    found = _blank(n_samples)
    directions = _Centers.of(xp.asarray(centroids * _inverse_lengths(centroids)[:, None]))
    middles = _Centers.of(xp.asarray(means))
    shift = coarse_middle(unit_rows(xp.asarray(sample_of(X))))
    among_directions, among_middles = (
        CertifiedSearch.of(each.vectors, shift, -each.sqnorms) for each in (directions, middles)
    )
    counts = xp.asarray(sizes)
    clipped = 0

    def work(rows: slice, block: Any) -> None:
        nonlocal clipped
        unit = unit_rows(block)
        half = half_rows(unit, shift)
        numbers = xp.arange(len(unit), dtype=np.int32)
        own = xp.asarray(labels[rows])
        lengths = xp.einsum("ij,ij->i", unit, unit, dtype=np.float64)

        def similarity(centers: _Centers, to: Any) -> tuple[Any, Any]:
            sqdist = pair_sqdist(unit, centers.vectors, numbers, to)
            return (lengths + centers.sqnorms[to] - sqdist) / 2, sqdist

        near = among_directions.nearest(unit, half).labels
        at_near, _ = similarity(directions, near)
        at_own, _ = similarity(directions, own)
        inside, sqdist = similarity(middles, own)
        kept = own >= 0
        if len(means) > 1:
            other = among_middles.nearest(unit, half, own).labels
            outside, _ = similarity(middles, other)
            scores = xp.where(kept, _silhouette(inside, outside, counts[own]), 0)
            found.silhouette[rows] = to_host(scores)
        found.nearest[rows] = to_host(near)
        found.nearest_similarity[rows] = to_host(xp.clip(at_near, -1, 1))
        found.cosine[rows] = to_host(xp.where(kept, xp.clip(at_own, 0, 1), xp.nan))
        found.sqdist[rows] = to_host(sqdist)
        clipped += int((at_own[kept] < 0).sum())
        if reporter is not None:
            reporter.progress(rows.stop, n_samples)

    each_block(work, X, xp, reporter)
    return replace(found, n_clipped=clipped)


def _inverse_lengths(centroids: Matrix) -> Vector64:
    """Return 1 over the length of each centroid; 0 for one of length 0."""
    lengths = np.linalg.norm(centroids.astype(np.float64), axis=1)
    inverse: Vector64 = np.divide(1, lengths, where=lengths > 0, out=np.zeros_like(lengths))
    return inverse
