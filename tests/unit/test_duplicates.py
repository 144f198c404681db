"""Equal rows: found exactly, searched once, counted all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN as SklearnDBSCAN

from gpucluster.algorithms import DBSCAN, HDBSCAN, OPTICS, KMeans, MeanShift
from gpucluster.errors import DeviceUnavailableError
from gpucluster.ops import duplicates
from gpucluster.ops.duplicates import distinct_rows

pytestmark = pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")


def groups(n_groups: int = 4, per_group: int = 30, n_features: int = 4) -> np.ndarray:
    """Return groups of rows around corners."""
    stream = np.random.default_rng(0)
    X = np.repeat(np.eye(n_groups, n_features) * 10, per_group, axis=0)
    return (X + stream.normal(size=X.shape)).astype(np.float32)


@given(st.lists(st.integers(-2, 2), min_size=2, max_size=60), st.integers(1, 3), st.booleans())
def test_distinct_rows_are_those_of_numpy(
    values: list[int], n_features: int, collide: bool
) -> None:
    X = np.resize(np.array(values, np.float32), (max(2, len(values) // n_features), n_features))
    X[::2] *= -1  # -0.0 among them
    with pytest.MonkeyPatch.context() as patch:
        if collide:
            patch.setattr(duplicates, "_hashes", lambda X: np.zeros(len(X), np.uint64))
        found = distinct_rows(X)
    unique, first, counts = np.unique(
        X + np.float32(0), axis=0, return_index=True, return_counts=True
    )
    if len(unique) == len(X):
        assert found is None
        return
    assert found is not None
    np.testing.assert_array_equal(found.rows, np.sort(first))
    np.testing.assert_array_equal(X[found.rows][found.inverse], X)
    np.testing.assert_array_equal(found.weights, counts[np.argsort(first)])
    assert (found.rows == np.sort(found.rows)).all()


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).integers(0, 3, (500, 4)).astype(np.float32)
    whole = distinct_rows(X)
    monkeypatch.setattr(duplicates, "rows_per_block", lambda row_bytes: 7)
    blocked = distinct_rows(X)
    for name in ("rows", "inverse", "weights"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(blocked, name))


def uncollapsed(model: Any, X: np.ndarray) -> Any:
    """Fit without looking for equal rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpucluster.algorithms.base.distinct_rows", lambda X: None)
        return model.fit(X)


@pytest.mark.parametrize("algorithm", ["kd_tree", "brute"])
@given(
    seed=st.integers(0, 2**16),
    min_samples=st.integers(1, 9),
    metric=st.sampled_from(["euclidean", "cosine"]),
)
def test_dbscan_is_that_of_all_rows(
    algorithm: str, seed: int, min_samples: int, metric: str
) -> None:
    stream = np.random.default_rng(seed)
    X = stream.integers(-4, 5, (80, 2)).astype(np.float32) + np.float32([9, 0])
    X = X[stream.integers(0, len(X), 120)]
    eps = 1.0 if metric == "euclidean" else 0.002
    model = DBSCAN(eps=eps, min_samples=min_samples, metric=metric, algorithm=algorithm)
    found, expected = model.fit(X), uncollapsed(model, X)
    np.testing.assert_array_equal(found.labels_, expected.labels_)
    assert found.info["n_core"] == expected.info["n_core"]
    assert found.info["duplicates"]["n_distinct"] == len(np.unique(model._metric_space(X), axis=0))
    if metric == "euclidean":
        theirs = SklearnDBSCAN(eps=eps, min_samples=min_samples).fit(X)
        np.testing.assert_array_equal(theirs.labels_ < 0, found.labels_ < 0)


def test_border_rows_count_with_their_copies() -> None:
    # two cores at 0 and 4, a border row at 1.9 in three copies: the nearest core takes them
    X = np.array([[0.0]] * 5 + [[4.0]] * 5 + [[1.9]] * 3 + [[9.0]] * 2, np.float32)
    found = DBSCAN(eps=2, min_samples=5, algorithm="brute").fit(X)
    np.testing.assert_array_equal(found.labels_, [0] * 5 + [1] * 5 + [0] * 3 + [-1] * 2)


def test_duplicates_are_reported_where_there_are_any() -> None:
    X = groups()
    for model in (HDBSCAN(), DBSCAN(eps=2), OPTICS(), MeanShift(bandwidth=4)):
        assert "duplicates" not in model.fit(X).info
        mass = model.fit(np.concatenate([X, X[:30], X[:30]])).info["duplicates"]
        assert mass == {"n_distinct": 120, "n_duplicate_rows": 60, "share": 60 / 180}
    assert "duplicates" not in KMeans(n_clusters=4).fit(np.concatenate([X, X])).info


def test_copies_get_what_their_row_got() -> None:
    X = groups()
    copies = np.random.default_rng(1).integers(0, 120, 200)
    found = HDBSCAN(min_cluster_size=20, min_samples=4).fit(np.concatenate([X, X[copies]]))
    np.testing.assert_array_equal(found.labels_[120:], found.labels_[copies])
    np.testing.assert_array_equal(found.probabilities_[120:], found.probabilities_[copies])
    assert found.n_clusters_ == 4


@pytest.mark.parametrize("n_features", [4, 70])
def test_copies_of_one_row_are_no_cluster(n_features: int) -> None:
    X = groups(n_features=n_features)
    lonely = np.full((50, n_features), 40, np.float32)
    found = HDBSCAN(min_cluster_size=10, min_samples=3).fit(np.concatenate([X, lonely]))
    assert found.n_clusters_ == 4
    assert (found.labels_[120:] == -1).all()
    crowded = np.repeat(X[:1], 50, axis=0)  # in the midst of others, they belong to them
    found = HDBSCAN(min_cluster_size=10, min_samples=3).fit(np.concatenate([X, crowded]))
    assert found.n_clusters_ == 4
    assert (found.labels_[120:] == found.labels_[0]).all()


def test_the_size_of_a_cluster_counts_copies() -> None:
    X = groups(per_group=8)
    model = HDBSCAN(min_cluster_size=20, min_samples=3)
    assert model.fit(X).n_clusters_ == 0
    found = model.fit(np.repeat(X, 3, axis=0))
    np.testing.assert_array_equal(np.bincount(found.labels_), [24] * 4)


@pytest.mark.parametrize("n_distinct", [1, 2, 3])
def test_hardly_any_distinct_rows(n_distinct: int) -> None:
    X = np.repeat(np.eye(3, dtype=np.float32)[:n_distinct], 20, axis=0)
    found = HDBSCAN(min_cluster_size=5, allow_single_cluster=True).fit(X)
    assert found.info["duplicates"]["n_distinct"] == n_distinct
    assert found.n_clusters_ == (n_distinct > 1)


def test_a_gpu_does_not_get_equal_rows(stand_in: Any) -> None:
    X = groups()
    with pytest.raises(DeviceUnavailableError, match="rows are equal"):
        HDBSCAN().fit(np.concatenate([X, X]), device="gpu")
