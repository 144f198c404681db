"""Nearest centre of each row, and the sums that move the centres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace, to_host
from gpucluster.device.memory import rows_per_block
from gpucluster.device.select import Device
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.certified import CertifiedSearch
from gpucluster.ops.half import coarse_middle, sample_of
from gpucluster.ops.normalize import offset, row_norms, unit_rows
from gpucluster.ops.pairs import pair_sqdist
from gpucluster.ops.streaming import each_block, workplace
from gpucluster.types import Labels, Matrix, Vector, Vector64

TILE_ROWS, TILE_CENTERS = 1024, 4096  # of one product: 16 MB
GPU_TILE_BYTES = 1 << 30
PARTS = 32  # that many parts or more, where there are rows enough
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
    search = _Search(centers)
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


def nearest_center(X: Matrix, centers: Matrix) -> Labels:
    """Return the nearest centre of each row by Euclidean distance, ties to the lower one."""
    search = _Search(centers)
    labels = np.empty(len(X), np.int32)

    def work(rows: slice) -> None:
        labels[rows] = search.nearest(X[rows])[0]

    for _ in map_blocks(work, len(X), TILE_ROWS):
        pass
    return labels


def most_similar(X: Matrix, directions: Matrix, device: Device = "cpu") -> tuple[Labels, Vector]:
    """Return the direction with the largest cosine to each row, and that cosine.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Of any length; no zero row.
    directions : ndarray of shape (n_directions, n_features), float32
        Of unit length.
    device : {"cpu", "gpu"}, default "cpu"
        On a GPU the search is certified, and similarities are of float64.

    Returns
    -------
    nearest : ndarray of shape (n_samples,), int32
        Ties to the lower one.
    similarity : ndarray of shape (n_samples,), float32
        In [-1, 1].
    """
    nearest = np.empty(len(X), np.int32)
    similarity = np.empty(len(X), np.float32)
    if device == "gpu":
        _most_similar_on_gpu(X, directions, nearest, similarity)
        return nearest, similarity
    for rows in row_blocks(len(X), rows_per_block(8 * X.shape[1])):
        unit = unit_rows(X[rows])
        nearest[rows] = found = nearest_center(unit, directions)
        similarity[rows] = np.clip(np.einsum("ij,ij->i", unit, directions[found]), -1, 1)
    return nearest, similarity


def _most_similar_on_gpu(
    X: Matrix, directions: Matrix, nearest: Labels, similarity: Vector
) -> None:
    """Fill `nearest` and `similarity`."""
    rows, xp = workplace(X, "gpu")
    centers = xp.asarray(directions, np.float64)
    sqnorms = xp.einsum("ij,ij->i", centers, centers)
    shift = coarse_middle(unit_rows(xp.asarray(sample_of(rows))))
    search = CertifiedSearch.of(centers, shift, -sqnorms)

    def work(part: slice, block: Any) -> None:
        unit = unit_rows(block)
        found = search.nearest(unit).labels
        sqdist = pair_sqdist(unit, centers, xp.arange(len(unit), dtype=np.int32), found)
        lengths = xp.square(row_norms(unit))
        nearest[part] = to_host(found)
        similarity[part] = np.clip(to_host(lengths + sqnorms[found] - sqdist) / 2, -1, 1)

    each_block(work, rows, xp)


def cluster_sums(X: Matrix, labels: Labels, n_clusters: int) -> Vector64:
    """Return the sum of the rows of each cluster, float64; rows labelled -1 are left out.

    The bits are the same every time, on a GPU as well.
    """
    if is_on_gpu(X):
        on_gpu: Vector64 = _sums_on_gpu(X, labels, n_clusters)
        return on_gpu
    sums = np.zeros((n_clusters, X.shape[1]), np.float64)
    for rows in row_blocks(len(X), rows_per_block(X.shape[1] * 8)):
        touched, part = sums_by_label(X[rows].astype(np.float64), labels[rows])
        sums[touched] += part
    return sums


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


def part_rows(n_samples: int, n_features: int) -> int:
    """Return how many rows one task takes: whole tiles, of many rows enough for any core."""
    tiles = min(n_samples // PARTS, rows_per_block(4 * n_features)) // TILE_ROWS
    return max(1, tiles) * TILE_ROWS


class _Search:
    """Nearest of fixed centres, by ``|x|^2 + |c|^2 - 2 x.c`` in float32.

    A large offset that is common to the centres is taken off both sides first.
    """

    def __init__(self, centers: Matrix) -> None:
        self.shift = offset(centers)
        self.centers = centers if self.shift is None else centers - self.shift
        self.half_sqnorms = 0.5 * np.einsum("ij,ij->i", self.centers, self.centers)

    def nearest(self, tile: Matrix) -> tuple[Labels, Vector]:
        """Return the nearest centre of each row, ties to the lower, and its squared distance."""
        tile = tile if self.shift is None else tile - self.shift
        own = np.arange(len(tile))
        nearest = np.zeros(len(tile), np.int32)
        best = np.full(len(tile), -np.inf, np.float32)
        for cols in row_blocks(len(self.centers), TILE_CENTERS):
            scores = tile @ self.centers[cols].T
            scores -= self.half_sqnorms[cols]
            found = scores.argmax(axis=1)
            score = scores[own, found]
            closer = score > best
            nearest[closer], best[closer] = found[closer] + cols.start, score[closer]
        return nearest, np.maximum(np.einsum("ij,ij->i", tile, tile) - 2 * best, 0)
