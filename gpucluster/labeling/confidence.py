"""How far a name holds: whether documents that no model saw lie nearer to it than to others.

It is measured, and never what a model says of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from gpucluster.types import Matrix

Embed = Callable[[Sequence[str]], Matrix]

BATCH = 128  # texts that are embedded at a time
TEXT_LIMIT = 2_000  # characters of a document


def unit_vectors(texts: Iterable[str], embed: Embed) -> Iterator[Matrix]:
    """Yield embeddings of unit length, up to `BATCH` at a time."""
    waiting = iter(texts)
    while batch := list(islice(waiting, BATCH)):
        X = np.asarray(embed([text[:TEXT_LIMIT] for text in batch]), np.float32)
        length = np.linalg.norm(X, axis=1, keepdims=True)
        yield (X / np.where(length > 0, length, 1)).astype(np.float32)


def embedded(texts: Iterable[str], embed: Embed) -> Matrix:
    """Return embeddings of unit length, (n_texts, n_features) float32."""
    found = list(unit_vectors(texts, embed))
    return np.concatenate(found) if found else np.empty((0, 0), np.float32)


def confidence(held_out: Matrix, own: Any, others: Matrix) -> float | None:
    """Return the share of documents that lie nearer to their own label than to any other one.

    Parameters
    ----------
    held_out : ndarray of shape (n_documents, n_features), float32
        Members that were not shown to whoever named the cluster.
    own : ndarray of shape (n_features,), float32
        The label's embedding.
    others : ndarray of shape (n_others, n_features), float32
        Those of the nearest siblings' labels.

    Returns
    -------
    float or None
        In [0, 1]; a tie with a sibling is no success. None without documents or siblings.
    """
    if not len(held_out) or not len(others):
        return None
    return float(np.mean(held_out @ own > (held_out @ others.T).max(axis=1)))
