"""Clusters out of eigenvectors without k-means: by rotating them onto indicators."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.ops.blocks import one_blas_thread

MAX_ITERATIONS = 100
UNCHANGED = 1e-10


def discretize(vectors: Any, random_state: int) -> Any:
    """Return the partition whose indicators lie closest to a rotation of the eigenvectors.

    Parameters
    ----------
    vectors : ndarray of shape (n_samples, n_clusters), float64
        Spectral embedding.
    random_state : int
        Seed of the first rotation.

    Returns
    -------
    ndarray of shape (n_samples,), integer

    References
    ----------
    Yu, Shi 2003, *Multiclass spectral clustering*, doi:10.1109/ICCV.2003.1238361.
    """
    n_samples, n_clusters = vectors.shape
    with one_blas_thread:
        points = vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-300)
        points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-300)
        rotation = _spread_rows(points, np.random.default_rng(random_state))
        last = -np.inf
        for _ in range(MAX_ITERATIONS):
            labels = (points @ rotation).argmax(axis=1)
            sums = np.stack(
                [np.bincount(labels, column, minlength=n_clusters) for column in points.T], axis=1
            )
            left, strengths, right = np.linalg.svd(sums)
            if strengths.sum() <= last + UNCHANGED * n_samples:
                break
            last = strengths.sum()
            rotation = (left @ right).T
    return labels


def _spread_rows(points: Any, drawn: np.random.Generator) -> Any:
    """Return, as columns, rows that are as orthogonal to each other as can be found."""
    chosen = [points[drawn.integers(len(points))]]
    overlap = np.zeros(len(points))
    while len(chosen) < points.shape[1]:
        overlap += np.abs(points @ chosen[-1])
        chosen.append(points[overlap.argmin()])
    return np.stack(chosen, axis=1)


def cluster_qr(vectors: Any) -> Any:
    """Return clusters by a pivoted QR factorisation: nothing is drawn, nothing iterated.

    Parameters
    ----------
    vectors : ndarray of shape (n_samples, n_clusters), float64
        Spectral embedding.

    Returns
    -------
    ndarray of shape (n_samples,), integer

    References
    ----------
    Damle, Minden, Ying 2019, doi:10.1093/imaiai/iay008.
    """
    from scipy.linalg import qr

    with one_blas_thread:
        _, pivots = qr(vectors.T, mode="r", pivoting=True)
        left, _, right = np.linalg.svd(vectors[pivots[: vectors.shape[1]]].T)
        return np.abs(vectors @ (left @ right)).argmax(axis=1)
