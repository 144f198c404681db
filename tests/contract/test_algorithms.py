"""One contract for every algorithm: what goes in stays whole, what comes out is canonical."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from gpucluster.algorithms import (
    DBSCAN,
    HDBSCAN,
    OPTICS,
    Agglomerative,
    Algorithm,
    GaussianMixture,
    KMeans,
    MeanShift,
    Spectral,
    canonical_labels,
    catalogue,
)
from gpucluster.errors import (
    ConfigError,
    GpuclusterWarning,
    InputError,
    NotConvergedWarning,
    TooFewSamplesError,
)
from gpucluster.estimator import Clusterer
from gpucluster.events import Cancelled, CancelToken, Event, Progress, Reporter

pytestmark = pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")

EVERY = {
    "kmeans": KMeans(n_clusters=3),
    "dbscan": DBSCAN(eps=1.5),
    "dbscan-brute": DBSCAN(eps=1.5, algorithm="brute"),
    "hdbscan": HDBSCAN(min_cluster_size=10),
    "agglomerative": Agglomerative(n_clusters=3),
    "agglomerative-average": Agglomerative(n_clusters=3, linkage="average"),
    "agglomerative-single": Agglomerative(n_clusters=3, linkage="single"),
    "agglomerative-graph": Agglomerative(n_clusters=3, connectivity=2),
    "mean_shift": MeanShift(bandwidth=3),
    "mean_shift-bins": MeanShift(bandwidth=3, bin_seeding=True, cluster_all=False),
    "spectral": Spectral(n_clusters=3),
    "spectral-neighbors": Spectral(n_clusters=3, affinity="nearest_neighbors"),
    **{
        f"gaussian_mixture-{form}": GaussianMixture(n_components=3, covariance_type=form)
        for form in ("full", "tied", "diag", "spherical")
    },
    "optics": OPTICS(min_samples=10, xi=0.5, min_cluster_size=0.1),
    "optics-dbscan": OPTICS(cluster_method="dbscan", eps=1.5),
}
algorithms = pytest.mark.parametrize("algorithm", EVERY.values(), ids=EVERY.keys())


def blobs(
    n_samples: int = 240, n_features: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    centers = np.eye(3, n_features) * 10
    X, y = make_blobs(n_samples, centers=centers, cluster_std=0.4, random_state=seed)
    return np.ascontiguousarray(X, np.float32), y


def test_the_contract_covers_the_catalogue() -> None:
    assert {type(algorithm) for algorithm in EVERY.values()} == set(catalogue().values())


@algorithms
def test_finds_blobs_in_canonical_order(algorithm: Algorithm) -> None:
    X, y = blobs()
    found = algorithm.fit(X)
    assert adjusted_rand_score(y, found.labels_) > 0.95
    assert found.labels_.dtype == np.int32
    assert found.n_clusters_ == 3
    np.testing.assert_array_equal(canonical_labels(found.labels_), found.labels_)
    sizes = np.bincount(found.labels_[found.labels_ >= 0])
    assert (np.diff(sizes) <= 0).all()


@algorithms
def test_leaves_the_input_alone_and_repeats_itself(algorithm: Algorithm) -> None:
    X, _ = blobs()
    before = X.copy()
    X.setflags(write=False)
    first, second = algorithm.fit(X), algorithm.fit(X)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(first.labels_, second.labels_)
    if first.probabilities_ is not None:
        assert first.probabilities_.dtype == np.float32
        assert (first.probabilities_[first.labels_ < 0] == 0).all()


@algorithms
def test_permuting_rows_permutes_labels(algorithm: Algorithm) -> None:
    X, _ = blobs()
    order = np.random.default_rng(1).permutation(len(X))
    labels = algorithm.fit(X).labels_
    permuted = algorithm.fit(np.ascontiguousarray(X[order])).labels_
    assert adjusted_rand_score(labels[order], permuted) == pytest.approx(1)


@algorithms
def test_equal_rows_share_a_label(algorithm: Algorithm) -> None:
    X, _ = blobs()
    labels = algorithm.fit(np.concatenate([X, X[:50], X[:50]])).labels_
    np.testing.assert_array_equal(labels[:50], labels[240:290])
    np.testing.assert_array_equal(labels[:50], labels[290:])


@algorithms
@pytest.mark.parametrize("n_features", [1, 2, 80])
def test_all_rows_equal(algorithm: Algorithm, n_features: int) -> None:
    found = algorithm.fit(np.ones((30, n_features), np.float32))
    label = -1 if algorithm.name == "hdbscan" else 0  # one cluster of everything is none to it
    np.testing.assert_array_equal(found.labels_, np.full(30, label))


@algorithms
@pytest.mark.parametrize("n_samples", [3, 4, 7])
def test_a_handful_of_rows(algorithm: Algorithm, n_samples: int) -> None:
    X = np.arange(n_samples * 4, dtype=np.float32).reshape(n_samples, 4)
    found = algorithm.fit(X)
    if algorithm.name in {"kmeans", "agglomerative", "gaussian_mixture"}:
        assert set(found.labels_) == {0, 1, 2}
    elif algorithm.name == "mean_shift":  # no two rows lie within the bandwidth
        np.testing.assert_array_equal(found.labels_, np.arange(n_samples))
    elif algorithm.name == "spectral":  # where all are neighbours, there is nothing to cut
        assert set(found.labels_) <= {0, 1, 2}
    else:
        np.testing.assert_array_equal(found.labels_, np.full(n_samples, -1))


COUNTS = {  # the parameter that says how many clusters there are
    "kmeans": "n_clusters",
    "agglomerative": "n_clusters",
    "spectral": "n_clusters",
    "gaussian_mixture": "n_components",
}
counting = pytest.mark.parametrize(
    "algorithm",
    [algorithm for algorithm in EVERY.values() if algorithm.name in COUNTS],
    ids=[name for name, algorithm in EVERY.items() if algorithm.name in COUNTS],
)


@counting
def test_as_many_clusters_as_rows(algorithm: Algorithm) -> None:
    X = np.eye(6, dtype=np.float32)
    found = algorithm.model_copy(update={COUNTS[algorithm.name]: 6}).fit(X)
    if algorithm.name == "spectral":  # where all are alike, there is nothing to cut
        assert found.n_clusters_ <= 6
    else:
        np.testing.assert_array_equal(found.labels_, np.arange(6))


@counting
def test_more_clusters_than_rows_are_refused(algorithm: Algorithm) -> None:
    name = COUNTS[algorithm.name]
    model = algorithm.model_copy(update={name: 9})
    with pytest.raises(ConfigError, match=rf"{algorithm.name}.{name}: got 9, but there are 5 rows"):
        model.fit(np.eye(5, dtype=np.float32))


@algorithms
def test_half_precision_is_refused_here_and_taken_at_the_door(algorithm: Algorithm) -> None:
    X, _ = blobs()
    half = X.astype(np.float16)
    with pytest.raises(InputError, match="got ndarray float16"):
        algorithm.fit(half)
    params = algorithm.model_dump(exclude_unset=True, exclude={"algorithm"})
    single = half.astype(np.float32)
    labels = [Clusterer(algorithm.name, **params).fit_predict(rows) for rows in (half, single)]
    np.testing.assert_array_equal(*labels)


@algorithms
def test_another_seed_is_another_start_and_no_other_meaning(algorithm: Algorithm) -> None:
    if "random_state" not in type(algorithm).model_fields:
        pytest.skip("it has no seed")
    X, y = blobs()
    for seed in (0, 1):
        found = algorithm.model_copy(update={"random_state": seed}).fit(X)
        assert adjusted_rand_score(y, found.labels_) > 0.95


@algorithms
def test_a_fit_can_be_cancelled(algorithm: Algorithm) -> None:
    cancel = CancelToken()
    cancel.cancel()
    X, _ = blobs()
    with pytest.raises(Cancelled):
        algorithm.fit(X, reporter=Reporter("cluster", cancel=cancel))


@algorithms
def test_the_plan_names_the_method_that_runs(algorithm: Algorithm) -> None:
    X, _ = blobs()
    cost = algorithm.cost(*X.shape, "cpu")
    assert algorithm.fit(X).method == cost.method
    assert cost.bytes > 0
    assert cost.seconds > 0


@algorithms
def test_one_row_is_too_few(algorithm: Algorithm) -> None:
    with pytest.raises(TooFewSamplesError, match="insufficient documents.*n_samples=1"):
        algorithm.fit(np.ones((1, 4), np.float32))


@algorithms
@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.full((5, 2), np.nan, np.float32), "NaN or infinite"),
        (np.full((5, 2), np.inf, np.float32), "NaN or infinite"),
        (np.full((5, 2), 1e30, np.float32), "too large"),
        (np.ones((5, 2)), "expected a float32 matrix"),
        (np.ones(5, np.float32), "expected a float32 matrix"),
        (np.ones((5, 0), np.float32), "0 dimensions"),
    ],
)
def test_refuses_what_is_no_matrix(algorithm: Algorithm, X: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        algorithm.fit(X)


@pytest.mark.parametrize("min_cluster_size", [6, 50])
def test_min_cluster_size_not_below_rows_is_all_noise_and_said(min_cluster_size: int) -> None:
    with pytest.warns(GpuclusterWarning, match=r"there are 6 rows: everything is noise"):
        found = HDBSCAN(min_cluster_size=min_cluster_size).fit(np.eye(6, dtype=np.float32))
    assert (found.labels_ == -1).all()
    assert found.n_clusters_ == 0


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


@given(st.lists(st.integers(-3, 8), min_size=1, max_size=60))
def test_canonical_labels_number_by_size_then_first_row(raw: list[int]) -> None:
    labels = np.array(raw)
    canonical = canonical_labels(labels)
    assert ((canonical == -1) == (labels < 0)).all()
    groups = [np.flatnonzero(canonical == k) for k in range(canonical.max(initial=-1) + 1)]
    keys = [(-len(rows), rows[0]) for rows in groups]
    assert keys == sorted(keys)
    for rows in groups:
        assert len(set(labels[rows].tolist())) == 1


@settings(max_examples=25, deadline=None)
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
