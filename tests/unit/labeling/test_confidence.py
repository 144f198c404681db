"""Confidence is the share of unseen documents that lie nearest to their own label."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from gpucluster.errors import ShapeError
from gpucluster.labeling.confidence import BATCH, confidence, embedded, embedded_in_turn

X = np.eye(3, dtype=np.float32)


def test_it_counts_the_documents_that_are_nearest_to_their_own_label() -> None:
    documents = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.5, 0.5, 0]], np.float32)
    assert confidence(documents, X[0], [X[1], X[2]]) == 0.5  # a tie is no success


def test_without_documents_or_others_nothing_is_known() -> None:
    assert confidence(X[:0], X[0], [X[1]]) is None
    assert confidence(X, X[0], []) is None


def test_embeddings_are_of_unit_length_and_a_zero_stays_one() -> None:
    found = embedded(["a", "b"], lambda texts: np.array([[3.0, 4.0], [0, 0]]))
    assert found.tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]
    assert found.dtype == np.float32


def test_an_embedder_that_gives_something_else_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 2\) for 2 texts"):
        embedded(["a", "b"], lambda texts: np.zeros((1, 2)))


@pytest.mark.parametrize("n_threads", [1, 4])
def test_groups_come_back_in_their_order_and_calls_are_few(n_threads: int) -> None:
    calls: list[int] = []
    lock = threading.Lock()

    def embed(texts: Sequence[str]) -> np.ndarray:
        with lock:
            calls.append(len(texts))
        return np.array([[float(text), 1] for text in texts])

    groups = [(key, [str(100 * key + i) for i in range(key % 7)]) for key in range(100)]
    found = dict(embedded_in_turn(iter(groups), embed, n_threads))
    assert list(found) == list(range(100))
    for key, texts in groups:
        values = np.array([[float(text), 1] for text in texts]).reshape(-1, 2)
        expected = values / np.linalg.norm(values, axis=1, keepdims=True)
        assert np.allclose(found[key], expected.astype(np.float32)) or not texts
    assert max(calls) <= BATCH
    assert len(calls) == -(-sum(map(len, (texts for _, texts in groups))) // BATCH)
