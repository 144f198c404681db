"""Texts become vectors, each label once, and whoever makes them badly costs no name."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from gpucluster.labeling.embedding import Embedder, NotEmbeddedError, guarded
from gpucluster.labeling.model.protocol import TEXTS_A_CALL


def of(embed: Any, texts: Sequence[str]) -> np.ndarray:
    [(_, X)] = Embedder(guarded(embed)).in_turn([(0, texts)])
    return X


def test_embeddings_are_of_unit_length_and_a_zero_stays_one() -> None:
    found = of(lambda texts: np.array([[3.0, 4.0], [0, 0]]), ["a", "b"])
    assert found.tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((1, 2)), r"shape \(1, 2\) for 2 texts"),
        (np.zeros(2), r"shape \(2,\) for 2 texts"),
        (np.zeros((2, 0)), r"shape \(2, 0\) for 2 texts"),
        (np.full((2, 2), np.nan), "no numbers"),
        (np.full((2, 2), 1e300), "no numbers"),
        (csr_matrix(np.eye(2)), "csr_matrix that is no array"),
        ([[1.0], [1.0, 2.0]], "list that is no array"),
        ([["a"], ["b"]], "list that is no array"),
        (None, r"shape \(\) for 2 texts"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_is_no_embedding_is_said_to_be_none(given: Any, said: str) -> None:
    with pytest.raises(NotEmbeddedError, match=said):
        of(lambda texts: given, ["a", "b"])


def test_what_is_raised_is_said_in_a_line_without_secrets() -> None:
    def embed(texts: Sequence[str]) -> Any:
        raise RuntimeError("no\nluck with sk-abcdefghijkl at https://me:word@host" + "." * 1000)

    with pytest.raises(NotEmbeddedError) as error:
        of(embed, ["a"])
    said = str(error.value)
    assert said.startswith("RuntimeError: no luck with [redacted] at https://[redacted]@host")
    assert len(said) <= 300


def test_all_vectors_have_the_width_of_the_first() -> None:
    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), len(texts)))

    embedder = Embedder(embed)
    assert embedder.labels(["a", "b"]).shape == (2, 2)
    with pytest.raises(NotEmbeddedError, match="got 3 numbers for a text, and 2 for one before"):
        embedder.labels(["c", "d", "e"])


def test_each_label_is_embedded_once() -> None:
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[float(text), 1] for text in texts])

    embedder = Embedder(embed)
    labels = [str(label) for label in range(300)]
    embedder.keep(labels[:200])
    X = embedder.labels([*labels, "7", "7"])
    assert asked == labels
    expected = np.array([[float(label), 1] for label in [*labels, "7", "7"]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(X, expected)
    assert X.dtype == np.float32
    assert (embedder.labels(["5", "250"]) == X[[5, 250]]).all()


def test_a_full_disk_costs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(NotEmbeddedError, match="cannot be kept"):
        Embedder(lambda texts: np.ones((len(texts), 2))).labels(["a"])


@pytest.mark.parametrize("n_threads", [1, 4])
def test_groups_come_back_in_their_order_and_calls_are_few(n_threads: int) -> None:
    calls: list[int] = []
    lock = threading.Lock()

    def embed(texts: Sequence[str]) -> np.ndarray:
        with lock:
            calls.append(len(texts))
        return np.array([[float(text), 1] for text in texts])

    groups = [(key, [str(100 * key + i) for i in range(key % 7)]) for key in range(100)]
    found = dict(Embedder(embed, n_threads).in_turn(iter(groups)))
    assert list(found) == list(range(100))
    for key, texts in groups:
        values = np.array([[float(text), 1] for text in texts]).reshape(-1, 2)
        expected = values / np.linalg.norm(values, axis=1, keepdims=True)
        assert np.allclose(found[key], expected.astype(np.float32)) or not texts
    assert max(calls) <= TEXTS_A_CALL
    assert len(calls) == -(-sum(map(len, (texts for _, texts in groups))) // TEXTS_A_CALL)
