"""Each row beside all clusters: its own, the most similar, the nearest other; on CPU and GPU."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from gpucluster.device.arrays import to_host
from gpucluster.device.memory import BLOCK_BYTES, rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.normalize import row_norms, unit_rows
from gpucluster.ops.shards import ByRow, Shard, Shards
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


ROW_ARRAYS = tuple(field.name for field in fields(Rows) if field.name != "n_clipped")


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
    found, beside = _blank(n_samples), _Beside.of(means, centroids, sizes, spread)
    block_rows = rows_per_block(24 * n_features + 8 * len(means), BLOCK_BYTES // 4)
    shards = Shards(X, "measure", reporter, tells=True)
    end = n_clipped = 0
    for own in shards.map(_shard_beside, ByRow(labels), block_rows, *beside.arrays):
        rows = slice(end, end := end + len(own.cosine))
        n_clipped += own.n_clipped
        for name in ROW_ARRAYS:
            getattr(found, name)[rows] = getattr(own, name)
    return replace(found, n_clipped=n_clipped)


@dataclass(frozen=True, slots=True)
class _Beside:
    """What rows are compared with, as float32 products need it."""

    means: Vector64
    centroids: Matrix | None  # None: they are the means
    sizes: Any
    spread: Vector64
    scale: Vector
    shift: Vector  # less it, products of what lies close together keep their digits
    away: Matrix
    level: Vector
    along: Vector

    @classmethod
    def of(cls, means: Vector64, centroids: Matrix, sizes: Any, spread: Vector64) -> Self:
        shift = means.mean(axis=0).astype(np.float32)
        away = means - shift
        return cls(
            means=means,
            centroids=None if np.array_equal(centroids, means.astype(np.float32)) else centroids,
            sizes=sizes,
            spread=spread,
            scale=_inverse_lengths(centroids).astype(np.float32),
            shift=shift,
            away=away.astype(np.float32),
            level=((np.einsum("ij,ij->i", away, away) + spread) / 2).astype(np.float32),
            along=(away @ shift).astype(np.float32),
        )

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Its arrays, in order: what other processes make it of."""
        return tuple(getattr(self, field.name) for field in fields(self))


def _shard_beside(shard: Shard, labels: Labels, block_rows: int, *beside: Any) -> Rows:
    found, known, n_clipped = _blank(len(labels)), _Beside(*beside), 0
    for rows in row_blocks(len(labels), block_rows):
        n_clipped += _block_beside(shard.X[rows], labels[rows], known, found, rows)
    return replace(found, n_clipped=n_clipped)


def _block_beside(X: Matrix, own: Labels, known: _Beside, found: Rows, rows: slice) -> int:
    """Write what is found of a block of rows; return how many similarities are below 0."""
    unit = unit_rows(X)
    products = (unit - known.shift) @ known.away.T
    if known.centroids is None:  # x.c = (x - s).(c - s) + x.s + (c - s).s
        cosines = (products + (unit @ known.shift)[:, None] + known.along) * known.scale
    else:
        cosines = (unit @ known.centroids.T) * known.scale
    found.nearest[rows] = cosines.argmax(axis=1)
    found.nearest_similarity[rows] = np.clip(cosines.max(axis=1), -1, 1)
    kept = np.flatnonzero(own >= 0)
    own = own[kept]
    similarity = cosines[kept, own]
    found.cosine[rows][kept] = np.clip(similarity, 0, 1)
    found.sqdist[rows][kept] = own_sqdist = sqdist_beside(unit[kept], known.means[own])
    if len(known.means) > 1:
        scores = products[kept] - known.level
        scores[np.arange(len(kept)), own] = -np.inf
        other = scores.argmax(axis=1)
        other_sqdist = sqdist_beside(unit[kept], known.means[other])
        spread, sizes = known.spread, known.sizes
        found.silhouette[rows][kept] = silhouettes(
            own_sqdist + spread[own], other_sqdist + spread[other], sizes[own]
        )
    return int((similarity < 0).sum())


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
