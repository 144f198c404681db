"""Clusters within clusters: the recursion, the names, the measures, who computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.algorithms import HDBSCAN, KMeans, canonical_labels
from gpucluster.definition import ClusterDefinition
from gpucluster.device.select import Decision
from gpucluster.errors import Cancelled, ConfigError, GpuclusterWarning
from gpucluster.events import CancelToken, Event, Progress, Reporter
from gpucluster.hierarchy import (
    Divider,
    Division,
    Node,
    Split,
    divider,
    division_cost,
    grow,
    nested,
)
from gpucluster.metrics.nested import measure_nodes
from gpucluster.metrics.quality import measure
from gpucluster.ops.nesting import labels_at, node_levels, node_paths, with_descendants
from gpucluster.ops.normalize import unit_rows
from gpucluster.types import NOISE, Hierarchy

ON_CPU = Decision("cpu", "cpu", "asked for")


TRUTH = np.repeat(np.arange(9), 60)  # three parts in each of three groups


def blobs() -> np.ndarray:
    """Return the parts as blobs in the plane, where no layout is needed."""
    X = np.stack([100 * (TRUTH // 3), 10 * (TRUTH % 3)], axis=1)
    return (X + np.random.default_rng(0).normal(scale=0.5, size=X.shape)).astype(np.float32)


def directions() -> np.ndarray:
    """Return the parts as directions in twelve dimensions."""
    X = 2 * np.eye(12)[TRUTH // 3] + np.eye(12)[3 + TRUTH]
    return (X + np.random.default_rng(0).normal(scale=0.1, size=X.shape)).astype(np.float32)


def roots() -> np.ndarray:
    return (TRUTH // 3).astype(np.int32)


def drawn(seed: int, n_parts: int) -> Split:
    """Return a split that gives the rows of any node to parts at random."""

    def split(nodes: Sequence[Node]) -> list[np.ndarray | str]:
        found: list[np.ndarray | str] = []
        for node in nodes:
            stream = np.random.default_rng([seed, node.index])
            labels = stream.integers(-1, stream.integers(1, n_parts + 1), len(node.rows))
            found.append("failed: bad luck" if stream.random() < 0.1 else canonical_labels(labels))
        return found

    return split


@st.composite
def grown(draw: st.DrawFn) -> tuple[np.ndarray, Hierarchy, int]:
    n_samples = draw(st.integers(1, 60))
    labels = draw(st.lists(st.integers(-1, 3), min_size=n_samples, max_size=n_samples))
    flat = canonical_labels(np.array(labels, np.int32))
    levels = draw(st.integers(1, 4))
    split = drawn(draw(st.integers(0, 9)), draw(st.integers(1, 4)))
    return flat, grow(flat, levels, draw(st.integers(2, 8)), split), levels


@given(grown())
def test_the_invariants_of_a_hierarchy(case: tuple[np.ndarray, Hierarchy, int]) -> None:
    flat, found, levels = case
    n_nodes = len(found.parents)
    paths, depth = node_paths(found.parents), node_levels(found.parents)
    own = np.bincount(found.labels[found.labels >= 0], minlength=n_nodes)
    sizes = with_descendants(own, found.parents)

    np.testing.assert_array_equal(labels_at(found.labels, found.parents, 0), flat)
    assert own.sum() == len(flat) - (flat == NOISE).sum()
    assert sizes[depth == 0].sum() == own.sum()
    assert depth.max(initial=0) < levels
    assert (np.diff(depth) >= 0).all()  # level by level
    assert [len(path) - 1 for path in paths] == depth.tolist()
    assert len({path[-1] for path in paths}) == n_nodes
    for node in range(n_nodes):
        children = np.flatnonzero(found.parents == node)
        assert sizes[node] == own[node] + sizes[children].sum()
        assert sizes[node] > 0
        assert (found.reasons[node] is None) == (len(children) > 0)
        assert len(children) != 1
        if len(children):
            assert own[node] <= 0.5 * sizes[node]
            assert (np.diff(sizes[children]) <= 0).all()  # numbered by falling size
            assert [paths[child][:-1] for child in children] == [paths[node]] * len(children)
            assert [paths[child][-1] for child in children] == [
                f"{paths[node][-1]}_sub_{k}" for k in range(len(children))
            ]
    for level in range(levels):  # the members of a child are members of its parent
        above = labels_at(found.labels, found.parents, level)
        below = labels_at(found.labels, found.parents, level + 1)
        for node in np.unique(below[below >= 0]):
            assert len(np.unique(above[below == node])) == 1


@given(grown())
@settings(max_examples=30)
def test_nodes_are_measured_with_all_their_descendants(
    case: tuple[np.ndarray, Hierarchy, int],
) -> None:
    flat, found, _ = case
    X = np.random.default_rng(1).normal(size=(len(flat), 5)).astype(np.float32)
    top = measure(X, flat)
    measured = measure_nodes(X, found, top)
    n_nodes = len(found.parents)
    unit = unit_rows(X).astype(np.float64)
    own = np.bincount(found.labels[found.labels >= 0], minlength=n_nodes)
    np.testing.assert_array_equal(measured.num_members, with_descendants(own, found.parents))
    assert measured.metrics == top.metrics
    depth = node_levels(found.parents)
    for node in range(n_nodes):
        inside = labels_at(found.labels, found.parents, int(depth[node])) == node
        center = unit[inside].mean(axis=0)
        np.testing.assert_allclose(measured.centroids[node], center, atol=1e-6)
        assert inside[measured.medoid_rows[node]]
        cosine = np.clip(unit[inside] @ center / np.linalg.norm(center), 0, 1)
        assert measured.mean_cosine[node] == pytest.approx(cosine.mean(), abs=1e-5)
        assert measured.min_cosine[node] == pytest.approx(cosine.min(), abs=1e-5)
        mine = found.labels == node
        expected = np.clip(unit[mine] @ center / np.linalg.norm(center), 0, 1)
        np.testing.assert_allclose(measured.cosine_similarity[mine], expected, atol=1e-5)
    assert np.isnan(measured.cosine_similarity[flat == NOISE]).all()
    if n_nodes:
        holders = np.flatnonzero(own)
        centers = unit_rows(measured.centroids).astype(np.float64)
        products = unit @ centers.T
        assert set(measured.nearest.tolist()) <= set(holders.tolist())
        best = products[:, holders].max(axis=1)
        np.testing.assert_allclose(products[np.arange(len(X)), measured.nearest], best, atol=1e-5)


@st.composite
def laminar(draw: st.DrawFn) -> np.ndarray:
    """Draw labels that are nested: each level parts the clusters of the one above."""
    n_samples = draw(st.integers(1, 40))
    levels = [np.zeros(n_samples, np.int64)]
    for _ in range(draw(st.integers(1, 4))):
        part = draw(st.lists(st.integers(-1, 2), min_size=n_samples, max_size=n_samples))
        above, part = levels[-1], np.array(part)
        levels.append(np.where((above < 0) | (part < 0), -1, 3 * above + part))
    return np.stack([canonical_labels(level) for level in levels[1:]])


@given(laminar())
def test_nested_labels_become_a_hierarchy(labels_by_level: np.ndarray) -> None:
    found = nested(labels_by_level[0], labels_by_level[1:], levels=10)
    n_nodes = len(found.parents)
    np.testing.assert_array_equal(labels_at(found.labels, found.parents, 0), labels_by_level[0])
    depth = node_levels(found.parents)
    clusters = [
        frozenset(np.flatnonzero(level == k).tolist())
        for level in labels_by_level
        for k in range(level.max() + 1)
    ]
    for node in range(n_nodes):
        inside = labels_at(found.labels, found.parents, int(depth[node])) == node
        assert frozenset(np.flatnonzero(inside).tolist()) in clusters  # nothing is invented


def test_nested_labels_skip_what_is_no_division() -> None:
    levels = np.array([[0] * 8, [0] * 7 + [-1], [0, 0, 0, 0, 1, 1, 1, -1]], np.int32)
    found = nested(levels[0], levels[1:], levels=3)
    assert node_paths(found.parents) == [["cl_0"], ["cl_0", "cl_0_sub_0"], ["cl_0", "cl_0_sub_1"]]
    assert found.labels.tolist() == [1, 1, 1, 1, 2, 2, 2, 0]
    assert found.reasons == (None, "no_split", "no_split")
    assert nested(levels[0], levels[1:], levels=1).reasons == ("depth",)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([0] * 10, "no_split"),
        ([-1] * 10, "no_split"),
        ([0, 0, 1, 1] + [-1] * 6, "too_noisy"),
        ([0, 0, 0, 1, 1] + [-1] * 5, None),
        ("failed: no memory", "failed: no memory"),
    ],
)
def test_a_division_that_is_not_worth_it_is_dropped(
    answer: list[int] | str, reason: str | None
) -> None:
    flat = np.zeros(10, np.int32)
    found = answer if isinstance(answer, str) else np.array(answer, np.int32)
    grown = grow(flat, 2, 10, lambda nodes: [found])
    assert grown.reasons[0] == reason
    assert len(grown.parents) == (1 if reason else 3)
    if reason is None:
        assert grown.labels.tolist() == [1, 1, 1, 2, 2] + [0] * 5
        assert grown.reasons[1:] == ("too_small", "too_small")


def test_all_noise_has_nothing_to_divide() -> None:
    def never(nodes: Sequence[Node]) -> list[np.ndarray | str]:
        raise AssertionError

    found = grow(np.full(7, NOISE, np.int32), 3, 4, never)
    assert found.parents.shape == (0,)
    assert found.reasons == ()
    assert (found.labels == NOISE).all()


def shuffled(all_at_once: Divider, seed: int) -> Split:
    """Return a split that hands the nodes of a level over one by one in another order."""

    def split(nodes: Sequence[Node]) -> list[np.ndarray | str]:
        found: list[np.ndarray | str] = [""] * len(nodes)
        for position in np.random.default_rng(seed).permutation(len(nodes)):
            (found[position],) = all_at_once([nodes[position]])
        return found

    return split


def divided(X: np.ndarray, division: Division, *, order: int | None = None, workers: int = 0):
    with Divider(X, division, ON_CPU, Reporter("divide"), workers=workers) as at_once:
        split: Split = at_once if order is None else shuffled(at_once, order)
        return grow(roots(), division.levels, division.min_split_size, split)


def assert_same(one: Hierarchy, other: Hierarchy) -> None:
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.parents, other.parents)
    assert one.reasons == other.reasons


def test_neither_order_nor_processes_change_a_result() -> None:
    X, division = blobs(), Division(3, 100, 20, 5)
    found = divided(X, division)
    assert len(found.parents) >= 3 + 9
    for part in range(9):
        assert len(np.unique(found.labels[part == TRUTH])) <= 2  # but for a few rows, one node
    for seed in (1, 2):
        assert_same(divided(X, division, order=seed), found)
    for workers in (1, 2):
        assert_same(divided(X, division, workers=workers), found)


def test_layouts_are_seeded_by_the_node() -> None:
    X, division = directions(), Division(2, 100)
    found = divided(X, division)
    assert found.parents.tolist() == [-1] * 3 + [0] * 3 + [1] * 3 + [2] * 3
    assert_same(divided(X, division, order=3), found)
    seeds = {division.seed(f"cl_{k}") for k in range(50)}
    assert len(seeds) == 50
    assert division.seed("cl_7") == Division(5, 4).seed("cl_7")  # settings have no part in it
    assert division.seed("cl_7") != Division(2, 100, random_state=43).seed("cl_7")


def test_a_node_that_fails_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    real = divider.divide_rows

    def fails(X, division, seed, device, reporter):
        if seed == division.seed("cl_1"):
            raise ValueError("no\nluck")
        return real(X, division, seed, device, reporter)

    monkeypatch.setattr(divider, "divide_rows", fails)
    with pytest.warns(GpuclusterWarning, match="cl_1 is not divided: failed: no luck"):
        found = divided(blobs(), Division(2, 100, 20, 5))
    assert found.reasons[1] == "failed: no luck"
    assert 1 not in found.parents
    assert {0, 2} <= set(found.parents.tolist())


@pytest.mark.parametrize("workers", [0, 1])
def test_progress_and_cancelling_between_nodes(workers: int) -> None:
    cancel, seen = CancelToken(), []

    def observe(event: Event) -> None:
        assert isinstance(event, Progress)
        seen.append((event.done, event.total, event.unit))
        cancel.cancel()

    X, division = blobs(), Division(2, 100, 20, 5)
    reporter = Reporter("divide", observe, cancel)
    with (
        pytest.raises(Cancelled),
        Divider(X, division, ON_CPU, reporter, workers=workers) as at_once,
    ):
        grow(roots(), 2, 100, at_once)
    assert seen == [(1, 3, "nodes")]


def test_sizes_come_from_the_top_or_from_the_node() -> None:
    def below(algorithm, min_split_size=None):
        return Division.below(
            algorithm, levels=3, min_split_size=min_split_size, n_samples=1000, random_state=0
        )

    inherited = below(HDBSCAN(min_cluster_size=50, min_samples=10))
    assert inherited.min_split_size == 150
    assert inherited.algorithm(400).min_cluster_size == 50
    assert inherited.algorithm(400).min_samples == 10
    assert below(HDBSCAN(min_cluster_size=20)).min_split_size == 100
    assert below(HDBSCAN(min_cluster_size=20), 30).min_split_size == 30
    derived = below(KMeans())
    assert derived.min_split_size == 100
    assert derived.algorithm(16).min_cluster_size == 5
    assert derived.algorithm(10_000).min_cluster_size == 100
    assert derived.layout(100, 384, 0).n_components == 15
    assert derived.layout(6, 384, 0).n_components == 4
    assert derived.layout(100, 8, 0).n_components == 7
    assert derived.layout(100, 2, 0) is None


def test_the_cost_grows_with_the_work() -> None:
    division = Division(3, 100)
    small, large = (division_cost(n, 64, 10, division) for n in (2_000, 200_000))
    assert small.bytes < large.bytes
    assert small.seconds < large.seconds
    assert division_cost(500, 64, 10, division).seconds == 0  # roots of 50 rows are not divided


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_split_size": 3}, "min_split_size: got 3, expected"),
        ({"max_hierarchy_depth": 0}, "max_hierarchy_depth: got 0, expected"),
        ({"hierarchy_method": "tree"}, "hierarchy_method: got .tree., expected"),
        (
            {"hierarchy_method": "condensed_tree", "algorithm": "kmeans"},
            "hierarchy_method: condensed_tree is a tree of hdbscan, got clustering_method .kmeans.",
        ),
        ({"hierarchy_method": "condensed_tree"}, "condensed_tree is a tree of hdbscan"),
        ({"min_splitsize": 9}, "min_split_size"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ClusterDefinition.parse(hierarchical=True, **settings)
    assert "\n" not in str(caught.value)


def test_settings_of_a_hierarchy_are_free_without_one() -> None:
    parsed = ClusterDefinition.parse(algorithm="kmeans", hierarchy_method="condensed_tree")
    assert parsed.vector_config.division(100, 0) is None
