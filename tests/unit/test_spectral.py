"""Spectral clustering against scikit-learn, and what it does where that gives up."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.cluster import SpectralClustering
from sklearn.datasets import load_digits, make_circles
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import rbf_kernel

import gpucluster.algorithms.spectral as module
from gpucluster.algorithms import Spectral
from gpucluster.errors import ConfigError, GpuclusterWarning, InputError, NotConvergedWarning
from gpucluster.events import Cancelled, CancelToken, Event, Progress, Reporter
from gpucluster.ops import blocks, eigenvectors, laplacian
from gpucluster.ops.eigenvectors import extend, spectral_embedding
from gpucluster.ops.laplacian import (
    Graph,
    components,
    dense_graph,
    gaussian_affinities,
    mainland,
    neighbor_graph,
)
from gpucluster.ops.neighbors import nearest_neighbors

GAMMA = 20.0  # digits of unit length have neighbours at squared distances of about 0.05


def digits(n_samples: int = 1200) -> np.ndarray:
    X = load_digits().data[:n_samples]
    return np.ascontiguousarray(X / np.linalg.norm(X, axis=1, keepdims=True), np.float32)


def sklearn_labels(X: np.ndarray, **params: Any) -> np.ndarray:
    return SpectralClustering(random_state=0, **params).fit_predict(X)


def two_islands(n_each: int = 300, n_island: int = 12, seed: int = 0) -> np.ndarray:
    """Return two overlapping groups, and a remote handful."""
    drawn = np.random.default_rng(seed)
    first = drawn.normal(size=(2 * n_each, 2))
    first[n_each:, 0] += 6
    remote = drawn.normal(scale=0.1, size=(n_island, 2)) + np.array([3, 400])
    return np.concatenate([first, remote]).astype(np.float32)


@pytest.mark.parametrize("assign_labels", ["kmeans", "discretize", "cluster_qr"])
@pytest.mark.parametrize(
    "graph",
    [
        {"affinity": "nearest_neighbors"},
        {"affinity": "nearest_neighbors", "n_neighbors": 25},
        {"affinity": "rbf", "gamma": GAMMA},
        {"affinity": "precomputed"},
    ],
    ids=str,
)
def test_labels_are_those_of_scikit_learn(graph: dict[str, Any], assign_labels: str) -> None:
    X = digits()
    if graph["affinity"] == "precomputed":
        X = rbf_kernel(X, gamma=GAMMA).astype(np.float32)
        X = (X + X.T) / 2
    settings = {"n_clusters": 10, "assign_labels": assign_labels, **graph}
    found = Spectral(**settings).fit(X)
    assert found.method == "exact"
    # discretize starts from a row that each draws for itself
    agreement = 0.8 if assign_labels == "discretize" else 0.99
    assert adjusted_rand_score(found.labels_, sklearn_labels(X, **settings)) > agreement


def test_fewer_eigenvectors_than_clusters_as_in_scikit_learn() -> None:
    X = digits()
    settings = {"n_clusters": 10, "n_components": 6, "affinity": "nearest_neighbors"}
    found = Spectral(**settings).fit(X)
    assert len(found.info["eigenvalues"]) == 6
    assert adjusted_rand_score(found.labels_, sklearn_labels(X, **settings)) > 0.98


def test_finds_what_is_not_round() -> None:
    X, y = make_circles(600, factor=0.4, noise=0.04, random_state=0)
    X = np.ascontiguousarray(X, np.float32)
    neighbours = Spectral(n_clusters=2, affinity="nearest_neighbors").fit(X)
    rbf = Spectral(n_clusters=2, gamma=60).fit(X)
    np.testing.assert_array_equal([adjusted_rand_score(y, f.labels_) for f in (neighbours, rbf)], 1)


def test_n_neighbors_counts_the_row_itself() -> None:
    X = digits(600)
    theirs = SpectralClustering(2, affinity="nearest_neighbors", n_neighbors=25, random_state=0)
    expected = theirs.fit(X).affinity_matrix_.toarray()
    np.fill_diagonal(expected, 0)
    graph = neighbor_graph(nearest_neighbors(X, 25).rows)
    roots = 1 / graph.scale
    np.testing.assert_allclose(
        graph.operator.toarray() * roots * roots[:, None], expected, atol=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(
    n_nodes=st.integers(2, 40),
    n_groups=st.integers(1, 4),
    n_components=st.integers(1, 6),
    full_rows=st.sampled_from([0, 500]),
    seed=st.integers(0, 2**16),
)
def test_eigenvectors_solve_the_random_walk(
    n_nodes: int, n_groups: int, n_components: int, full_rows: int, seed: int
) -> None:
    drawn = np.random.default_rng(seed)
    group = drawn.integers(n_groups, size=n_nodes)
    A = drawn.random((n_nodes, n_nodes)).astype(np.float32)
    A = (A + A.T) * (group == group[:, None])
    np.fill_diagonal(A, 0)
    component = mainland(components(dense_graph(A.copy())), n_nodes)
    inside = component >= 0
    if not inside.any():
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eigenvectors, "FULL_ROWS", full_rows)
        for graph in (dense_graph(A.copy()), sparse_graph(A)):
            found = spectral_embedding(graph, component, n_components, 0)
            walk = A[inside][:, inside] / A[inside][:, inside].sum(axis=1, keepdims=True)
            expected = np.sort(np.linalg.eigvals(walk.astype(np.float64)).real)[::-1]
            expected = expected[:n_components][expected[:n_components] > 1e-6]
            np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-5)
            vectors = found.vectors[inside]
            np.testing.assert_allclose(walk @ vectors, vectors * found.eigenvalues, atol=1e-3)
            assert (found.vectors[~inside] == 0).all()


def sparse_graph(A: np.ndarray) -> Graph:
    graph = dense_graph(A.copy())
    operator = scipy.sparse.csr_array(graph.operator.astype(np.float64))
    return Graph(operator, graph.scale)


def test_components_of_a_dense_and_a_sparse_graph_are_the_same() -> None:
    X = np.repeat(np.eye(4, dtype=np.float32) * 100, 5, axis=0)
    X += np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
    graph = dense_graph(gaussian_affinities(X, 1.0))
    np.testing.assert_array_equal(components(graph), np.repeat(range(4), 5))
    np.testing.assert_array_equal(components(sparse_graph(graph.operator)), components(graph))


def test_mainland_is_large_and_numbered_by_size() -> None:
    component = np.repeat([0, 1, 2, 3], [3, 100, 1, 200])
    np.testing.assert_array_equal(
        mainland(component, 3), np.repeat([-1, 1, -1, 0], [3, 100, 1, 200])
    )
    assert set(mainland(component, 1)) == {-1, 0}
    weights = np.where(component == 2, 50, 1)
    assert set(mainland(component, 4, weights)[component == 2]) == {2}


@pytest.mark.parametrize(
    "graph", [{"affinity": "nearest_neighbors"}, {"affinity": "rbf", "gamma": 1.0}], ids=str
)
def test_an_island_takes_no_cluster(graph: dict[str, Any]) -> None:
    X = two_islands()
    with pytest.warns(GpuclusterWarning, match="rows lie in components of the graph too small"):
        found = Spectral(n_clusters=2, **graph).fit(X)
    truth = np.repeat([0, 1], 300)
    assert adjusted_rand_score(truth, found.labels_[:600]) > 0.95
    assert len(set(found.labels_[600:])) == 1
    assert found.info["n_connected_components"] >= 2


def test_an_island_of_a_matrix_joins_the_largest_cluster() -> None:
    A = np.zeros((46, 46), np.float32)
    for rows in (slice(0, 15), slice(15, 45)):
        A[rows, rows] = 1
    with pytest.warns(GpuclusterWarning, match="1 rows lie in components"):
        found = Spectral(n_clusters=2, affinity="precomputed").fit(A)
    np.testing.assert_array_equal(found.labels_, np.repeat([1, 0], [15, 31]))


def test_more_components_than_clusters_keep_the_largest() -> None:
    sizes = [40, 30, 20, 10]
    A = scipy.sparse.block_diag([np.ones((n, n)) for n in sizes]).toarray().astype(np.float32)
    with pytest.warns(GpuclusterWarning, match="30 rows lie in components"):
        found = Spectral(n_clusters=2, affinity="precomputed").fit(A)
    np.testing.assert_array_equal(found.labels_[:70], np.repeat([0, 1], [40, 30]))


def test_landmarks_find_what_the_exact_path_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    X = digits()
    model = Spectral(n_clusters=10, gamma=GAMMA, n_init=3)
    exact = model.fit(X)
    monkeypatch.setattr(module, "EXACT_ROWS", 1000)
    monkeypatch.setattr(module, "N_LANDMARKS", 400)
    found = model.fit(X)
    assert found.method == model.cost(*X.shape, "cpu").method == "nystrom"
    assert found.info["n_landmarks"] == 400
    assert adjusted_rand_score(exact.labels_, found.labels_) > 0.7
    np.testing.assert_allclose(
        found.info["eigenvalues"][:5], exact.info["eigenvalues"][:5], atol=0.03
    )
    np.testing.assert_array_equal(model.fit(X).labels_, found.labels_)


def test_a_kernel_narrower_than_the_landmarks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 1000)
    monkeypatch.setattr(module, "N_LANDMARKS", 40)
    X = digits()
    with pytest.warns(GpuclusterWarning, match="of the rows are in landmarks wider"):
        Spectral(n_clusters=4, gamma=4 * GAMMA).fit(X)


@pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")
def test_a_kernel_beyond_float32_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 1000)
    monkeypatch.setattr(module, "N_LANDMARKS", 40)
    with pytest.raises(ConfigError, match=r"spectral.gamma: got 800, a kernel so narrow"):
        Spectral(n_clusters=4, gamma=40 * GAMMA).fit(digits())


def test_rows_that_are_all_neighbours_are_said() -> None:
    X = digits(300)
    with pytest.warns(
        GpuclusterWarning, match="only 1 eigenvectors of 5 tell rows apart; lower n_neighbors"
    ) as said:
        Spectral(n_clusters=5, affinity="nearest_neighbors", n_neighbors=300).fit(X)
    assert not any("kmeans" in str(warning.message) for warning in said)


def test_extension_agrees_with_the_embedding_it_extends() -> None:
    X = digits(400)
    weights = np.ones(len(X))
    # with its affinity to itself, a landmark is placed exactly where it is
    graph = dense_graph(gaussian_affinities(X, GAMMA, weights), np.ones(len(X), np.float32))
    embedding = spectral_embedding(graph, components(graph), 5, 0)
    placed = extend(X, X, GAMMA, weights, embedding)
    np.testing.assert_allclose(placed, embedding.vectors, atol=1e-4 * abs(embedding.vectors).max())


def test_weights_count_rows() -> None:
    X = digits(100)
    weights = np.random.default_rng(0).integers(1, 4, 100)
    copies = np.repeat(np.arange(100), weights)
    few = gaussian_affinities(X, GAMMA, weights)
    many = gaussian_affinities(X[copies], GAMMA)
    own = (weights * (weights - 1)).astype(np.float32)
    few, many = dense_graph(few, own), dense_graph(many)
    found = spectral_embedding(few, components(few), 6, 0)
    expected = spectral_embedding(many, components(many), 6, 0)
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, atol=1e-5)


def test_a_far_row_takes_the_nearest_landmark(monkeypatch: pytest.MonkeyPatch) -> None:
    X = two_islands()
    monkeypatch.setattr(module, "EXACT_ROWS", 100)
    monkeypatch.setattr(module, "N_LANDMARKS", 80)
    with pytest.warns(GpuclusterWarning, match="12 rows lie in components"):
        found = Spectral(n_clusters=2).fit(X)
    assert adjusted_rand_score(np.repeat([0, 1], 300), found.labels_[:600]) > 0.95


@pytest.mark.filterwarnings("ignore:.*are in landmarks wider")
def test_rows_may_lie_far_from_their_landmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 100)
    monkeypatch.setattr(module, "N_LANDMARKS", 6)
    monkeypatch.setattr(module, "LANDMARKS_PER_CLUSTER", 1)
    X = np.random.default_rng(0).normal(size=(2000, 200)).astype(np.float32)
    X[1200:, 0] += 50
    found = Spectral(n_clusters=2, gamma=0.3, n_init=1).fit(X)  # affinities of exp(-120)
    np.testing.assert_array_equal(found.labels_, np.repeat([0, 1], [1200, 800]))


def test_isolated_rows_are_an_error_that_helps() -> None:
    X = np.eye(30, dtype=np.float32) * 1000
    with pytest.raises(ConfigError, match=r"spectral.gamma: no component .* lower gamma"):
        Spectral(n_clusters=2).fit(X)
    with pytest.raises(ConfigError, match=r"spectral.n_neighbors: .* raise n_neighbors"):
        Spectral(n_clusters=2, affinity="nearest_neighbors", n_neighbors=1).fit(X)
    with pytest.raises(ConfigError, match=r"spectral.affinity: .* all 0"):
        Spectral(n_clusters=2, affinity="precomputed").fit(np.zeros((9, 9), np.float32))


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (np.ones((5, 4)), "got 5 rows of 4. use affinity: rbf"),
        (np.ones((4, 4)) - 2 * np.eye(4), "got negative values"),
        (np.triu(np.ones((4, 4))), r"another value above the diagonal.* \(A \+ A.T\) / 2"),
    ],
)
def test_refuses_what_is_no_affinity_matrix(A: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Spectral(n_clusters=2, affinity="precomputed").fit(A.astype(np.float32))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"eigen_solver": "amg"}, "multigrid library and changes nothing but speed"),
        ({"assign_labels": "discretize", "n_components": 3}, "needs an eigenvector for each"),
        ({"gamma": 0}, "greater than 0"),
        ({"n_clusters": 1}, "greater than or equal to 2"),
    ],
)
def test_refuses_settings(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Spectral(**params)


@pytest.mark.filterwarnings("ignore:spectral found 1:gpucluster.errors.NotConvergedWarning")
def test_counts_are_held_to_the_rows() -> None:
    X = digits(20)
    with pytest.raises(ConfigError, match=r"spectral.n_clusters: got 21, but there are 20 rows"):
        Spectral(n_clusters=21).fit(X)
    with pytest.raises(ConfigError, match=r"spectral.n_components: got 21"):
        Spectral(n_clusters=2, n_components=21).fit(X)
    with pytest.warns(GpuclusterWarning, match="n_neighbors is 30, but there are 20 rows: 20"):
        Spectral(n_clusters=2, affinity="nearest_neighbors", n_neighbors=30).fit(X)


@pytest.mark.parametrize("assign_labels", ["discretize", "cluster_qr"])
@pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")
def test_says_when_it_finds_fewer_clusters(assign_labels: str) -> None:
    X = np.ones((30, 4), np.float32)
    with pytest.warns(NotConvergedWarning, match="found 1 clusters of the 3 asked for"):
        Spectral(n_clusters=3, assign_labels=assign_labels).fit(X)


def test_the_solver_changes_nothing() -> None:
    X = digits(600)
    by = [
        Spectral(n_clusters=4, gamma=5, eigen_solver=s).fit(X) for s in (None, "arpack", "lobpcg")
    ]
    for found in by[1:]:
        np.testing.assert_array_equal(found.labels_, by[0].labels_)


@pytest.mark.parametrize("affinity", ["rbf", "nearest_neighbors"])
def test_cancel_stops_the_iteration(affinity: str) -> None:
    cancel, seen = CancelToken(), []

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.unit == "iterations":
            seen.append(event.done)
            if event.done == 5:
                cancel.cancel()

    with pytest.raises(Cancelled):
        Spectral(n_clusters=8, affinity=affinity).fit(
            digits(600), reporter=Reporter("cluster", stop, cancel)
        )
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("ignore:spectral found:gpucluster.errors.NotConvergedWarning")
def test_says_when_eigenvectors_do_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenvectors, "MAX_RESTARTS", 1)
    with pytest.warns(NotConvergedWarning, match=r"of 9 eigenvectors converged"):
        Spectral(n_clusters=10, affinity="nearest_neighbors", n_init=1).fit(digits())


@pytest.mark.parametrize("exact_rows", [1000, 100], ids=["exact", "nystrom"])
def test_labels_do_not_depend_on_the_number_of_cores(
    exact_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = digits(700)
    monkeypatch.setattr(module, "EXACT_ROWS", exact_rows)
    monkeypatch.setattr(module, "N_LANDMARKS", 600)
    monkeypatch.setattr(laplacian, "rows_per_block", lambda *_: 100)
    model = Spectral(n_clusters=6, gamma=GAMMA, n_init=2)
    found = []
    for cores in (1, 4):
        monkeypatch.setattr(blocks, "n_threads", lambda cores=cores: cores)
        found.append(model.fit(X))
    np.testing.assert_array_equal(found[0].labels_, found[1].labels_)
    assert found[0].info == found[1].info
