"""Lloyd's iteration with bounds: the labels of a full search, whatever the centres do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpucluster.ops.lloyd as lloyd_module
from gpucluster.errors import Cancelled
from gpucluster.events import CancelToken, Reporter
from gpucluster.ops.lloyd import Lloyd
from gpucluster.types import Matrix


def full_search(X: Matrix, centers: Matrix) -> Matrix:
    """Return all squared distances, from differences in float64."""
    difference = X[:, None].astype(np.float64) - centers[None]
    return np.einsum("ijk,ijk->ij", difference, difference)


@settings(max_examples=60, deadline=None)
@given(
    n_samples=st.integers(2, 90),
    n_features=st.integers(1, 6),
    n_clusters=st.integers(1, 12),
    n_groups=st.integers(1, 12),
    offset=st.sampled_from([0.0, 100.0]),
    step=st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    whole=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_labels_and_sums_are_those_of_a_full_search(
    n_samples: int,
    n_features: int,
    n_clusters: int,
    n_groups: int,
    offset: float,
    step: float,
    whole: bool,
    seed: int,
) -> None:
    stream = np.random.default_rng(seed)
    X = (stream.normal(size=(n_samples, n_features)) + offset).astype(np.float32)
    if whole:  # many ties
        X = np.round(X)
    centers = X[stream.integers(n_samples, size=n_clusters)].copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lloyd_module, "n_groups", lambda k, _: min(k, n_groups))
        patch.setattr(lloyd_module, "DOUBTS_LIMIT", stream.choice([0.1, 2.0]))
        lloyd = Lloyd(X, centers)
        for _ in range(4):
            expected = full_search(X, centers)
            np.testing.assert_array_equal(lloyd.labels, expected.argmin(axis=1))
            np.testing.assert_array_equal(
                lloyd.counts, np.bincount(lloyd.labels, minlength=n_clusters)
            )
            np.testing.assert_allclose(lloyd.sqdist(), expected.min(axis=1), rtol=1e-12)
            sums = np.zeros(centers.shape)
            np.add.at(sums, lloyd.labels, X.astype(np.float64))
            np.testing.assert_allclose(lloyd.sums, sums, rtol=1e-9, atol=1e-9)
            centers = centers + (step * stream.normal(size=centers.shape)).astype(np.float32)
            if whole:
                centers = np.round(centers)
            lloyd.move(centers)


def test_means_walk_as_plain_lloyd() -> None:
    stream = np.random.default_rng(0)
    X = stream.normal(size=(3000, 24)).astype(np.float32)
    centers = X[:90].copy()
    lloyd = Lloyd(X, centers)
    for _ in range(25):
        labels = full_search(X, centers).argmin(axis=1)
        np.testing.assert_array_equal(lloyd.labels, labels)
        centers = np.stack([X[labels == j].mean(axis=0, dtype=np.float64) for j in range(90)])
        centers = centers.astype(np.float32)
        moved = lloyd.means()
        np.testing.assert_allclose(moved, centers, rtol=1e-5, atol=1e-6)
        centers = moved
        lloyd.move(centers)


def test_bounds_spare_almost_all_distances_once_the_centres_rest() -> None:
    stream = np.random.default_rng(0)
    X = stream.normal(size=(4000, 16)).astype(np.float32)
    lloyd = Lloyd(X, X[:30].copy())
    for _ in range(40):
        lloyd.move(lloyd.means())
    assert max(kept["bounds"].doubts() for kept in lloyd._shards._kept) < 0.1


def test_an_empty_cluster_gets_the_farthest_row() -> None:
    X = np.array([[0, 0], [0, 1], [9, 9], [1, 0]], np.float32)
    lloyd = Lloyd(X, np.array([[0, 0], [100, 100]], np.float32))
    np.testing.assert_array_equal(lloyd.counts, [4, 0])
    np.testing.assert_array_equal(lloyd.means()[1], [9, 9])


@pytest.mark.parametrize("n_clusters", [5, 200])
def test_the_number_of_cores_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, n_clusters: int
) -> None:
    X = np.random.default_rng(0).normal(size=(9000, 20)).astype(np.float32)
    found = []
    for cores in (1, 3):
        monkeypatch.setattr("gpucluster.ops.blocks.n_threads", lambda cores=cores: cores)
        lloyd = Lloyd(X, X[:n_clusters].copy())
        for _ in range(5):
            lloyd.move(lloyd.means())
        found.append((lloyd.labels, lloyd.centers))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_a_cancelled_reporter_stops_it() -> None:
    cancel = CancelToken()
    X = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    lloyd = Lloyd(X, X[:4].copy(), Reporter("cluster", cancel=cancel))
    cancel.cancel()
    with pytest.raises(Cancelled):
        lloyd.move(lloyd.means())
