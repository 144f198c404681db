"""Agglomerative clustering merges what scikit-learn and scipy merge, and says what it did."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import cdist
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import kneighbors_graph

from gpucluster.algorithms import Agglomerative, agglomerative
from gpucluster.definition import ClusterDefinition
from gpucluster.errors import ConfigError, GpuclusterWarning, InputError, NotConvergedWarning
from gpucluster.events import Cancelled, CancelToken, Reporter
from gpucluster.ops import linkage as ops
from gpucluster.ops import ward
from gpucluster.ops.landmarks import landmarks
from gpucluster.ops.ward import ward_tree

SETTINGS = [
    *itertools.product(
        ("complete", "average", "single"), ("euclidean", "l2", "l1", "manhattan", "cosine")
    ),
    ("ward", "euclidean"),
    ("ward", "l2"),
]
NO_TREE = list(itertools.product(("complete", "average"), ("euclidean", "cosine")))
SCIPY = {"l2": "euclidean", "l1": "cityblock", "manhattan": "cityblock"}


def normal(n_samples: int, n_features: int, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    drawn = np.random.default_rng(seed)
    return drawn.normal(offset, size=(n_samples, n_features)).astype(np.float32)


def blobs(n_samples: int = 600, n_features: int = 8) -> tuple[np.ndarray, np.ndarray]:
    truth = np.arange(n_samples) % 4
    return normal(n_samples, n_features) * 0.3 + 5 * np.eye(4, n_features)[truth].astype(
        "f4"
    ), truth


@settings(max_examples=60, deadline=None)
@given(
    setting=st.sampled_from(SETTINGS),
    n_samples=st.integers(2, 90),
    n_features=st.integers(2, 7),
    offset=st.sampled_from([0.0, 20.0]),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
def test_the_partition_is_that_of_sklearn(
    setting: tuple[str, str],
    n_samples: int,
    n_features: int,
    offset: float,
    share: float,
    seed: int,
) -> None:
    linkage, affinity = setting
    X = normal(n_samples, n_features, seed, offset if affinity != "cosine" else 0.0)
    n_clusters = max(1, round(share * n_samples))
    found = Agglomerative(n_clusters=n_clusters, linkage=linkage, affinity=affinity).fit(X)
    reference = AgglomerativeClustering(
        n_clusters, metric=affinity, linkage=linkage, compute_distances=True
    ).fit(X.astype(np.float64))
    heights = np.sort(reference.distances_)
    cut = n_samples - n_clusters
    tied = 0 < cut < len(heights) and heights[cut] - heights[cut - 1] < 1e-5 * heights[-1]
    assert found.n_clusters_ == n_clusters
    assert tied or adjusted_rand_score(reference.labels_, found.labels_) == 1
    shown = heights[::-1][: agglomerative.SHOWN_MERGES]
    np.testing.assert_allclose(
        found.info["merge_distances"], shown, rtol=1e-4, atol=1e-5 * heights[-1]
    )


@pytest.mark.parametrize(("linkage", "affinity"), SETTINGS)
def test_a_threshold_cuts_where_sklearn_cuts(linkage: str, affinity: str) -> None:
    X = normal(150, 6)
    metric = SCIPY.get(affinity, affinity)
    heights = hierarchy.linkage(X.astype(np.float64), linkage, metric)[:, 2]
    gap = np.diff(heights)[-20:].argmax() + len(heights) - 21
    threshold = float(heights[gap : gap + 2].mean())
    found = Agglomerative(distance_threshold=threshold, linkage=linkage, affinity=affinity).fit(X)
    reference = AgglomerativeClustering(
        None, metric=affinity, linkage=linkage, distance_threshold=threshold
    ).fit(X.astype(np.float64))
    assert found.n_clusters_ == reference.n_clusters_ == len(heights) - gap
    assert adjusted_rand_score(reference.labels_, found.labels_) == 1


@pytest.mark.parametrize("linkage", ["ward", "complete", "average", "single"])
def test_the_whole_tree_is_that_of_scipy(linkage: str) -> None:
    X = normal(1300, 10)  # enough for matrix and means to be packed more than once
    reference = hierarchy.linkage(X.astype(np.float64), linkage)
    if linkage == "ward":
        merges = ward_tree(X)
    else:
        merges = ops.chain_tree(ops.distance_matrix(X, "euclidean"), linkage)
    np.testing.assert_allclose(np.sort(merges[:, 2]), reference[:, 2], rtol=1e-5)
    for k in (2, 7, 60, 900):
        expected = hierarchy.fcluster(reference, k, "maxclust")
        assert adjusted_rand_score(expected, ops.cut_tree(merges, n_clusters=k)) == 1


def test_threshold_zero_unites_equal_rows_alone() -> None:
    X = np.repeat(normal(20, 3), 3, axis=0)
    for linkage in ("ward", "complete", "average", "single"):
        found = Agglomerative(distance_threshold=0, linkage=linkage).fit(X)
        np.testing.assert_array_equal(found.labels_, np.repeat(np.arange(20), 3))


def test_equal_rows_are_never_parted() -> None:
    X = np.repeat(normal(3, 4), 50, axis=0)
    for linkage in ("ward", "complete", "average", "single"):
        with pytest.warns(NotConvergedWarning, match="found 3 clusters of the 5 asked for"):
            found = Agglomerative(n_clusters=5, linkage=linkage).fit(X)
        assert found.n_clusters_ == 3


def test_ties_end() -> None:
    line = np.arange(300, dtype=np.float32)[:, None]
    grid = np.array(list(itertools.product(range(6), repeat=3)), np.float32)
    for X, linkage in itertools.product((line, grid), ("ward", "complete", "average", "single")):
        assert Agglomerative(n_clusters=4, linkage=linkage).fit(X).n_clusters_ == 4


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 25), d=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_weights_stand_for_equal_rows(n: int, d: int, seed: int) -> None:
    X = normal(n, d, seed)
    weights = np.random.default_rng(seed).integers(1, 6, n)
    repeated = np.repeat(X, weights, axis=0).astype(np.float64)
    heights = np.sort(ward_tree(X, weights)[:, 2])
    expected = hierarchy.linkage(repeated, "ward")[-len(heights) :, 2]
    np.testing.assert_allclose(heights, expected, rtol=1e-4, atol=1e-5)
    for linkage in ("complete", "average", "single"):
        merges = ops.chain_tree(ops.distance_matrix(X, "euclidean"), linkage, weights)
        expected = hierarchy.linkage(repeated, linkage)[-len(heights) :, 2]
        np.testing.assert_allclose(np.sort(merges[:, 2]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "cosine"])
def test_the_distance_matrix_is_exact(metric: str) -> None:
    X = normal(1100, 20, offset=3.0)
    X[7] = X[1050]
    if metric == "cosine":
        X /= np.linalg.norm(X, axis=1, keepdims=True)
    D = ops.distance_matrix(X, metric)
    expected = cdist(X.astype(np.float64), X.astype(np.float64), SCIPY.get(metric, metric))
    np.testing.assert_allclose(D, expected, rtol=1e-5, atol=2e-7)
    np.testing.assert_array_equal(D, D.T)
    assert D[7, 1050] == 0
    assert not np.diagonal(D).any()


def test_means_and_radii_give_the_mean_distance_between_landmarks() -> None:
    X = normal(400, 6)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    found = landmarks(X, 30, 0)
    D = ops.distance_matrix(found.means, "cosine", found.mean_sqdist)
    rows = [X[found.labels == k].astype(np.float64) for k in range(len(found.means))]
    for a, b in itertools.combinations(range(len(rows)), 2):
        assert D[a, b] == pytest.approx(np.mean(1 - rows[a] @ rows[b].T), abs=1e-5)


def test_the_bodies_for_a_gpu_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    X = normal(700, 12)
    on_host, D = ward_tree(X), ops.distance_matrix(X, "euclidean")
    for module in (ward, ops):
        monkeypatch.setattr(module, "is_on_gpu", lambda array: True)
    on_gpu = ward_tree(X)
    np.testing.assert_allclose(np.sort(on_gpu[:, 2]), np.sort(on_host[:, 2]), rtol=1e-5)
    labels = [ops.cut_tree(merges, n_clusters=9) for merges in (on_host, on_gpu)]
    assert adjusted_rand_score(*labels) == 1
    np.testing.assert_array_equal(ops.distance_matrix(X, "euclidean"), D)


@pytest.mark.parametrize(("linkage", "affinity"), [*NO_TREE, ("ward", "euclidean")])
def test_landmarks_find_the_groups_and_are_named(
    linkage: str, affinity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agglomerative, "MATRIX_ROWS", 300)
    monkeypatch.setattr(agglomerative, "WARD_EXACT_S", 0.0)
    monkeypatch.setattr(agglomerative, "LANDMARKS", 60)
    X, truth = blobs()
    algorithm = Agglomerative(n_clusters=4, linkage=linkage, affinity=affinity)
    found = algorithm.fit(X)
    assert found.method == algorithm.cost(*X.shape, "cpu").method == "landmarks"
    assert adjusted_rand_score(truth, found.labels_) == 1
    assert found.info["n_leaves"] <= 60
    few = algorithm.fit(X[:60].copy())
    assert few.method == algorithm.cost(60, 8, "cpu").method == "exact"


def test_ward_on_landmarks_is_ward_continued_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The height of the last merge follows from the two clusters, whatever came before."""
    monkeypatch.setattr(agglomerative, "WARD_EXACT_S", 0.0)
    monkeypatch.setattr(agglomerative, "LANDMARKS", 50)
    X = normal(500, 5)
    found = Agglomerative(n_clusters=2).fit(X)
    a, b = (X[found.labels_ == k].astype(np.float64) for k in (0, 1))
    distance = np.linalg.norm(a.mean(axis=0) - b.mean(axis=0))
    height = np.sqrt(2 * len(a) * len(b) / len(X)) * distance
    assert found.info["merge_distances"][0] == pytest.approx(height, rel=1e-4)


@pytest.mark.parametrize(
    ("linkage", "affinity"),
    [*NO_TREE, ("ward", "euclidean"), ("single", "euclidean"), ("single", "cosine")],
)
def test_a_connected_neighbour_graph_merges_as_sklearn(linkage: str, affinity: str) -> None:
    X = normal(120, 5)
    algorithm = Agglomerative(n_clusters=6, linkage=linkage, affinity=affinity, connectivity=30)
    found = algorithm.fit(X)
    graph = kneighbors_graph(X.astype(np.float64), 30, metric=affinity)
    reference = AgglomerativeClustering(
        6, metric=affinity, linkage=linkage, connectivity=graph + graph.T
    ).fit(X.astype(np.float64))
    assert found.info["n_components"] == 1
    assert found.method == algorithm.cost(*X.shape, "cpu").method == "neighbor_graph"
    assert adjusted_rand_score(reference.labels_, found.labels_) == 1


def test_components_of_the_graph_are_joined_and_it_is_said() -> None:
    X, truth = blobs(200)
    with pytest.warns(GpuclusterWarning, match="has 4 components: they are joined"):
        found = Agglomerative(n_clusters=4, connectivity=10).fit(X)
    assert adjusted_rand_score(truth, found.labels_) == 1
    with pytest.warns(GpuclusterWarning, match="has 4 components"):
        found = Agglomerative(distance_threshold=1e9, connectivity=10).fit(X)
    assert found.n_clusters_ == 1


@pytest.mark.parametrize("linkage", ["complete", "average", "single"])
def test_precomputed_distances_give_the_same(linkage: str) -> None:
    X = normal(100, 4)
    D = cdist(X, X).astype(np.float32)
    given_matrix = Agglomerative(n_clusters=5, linkage=linkage, affinity="precomputed").fit(D)
    rows = Agglomerative(n_clusters=5, linkage=linkage).fit(X)
    np.testing.assert_array_equal(given_matrix.labels_, rows.labels_)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda D: D[:, :-1], r"got a matrix of \(9, 8\), expected a square one"),
        (lambda D: -D, "expected none below 0"),
        (lambda D: D + 1, "the diagonal is not 0"),
        (np.triu, "not symmetric"),
    ],
)
def test_what_is_no_distance_matrix_is_refused(spoil, message: str) -> None:
    X = normal(9, 3)
    D = np.ascontiguousarray(spoil(cdist(X, X).astype(np.float32)))
    with pytest.raises(InputError, match=message):
        Agglomerative(linkage="average", affinity="precomputed").fit(D)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_clusters": 3, "distance_threshold": 1.0}, "give exactly one of them"),
        ({"n_clusters": None}, "give exactly one of them"),
        ({"metric": "cosine"}, "ward needs euclidean.*l2_normalize"),
        ({"affinity": "manhattan"}, "ward needs euclidean"),
        ({"affinity": "l1", "linkage": "single", "connectivity": 5}, "neighbours are found by"),
        ({"distance_threshold": -1.0}, "greater than or equal to 0"),
        ({"connectivity": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_disagree_are_refused(params: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClusterDefinition.parse(definition(params))


def test_aliases_and_a_threshold_alone_are_understood() -> None:
    params = {"num_clusters": 7, "metric": "cosine", "linkage": "average"}
    algorithm = ClusterDefinition.parse(definition(params)).vector_config.algorithm
    assert (algorithm.n_clusters, algorithm.affinity) == (7, "cosine")
    algorithm = ClusterDefinition.parse(
        definition({"distance_threshold": 2.5})
    ).vector_config.algorithm
    assert (algorithm.n_clusters, algorithm.distance_threshold) == (None, 2.5)


def definition(params: dict) -> dict:
    config = {"clustering_method": "agglomerative", "algorithm_params": params}
    return {"collection_ids": ["docs.parquet"], "vector_config": config}


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="n_clusters: got 9, but there are 5 rows"):
        Agglomerative(n_clusters=9).fit(normal(5, 2))
    with pytest.raises(ConfigError, match="connectivity: got 5, but there are 5 rows"):
        Agglomerative(connectivity=5).fit(normal(5, 2))
    monkeypatch.setattr(agglomerative, "MATRIX_ROWS", 50)
    with pytest.raises(ConfigError, match="got 60, but there are 50 at most with affinity l1"):
        Agglomerative(linkage="average", affinity="l1").fit(normal(60, 2))
    with pytest.raises(ConfigError, match="n_clusters: got 40"):
        Agglomerative(n_clusters=40, linkage="complete").fit(normal(60, 2))


@pytest.mark.parametrize(
    ("params", "obstacle"),
    [
        ({}, None),
        ({"linkage": "average", "affinity": "cosine"}, None),
        ({"linkage": "single"}, None),
        ({"linkage": "single", "distance_threshold": 1.0}, "no distance_threshold"),
        ({"connectivity": 3}, "scikit-learn's"),
        ({"linkage": "average", "affinity": "l1"}, "no GPU path"),
    ],
)
def test_the_gpu_path_says_what_it_lacks(params: dict, obstacle: str | None) -> None:
    found = Agglomerative(**params).gpu_obstacle(normal(9, 2))
    assert found is None if obstacle is None else obstacle in found


@pytest.mark.parametrize("linkage", ["ward", "complete", "average", "single"])
def test_a_fit_can_be_cancelled(linkage: str) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        Agglomerative(linkage=linkage).fit(normal(200, 3), reporter=Reporter("x", cancel=cancel))
