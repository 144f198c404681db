"""The k-d tree finds what comparing everything with everything finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.ops import blocks
from gpucluster.ops.compiled_kdtree import LEAF_SIZE
from gpucluster.ops.kdtree import KDTree
from gpucluster.ops.neighbors import nearest_neighbors
from gpucluster.ops.spanning import mutual_reachability_tree


@st.composite
def matrices(draw):
    n, d = draw(st.integers(2, 150)), draw(st.integers(1, 5))
    stream = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = stream.normal(size=(n, d))
    if draw(st.booleans()):
        X = X.round()  # equal rows and equal distances
    return X.astype(np.float32)


@given(matrices(), st.integers(2, 20))
@settings(max_examples=50, deadline=None)
def test_neighbors_are_the_exact_ones(X, n_neighbors):
    n_neighbors = min(n_neighbors, len(X))
    found = KDTree(X).neighbors(n_neighbors)
    expected = nearest_neighbors(X, n_neighbors, exact=True)
    assert np.array_equal(found.rows, expected.rows)
    assert np.array_equal(found.sqdist, expected.sqdist)


@given(matrices(), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_nearest_to_other_rows_is_the_exact_one(X, seed):
    stream = np.random.default_rng(seed)
    queries = (stream.normal(size=(40, X.shape[1])) * 2).round(1).astype(np.float32)
    queries[:2] = X[:2]  # a row of the tree finds itself, or a lower one that equals it
    found = KDTree(X).nearest_to(queries)
    gaps = ((queries[:, None].astype(np.float64) - X) ** 2).sum(axis=2)
    assert np.array_equal(found, gaps.argmin(axis=1))


@given(matrices(), st.integers(1, 6), st.sampled_from([1.0, 0.7]))
@settings(max_examples=50, deadline=None)
def test_spanning_tree_weighs_as_much_as_that_of_all_comparisons(X, min_samples, alpha):
    listed = min(len(X), min_samples + 2)
    min_samples = min(min_samples, listed - 1)
    lists = nearest_neighbors(X, listed, exact=True)
    everything = mutual_reachability_tree(X, lists, min_samples, alpha=alpha)
    found = mutual_reachability_tree(X, lists, min_samples, alpha=alpha, tree=KDTree(X))
    assert np.allclose(found[:, 2], everything[:, 2], rtol=1e-12, atol=0)
    assert len(np.unique(found[:, :2])) == len(X)


def test_more_equal_rows_than_a_leaf_holds():
    stream = np.random.default_rng(0)
    X = np.zeros((20 * LEAF_SIZE, 3), np.float32)
    X[:100] = stream.normal(size=(100, 3))
    found = KDTree(X).neighbors(6)
    expected = nearest_neighbors(X, 6, exact=True)
    assert np.array_equal(found.sqdist, expected.sqdist)
    assert np.array_equal(found.rows, expected.rows)


@pytest.mark.parametrize("scale", [1e-22, 1e-20, 1e15])
def test_squares_that_float32_cannot_hold_are_compared_in_float64(scale):
    X = np.random.default_rng(0).normal(size=(3000, 5)).astype(np.float32)
    found, expected = KDTree((X * scale).astype(np.float32)), KDTree(X)
    same = (found.neighbors(10).rows == expected.neighbors(10).rows).mean()
    assert same > 0.999  # rounding of the scaled rows themselves


def test_far_groups_are_joined_by_their_shortest_edges():
    stream = np.random.default_rng(0)
    groups = [stream.normal(size=(400, 3)) + 1000 * shift for shift in range(4)]
    X = np.concatenate(groups).astype(np.float32)
    assert len(X) > 10 * LEAF_SIZE
    tree = KDTree(X)
    edges = mutual_reachability_tree(X, tree.neighbors(4), 3, tree=tree)
    own = np.repeat(np.arange(4), 400)
    between = edges[own[edges[:, 0].astype(int)] != own[edges[:, 1].astype(int)]]
    assert len(between) == 3
    assert (between[:, 2] > 900).all()


def test_number_of_threads_changes_nothing(monkeypatch):
    X = np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(blocks, "n_threads", lambda threads=threads: threads)
        tree = KDTree(X)
        found.append(mutual_reachability_tree(X, tree.neighbors(6), 5, tree=tree))
    assert np.array_equal(*found)


@pytest.mark.parametrize("value", [0.0, 7.5])
def test_equal_rows_end_the_splitting(value):
    X = np.full((300, 2), value, np.float32)
    found = KDTree(X).neighbors(5)
    assert (found.sqdist == 0).all()
    assert np.array_equal(found.rows[10], [10, 0, 1, 2, 3])
