"""The choice of a granularity by what two halves of the rows agree on."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import adjusted_mutual_info_score

from gpucluster.algorithms.hdbscan import HDBSCAN
from gpucluster.errors import ConfigError, GpuclusterWarning
from gpucluster.events import Reporter
from gpucluster.ops.density import density_dendrogram
from gpucluster.ops.stability import HALF_ROWS, LEAST_HALF, candidate_sizes, score_cuts
from gpucluster.ops.tree import Rule, basins, dendrogram
from gpucluster.preprocess.umap import UMAP

AUTO = HDBSCAN(min_cluster_size="auto", cluster_selection_method="auto")


def blobs(sizes, seed=0, spread=1.0):
    X, y = make_blobs(sizes, 4, cluster_std=spread, center_box=(-60, 60), random_state=seed)
    return X.astype(np.float32), y


@pytest.mark.parametrize("sizes", [[300] * 5, [100] * 40, [1000, 500, 200, 100, 60, 40]])
def test_blobs_are_found_whatever_their_sizes(sizes):
    X, y = blobs(sizes)
    found = AUTO.fit(X)
    assert found.n_clusters_ == len(sizes)
    assert adjusted_mutual_info_score(y, found.basins_) > 0.99


def test_digits_are_ten():
    X, y = load_digits(return_X_y=True)
    layout = UMAP(n_components=16).fit(X.astype(np.float32), "cpu", Reporter()).arrays["layout"]
    found = AUTO.fit(layout)
    assert 9 <= found.n_clusters_ <= 13
    assert adjusted_mutual_info_score(y, found.labels_) > 0.87


def test_the_choice_is_explained():
    X, _ = blobs([200] * 6)
    found = AUTO.fit(X)
    granularity = found.info["granularity"]
    chosen, tried = granularity["chosen"], granularity["tried"]
    assert chosen in tried
    assert chosen["score"] == max(candidate["score"] for candidate in tried)
    assert {candidate["method"] for candidate in tried} == {"eom", "leaf"}
    assert all(0 <= candidate["stability"] <= 1 for candidate in tried)
    by_hand = HDBSCAN(
        min_cluster_size=chosen["min_cluster_size"],
        min_samples=5,
        cluster_selection_method=chosen["method"],
    ).fit(X)
    assert np.array_equal(by_hand.labels_, found.labels_)


def test_other_granularities_are_layers():
    X, _ = blobs([300, 260, 220, 200] * 4, spread=0.7)
    X[::2] += 30  # two groups of groups
    found = AUTO.fit(X)
    described = found.info["granularity"]["layers"]
    assert found.layers_.shape == (len(described), len(X))
    counts = [layer["n_clusters"] for layer in described]
    assert counts == sorted(counts, reverse=True)
    assert len({count.bit_length() for count in counts}) == len(counts)
    assert found.info["granularity"]["chosen"] in described
    for layer, facts in zip(found.layers_, described, strict=True):
        by_hand = HDBSCAN(
            min_cluster_size=facts["min_cluster_size"],
            min_samples=5,
            cluster_selection_method=facts["method"],
        ).fit(X)
        assert np.array_equal(layer, by_hand.labels_)
        assert layer.max() + 1 == facts["n_clusters"]
    copies = AUTO.fit(np.repeat(X, 2, axis=0))
    assert copies.layers_.shape[1] == 2 * len(X)
    assert HDBSCAN(min_cluster_size=30).fit(X).layers_ is None


def test_a_method_that_is_named_is_kept():
    X, _ = blobs([200] * 6)
    tried = HDBSCAN(min_cluster_size="auto").fit(X).info["granularity"]["tried"]
    assert {candidate["method"] for candidate in tried} == {"eom"}


def test_the_seed_decides():
    X, _ = blobs([150] * 8, spread=6.0)
    assert np.array_equal(AUTO.fit(X).labels_, AUTO.fit(X).labels_)
    other = AUTO.model_copy(update={"random_state": 1}).fit(X)
    assert other.info["granularity"] != AUTO.fit(X).info["granularity"]


@pytest.mark.parametrize("n_samples", [1001, 2 * HALF_ROWS + 3])
def test_halves_are_of_equal_and_limited_size(n_samples):
    seen = []

    def hierarchy(rows, mass):
        seen.append(len(rows))
        return density_dendrogram(rows, 5, Reporter(), mass)

    X = np.random.default_rng(0).normal(size=(n_samples, 2)).astype(np.float32)
    tree = density_dendrogram(X, 5, Reporter())
    score_cuts(X, None, tree, hierarchy, (Rule(),), random_state=0, reporter=Reporter())
    assert seen == [min(n_samples // 2, HALF_ROWS)] * 2


def test_equal_rows_count_by_their_number():
    X, y = blobs([40] * 6)
    found = AUTO.fit(np.repeat(X, 10, axis=0))
    assert found.n_clusters_ == 6
    assert adjusted_mutual_info_score(np.repeat(y, 10), found.basins_) > 0.99


@pytest.mark.parametrize("n_samples", [2, 3, 5, 12])
def test_few_rows_are_said_to_decide_nothing(n_samples):
    X = np.random.default_rng(0).normal(size=(n_samples, 3)).astype(np.float32)
    with pytest.warns(GpuclusterWarning, match="auto found no size"):
        found = AUTO.fit(X)
    assert found.labels_.shape == (n_samples,)


def test_clusters_of_nothing_are_announced():
    X = np.random.default_rng(0).uniform(size=(2000, 10)).astype(np.float32)
    with pytest.warns(GpuclusterWarning, match="may be chance"):
        found = AUTO.fit(X)
    assert found.info["granularity"]["chosen"]["score"] <= 0


def test_auto_selection_needs_an_auto_size():
    with pytest.raises(ValueError, match="needs min_cluster_size: auto"):
        HDBSCAN(cluster_selection_method="auto", min_cluster_size=10)


@pytest.mark.parametrize("n_rows", [4, 37, 1000, 10_000_000])
def test_sizes_rise_and_leave_clusters_to_halves(n_rows):
    sizes = candidate_sizes(n_rows)
    assert list(sizes) == sorted(set(sizes))
    assert 2 <= sizes[0] <= max(2, n_rows // 10)
    half = min(n_rows // 2, HALF_ROWS)
    if n_rows >= 1000:
        assert sizes[0] * half / n_rows >= LEAST_HALF


def test_noise_joins_the_group_that_grows_into_it():
    edges = np.array([[0, 1, 1.0], [3, 4, 1.0], [1, 2, 2.0], [4, 5, 3.0], [2, 5, 9.0]])
    labels = np.array([0, -1, -1, 1, -1, -1], np.int32)
    assert basins(dendrogram(edges), labels).tolist() == [0, 0, 0, 1, 1, 1]
    nothing = np.full(6, -1, np.int32)
    assert np.array_equal(basins(dendrogram(edges), nothing), nothing)


def test_it_cannot_be_swept_away_by_a_bad_value():
    with pytest.raises((ValueError, ConfigError)):
        HDBSCAN(min_cluster_size="automatic")
