"""Few directions that tell the neighbours of a row from all others, at a part of the cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.ops.moments import centred_product, moments
from gpucluster.types import Matrix, Rows, Vector

TAUGHT = 8  # rows for each feature from which the directions are learned
SEEN = 16_384  # rows among which neighbours are to be told apart
STEP = 32  # directions; products of fewer are no faster
HELD = 0.85  # share of the variance below which directions never told neighbours apart
LARGEST = 0.75  # share of the features; above it nothing is gained


def narrowed(
    X: Matrix, sqnorms: Vector, rows: Rows, neighbors: Any, n_kept: int, target: float
) -> tuple[Matrix, float]:
    """Project rows on as few directions as leave the neighbours of some of them in sight.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        No large offset common to all rows.
    sqnorms : ndarray of shape (n_samples,), float32
        Their squared norms.
    rows : ndarray of shape (n_drawn,), int64
    neighbors : ndarray of shape (n_drawn, k), int32
        Their nearest rows.
    n_kept : int
        Rows that a search keeps for each row, `k` or more.
    target : float
        Share of `neighbors` that is to be among those kept.

    Returns
    -------
    projected : ndarray of shape (n_samples, n_directions), float32
        `X` itself where few directions do not do.
    share : float
        Of `neighbors` that a search of all rows keeps, by ``|y|^2 - 2 x.y`` with the norms of
        whole rows and the product of projected ones; 1 for `X` itself.

    Notes
    -----
    Norms of whole rows matter: what the product leaves out has a mean near zero, where a
    distance between projected rows would lack what lies outside. The directions are principal
    ones, learned from `TAUGHT` rows for each feature; which rank a neighbour has is counted
    among `SEEN` rows. Extra memory: ``4 * n_samples * n_directions`` bytes.

    References
    ----------
    Few of the rotated dimensions first: Gao, Long 2023, *High-Dimensional Approximate Nearest
    Neighbor Search: with Reliable and Efficient Distance Comparison Operations*,
    doi:10.1145/3589282.
    """
    n_samples, n_features = X.shape
    taught = X[:: max(1, n_samples // (TAUGHT * n_features))]
    values, vectors = moments(np.ascontiguousarray(taught)).eigen()
    total = float(values.sum())
    if total == 0:
        return X, 1.0
    vectors = vectors[:, : int(LARGEST * n_features)]
    zero = np.zeros(n_features)
    every = -(-n_samples // SEEN)
    others = centred_product(np.ascontiguousarray(X[::every]), zero, vectors)
    drawn = centred_product(X[rows], zero, vectors)
    near = centred_product(X[neighbors.ravel()], zero, vectors)
    near = near.reshape(*neighbors.shape, -1)
    others_sqnorms, near_sqnorms = sqnorms[::every], sqnorms[neighbors]
    # nobody is told apart from himself, and neighbours are counted by themselves
    known = np.column_stack((rows, neighbors))
    at, slot = np.nonzero(known % every == 0)
    masked = at, known[at, slot] // every

    dots = np.zeros((len(rows), len(others)), np.float32)
    near_dots = np.zeros(neighbors.shape, np.float32)
    width = 0
    first = int(np.searchsorted(np.cumsum(values), HELD * total)) // STEP * STEP
    while width < vectors.shape[1]:
        part = slice(width, max(width + STEP, first))
        width = part.stop
        dots += drawn[:, part] @ others[:, part].T
        near_dots += np.einsum("if,ijf->ij", drawn[:, part], near[:, :, part])
        keys = others_sqnorms - 2 * dots
        keys[masked] = np.inf
        near_keys = near_sqnorms - 2 * near_dots
        share = float((_ranks(near_keys, keys, every) < n_kept).mean())
        if share >= target:
            return centred_product(X, zero, vectors[:, :width]), share
    return X, 1.0


def _ranks(keys: Any, others: Any, weight: int) -> Any:
    """Return how many come before each key of a row: of the row, and of others that weigh more."""
    foreign = [np.searchsorted(*pair) for pair in zip(np.sort(others, axis=1), keys, strict=True)]
    return keys.argsort(axis=1).argsort(axis=1) + weight * np.array(foreign)
