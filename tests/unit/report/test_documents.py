"""Which documents a report tells of, in which order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from gpucluster.report.documents import (
    N_BOUNDARY,
    N_CENTRAL,
    classes_of,
    examples,
    in_order,
    taken,
)
from gpucluster.report.points import NO_CLASS


def test_examples_are_nearest_and_farthest_of_each_cluster():
    labels = np.repeat([-1, 0, 1, 2], [5, 1, 4, 20]).astype(np.int32)
    similarity = np.random.default_rng(0).random(len(labels), dtype=np.float32)
    similarity[labels < 0] = np.nan
    found = examples(labels, similarity)
    assert len(set(found.members.tolist())) == len(found.members)
    for cluster, size in ((0, 1), (1, 4), (2, 20)):
        own = labels[found.members] == cluster
        by_similarity = np.flatnonzero(labels == cluster)[
            np.argsort(-similarity[labels == cluster], kind="stable")
        ]
        central = found.members[own & found.is_central].tolist()
        assert central == by_similarity[:N_CENTRAL].tolist()
        boundary = found.members[own & ~found.is_central].tolist()
        n_boundary = min(N_BOUNDARY, max(0, size - N_CENTRAL))
        assert boundary == by_similarity[::-1][:n_boundary].tolist()
    assert labels[found.members[:3]].tolist() == [0, 1, 2]  # one of each first


def test_noise_alone_has_no_examples():
    found = examples(np.full(3, -1, np.int32), np.full(3, np.nan, np.float32))
    assert len(found.members) == 0
    assert sorted(in_order(found, np.arange(0), 3).tolist()) == [0, 1, 2]


def test_each_is_told_of_once_examples_first():
    labels = np.repeat([0, 1], 50).astype(np.int32)
    found = examples(labels, np.linspace(0, 1, 100, dtype=np.float32))
    told = in_order(found, np.arange(10, 100), 100)
    assert told[: len(found.members)].tolist() == found.members.tolist()
    assert len(set(told.tolist())) == len(told)
    assert set(told.tolist()) == {*found.members.tolist(), *range(10, 100)}


def test_of_many_documents_a_uniform_sample_is_told_of(monkeypatch):
    monkeypatch.setattr("gpucluster.report.documents.MOST_DOCUMENTS", 400)
    labels = np.repeat([0, 1], 5_000).astype(np.int32)
    found = examples(labels, np.linspace(0, 1, 10_000, dtype=np.float32))
    told = in_order(found, np.arange(10_000), 10_000)
    assert len(told) == 400
    others = told[len(found.members) :]
    assert np.histogram(others, 4, (0, 10_000))[0].min() > 60
    assert told.tolist() == in_order(found, np.arange(10_000), 10_000).tolist()


def test_of_more_classes_than_there_are_numbers_the_rarest_are_none():
    values = [f"c{i}" for i in range(NO_CLASS + 1)]
    truth = pa.chunked_array([[None, "a"], values, [], ["a", ""]], pa.large_string())
    classes, numbers = classes_of(truth)
    assert classes[0] == "a"
    assert len(classes) == NO_CLASS
    assert numbers[:2].tolist() == [-1, 0]
    assert numbers[-2:].tolist() == [0, -1]
    known = numbers[2:-2]
    assert np.count_nonzero(known == -1) == 2
    assert all(classes[n] == name for n, name in zip(known, values, strict=True) if n >= 0)


def test_classes_are_told_apart_by_all_that_is_in_them():
    given = ["b", "a\0", "a", None, "a", "b", "c" * 100_000, "a\0"]
    classes, numbers = classes_of(pa.chunked_array([given], pa.large_string()))
    assert classes == ["a", "a\0", "b", "c" * 100_000]
    assert numbers.tolist() == [2, 1, 0, -1, 0, 2, 3, 1]
    nothing, none = classes_of(pa.chunked_array([], pa.large_string()))
    assert (nothing, none.tolist()) == ([], [])


def test_values_are_taken_out_of_more_text_than_one_array_holds():
    chunk = pa.array(["x" * (1 << 24), "a", "b"])
    ids = pa.chunked_array([chunk.slice(i % 2) for i in range(260)])  # 2 GiB, held once
    starts = np.cumsum([0, *map(len, ids.chunks)])
    places = np.array([starts[129] + 1, starts[3], starts[128] + 2, starts[4] + 1])
    assert taken(ids, places).to_pylist() == ["b", "a", "b", "a"]
    with pytest.raises(pa.ArrowInvalid, match="overflow"):  # why it is not taken by Arrow
        ids.take(pa.array(places))
    assert taken(ids.slice(0, 0), np.array([], np.int64)).to_pylist() == []
