"""The numbering of clusters."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.types import NOISE, Labels


def canonical_labels(labels: Any) -> Labels:
    """Renumber clusters by falling size, ties by smallest first row; noise becomes -1.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), integer
        Any numbering; negative is noise.

    Returns
    -------
    ndarray of shape (n_samples,), int32
    """
    kept = labels >= 0
    found, first, inverse, counts = np.unique(
        labels[kept], return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -counts))
    rank = np.empty(len(found), np.int32)
    rank[order] = np.arange(len(found), dtype=np.int32)
    canonical = np.full(len(labels), NOISE, np.int32)
    canonical[kept] = rank[inverse]
    return canonical
