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


def renumbered(labels: Any, old: Any, new: Labels) -> Labels:
    """Give `labels`, numbered as `old`, the numbers that the same clusters have in `new`.

    Parameters
    ----------
    labels, old : ndarray of shape (n_samples,), integer
        Negative is noise.
    new : ndarray of shape (n_samples,), int32
        The partition of `old` in another numbering, as from `canonical_labels`.

    Returns
    -------
    ndarray of shape (n_samples,), int32
    """
    numbers = np.full(int(old.max(initial=NOISE)) + 2, NOISE, np.int32)
    numbers[old[old >= 0]] = new[old >= 0]
    renamed: Labels = numbers[np.where(labels >= 0, labels, -1)]
    return renamed
