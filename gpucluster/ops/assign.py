"""Nearest centre of each row, and the sums that move the centres."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace, to_host
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.nearest import TILE_CENTERS, Search, most_similar, nearest_center
from gpucluster.ops.shards import TILE_ROWS, ByRow, Shard, Shards, part_rows
from gpucluster.types import Labels, Matrix, Vector, Vector64

__all__ = [
    "TILE_CENTERS",
    "TILE_ROWS",
    "LabelSums",
    "Step",
    "cluster_sums",
    "filled_means",
    "lloyd_step",
    "most_similar",
    "nearest_center",
    "part_rows",
    "segment_parts",
    "sums_by_label",
]

GPU_TILE_BYTES = 1 << 30
SEGMENT_ROWS = 256  # of a cluster, that a block of a GPU sums


@dataclass(frozen=True, slots=True)
class Step:
    """One pass of Lloyd's iteration.

    Attributes
    ----------
    labels : ndarray of shape (n_samples,), int32
        Nearest centre; ties to the lower one.
    sqdist : ndarray of shape (n_samples,), float32
        Squared distance to it, up to float32 rounding of the expanded form.
    sums : ndarray of shape (n_clusters, n_features), float64
        Sum of the rows of each centre.
    counts : ndarray of shape (n_clusters,), int64
    """

    labels: Labels
    sqdist: Vector
    sums: Vector64
    counts: Any


@dataclass(slots=True)
class LabelSums:
    """Sums of rows by their label, of the labels that occur.

    Attributes
    ----------
    touched : ndarray of shape (n_touched,), int32
        Rising.
    sums : ndarray of shape (n_touched, n_columns), float64
    """

    touched: Any
    sums: Vector64

    @classmethod
    def of(cls, block: Any, labels: Labels) -> Self:
        """Sum the rows of a block; those labelled -1 are left out."""
        return cls(*sums_by_label(block, labels))

    def __sizeof__(self) -> int:
        """Return the bytes of the arrays, by which Dask decides what travels where."""
        return int(self.touched.nbytes + self.sums.nbytes)

    def add(self, other: LabelSums) -> LabelSums:
        """Return both together; this one is written to."""
        if not len(other.touched):
            return self
        if not np.array_equal(self.touched, other.touched):
            touched = np.union1d(self.touched, other.touched)
            sums = np.zeros((len(touched), self.sums.shape[1]))
            sums[np.searchsorted(touched, self.touched)] = self.sums
            self.touched, self.sums = touched, sums
        self.sums[np.searchsorted(self.touched, other.touched)] += other.sums
        return self


def lloyd_step(X: Matrix, centers: Matrix, reporter: Reporter | None = None) -> Step:
    """Assign every row to its nearest centre and add it to that centre's sum, in one pass.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    centers : ndarray of shape (n_clusters, n_features), float32
    reporter : Reporter, optional
        Asked for cancellation after each block.

    Returns
    -------
    Step

    Notes
    -----
    A tile of products is reduced to labels while it is still in cache. The rows are cut
    into parts by their shape alone, and only centres that a part touches have a partial
    sum in it, so results do not depend on the number of cores. Extra memory: a tile and
    two parts for each core. On a GPU the sums are added atomically, in float64: their last
    bits may differ between runs.
    """
    if is_on_gpu(X):
        return _step_in_namespace(X, centers, reporter)
    n_samples, n_features = X.shape
    n_clusters = len(centers)
    search = Search.by_distance(centers)
    labels = np.empty(n_samples, np.int32)
    sqdist = np.empty(n_samples, np.float32)

    def work(part: slice) -> tuple[Any, Any]:
        for rows in row_blocks(part.stop - part.start, TILE_ROWS):
            labels[part][rows], sqdist[part][rows] = search.nearest(X[part][rows])
        return sums_by_label(X[part], labels[part])

    sums = np.zeros((n_clusters, n_features), np.float64)
    for touched, part_sums in map_blocks(work, n_samples, part_rows(n_samples, n_features)):
        sums[touched] += part_sums
        if reporter is not None:
            reporter.cancel.raise_if_cancelled()
    return Step(labels, sqdist, sums, np.bincount(labels, minlength=n_clusters))


def _step_in_namespace(X: Any, centers: Any, reporter: Reporter | None) -> Step:
    """Do what `lloyd_step` does, with whole-array operations that numpy and CuPy share."""
    xp = namespace(X)
    n_clusters = len(centers)
    half_sqnorms = 0.5 * xp.einsum("ij,ij->i", centers, centers)
    labels = xp.empty(len(X), np.int32)
    sqdist = xp.empty(len(X), np.float32)
    sums = xp.zeros(centers.shape, np.float64)
    for rows in row_blocks(len(X), rows_per_block(4 * n_clusters, GPU_TILE_BYTES)):
        block = X[rows]
        scores = block @ centers.T
        scores -= half_sqnorms
        found = scores.argmax(axis=1)
        best = xp.take_along_axis(scores, found[:, None], axis=1)[:, 0]
        labels[rows] = found
        sqdist[rows] = xp.maximum(xp.einsum("ij,ij->i", block, block) - 2 * best, 0)
        xp.add.at(sums, found, block.astype(np.float64))
        if reporter is not None:
            reporter.cancel.raise_if_cancelled()
    return Step(labels, sqdist, sums, xp.bincount(labels, minlength=n_clusters))


def cluster_sums(X: Matrix, labels: Labels, n_clusters: int) -> Vector64:
    """Return the sum of the rows of each cluster, float64; rows labelled -1 are left out.

    The bits are the same every time, on a GPU as well.
    """
    if is_on_gpu(X):
        on_gpu: Vector64 = _sums_on_gpu(X, labels, n_clusters)
        return on_gpu
    sums = np.zeros((n_clusters, X.shape[1]), np.float64)
    if len(X):
        found = Shards(X, "sums").reduce(_shard_sums, LabelSums.add, ByRow(labels))
        sums[found.touched] = found.sums
    return sums


def _shard_sums(shard: Shard, labels: Labels) -> LabelSums:
    parts = (LabelSums.of(shard.X[rows].astype(np.float64), labels[rows]) for rows in shard.parts())
    return reduce(LabelSums.add, parts)


def _sums_on_gpu(X: Any, labels: Any, n_clusters: int) -> Any:
    """Sum the rows of parts of clusters one after the other, then the parts of each cluster."""
    import cupy

    from gpucluster.device.kernels import SEGMENT_SUMS, launch

    n_features = X.shape[1]
    order = cupy.argsort(labels).astype(np.int32)  # of equal labels the lower row first
    bounds = cupy.asnumpy(cupy.searchsorted(labels[order], cupy.arange(n_clusters + 1)))
    starts, firsts = segment_parts(bounds)
    partial = cupy.empty((len(starts) - 1, n_features), np.float64)
    sums = cupy.empty((n_clusters, n_features), np.float64)
    sizes = len(partial), n_features
    launch(SEGMENT_SUMS[X.dtype.name], X, order, cupy.asarray(starts), *sizes, partial)
    order = cupy.arange(len(partial), dtype=np.int32)
    sizes = n_clusters, n_features
    launch(SEGMENT_SUMS["float64"], partial, order, cupy.asarray(firsts), *sizes, sums)
    return sums


def segment_parts(bounds: Any) -> tuple[Any, Any]:
    """Cut segments into parts of at most `SEGMENT_ROWS`.

    Parameters
    ----------
    bounds : ndarray of shape (n_segments + 1,), int64
        Where each segment begins, and where the last one ends.

    Returns
    -------
    starts : ndarray of shape (n_parts + 1,), int64
        Where each part begins, and where the last one ends.
    firsts : ndarray of shape (n_segments + 1,), int64
        The first part of each segment, and the number of parts.
    """
    counts = -(-np.diff(bounds) // SEGMENT_ROWS)
    firsts = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(firsts[-1]) - np.repeat(firsts[:-1], counts)
    starts = np.repeat(bounds[:-1], counts) + SEGMENT_ROWS * within
    return np.append(starts, bounds[-1]), firsts


def sums_by_label(block: Any, labels: Labels) -> tuple[Any, Any]:
    """Return the labels that occur, rising, and the sum of the rows of each of them.

    Parameters
    ----------
    block : ndarray of shape (rows, n_features), float32 or float64
        Its type is that of the sums.
    labels : ndarray of shape (rows,), int32
        Rows labelled -1 are left out.

    Returns
    -------
    touched : ndarray of shape (n_touched,), int32
    sums : ndarray of shape (n_touched, n_features)
    """
    from scipy.sparse import csc_array

    if labels.min(initial=0) < 0:
        block, labels = block[labels >= 0], labels[labels >= 0]
    touched, codes = np.unique(labels, return_inverse=True)
    membership = csc_array(
        (np.ones(len(codes), block.dtype), codes, np.arange(len(codes) + 1)),
        shape=(len(touched), len(codes)),
    )
    return touched, membership @ block


def filled_means(
    X: Any, rows: Callable[[], tuple[Any, Any]], centers: Any, sums: Any, counts: Any
) -> Any:
    """Return the mean of each cluster; an empty one gets the row farthest from its centre.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        On the device of the other arrays, or on the host, as `counts` is.
    rows : callable
        Returns the label of each row, and its squared distance to its centre.
    centers : array of shape (n_clusters, n_features), float32
        What a cluster keeps that stays empty.
    sums : array of shape (n_clusters, n_features), float64
        Of the rows of each cluster.
    counts : ndarray of shape (n_clusters,), int64

    Returns
    -------
    array of shape (n_clusters, n_features), float32
    """
    xp = namespace(sums)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        sums, counts = sums.copy(), counts.copy()
        labels, sqdist = rows()
        farthest = np.argsort(-to_host(sqdist), kind="stable")[: len(empty) * 4]
        own = to_host(labels[xp.asarray(farthest)])
        donors = [pair for pair in zip(farthest, own, strict=True) if counts[pair[1]] > 1]
        for cluster, (row, donor) in zip(empty, donors, strict=False):
            vector = xp.asarray(X[row])
            sums[donor] -= vector
            counts[donor] -= 1
            sums[cluster], counts[cluster] = vector, 1
    filled = np.flatnonzero(counts)
    means = centers.copy()
    means[filled] = sums[filled] / xp.asarray(counts[filled])[:, None]
    return means
