"""How far a name holds: whether documents that no model saw lie nearer to it than to others.

It is measured, and never what a model says of itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.types import Matrix


def confidence(held_out: Matrix, own: Any, others: Matrix) -> float | None:
    """Return the share of documents that lie nearer to their own label than to any other one.

    Parameters
    ----------
    held_out : ndarray of shape (n_documents, n_features), float32
        Members that were not shown to whoever named the cluster.
    own : ndarray of shape (n_features,), float32
        The label's embedding.
    others : ndarray of shape (n_others, n_features), float32
        Those of the other labels that the nearest siblings have.

    Returns
    -------
    float or None
        In [0, 1]; a tie with a sibling is no success. None without documents or other labels.
    """
    if not len(held_out) or not len(others):
        return None
    best = (held_out @ others.T).max(axis=1)
    return float(np.mean(held_out @ own > best))
