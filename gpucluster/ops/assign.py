"""Nearest centre of each row, and the sums that move the centres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.types import Labels, Matrix, Vector, Vector64

TILE_ROWS = 1024
PARTIALS = 8  # partial sums are cut by rows alone: the total never depends on the number of cores


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
    A tile of rows is multiplied with the centres, reduced to labels, and summed while it
    is still in cache. Extra memory: ``PARTIALS * n_clusters * n_features * 4`` bytes.
    """
    n_samples, n_features = X.shape
    n_clusters = len(centers)
    half_sqnorms = 0.5 * np.einsum("ij,ij->i", centers, centers)
    transposed = np.ascontiguousarray(centers.T)
    labels = np.empty(n_samples, np.int32)
    sqdist = np.empty(n_samples, np.float32)

    def work(part: slice) -> tuple[Matrix, Any]:
        sums = np.zeros((n_clusters, n_features), np.float32)
        tile = np.empty((min(TILE_ROWS, part.stop - part.start), n_clusters), np.float32)
        for rows in row_blocks(part.stop - part.start, TILE_ROWS):
            block = X[part][rows]
            scores = tile[: len(block)]
            np.matmul(block, transposed, out=scores)
            scores -= half_sqnorms
            nearest = scores.argmax(axis=1)
            labels[part][rows] = nearest
            best = scores[np.arange(len(block)), nearest]
            sqdist[part][rows] = np.einsum("ij,ij->i", block, block) - 2 * best
            sums += _membership(nearest, n_clusters) @ block
        return sums, np.bincount(labels[part], minlength=n_clusters)

    sums = np.zeros((n_clusters, n_features), np.float64)
    counts = np.zeros(n_clusters, np.int64)
    part_rows = -(-n_samples // PARTIALS)
    for part_sums, part_counts in map_blocks(work, n_samples, part_rows):
        sums += part_sums
        counts += part_counts
        if reporter is not None:
            reporter.cancel.raise_if_cancelled()
    return Step(labels, np.maximum(sqdist, 0), sums, counts)


def nearest_center(X: Matrix, centers: Matrix) -> Labels:
    """Return the nearest centre of each row by Euclidean distance, ties to the lower one."""
    half_sqnorms = 0.5 * np.einsum("ij,ij->i", centers, centers)
    labels = np.empty(len(X), np.int32)

    def work(rows: slice) -> None:
        labels[rows] = (X[rows] @ centers.T - half_sqnorms).argmax(axis=1)

    for _ in map_blocks(work, len(X), rows_per_block(4 * len(centers))):
        pass
    return labels


def cluster_sums(X: Matrix, labels: Labels, n_clusters: int) -> Vector64:
    """Return the sum of the rows of each cluster, float64; rows labelled -1 are left out."""
    sums = np.zeros((n_clusters, X.shape[1]), np.float64)
    for rows in row_blocks(len(X), rows_per_block(X.shape[1] * 8)):
        kept = labels[rows] >= 0
        block = X[rows][kept].astype(np.float64)
        sums += _membership(labels[rows][kept], n_clusters, np.float64) @ block
    return sums


def _membership(labels: Any, n_clusters: int, dtype: Any = np.float32) -> scipy.sparse.csc_array:
    """Return the (n_clusters, rows) matrix whose product with the rows is their sum by label."""
    ones = np.ones(len(labels), dtype)
    return scipy.sparse.csc_array(
        (ones, labels, np.arange(len(labels) + 1)), shape=(n_clusters, len(labels))
    )
