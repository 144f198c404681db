"""K-means: what it says, what it costs, and its sum of squares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.metrics import adjusted_rand_score

from gpucluster.algorithms import KMeans
from gpucluster.device.storage import on_disk
from gpucluster.errors import NotConvergedWarning
from gpucluster.events import Cancelled, CancelToken, Event, Progress, Reporter
from gpucluster.ops.assign import nearest_center
from gpucluster.ops.normalize import unit_rows
from gpucluster.ops.seeding import _dealt, _shares
from gpucluster.types import Matrix


def test_kmeans_says_when_it_stops_early() -> None:
    X = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    with pytest.warns(NotConvergedWarning, match="stopped at max_iter 1 "):
        KMeans(n_clusters=20, max_iter=1, n_init=1).fit(X)


def test_kmeans_says_when_it_finds_fewer_clusters() -> None:
    X = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    with pytest.warns(NotConvergedWarning, match="found 2 clusters of the 5 asked for"):
        found = KMeans(n_clusters=5).fit(X)
    assert found.n_clusters_ == 2


def test_kmeans_seeding_can_be_cancelled_and_is_in_the_cost() -> None:
    X = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    cancel, seen = CancelToken(), []

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.unit == "centres":
            seen.append(event.done)
            if event.done == 10:
                cancel.cancel()

    with pytest.raises(Cancelled):
        KMeans(n_clusters=50).fit(X, reporter=Reporter("cluster", stop, cancel))
    assert seen == list(range(2, 11))
    shape = (50_000, 384, "cpu")
    random = KMeans(n_clusters=300, init="random").cost(*shape).seconds
    assert KMeans(n_clusters=300).cost(*shape).seconds > random + 1


@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")
@given(
    n_samples=st.integers(4, 60),
    n_features=st.integers(1, 6),
    n_clusters=st.integers(2, 4),
    seed=st.integers(0, 2**16),
)
def test_kmeans_inertia_is_the_float64_sum(
    n_samples: int, n_features: int, n_clusters: int, seed: int
) -> None:
    X = np.random.default_rng(seed).normal(size=(n_samples, n_features)).astype(np.float32)
    found = KMeans(n_clusters=n_clusters, n_init=1, tol=0, random_state=seed).fit(X)
    assert 1 <= found.n_clusters_ <= n_clusters
    exact = sum(
        float(np.square(X[rows] - X[rows].mean(axis=0, dtype=np.float64)).sum(dtype=np.float64))
        for k in range(found.n_clusters_)
        if len(rows := np.flatnonzero(found.labels_ == k))
    )
    assert found.info["inertia"] >= exact - 1e-6
    assert found.info["inertia"] == pytest.approx(exact, rel=1e-4, abs=1e-4)


def blobs(n_samples: int, n_features: int, n_clusters: int, seed: int = 0) -> Matrix:
    stream = np.random.default_rng(seed)
    centers = stream.normal(size=(n_clusters, n_features))
    noise = stream.normal(size=(n_samples, n_features))
    X: Matrix = (3 * centers[stream.integers(n_clusters, size=n_samples)] + noise).astype(
        np.float32
    )
    return X


def test_starts_compete_on_a_sample_and_the_best_rests_on_all_rows() -> None:
    X = blobs(25_000, 8, 12)
    found = KMeans(n_clusters=12, n_init=4).fit(X)
    reference = SklearnKMeans(12, n_init=4, random_state=0).fit(X)
    assert found.info["inertia"] == pytest.approx(reference.inertia_, rel=1e-3)
    assert adjusted_rand_score(found.labels_, reference.labels_) > 0.999
    means = np.stack([X[found.labels_ == j].mean(axis=0) for j in range(12)])
    np.testing.assert_array_equal(nearest_center(X, means), found.labels_)


def test_many_clusters_are_drawn_part_by_part() -> None:
    X = blobs(6000, 8, 600)
    found = KMeans(n_clusters=600, n_init=1).fit(X)
    reference = SklearnKMeans(600, n_init=1, random_state=0).fit(X)
    assert found.n_clusters_ == 600
    assert found.info["inertia"] < 1.05 * reference.inertia_


@pytest.mark.filterwarnings("ignore::gpucluster.errors.NotConvergedWarning")
def test_parts_share_the_centres_among_rows_that_are_few() -> None:
    X = np.repeat(np.random.default_rng(0).normal(size=(520, 3)), 2, axis=0).astype(np.float32)
    X[600:] = X[0]  # half of the rows are equal
    assert KMeans(n_clusters=600, n_init=1).fit(X).n_clusters_ == 300


@pytest.mark.filterwarnings("ignore::gpucluster.errors.NotConvergedWarning")
def test_a_part_that_holds_nearly_all_rows_is_not_divided_for_ever() -> None:
    X = np.zeros((4000, 4), np.float32)
    X[:3] = np.random.default_rng(0).normal(size=(3, 4))
    assert KMeans(n_clusters=1000, n_init=1).fit(X).n_clusters_ == 4


def test_rows_that_stay_together_are_dealt_to_parts() -> None:
    X = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    for n_clusters in (1, 300, 999, 1000):
        drawn = _dealt(X, n_clusters, np.random.default_rng(1), Reporter())
        assert drawn.shape == (n_clusters, 4)
        assert len(np.unique(drawn, axis=0)) == n_clusters


@settings(max_examples=30, deadline=None)
@given(total=st.integers(1, 60), data=st.data())
def test_shares_are_whole_and_within_reach(total: int, data: st.DataObject) -> None:
    mass = np.array(data.draw(st.lists(st.sampled_from([0.0, 1e-9, 1.0, 70.0]), min_size=1)))
    most = np.array([data.draw(st.integers(0, 40)) for _ in mass])
    total = min(total, int(most.sum()))
    shares = _shares(total, mass, most)
    assert shares.sum() == total
    assert ((shares >= 0) & (shares <= most)).all()


def test_cosine_is_about_directions() -> None:
    X = blobs(2000, 16, 6)
    lengths = np.random.default_rng(1).uniform(0.1, 10, size=(len(X), 1)).astype(np.float32)
    model = KMeans(n_clusters=6, n_init=3, metric="cosine")
    found, scaled = model.fit(X), model.fit(X * lengths)
    np.testing.assert_array_equal(found.labels_, scaled.labels_)
    unit = unit_rows(X)
    sums = np.stack([unit[found.labels_ == j].sum(axis=0) for j in range(6)])
    directions = unit_rows(sums)
    np.testing.assert_array_equal((unit @ directions.T).argmax(axis=1), found.labels_)
    cosines = np.einsum("ij,ij->i", unit, directions[found.labels_])
    assert found.info["inertia"] == pytest.approx(float(2 * (1 - cosines).sum()), rel=1e-3)
    assert model.gpu_obstacle(X) is None


def test_cosine_centres_stay_where_rows_cancel_out() -> None:
    X = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]] * 5, np.float32)
    found = KMeans(n_clusters=2, metric="cosine", n_init=1).fit(X)
    assert np.isfinite(found.info["inertia"])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("order", ["mixed", "sorted"])
def test_batches_come_near_all_rows(metric: str, order: str, tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    group = stream.integers(30, size=24_000)
    group = np.sort(group) if order == "sorted" else group
    X = (stream.normal(size=(30, 12))[group] * 2 + stream.normal(size=(24_000, 12))).astype("f4")
    settings = {"n_clusters": 20, "n_init": 2, "metric": metric}
    exact = KMeans(**settings).fit(X)
    model = KMeans(**settings, batch_size=1000)
    found = model.fit(X)
    assert found.method == model.cost(*X.shape, "cpu").method == "minibatch"
    assert exact.method == "exact"
    assert found.info["inertia"] < 1.02 * exact.info["inertia"]
    far = on_disk(X.shape, tmp_path)
    far[:] = X
    again = model.fit(far)
    np.testing.assert_array_equal(again.labels_, found.labels_)
    assert again.info == found.info


def test_batches_end_and_can_be_cancelled() -> None:
    X = np.random.default_rng(0).normal(size=(12_000, 8)).astype(np.float32)
    with pytest.warns(NotConvergedWarning, match="stopped at max_iter 1 "):
        found = KMeans(n_clusters=5, max_iter=1, n_init=1, batch_size=2000).fit(X)
    assert found.info["n_iter"] == 7  # batches of runs of 64 rows
    cancel = CancelToken()

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.unit == "batches":
            cancel.cancel()

    model = KMeans(n_clusters=5, batch_size=500)
    with pytest.raises(Cancelled):
        model.fit(X, reporter=Reporter("cluster", stop, cancel))


def test_few_rows_need_no_batches() -> None:
    X = np.random.default_rng(0).normal(size=(900, 8)).astype(np.float32)
    found, exact = KMeans(n_clusters=5, batch_size=100).fit(X), KMeans(n_clusters=5).fit(X)
    np.testing.assert_array_equal(found.labels_, exact.labels_)
    assert found.method == "exact"
