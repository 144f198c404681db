"""Documents that speak for a cluster: near, different, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.labeling.representatives import N_HELD_OUT, POOL, candidates, pick

FLAT = np.full(3, -1, np.int32)


def unit(X: np.ndarray) -> np.ndarray:
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def test_the_nearest_come_first_and_noise_never() -> None:
    labels = np.array([0, -1, 1, 0, 0, 1], np.int32)
    similarity = np.array([0.2, 0.99, 0.5, 0.9, 0.4, 0.6], np.float32)
    found = candidates(labels, similarity, np.arange(6), FLAT, n_shown=1)
    assert [at.tolist() for at in found.near] == [[3, 4, 0], [5, 2], []]
    assert [at.tolist() for at in found.edge] == [[0, 4], [2, 5], []]


def test_ties_go_to_the_lower_row_whatever_the_order_of_the_members() -> None:
    labels = np.zeros(4, np.int32)
    rows = np.array([7, 3, 5, 1])
    similarity = np.full(4, 0.5, np.float32)
    found = candidates(labels, similarity, rows, FLAT[:1], n_shown=1)
    assert rows[found.near[0]].tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("noise", [0, 1e-7, 1e-4])
def test_copies_do_not_hide_what_lies_behind_them(noise: float) -> None:
    rng = np.random.default_rng(0)
    center = unit(rng.normal(size=(1, 64)))[0]
    behind = unit(center + rng.normal(size=(141, 64)) / 8)
    copies = np.repeat(unit(center[None] + 0.01), 60, axis=0)
    X = unit(np.concatenate((behind, copies + noise * rng.normal(size=copies.shape))))
    similarity = X @ center
    assert set(np.argsort(similarity)[-60:]) == {*range(141, 201)}
    labels = np.zeros(201, np.int32)
    [near] = candidates(labels, similarity, np.arange(201), FLAT[:1], n_shown=5).near
    assert len(near) == 5 * POOL
    shown = near[pick(X[near], similarity[near], 5)]
    assert shown[0] == np.argmax(similarity)
    assert len(shown) == 5
    assert np.count_nonzero(shown > 140) == 1


def test_documents_that_are_all_as_near_are_candidates_all_the_same() -> None:
    similarity = np.repeat(np.array([0.5, 0.4], np.float32), [8, 30])
    labels = np.zeros(38, np.int32)
    [near] = candidates(labels, similarity, np.arange(38), FLAT[:1], n_shown=1).near
    assert near.tolist() == [*range(8), 8, 9]
    [near] = candidates(labels, similarity[::-1], np.arange(38), FLAT[:1], n_shown=1).near
    assert near.tolist() == [*range(30, 38), 0, 1]


def test_a_divided_cluster_hears_each_of_its_children() -> None:
    parents = np.array([-1, 0, 0], np.int32)
    labels = np.repeat(np.array([1, 2], np.int32), [40, 3])
    similarity = np.linspace(1, 0, 43).astype(np.float32)
    found = candidates(labels, similarity, np.arange(43), parents, n_shown=1)
    assert found.near[0].tolist()[:6] == [0, 40, 1, 41, 2, 42]
    assert len(found.near[0]) == POOL


def test_what_is_held_out_lies_all_over_the_cluster() -> None:
    labels = np.zeros(1000, np.int32)
    similarity = np.linspace(1, 0, 1000).astype(np.float32)
    [spread] = candidates(labels, similarity, np.arange(1000), FLAT[:1], n_shown=5).spread
    assert len(spread) == N_HELD_OUT
    assert np.allclose(np.diff(spread), 1000 / (N_HELD_OUT + 1), atol=1)


def test_unknown_similarity_counts_as_least() -> None:
    similarity = np.array([np.nan, 0.1], np.float32)
    [near] = candidates(np.zeros(2, np.int32), similarity, np.arange(2), FLAT[:1], n_shown=1).near
    assert near.tolist() == [1, 0]


def test_the_first_is_the_nearest_and_the_second_another_one() -> None:
    X = unit(np.array([[1, 0, 0.1], [1, 0, 0.11], [0.6, 0.8, 0]]))
    relevance = np.array([0.95, 0.949, 0.8], np.float32)
    assert pick(X, relevance, 2) == [0, 2]


def test_copies_are_not_shown_twice() -> None:
    X = unit(np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]]))
    assert pick(X, np.array([0.9, 0.9, 0.9, 0.1], np.float32), 4) == [0, 3]


def test_nothing_comes_of_nothing() -> None:
    assert pick(np.empty((0, 3), np.float32), np.empty(0, np.float32), 5) == []


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_picks_are_distinct_the_same_each_time_and_as_many_as_there_are(
    n_rows: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    X = unit(rng.normal(size=(n_rows, 16)))
    relevance = rng.random(n_rows).astype(np.float32)
    chosen = pick(X, relevance, count)
    assert chosen == pick(X, relevance, count)
    assert len(set(chosen)) == len(chosen) == min(n_rows, count)
    assert chosen[0] == int(np.argmax(relevance))


@pytest.mark.parametrize("n_clusters", [1, 5000])
def test_lists_stay_short_however_many_clusters(n_clusters: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_clusters, 20_000).astype(np.int32)
    found = candidates(
        labels,
        rng.random(20_000).astype(np.float32),
        np.arange(20_000),
        np.full(n_clusters, -1, np.int32),
        n_shown=2,
    )
    assert max(map(len, found.near)) <= 2 * POOL
