"""Place rows in a layout that was made of others."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.device.cores import n_threads
from gpucluster.device.memory import BLOCK_BYTES, rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks
from gpucluster.types import Cost, Matrix


def placement_cost(n_samples: int, n_features: int, n_landmarks: int) -> Cost:
    """Return the cost of `place`."""
    flop = 2.0 * n_samples * n_landmarks * n_features
    selecting = 6e-9 * n_samples * n_landmarks
    return Cost(2 * n_threads() * BLOCK_BYTES, flop / 150e9 + selecting, "landmarks")


def place(
    X: Matrix, landmarks: Matrix, layout: Matrix, n_neighbors: int, reporter: Reporter | None = None
) -> Matrix:
    """Return the weighted mean of the layout of the nearest landmarks of each row.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Rows in the space where `landmarks` lie.
    landmarks : ndarray of shape (n_landmarks, n_features), float32
    layout : ndarray of shape (n_landmarks, n_components), float32
        Where the landmarks are in the layout.
    n_neighbors : int
        How many landmarks place a row.
    reporter : Reporter, optional
        Told after each block.

    Returns
    -------
    ndarray of shape (n_samples, n_components), float32

    Notes
    -----
    Weights fall as ``exp(-(d^2 - d_0^2) / w)``, with the distance ``d_0`` of the nearest and
    the mean ``w`` of the exponents' numerators, so a row that is a landmark lies near its
    place. Extra memory: a block of 32 MiB for each core, and what sorts it.
    """
    sqnorms = np.einsum("ij,ij->i", landmarks, landmarks)
    placed = np.empty((len(X), layout.shape[1]), np.float32)
    k = min(n_neighbors, len(landmarks))
    # products, keys and int64 order of one row with all landmarks, and its neighbours' layout
    row_bytes = 20 * len(landmarks) + 4 * k * layout.shape[1]

    def work(rows: slice) -> None:
        keys = sqnorms - 2 * (X[rows] @ landmarks.T)
        nearest = np.argpartition(keys, k - 1, axis=1)[:, :k]
        sqdist = np.take_along_axis(keys, nearest, axis=1)
        sqdist -= sqdist.min(axis=1, keepdims=True)
        width = np.maximum(sqdist.mean(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        weights: Any = np.exp(-sqdist / width)
        weights /= weights.sum(axis=1, keepdims=True)
        placed[rows] = np.einsum("ij,ijk->ik", weights, layout[nearest])

    for _ in map_blocks(work, len(X), rows_per_block(row_bytes), reporter):
        pass
    return placed
