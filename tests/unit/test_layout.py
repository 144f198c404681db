"""The layout: UMAP's graph and forces, moved in parallel without a race."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.metrics import adjusted_mutual_info_score

from gpucluster.events import Reporter
from gpucluster.ops import blocks
from gpucluster.ops.fuzzy import fuzzy_graph
from gpucluster.ops.layout import kernel_parameters, optimise_layout
from gpucluster.ops.neighbors import nearest_neighbors
from gpucluster.ops.normalize import unit_rows
from gpucluster.preprocess.umap import UMAP

REPORTER = Reporter("test")

pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning", "ignore:n_jobs")


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return unit_rows(X.astype(np.float32)), y


@pytest.mark.parametrize("min_dist", [0.0, 0.1, 0.5, 1.0])
def test_kernel_is_fitted_as_umap_learn_does(min_dist):
    from umap.umap_ import find_ab_params

    assert kernel_parameters(min_dist) == pytest.approx(find_ab_params(1.0, min_dist), rel=1e-4)


@pytest.mark.parametrize("cosine", [True, False])
def test_graph_is_that_of_umap_learn(digits, cosine):
    from umap.umap_ import fuzzy_simplicial_set

    X, _ = digits
    found = nearest_neighbors(X, 15)
    distances = found.sqdist / 2 if cosine else np.sqrt(found.sqdist)
    theirs = fuzzy_simplicial_set(
        X, 15, np.random.RandomState(0), "euclidean", knn_indices=found.rows, knn_dists=distances
    )[0].tocsr()
    theirs.sort_indices()
    ours = fuzzy_graph(found, cosine=cosine)
    assert np.array_equal(ours.targets, theirs.indices)
    assert np.array_equal(ours.starts, theirs.indptr)
    assert np.allclose(ours.weights, theirs.data / theirs.data.max(), atol=2e-3)


def test_weak_edges_are_left_out(digits):
    found = nearest_neighbors(digits[0], 15)
    whole, pruned = fuzzy_graph(found, cosine=True), fuzzy_graph(found, cosine=True, least=0.1)
    assert np.array_equal(pruned.weights, whole.weights[whole.weights >= 0.1])
    assert pruned.starts[-1] == len(pruned.targets)


def test_number_of_threads_changes_no_bit(digits, monkeypatch):
    graph = fuzzy_graph(nearest_neighbors(digits[0], 15), cosine=True)
    start = np.random.default_rng(0).normal(size=(len(digits[0]), 20)).astype(np.float32)
    found = []
    monkeypatch.setattr("gpucluster.ops.layout.BLOCK_ROWS", 100)
    for threads in (1, 3):
        monkeypatch.setattr(blocks, "n_threads", lambda threads=threads: threads)
        found.append(
            optimise_layout(
                graph, start, n_epochs=20, min_dist=0.0, random_state=1, reporter=REPORTER
            )
        )
    assert np.array_equal(*found)
    assert found[0].shape == start.shape


def test_seed_matters(digits):
    first, second = (
        UMAP(n_components=2, n_epochs=5, random_state=seed).fit(digits[0], "cpu", REPORTER)
        for seed in (1, 2)
    )
    assert not np.array_equal(first.arrays["layout"], second.arrays["layout"])


@pytest.mark.parametrize("n_components", [2, 16])
def test_layout_is_as_good_as_that_of_umap_learn(digits, n_components):
    from umap import UMAP as UmapLearn

    X, y = digits
    ours = UMAP(n_components=n_components, n_neighbors=15).fit(X, "cpu", REPORTER).arrays["layout"]
    theirs = UmapLearn(
        n_components=n_components, min_dist=0.0, metric="cosine", random_state=42
    ).fit_transform(X)

    def judged(layout):
        found = KMeans(10, n_init=5, random_state=0).fit_predict(layout)
        return trustworthiness(X, layout), adjusted_mutual_info_score(y, found)

    trust, information = judged(ours)
    their_trust, their_information = judged(theirs)
    assert trust >= their_trust - 0.005
    assert information >= their_information - 0.03


def test_equal_rows_part_by_no_more_than_noise():
    X = np.repeat(np.eye(8, dtype=np.float32), 40, axis=0)
    layout = UMAP(n_components=2, n_neighbors=15).fit(X, "cpu", REPORTER).arrays["layout"]
    assert np.isfinite(layout).all()
    groups = layout.reshape(8, 40, 2)
    within = groups.std(axis=1).max()
    centers = groups.mean(axis=1)
    apart = np.linalg.norm(centers[:, None] - centers, axis=2)[~np.eye(8, dtype=bool)].min()
    assert apart > 3 * within
