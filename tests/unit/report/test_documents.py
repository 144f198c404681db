"""Which documents a report tells of, in which order."""

from __future__ import annotations

import numpy as np

from gpucluster.report.documents import (
    N_BOUNDARY,
    N_CENTRAL,
    _classes,
    examples,
    in_order,
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


def test_of_more_classes_than_there_are_numbers_the_rarest_are_none():
    values = [f"c{i}" for i in range(NO_CLASS + 1)]
    classes, numbers = _classes([None, "a", *values, "a"])
    assert classes[0] == "a"
    assert len(classes) == NO_CLASS
    assert numbers[:2].tolist() == [-1, 0]
    known = numbers[2:-1]
    assert np.count_nonzero(known == -1) == 2
    assert all(classes[n] == name for n, name in zip(known, values, strict=True) if n >= 0)
