"""Passes over all rows by the workers of a Dask cluster: the bits are those of one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpucluster.algorithms.gaussian_mixture import GaussianMixture
from gpucluster.algorithms.hdbscan import HDBSCAN
from gpucluster.device.executor import Executor
from gpucluster.device.fleet import Fleet, fleet_of
from gpucluster.device.select import decide
from gpucluster.device.storage import on_disk
from gpucluster.ops import neighbors as neighbors_module
from gpucluster.ops.assign import cluster_sums, most_similar, nearest_center
from gpucluster.ops.connectivity import radius_components
from gpucluster.ops.density import TREE_DIMENSIONS
from gpucluster.ops.kdtree import KDTree
from gpucluster.ops.neighbors import nearest_neighbors
from gpucluster.ops.normalize import unit_rows, without_offset
from gpucluster.ops.silhouette import squared_silhouette


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    executor = Executor.of("dask", n_workers=2)
    with executor.fleet(tmp_path_factory.mktemp("shared"), decide("cpu")) as found:
        assert found is not None
        yield found


def blobs(n_samples: int, n_features: int, n_clusters: int = 12, away: float = 0.0) -> np.ndarray:
    drawn = np.random.default_rng(3)
    centers = drawn.normal(size=(n_clusters, n_features)) * 1.5 + away
    X = centers[drawn.integers(n_clusters, size=n_samples)]
    return (X + drawn.normal(size=X.shape)).astype(np.float32)


def shared(X: np.ndarray, fleet: Fleet) -> Any:
    """Return a copy whose rows the workers see."""
    copy = on_disk(X.shape, fleet.site)
    copy[...] = X
    assert fleet_of(copy) is fleet
    return copy


def assert_equal(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("away", [0.0, 50.0])
def test_exact_lists(fleet: Fleet, away: float) -> None:
    X = blobs(3000, 16, away=away)
    X[100:160] = X[7]  # more equal rows than a list holds
    expected, before = nearest_neighbors(X, 20), fleet.n_calls
    found = nearest_neighbors(shared(X, fleet), 20)
    assert fleet.n_calls > before
    assert found.method == expected.method == "exact"
    assert_equal(found.rows, expected.rows)
    assert_equal(found.sqdist, expected.sqdist)


def test_lists_found_in_inverted_lists(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors_module, "EXACT_LIMIT_FLOP", 0)
    monkeypatch.setattr(neighbors_module, "NARROW_SECONDS", 0.0)
    drawn = np.random.default_rng(0)
    X = blobs(9000, 12, 60) @ drawn.normal(size=(12, 96)).astype(np.float32) + 30
    X = (X + drawn.normal(scale=0.01, size=X.shape)).astype(np.float32)
    narrowed = []

    def spied(seen: Any, *args: Any) -> tuple[Any, float]:
        narrow, share = original(seen, *args)
        narrowed.append(narrow)
        return narrow, share

    from gpucluster.ops import projection

    original = projection.narrowed
    monkeypatch.setattr(projection, "narrowed", spied)
    expected, found = nearest_neighbors(X, 15), nearest_neighbors(shared(X, fleet), 15)
    assert found.method == expected.method == "inverted_lists"
    assert narrowed[1].shape[1] < X.shape[1]
    assert fleet_of(narrowed[1]) is fleet
    assert_equal(narrowed[1], narrowed[0])
    assert_equal(found.rows, expected.rows)
    assert_equal(found.sqdist, expected.sqdist)
    assert found.recall == expected.recall


def test_centred_rows_are_seen_too(fleet: Fleet) -> None:
    X = blobs(5000, 8, away=40.0)
    centred = without_offset(shared(X, fleet))
    assert fleet_of(centred) is fleet
    assert_equal(centred, without_offset(X))


def test_nearest_centres_and_directions(fleet: Fleet) -> None:
    X = blobs(20_000, 24, away=1.0)
    there, centers = shared(X, fleet), X[:3000:7].copy()
    centers[3] = centers[1]
    before = fleet.n_calls
    assert_equal(nearest_center(there, centers), nearest_center(X, centers))
    assert fleet.n_calls > before
    directions = unit_rows(centers)
    for found, expected in zip(
        most_similar(there, directions), most_similar(X, directions), strict=True
    ):
        assert_equal(found, expected)


def test_sums_silhouettes_and_components(fleet: Fleet) -> None:
    X = blobs(4000, 10)
    there, before = shared(X, fleet), fleet.n_calls
    labels = nearest_center(X, X[:9])
    labels[::17] = -1
    assert_equal(cluster_sums(there, labels, 9), cluster_sums(X, labels, 9))
    assert_equal(squared_silhouette(there, labels), squared_silhouette(X, labels))
    near = nearest_neighbors(X, 8).sqdist[:, -1]
    radius = float(np.sqrt(np.median(near)))
    assert fleet.n_calls >= before + 3
    for found, expected in zip(
        radius_components(there, radius, 6), radius_components(X, radius, 6), strict=True
    ):
        assert_equal(found, expected)


@pytest.mark.parametrize("n_features", [6, TREE_DIMENSIONS + 4], ids=["tree", "products"])
def test_hierarchies_of_density(fleet: Fleet, n_features: int) -> None:
    X = blobs(3000, n_features)
    X[50:90] = X[7]
    algorithm = HDBSCAN(min_cluster_size=30, min_samples=4)
    here, before = algorithm.fit(X), fleet.n_calls
    there = algorithm.fit(shared(X, fleet))
    assert fleet.n_calls >= before + 3, "lists, and two searches for edges"
    assert here.info["duplicates"]["n_duplicate_rows"] == 40
    assert_equal(there.labels_, here.labels_)
    assert_equal(there.probabilities_, here.probabilities_)


def test_rows_near_rows_of_a_tree(fleet: Fleet) -> None:
    X, queries = blobs(3000, 5), blobs(2500, 5, 40)
    before, there = fleet.n_calls, KDTree(shared(X, fleet))
    assert_equal(there.nearest_to(shared(queries, fleet)), KDTree(X).nearest_to(queries))
    assert fleet.n_calls == before + 1


@pytest.mark.parametrize(
    "options",
    [
        {"covariance_type": "full"},
        {"covariance_type": "tied", "init_params": "random"},
        {"covariance_type": "diag", "init_params": "k-means++"},
        {"covariance_type": "spherical"},
    ],
    ids=lambda options: options["covariance_type"],
)
def test_gaussian_mixture(fleet: Fleet, options: dict[str, Any]) -> None:
    X = blobs(6000, 14, 5)
    mixture = GaussianMixture(n_components=5, max_iter=12, tol=0, **options)
    fits, before = [], fleet.n_calls
    for rows in (X, shared(X, fleet)):
        with pytest.warns(match="max_iter"):
            fits.append(mixture.fit(rows))
    here, there = fits
    assert fleet.n_calls > before + 12
    assert_equal(there.labels_, here.labels_)
    assert_equal(there.probabilities_, here.probabilities_)
    assert there.info == here.info
