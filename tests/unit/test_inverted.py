"""Approximate lists of neighbours: how many are found, and what holds of those that are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.errors import Cancelled, GpuclusterWarning
from gpucluster.events import Reporter
from gpucluster.ops import blocks
from gpucluster.ops import neighbors as neighbors_module
from gpucluster.ops.inverted import inverted_lists
from gpucluster.ops.neighbors import (
    FLOOR,
    TARGET,
    Neighbors,
    nearest_neighbors,
    neighbor_cost,
    neighbor_method,
)
from gpucluster.ops.projection import narrowed
from gpucluster.preprocess import UMAP


@pytest.fixture(autouse=True)
def approximate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors_module, "EXACT_LIMIT_FLOP", 0)


def clustered(n_samples: int, n_features: int = 48, n_clusters: int = 60) -> np.ndarray:
    """Heavy-tailed clusters, each spread in a few directions of its own; a tenth is between."""
    drawn = np.random.default_rng(7)
    shares = 1 / np.arange(1, n_clusters + 1)
    labels = drawn.choice(n_clusters, n_samples, p=shares / shares.sum())
    X = drawn.normal(size=(n_clusters, n_features))[labels]
    for label in range(n_clusters):
        own = labels == label
        X[own] += drawn.normal(size=(own.sum(), 3)) @ drawn.normal(scale=0.5, size=(3, n_features))
    X += drawn.normal(scale=0.1, size=X.shape)
    between = drawn.random(n_samples) < 0.1
    X[between] = drawn.normal(size=(between.sum(), n_features))
    return X.astype(np.float32)


def check(X: np.ndarray, found: Neighbors) -> None:
    """Assert what lists promise, whoever made them."""
    n_samples = len(X)
    assert len(found.rows) == n_samples
    assert (found.rows.dtype, found.sqdist.dtype) == (np.int32, np.float32)
    assert found.rows.min() >= 0
    assert found.rows.max() < n_samples
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(n_samples))
    assert (found.sqdist[:, 0] == 0).all()
    assert (np.diff(found.sqdist, axis=1) >= 0).all()
    assert (np.diff(np.sort(found.rows, axis=1), axis=1) > 0).all(), "a row is listed twice"
    wide = X.astype(np.float64)
    true = ((wide[:, None] - wide[found.rows]) ** 2).sum(axis=2)
    np.testing.assert_allclose(found.sqdist, true, rtol=1e-6)
    tied = (np.diff(found.sqdist[:, 1:], axis=1) == 0) & (np.diff(true[:, 1:], axis=1) == 0)
    assert (np.diff(found.rows[:, 1:], axis=1)[tied] > 0).all(), "ties go to the lower row"


def recall(found: Neighbors, exact: Neighbors) -> float:
    return float((found.sqdist[:, 1:] <= exact.sqdist[:, -1:]).mean())


def test_most_neighbours_are_found_and_the_share_is_known() -> None:
    X = clustered(13_000)
    found = nearest_neighbors(X, 30)
    assert found.method == "inverted_lists"
    check(X, found)
    true = recall(found, nearest_neighbors(X, 30, exact=True))
    assert true > TARGET - 0.015
    assert found.recall == pytest.approx(true, abs=0.015)


def test_few_directions_do_where_neighbours_differ_in_few(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(0)
    X = drawn.normal(size=(6000, 12)) @ drawn.normal(size=(12, 256))
    X = (X + drawn.normal(scale=0.01, size=X.shape)).astype(np.float32)
    sqnorms = np.einsum("ij,ij->i", X, X)
    rows = np.arange(0, len(X), 60)
    near = nearest_neighbors(X, 20, exact=True).rows[rows, 1:]
    narrow, share = narrowed(X, sqnorms, rows, near, 38, 0.99)
    assert narrow.shape == (len(X), 32)
    assert 0.99 <= share <= 1
    keys = sqnorms - 2 * narrow[rows] @ narrow.T
    keys[np.arange(len(rows)), rows] = np.inf
    kept = np.argsort(keys, axis=1)[:, :38]
    true = np.mean([np.isin(a, b).mean() for a, b in zip(near, kept, strict=True)])
    assert share == pytest.approx(true, abs=0.01)
    noise = drawn.normal(size=(3000, 64)).astype(np.float32)
    near = nearest_neighbors(noise, 20, exact=True).rows[:100, 1:]
    same, share = narrowed(
        noise, np.einsum("ij,ij->i", noise, noise), np.arange(100), near, 38, 0.995
    )
    assert same is noise
    assert share == 1
    monkeypatch.setattr(neighbors_module, "NARROW_SECONDS", 0.0)
    found = nearest_neighbors(X, 20)
    check(X, found)
    assert found.method == "inverted_lists"
    assert recall(found, nearest_neighbors(X, 20, exact=True)) > TARGET - 0.015


def test_a_search_looks_at_few_rows() -> None:
    X = clustered(13_000)
    drawn = np.arange(0, len(X), 50)
    near = nearest_neighbors(X, 30, exact=True).rows[drawn, 1:]
    lists = inverted_lists(X, np.einsum("ij,ij->i", X, X), 37, random_state=0)
    reaches = [lists.reach(drawn, near, share) for share in (0.5, 0.9, 0.98)]
    assert all(reach is not None for reach in reaches)
    counts = [reach.n_candidates for reach in reaches if reach is not None]
    assert counts == sorted(counts)
    assert counts[-1] < len(X) / 8


def test_lists_do_not_depend_on_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    X = clustered(5000)
    lists = []
    for n_threads in (1, 2, 5):
        monkeypatch.setattr(blocks, "n_threads", lambda n_threads=n_threads: n_threads)
        lists.append(nearest_neighbors(X, 15))
    for other in lists[1:]:
        np.testing.assert_array_equal(other.rows, lists[0].rows)
        np.testing.assert_array_equal(other.sqdist, lists[0].sqdist)
        assert other.recall == lists[0].recall


@settings(max_examples=25, deadline=None)
@given(
    n_samples=st.integers(2, 700),
    n_features=st.integers(1, 5),
    n_values=st.integers(1, 40),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_lists_keep_their_promises_on_ties_and_copies(
    n_samples: int, n_features: int, n_values: int, share: float, seed: int
) -> None:
    X = np.random.default_rng(seed).integers(0, n_values, (n_samples, n_features))
    X = X.astype(np.float32)
    n_neighbors = 1 + round(share * (n_samples - 1))
    found = nearest_neighbors(X, n_neighbors)
    check(X, found)
    assert found.recall >= 0.9


@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_few_dimensions(n_features: int) -> None:
    X = np.random.default_rng(0).normal(size=(4000, n_features)).astype(np.float32) + 1000
    found = nearest_neighbors(X, 20)
    check(X, found)
    assert recall(found, nearest_neighbors(X, 20, exact=True)) > FLOOR


@pytest.mark.parametrize("n_neighbors", [2, 30])
def test_of_many_equal_rows_the_lowest_are_listed(n_neighbors: int) -> None:
    X = clustered(3000)
    X[::2] = X[0]
    found = nearest_neighbors(X, n_neighbors)
    check(X, found)
    copies = np.arange(0, len(X), 2)
    for row in (0, 2, 2998):
        lowest = copies[copies != row][: n_neighbors - 1]
        np.testing.assert_array_equal(found.rows[row, 1:], lowest)
    equal = nearest_neighbors(np.ones((2000, 3), np.float32), n_neighbors)
    np.testing.assert_array_equal(equal.rows[1, 1:], np.delete(np.arange(n_neighbors), 1))


def test_data_without_structure_are_compared_with_all() -> None:
    X = np.random.default_rng(0).normal(size=(3000, 200)).astype(np.float32)
    found = nearest_neighbors(X, 30)
    assert (found.method, found.recall) == ("exact", 1.0)


def test_lists_that_turn_out_poor_are_made_again() -> None:
    """Two tight blobs far apart: float32 products tell the rows of one hardly from each other."""
    drawn = np.random.default_rng(1)
    side = np.where(np.arange(3000) % 2, 3e4, -3e4)[:, None]
    X = (side + drawn.normal(scale=0.02, size=(3000, 80))).astype(np.float32)
    found = nearest_neighbors(X, 10)
    assert found.method == "exact"
    check(X, found)


def test_what_cannot_be_afforded_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(3000, 200)).astype(np.float32)
    monkeypatch.setattr(neighbors_module, "MOST_FLOP", 3000 * 600 * 400)
    with pytest.warns(GpuclusterWarning, match="little structure"):
        found = nearest_neighbors(X, 30)
    assert found.method == "inverted_lists"
    check(X, found)
    true = recall(found, nearest_neighbors(X, 30, exact=True))
    assert 0.3 < true < FLOOR
    assert found.recall == pytest.approx(true, abs=0.05)


def test_a_cancelled_search_stops() -> None:
    reporter = Reporter("test")
    reporter.cancel.cancel()
    with pytest.raises(Cancelled):
        nearest_neighbors(clustered(2000), 10, reporter=reporter)


def test_the_graph_of_umap_says_how_good_it_is() -> None:
    X = clustered(3000)
    fitted = UMAP(n_components=2, n_epochs=2, metric="euclidean").fit(X, "cpu", Reporter("test"))
    assert fitted.method == "inverted_lists graph"
    assert fitted.info["graph"] == "inverted_lists"
    assert 0.9 < fitted.info["graph_recall"] <= 1


def test_the_plan_names_the_method() -> None:

    assert neighbor_method(10, 2) == "inverted_lists"
    cost = neighbor_cost(100_000, 100, 30)
    assert cost.method == "inverted_lists"
    assert cost.bytes > 8 * 100_000 * 30
