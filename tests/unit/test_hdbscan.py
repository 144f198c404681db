"""HDBSCAN against the hdbscan package and scikit-learn, on handwritten digits."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import HDBSCAN as SklearnHDBSCAN
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from gpucluster.algorithms import HDBSCAN
from gpucluster.errors import GpuclusterWarning
from gpucluster.events import Reporter
from gpucluster.ops.density import TREE_DIMENSIONS

# on so few rows any size may stand at a cliff
pytestmark = pytest.mark.filterwarnings("ignore:hdbscan.min_cluster_size")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from hdbscan import HDBSCAN as ContribHDBSCAN


def digits(n_features: int = 80) -> np.ndarray:
    """Return images of digits, rotated into other dimensions, without ties."""
    stream = np.random.default_rng(0)
    images = load_digits().data[:1200]
    rotated = images @ stream.normal(size=(64, n_features)) / 64
    return (rotated + stream.normal(scale=1e-3, size=rotated.shape)).astype(np.float32)


def contrib(X: np.ndarray, **params: Any) -> Any:
    # its Boruvka search takes no notice of alpha
    algorithm = "prims_kdtree" if "alpha" in params else "boruvka_kdtree"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ContribHDBSCAN(
            algorithm=algorithm, approx_min_span_tree=False, core_dist_n_jobs=1, **params
        ).fit(X.astype(np.float64))


def heights(model: HDBSCAN, X: np.ndarray) -> np.ndarray:
    """Return at which distances rows merge; the same for every spanning tree."""
    return np.asarray(model._dendrogram(X, Reporter(), None).height)


def assert_alike(labels: np.ndarray, expected: np.ndarray) -> None:
    """Assert that labels differ by ties in the spanning tree at most."""
    assert ((labels == -1) != (expected == -1)).mean() < 0.01
    assert adjusted_rand_score(labels, expected) > 0.98
    assert labels.max() >= 1


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"min_samples": 3},
        {"min_samples": 20},
        {"alpha": 1.3},
        {"match_reference_implementation": True},
        {"match_reference_implementation": True, "min_samples": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_features", [8, 80])
def test_the_hierarchy_is_that_of_the_hdbscan_package(
    n_features: int, params: dict[str, Any]
) -> None:
    X = digits(n_features)
    expected = contrib(X, min_cluster_size=10, **params)._single_linkage_tree[:, 2]
    found = heights(HDBSCAN(min_cluster_size=10, **params), X)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("n_features", [8, 80])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"min_samples": 3},
        {"min_samples": 20},
        {"cluster_selection_method": "leaf"},
        {"cluster_selection_epsilon": 2.2, "cluster_selection_method": "leaf"},
        {"max_cluster_size": 100},
        {"alpha": 1.3},
        {"match_reference_implementation": True},
        {"match_reference_implementation": True, "min_samples": 4},
    ],
    ids=str,
)
def test_labels_are_those_of_the_hdbscan_package(n_features: int, params: dict[str, Any]) -> None:
    assert 8 <= TREE_DIMENSIONS < 80
    X = digits(n_features)
    found = HDBSCAN(min_cluster_size=10, **params).fit(X)
    assert found.backend == "numba"
    assert_alike(found.labels_, contrib(X, min_cluster_size=10, **params).labels_)


@pytest.mark.parametrize("min_samples", [3, 6, 12])
def test_scikit_learn_counts_the_row_itself(min_samples: int) -> None:
    X = digits()
    theirs = SklearnHDBSCAN(min_cluster_size=10, min_samples=min_samples + 1, copy=True).fit(X)
    ours = HDBSCAN(min_cluster_size=10, min_samples=min_samples)
    expected = theirs._single_linkage_tree_["value"]
    np.testing.assert_allclose(heights(ours, X), expected, rtol=1e-5)
    found = ours.fit(X)
    assert_alike(found.labels_, theirs.labels_)
    as_theirs = HDBSCAN(
        min_cluster_size=10, min_samples=min_samples + 1, min_samples_includes_self=True
    ).fit(X)
    np.testing.assert_array_equal(as_theirs.labels_, found.labels_)


def test_min_samples_omitted_counts_the_row_itself_too() -> None:
    X = digits()
    theirs = SklearnHDBSCAN(min_cluster_size=10, copy=True).fit(X)
    ours = HDBSCAN(min_cluster_size=10, min_samples_includes_self=True)
    expected = theirs._single_linkage_tree_["value"]
    np.testing.assert_allclose(heights(ours, X), expected, rtol=1e-5)
    assert HDBSCAN(min_cluster_size=10).density_neighbors(100) == 10
    assert HDBSCAN(min_samples_includes_self=True, min_samples=1).density_neighbors(100) == 1


@pytest.mark.parametrize("n_features", [8, 80])
def test_cosine_is_euclidean_on_unit_rows_with_a_converted_epsilon(n_features: int) -> None:
    X = digits(n_features)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    settings = {"min_cluster_size": 10, "min_samples": 5, "cluster_selection_method": "leaf"}
    epsilon = 0.1
    cosine = HDBSCAN(metric="cosine", cluster_selection_epsilon=epsilon, **settings).fit(X)
    euclidean = HDBSCAN(cluster_selection_epsilon=np.sqrt(2 * epsilon), **settings).fit(unit)
    assert adjusted_rand_score(cosine.labels_, euclidean.labels_) > 0.99
    unsplit = HDBSCAN(metric="cosine", **settings).fit(X)
    assert cosine.n_clusters_ < unsplit.n_clusters_


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (HDBSCAN(), None),
        (HDBSCAN(min_cluster_size=1200), "all noise"),
        (HDBSCAN(min_samples=1023), None),
        (HDBSCAN(min_samples=1024), "up to 1023"),
        (HDBSCAN(match_reference_implementation=True), "no match_reference"),
    ],
)
def test_what_a_gpu_cannot_do_is_known_before(model: HDBSCAN, reason: str | None) -> None:
    obstacle = model.gpu_obstacle(digits(8))
    assert obstacle is None if reason is None else reason in obstacle


def test_equal_rows_are_no_work_for_a_gpu() -> None:
    X = digits(8)
    X[700] = X[3]
    assert "rows are equal" in HDBSCAN().gpu_obstacle(X)
    X[700] = X[3] * 4
    assert HDBSCAN().gpu_obstacle(X) is None
    assert "rows are equal" in HDBSCAN(metric="cosine").gpu_obstacle(X)
    zeros = np.array([[0.0, 1], [-0.0, 1], *np.eye(2) * 5, *np.eye(2) * 6], np.float32)
    assert "rows are equal" in HDBSCAN().gpu_obstacle(zeros)


@pytest.mark.parametrize("min_cluster_size", [6, 50])
def test_min_cluster_size_not_below_rows_is_all_noise_and_said(min_cluster_size: int) -> None:
    with pytest.warns(GpuclusterWarning, match=r"there are 6 rows: everything is noise"):
        found = HDBSCAN(min_cluster_size=min_cluster_size).fit(np.eye(6, dtype=np.float32))
    assert (found.labels_ == -1).all()
    assert found.n_clusters_ == 0


def test_the_tree_is_that_of_the_hdbscan_package() -> None:
    X = digits(8)
    fitted = contrib(X, min_cluster_size=10)
    expected = fitted.condensed_tree_.to_pandas()
    found = HDBSCAN(min_cluster_size=10).fit(X)
    tree = found.tree_
    assert tree is not None
    clusters = expected[expected.child_size > 1]
    assert len(tree.parent) == 1 + len(clusters)
    by_birth = np.lexsort((tree.size[1:], tree.birth[1:]))
    theirs = clusters.sort_values(["lambda_val", "child_size"])
    np.testing.assert_allclose(tree.birth[1:][by_birth], theirs.lambda_val, rtol=1e-5)
    # of ties in the spanning tree, another row may go first
    np.testing.assert_allclose(tree.size[1:][by_birth], theirs.child_size, atol=1)
    rows = expected[expected.child_size == 1].sort_values("child")
    np.testing.assert_allclose(tree.row_density, rows.lambda_val, rtol=1e-5)


def test_the_tree_knows_which_clusters_were_selected() -> None:
    X = digits(8)
    copies = np.concatenate((X, X[:300]))
    found = HDBSCAN(min_cluster_size=10).fit(copies)
    tree = found.tree_
    assert tree is not None
    assert sorted(tree.cluster[tree.cluster >= 0]) == list(range(found.n_clusters_))
    above = np.arange(len(tree.parent))
    for node in range(1, len(tree.parent)):  # parents come first
        above[node] = node if tree.cluster[node] >= 0 else above[tree.parent[node]]
    np.testing.assert_array_equal(tree.cluster[above][tree.row_node], found.labels_)
    assert tree.size[0] == len(copies)
