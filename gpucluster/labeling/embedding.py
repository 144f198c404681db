"""Vectors of texts, by whatever embeds them: a model of the provider, or a function of the user's.

Names are paid for before they are embedded: what goes wrong here is said, and costs none of them.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from gpucluster.device.storage import on_disk
from gpucluster.errors import StoreError
from gpucluster.labeling.model.failures import redacted
from gpucluster.labeling.model.protocol import TEXTS_A_CALL
from gpucluster.notation import shown
from gpucluster.ops.normalize import unit_rows
from gpucluster.types import Matrix

Embed = Callable[[Sequence[str]], Any]

TEXT_LIMIT = 2_000  # characters of a document
MESSAGE_LIMIT = 300


class NotEmbeddedError(Exception):
    """Texts that have no embeddings; the message, a line without secrets, says why."""


def guarded(embed: Embed) -> Embed:
    """Return somebody else's function so that all it raises is a `NotEmbeddedError`."""

    def call(texts: Sequence[str]) -> Any:
        try:
            return embed(texts)
        except Exception as error:  # whatever somebody else's code raises
            said = redacted(" ".join(f"{type(error).__name__}: {error}".split()))
            raise NotEmbeddedError(shown(said, MESSAGE_LIMIT)) from error

    return call


class Embedder:
    """Turns texts into vectors of unit length and of one width.

    Parameters
    ----------
    embed : callable
        Gives an array of shape (n_texts, n_features) for a list of texts.
    n_threads : int, default 1
        Calls of it at a time.

    Notes
    -----
    For one thread. Vectors of labels are kept, in temporary files: names that are compared once
    more are not embedded once more. Memory: 260 bytes a label.
    """

    def __init__(self, embed: Embed, n_threads: int = 1) -> None:
        self._embed, self._n_threads = embed, n_threads
        self._width: int | None = None
        self._kept: dict[str, Any] = {}

    def in_turn(self, groups: Iterable[tuple[int, Sequence[str]]]) -> Iterator[tuple[int, Matrix]]:
        """Embed groups of texts, several groups in a call and several calls at a time.

        Parameters
        ----------
        groups : iterable of (int, sequence of str)
            Taken as calls leave, never all at once.

        Yields
        ------
        key : int
            Of a group, in their order.
        X : ndarray of shape (n_texts, n_features), float32
            Of unit length.

        Raises
        ------
        NotEmbeddedError
        """
        pool = ThreadPoolExecutor(self._n_threads, thread_name_prefix="embedding")
        on_way: deque[tuple[list[tuple[int, int]], Future[Matrix]]] = deque()
        try:
            for batch in _batches(groups):
                texts = [text[:TEXT_LIMIT] for _, own in batch for text in own]
                sizes = [(key, len(own)) for key, own in batch]
                on_way.append((sizes, pool.submit(self._embedded, texts)))
                if len(on_way) >= 2 * self._n_threads:
                    yield from self._parts(*on_way.popleft())
            while on_way:
                yield from self._parts(*on_way.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def keep(self, labels: Iterable[str]) -> None:
        """Embed labels that were not embedded before: many in few calls, without returning them.

        Raises
        ------
        NotEmbeddedError
        """
        new = [label for label in dict.fromkeys(labels) if label not in self._kept]
        X: Any = None
        for at, found in self.in_turn((at, [label]) for at, label in enumerate(new)):
            if X is None:
                X = _on_disk(len(new), found.shape[1])
            X[at] = found[0]
            self._kept[new[at]] = X[at]

    def labels(self, labels: Sequence[str]) -> Matrix:
        """Return vectors of labels, (n_labels, n_features) float32; each is embedded once.

        Raises
        ------
        NotEmbeddedError
        """
        self.keep(labels)
        return np.stack([self._kept[label] for label in labels])

    def _embedded(self, texts: Sequence[str]) -> Matrix:
        """Return embeddings of unit length; of no texts without asking for them."""
        if not texts:
            return np.empty((0, 0), np.float32)
        given = self._embed(texts)
        try:
            X = np.asarray(given, np.float32)
        except Exception as error:  # what it is made of is somebody else's too
            name = type(given).__name__
            raise NotEmbeddedError(f"got a {name} that is no array of numbers") from error
        if X.ndim != 2 or len(X) != len(texts) or not X.shape[1]:
            raise NotEmbeddedError(f"got embeddings of shape {X.shape} for {len(texts)} texts")
        if not np.isfinite(X).all():
            raise NotEmbeddedError("got embeddings that are no numbers")
        found: Matrix = unit_rows(np.ascontiguousarray(X))
        return found

    def _parts(
        self, sizes: Sequence[tuple[int, int]], future: Future[Matrix]
    ) -> Iterator[tuple[int, Matrix]]:
        X, start = future.result(), 0
        if len(X):
            self._width = self._width or X.shape[1]
            if X.shape[1] != self._width:
                raise NotEmbeddedError(
                    f"got {X.shape[1]} numbers for a text, and {self._width} for one before"
                )
        for key, size in sizes:
            yield key, X[start : start + size]
            start += size


def _on_disk(n_rows: int, n_features: int) -> Any:
    try:
        return on_disk((n_rows, n_features), tempfile.gettempdir())
    except StoreError as error:
        raise NotEmbeddedError(str(error)) from error


def _batches(
    groups: Iterable[tuple[int, Sequence[str]]],
) -> Iterator[list[tuple[int, Sequence[str]]]]:
    """Yield groups that have about `TEXTS_A_CALL` texts together."""
    batch: list[tuple[int, Sequence[str]]] = []
    count = 0
    for key, texts in groups:
        if batch and count + len(texts) > TEXTS_A_CALL:
            yield batch
            batch, count = [], 0
        batch.append((key, texts))
        count += len(texts)
    if batch:
        yield batch
