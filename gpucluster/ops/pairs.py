"""Squared distances of pairs of rows and centres, in float64, without a matrix of all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.device.memory import rows_per_block
from gpucluster.ops.blocks import row_blocks

EXACT_BYTES = 64 << 20  # of what is compared in float64 at a time


def pair_sqdist(X: Any, centers: Any, rows: Any, labels: Any) -> Any:
    """Return the squared distance of each pair of a row and a centre, by differences in float64.

    Parameters
    ----------
    X : array of shape (n_rows, n_features), float32, C-contiguous
        Its device decides where the work runs.
    centers : array of shape (n_centers, n_features), float32 or float64, C-contiguous
    rows, labels : arrays of shape (n_pairs,), int32
        The pairs; a negative label is no centre.

    Returns
    -------
    array of shape (n_pairs,), float64
        0 without a centre.
    """
    xp = namespace(X)
    sqdist = xp.zeros(len(rows), np.float64)
    if is_on_gpu(X):
        from gpucluster.device.kernels import PAIR_SQDIST, launch

        launch(
            PAIR_SQDIST[centers.dtype.name], X, centers, rows, labels, len(rows), X.shape[1], sqdist
        )
        return sqdist
    for part in row_blocks(len(rows), rows_per_block(16 * X.shape[1], EXACT_BYTES)):
        gap = X[rows[part]].astype(np.float64) - centers[labels[part]]
        sqdist[part] = np.einsum("ij,ij->i", gap, gap)
    sqdist[labels < 0] = 0
    return sqdist


def by_distance(rows: Any, centers: Any, keys: Any) -> Any:
    """Return the order of pairs by row, then by key, then by centre.

    Parameters
    ----------
    rows, centers : arrays of shape (n_pairs,), int32
    keys : array of shape (n_pairs,), float64

    Returns
    -------
    array of shape (n_pairs,), int64
    """
    xp = namespace(rows)
    return xp.lexsort(xp.stack((centers.astype(np.float64), keys, rows.astype(np.float64))))
