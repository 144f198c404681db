"""How far a name holds: whether documents that no model saw lie nearer to it than to others.

It is measured, and never what a model says of itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from gpucluster.errors import ShapeError
from gpucluster.ops.normalize import unit_rows
from gpucluster.types import Matrix

Embed = Callable[[Sequence[str]], Matrix]

BATCH = 128  # texts that are embedded at a time
TEXT_LIMIT = 2_000  # characters of a document


def embedded(texts: Sequence[str], embed: Embed) -> Matrix:
    """Return embeddings of unit length, (n_texts, n_features) float32."""
    if not texts:
        return np.empty((0, 0), np.float32)
    X = np.asarray(embed([text[:TEXT_LIMIT] for text in texts]), np.float32)
    if X.ndim != 2 or len(X) != len(texts) or not np.isfinite(X).all():
        raise ShapeError(f"got embeddings of shape {X.shape} for {len(texts)} texts, or no numbers")
    found: Matrix = unit_rows(np.ascontiguousarray(X))
    return found


def embedded_in_turn(
    groups: Iterable[tuple[int, Sequence[str]]], embed: Embed, n_threads: int
) -> Iterator[tuple[int, Matrix]]:
    """Embed groups of texts, several groups in a call and several calls at a time.

    Parameters
    ----------
    groups : iterable of (int, sequence of str)
        Taken as calls leave, never all at once.
    embed : callable
    n_threads : int

    Yields
    ------
    key : int
        Of a group, in their order.
    X : ndarray of shape (n_texts, n_features), float32
        Of unit length.
    """
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="embedding")
    on_way: deque[tuple[list[tuple[int, int]], Future[Matrix]]] = deque()
    try:
        for batch in _batches(groups):
            texts = [text for _, own in batch for text in own]
            sizes = [(key, len(own)) for key, own in batch]
            on_way.append((sizes, pool.submit(embedded, texts, embed)))
            if len(on_way) >= 2 * n_threads:
                yield from _parts(*on_way.popleft())
        while on_way:
            yield from _parts(*on_way.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _batches(
    groups: Iterable[tuple[int, Sequence[str]]],
) -> Iterator[list[tuple[int, Sequence[str]]]]:
    """Yield groups that have about `BATCH` texts together."""
    batch: list[tuple[int, Sequence[str]]] = []
    count = 0
    for key, texts in groups:
        if batch and count + len(texts) > BATCH:
            yield batch
            batch, count = [], 0
        batch.append((key, texts))
        count += len(texts)
    if batch:
        yield batch


def _parts(
    sizes: Sequence[tuple[int, int]], future: Future[Matrix]
) -> Iterator[tuple[int, Matrix]]:
    X, start = future.result(), 0
    for key, size in sizes:
        yield key, X[start : start + size]
        start += size


def confidence(held_out: Matrix, own: Any, others: Sequence[Any]) -> float | None:
    """Return the share of documents that lie nearer to their own label than to any other one.

    Parameters
    ----------
    held_out : ndarray of shape (n_documents, n_features), float32
        Members that were not shown to whoever named the cluster.
    own : ndarray of shape (n_features,), float32
        The label's embedding.
    others : sequence of n_others ndarrays of shape (n_features,), float32
        Those of the nearest siblings' labels.

    Returns
    -------
    float or None
        In [0, 1]; a tie with a sibling is no success. None without documents or siblings.
    """
    if not len(held_out) or not len(others):
        return None
    best = (held_out @ np.stack(others).T).max(axis=1)
    return float(np.mean(held_out @ own > best))
