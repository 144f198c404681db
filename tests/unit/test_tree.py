"""Trees of density clustering: against the hdbscan package, and what weights mean."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpucluster.algorithms import HDBSCAN
from gpucluster.events import Reporter
from gpucluster.ops.granularity import granularities
from gpucluster.ops.labels import canonical_labels
from gpucluster.ops.tree import Rule, condense, dendrogram, flat_clusters, select

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from hdbscan._hdbscan_linkage import label
    from hdbscan.hdbscan_ import _tree_to_labels


def spanning_edges(n_points: int, n_levels: int, n_near: int, seed: int) -> np.ndarray:
    """Return a random spanning tree; few levels make ties and distances of zero."""
    stream = np.random.default_rng(seed)
    joined = np.arange(1, n_points)
    to = joined - 1 - stream.integers(0, np.minimum(joined, n_near))
    distance = (
        stream.integers(0, n_levels, n_points - 1) / 4 if n_levels else stream.random(n_points - 1)
    )
    name = stream.permutation(n_points)
    edges = np.column_stack((name[joined], name[to], distance))
    return edges[np.argsort(distance, kind="stable")]


trees = st.builds(
    spanning_edges,
    st.integers(2, 120),
    st.sampled_from([0, 2, 5, 20, 100]),
    st.sampled_from([1, 3, 1000]),
    st.integers(0, 2**32 - 1),
)
rules = st.builds(
    Rule,
    method=st.sampled_from(["eom", "leaf"]),
    allow_single_cluster=st.booleans(),
    epsilon=st.sampled_from([0.0, 0.0, 0.1, 0.25, 0.5, 1.0, 4.0]),
    max_cluster_size=st.sampled_from([None, None, 3, 8, 25]),
    strict=st.booleans(),
)
sizes = st.integers(2, 15)


def package(edges: np.ndarray, size: int, rule: Rule) -> tuple[Any, Any, Any]:
    labels, strengths, persistence, *_ = _tree_to_labels(
        None,
        label(edges),
        min_cluster_size=size + rule.strict,
        cluster_selection_method=rule.method,
        allow_single_cluster=rule.allow_single_cluster,
        match_reference_implementation=rule.strict,
        cluster_selection_epsilon=rule.epsilon,
        max_cluster_size=rule.max_cluster_size or 0,
    )
    return labels, np.clip(np.nan_to_num(strengths, nan=1.0), 0, 1), persistence


@given(trees)
def test_merges_are_those_of_the_hdbscan_package(edges: np.ndarray) -> None:
    tree = dendrogram(edges)
    found = np.column_stack((tree.children, tree.height, tree.size[tree.n_points :]))
    np.testing.assert_array_equal(found, label(edges))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the package divides by zero heights
@given(trees, sizes, rules)
@example(spanning_edges(2, 0, 1, 0), 2, Rule())
@example(spanning_edges(3, 1, 1, 0), 2, Rule(allow_single_cluster=True))
@example(spanning_edges(60, 20, 1000, 0), 3, Rule(epsilon=0.25, allow_single_cluster=True))
def test_clusters_are_those_of_the_hdbscan_package(
    edges: np.ndarray, size: int, rule: Rule
) -> None:
    labels, strengths, persistence = package(edges, size, rule)
    found = flat_clusters(dendrogram(edges), size, rule)
    np.testing.assert_array_equal(canonical_labels(found.labels), canonical_labels(labels))
    np.testing.assert_allclose(found.strengths, strengths, atol=1e-9)
    assert len(found.persistence) == found.labels.max(initial=-1) + 1
    if rule.epsilon == 0:  # raised clusters: the package reports the mass of those below
        kept = np.unique(labels[labels >= 0])
        np.testing.assert_allclose(found.persistence, persistence[kept], rtol=1e-9)


def expanded(edges: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the spanning tree in which each point is so many, at distance zero."""
    copies, n_more = [], len(weights)
    for point, weight in enumerate(weights):
        copies += [(point, n_more + extra, 0.0) for extra in range(weight - 1)]
        n_more += weight - 1
    return np.concatenate([np.array(copies).reshape(-1, 3), edges])


@given(trees, sizes, st.integers(0, 2**32 - 1))
def test_weights_are_rows_where_no_point_is_a_cluster_alone(
    edges: np.ndarray, size: int, seed: int
) -> None:
    edges = np.add(edges, [0, 0, 0.5])
    weights = np.random.default_rng(seed).integers(1, size, len(edges) + 1)
    tree = dendrogram(edges, weights)
    whole = dendrogram(expanded(edges, weights))
    assert tree.total == whole.n_points
    few, many = condense(tree, size), condense(whole, size)
    np.testing.assert_array_equal(few.parent, many.parent)
    np.testing.assert_array_equal(few.size, many.size)
    np.testing.assert_array_equal(few.birth, many.birth)
    np.testing.assert_allclose(few.stability, many.stability, rtol=1e-9, atol=1e-9)


@given(trees, sizes, rules, st.integers(0, 2**32 - 1))
def test_a_cluster_has_two_points_and_enough_weight(
    edges: np.ndarray, size: int, rule: Rule, seed: int
) -> None:
    weights = np.random.default_rng(seed).integers(1, 100, len(edges) + 1)
    found = flat_clusters(dendrogram(edges, weights), size, rule)
    for cluster in range(len(found.persistence)):
        rows = np.flatnonzero(found.labels == cluster)
        assert len(rows)
        if not (rule.strict or rule.allow_single_cluster):  # these leave rows out afterwards
            assert len(rows) >= 2
            assert weights[rows].sum() >= size
    assert ((found.strengths >= 0) & (found.strengths <= 1)).all()
    assert (found.strengths[found.labels < 0] == 0).all()


@given(trees, sizes, st.integers(0, 2**32 - 1))
def test_barred_clusters_are_not_selected(edges: np.ndarray, size: int, seed: int) -> None:
    tree = condense(dendrogram(edges), size)
    barred = np.random.default_rng(seed).random(len(tree.parent)) < 0.3
    before = barred.copy()
    selected = select(tree, Rule(allow_single_cluster=True), barred)
    assert not (selected & barred).any()
    np.testing.assert_array_equal(barred, before)


@given(trees, st.lists(sizes, min_size=1, max_size=4), st.booleans(), st.integers(0, 2**32 - 1))
@example(spanning_edges(120, 0, 1000, 3), [14, 7, 3], False, 0)
def test_granularities_lie_inside_each_other(
    edges: np.ndarray, asked: list[int], weighted: bool, seed: int
) -> None:
    weights = np.random.default_rng(seed).integers(1, 4, len(edges) + 1) if weighted else None
    tree = dendrogram(edges, weights)
    found = granularities(tree, asked)
    assert found.sizes == tuple(sorted(set(asked), reverse=True))
    assert found.labels_by_level.shape == (len(found.sizes), tree.n_points)
    assert found.labels_by_level.dtype == np.int32
    coarsest = flat_clusters(tree, found.sizes[0], Rule())
    np.testing.assert_array_equal(found.labels_by_level[0], canonical_labels(coarsest.labels))
    assert (found.parents[0] == -1).all()
    for level in range(1, len(found.sizes)):
        fine, coarse = found.labels_by_level[level], found.labels_by_level[level - 1]
        assert len(found.parents[level]) == fine.max() + 1
        for cluster, parent in enumerate(found.parents[level]):
            assert set(coarse[fine == cluster]) == {parent}  # in one of them, or outside all
            assert tree.weights[fine == cluster].sum() >= found.sizes[level]


def test_granularities_divide_and_find_what_was_too_small() -> None:
    # two groups of two halves, and a small group far away: heights 1, 4, 50
    stream = np.random.default_rng(0)
    centers = np.array([[0, 0], [8, 0], [100, 0], [108, 0], [50, 200]])
    counts = [60, 50, 40, 30, 12]
    X = np.repeat(centers, counts, axis=0) + stream.normal(size=(sum(counts), 2))
    tree = HDBSCAN(min_samples=4)._dendrogram(X.astype(np.float32), Reporter(), None)
    found = granularities(tree, [62, 10])
    np.testing.assert_array_equal(np.bincount(found.labels_by_level[0] + 1), [12, 110, 70])
    assert found.labels_by_level[1].max() == 4
    np.testing.assert_array_equal(found.parents[1], [0, 0, 1, 1, -1])
