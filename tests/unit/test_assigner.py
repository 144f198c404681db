"""Rows find the cluster that float64 finds, and calibration says what fitted rows are like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.assignment import Assigner, calibrate, calibrated, check_threshold, cosine_beside
from gpucluster.comparison import place_rows
from gpucluster.device.select import Decision
from gpucluster.errors import ConfigError
from gpucluster.events import Muted
from gpucluster.ops.nesting import flat
from gpucluster.ops.normalize import unit_rows
from gpucluster.types import Hierarchy

FREE = np.float32(-1)


def matrix(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def assigner(k: int, d: int, *, seed: int = 0, **changes: object) -> Assigner:
    directions = unit_rows(matrix(k, d, seed))
    fields = {
        "directions": directions,
        "parents": np.full(k, -1, np.int32),
        "thresholds": np.full(k, FREE, np.float32),
    }
    return Assigner(**(fields | changes))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 12), st.floats(-1, 1), st.integers(0, 99)
)
def test_flat_clusters_are_joined_as_float64_says(
    n: int, k: int, d: int, threshold: float, seed: int
) -> None:
    X, clusters = matrix(n, d, seed), assigner(k, d, seed=seed + 1).with_threshold(threshold)
    found = clusters.assign(X)
    unit = X.astype(np.float64) / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    cosine = unit @ clusters.directions.astype(np.float64).T
    best = cosine.max(axis=1)
    np.testing.assert_allclose(found.similarity, best, atol=2e-6)
    np.testing.assert_allclose(cosine[np.arange(n), found.nearest], best, atol=2e-6)
    joined = found.labels >= 0
    np.testing.assert_array_equal(joined, found.similarity >= np.float32(threshold))
    np.testing.assert_array_equal(found.labels[joined], found.nearest[joined])


def test_means_decide_who_is_nearest_and_directions_whether_that_is_near() -> None:
    X, means = matrix(200, 6, 1), matrix(4, 6, 2)
    clusters = assigner(4, 6, means=means, metric="euclidean").with_threshold(0.1)
    found = clusters.assign(X)
    sqdist = ((X[:, None] - means) ** 2).sum(axis=2)
    np.testing.assert_array_equal(found.nearest, sqdist.argmin(axis=1))
    beside = (unit_rows(X) * clusters.directions[found.nearest]).sum(axis=1)
    np.testing.assert_allclose(found.similarity, beside, atol=1e-6)
    np.testing.assert_array_equal(found.labels >= 0, found.similarity >= np.float32(0.1))


def test_rows_go_down_until_they_miss() -> None:
    directions = np.eye(6, dtype=np.float32)[[0, 1, 2, 3, 4]]
    parents = np.array([-1, -1, 0, 0, 3], np.int32)
    thresholds = np.array([0.3, 0.3, 0.3, 0.3, 0.6], np.float32)
    clusters = Assigner(directions, parents, thresholds)
    X = np.array(
        [
            [9, 0, 0, 0, 0, 0],  # the root, and no child
            [9, 0, 5, 1, 0, 0],  # its first child
            [9, 0, 1, 5, 1, 0],  # its second child; the grandchild is too far
            [9, 0, 0, 6, 20, 0],  # no child, though a grandchild is near
            [5, 0, 0, 4, 9, 0],  # all the way down
            [0, 1, 9, 9, 9, 9],  # children of others do not matter
        ],
        np.float32,
    )
    found = clusters.assign(X)
    assert found.labels.tolist() == [0, 2, 3, 0, 4, -1]
    assert found.nearest.tolist() == [0, 2, 3, 0, 4, 1]


def test_ties_go_to_the_lower_cluster() -> None:
    clusters = Assigner(
        np.ones((3, 2), np.float32) / np.sqrt(2, dtype=np.float32),
        np.full(3, -1, np.int32),
        np.full(3, FREE, np.float32),
    )
    assert clusters.assign(np.ones((4, 2), np.float32)).labels.tolist() == [0] * 4


def test_without_clusters_all_is_noise() -> None:
    found = assigner(0, 3).assign(matrix(5, 3, 0))
    assert found.labels.tolist() == [-1] * 5
    assert found.nearest.tolist() == [-1] * 5
    assert np.isnan(found.similarity).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean", None])
def test_a_gpu_says_the_same(stand_in: object, metric: str | None) -> None:
    X = matrix(500, 24, 3)
    means = None if metric is None else matrix(7, 24, 4)
    parents = np.array([-1] * 7 + [2, 2, 5], np.int32)
    clusters = Assigner(
        unit_rows(matrix(10, 24, 5)),
        parents,
        np.full(10, 0.05, np.float32),
        means,
        metric or "cosine",
    )
    expected = clusters.assign(X)
    found = clusters.assign(X, device="gpu")
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-6)
    decision = Decision("auto", "cpu", "asked for")
    placed, device = place_rows(clusters, X, None, decision, Muted("assign"))
    assert device == "cpu"
    np.testing.assert_array_equal(placed.labels, expected.labels)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 4), st.floats(-1, 1, width=32)), max_size=60))
def test_calibrated_thresholds_are_low_quantiles(members: list[tuple[int, float]]) -> None:
    labels = np.array([label for label, _ in members], np.int32)
    cosine = np.array([value for _, value in members], np.float32)
    found = calibrated(cosine, labels, 5)
    for cluster in range(5):
        own = cosine[labels == cluster].astype(np.float64)
        expected = max(0.0, np.quantile(own, 0.01)) if len(own) else 0.0
        assert found[cluster] == pytest.approx(expected, abs=1e-6)


def test_cosine_beside_no_direction_is_nan() -> None:
    X = matrix(6, 4, 0)
    labels = np.array([0, -1, 1, 1, -1, 0], np.int32)
    directions = unit_rows(matrix(2, 4, 1))
    found = cosine_beside(X, directions, labels)
    assert np.isnan(found[labels < 0]).all()
    expected = (unit_rows(X) * directions[labels]).sum(axis=1)
    np.testing.assert_allclose(found[labels >= 0], expected[labels >= 0], atol=1e-6)


def test_calibration_counts_what_would_be_assigned() -> None:
    X = matrix(3000, 8, 5)
    clusters = assigner(6, 8, seed=6)
    placed = clusters.assign(X)
    labels = placed.labels.copy()
    labels[::10] = (labels[::10] + 1) % 6  # a fit that disagrees in a tenth
    labels[1::10] = -1
    found = calibrate(X, flat(labels), clusters, placed, random_state=1)
    inside = labels >= 0
    assert found.facts["agreement"] == pytest.approx((placed.labels == labels)[inside].mean())
    np.testing.assert_array_equal(found.roots, placed.nearest)
    np.testing.assert_array_equal(found.similarity, placed.similarity)
    auto = placed.similarity >= found.thresholds[placed.nearest]
    assert found.facts["auto_rejects"] == pytest.approx((~auto).mean())
    assert found.facts["auto_rejects_noise"] == pytest.approx((~auto)[labels < 0].mean())
    np.testing.assert_allclose(found.mean, unit_rows(X).mean(axis=0, dtype=np.float64), atol=1e-6)


def test_random_pairs_say_what_a_fixed_threshold_means() -> None:
    common = np.ones(16, np.float32) * 3  # a model whose vectors all point one way
    X = matrix(2000, 16, 7) + common
    clusters = assigner(3, 16)
    found = calibrate(X, flat(clusters.assign(X).labels), clusters, clusters.assign(X), 0)
    pairs = found.facts["random_pair_cosine"]
    unit = unit_rows(X).astype(np.float64)
    exact = (unit.sum(axis=0) @ unit.sum(axis=0) - len(X)) / (len(X) * (len(X) - 1))
    assert pairs["mean"] == pytest.approx(exact, abs=0.01)
    assert pairs["share_above_0.5"] > 0.99


def test_a_hierarchy_is_calibrated_node_by_node() -> None:
    X = matrix(900, 10, 8)
    parents = np.array([-1, -1, 0, 0], np.int32)
    clusters = Assigner(unit_rows(matrix(4, 10, 9)), parents, np.full(4, FREE, np.float32))
    placed = clusters.assign(X)
    assert set(placed.labels) == {1, 2, 3}
    found = calibrate(X, Hierarchy(placed.labels, parents, None), clusters, placed, 0)
    assert found.facts["agreement"] == found.facts["agreement_of_deepest"] == 1
    unit = unit_rows(X)
    for node, members in ((0, (2, 3)), (1, (1,)), (2, (2,)), (3, (3,))):
        inside = np.isin(placed.labels, members)
        own = unit[inside] @ clusters.directions[node]
        assert found.thresholds[node] == pytest.approx(max(0, np.quantile(own, 0.01)), abs=1e-5)


@pytest.mark.parametrize("threshold", [1.1, -1.1, float("nan"), "none"])
def test_thresholds_are_checked(threshold: object) -> None:
    with pytest.raises(ConfigError, match="threshold: got"):
        check_threshold(threshold)
