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
    InputError,
    TooFewSamplesError,
)
from gpucluster.estimator import Clusterer
from gpucluster.events import Cancelled, CancelToken, Reporter

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


COUNTS = {  # the parameter that says how many clusters there are
    "kmeans": "n_clusters",
    "agglomerative": "n_clusters",
    "spectral": "n_clusters",
    "gaussian_mixture": "n_components",
}
NOISY = {"dbscan", "hdbscan", "optics", "mean_shift"}  # those that may leave rows out
counting = pytest.mark.parametrize(
    "algorithm",
    [algorithm for algorithm in EVERY.values() if algorithm.name in COUNTS],
    ids=[name for name, algorithm in EVERY.items() if algorithm.name in COUNTS],
)


def blobs(
    n_samples: int = 240, n_features: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    centers = np.eye(3, n_features) * 10
    X, y = make_blobs(n_samples, centers=centers, cluster_std=0.4, random_state=seed)
    return np.ascontiguousarray(X, np.float32), y


def test_the_contract_covers_the_catalogue() -> None:
    assert {type(algorithm) for algorithm in EVERY.values()} == set(catalogue().values())


@algorithms
class TestEveryAlgorithm:
    def test_finds_blobs_in_canonical_order(self, algorithm: Algorithm) -> None:
        X, y = blobs()
        found = algorithm.fit(X)
        assert adjusted_rand_score(y, found.labels_) > 0.95
        assert found.labels_.dtype == np.int32
        assert found.n_clusters_ == 3
        np.testing.assert_array_equal(canonical_labels(found.labels_), found.labels_)
        sizes = np.bincount(found.labels_[found.labels_ >= 0])
        assert (np.diff(sizes) <= 0).all()

    def test_leaves_the_input_alone_and_repeats_itself(self, algorithm: Algorithm) -> None:
        X, _ = blobs()
        before = X.copy()
        X.setflags(write=False)
        first, second = algorithm.fit(X), algorithm.fit(X)
        np.testing.assert_array_equal(X, before)
        np.testing.assert_array_equal(first.labels_, second.labels_)
        if first.probabilities_ is not None:
            assert first.probabilities_.dtype == np.float32
            assert (first.probabilities_[first.labels_ < 0] == 0).all()

    def test_permuting_rows_permutes_labels(self, algorithm: Algorithm) -> None:
        X, _ = blobs()
        order = np.random.default_rng(1).permutation(len(X))
        labels = algorithm.fit(X).labels_
        permuted = algorithm.fit(np.ascontiguousarray(X[order])).labels_
        assert adjusted_rand_score(labels[order], permuted) == pytest.approx(1)

    def test_equal_rows_share_a_label(self, algorithm: Algorithm) -> None:
        X, _ = blobs()
        labels = algorithm.fit(np.concatenate([X, X[:50], X[:50]])).labels_
        np.testing.assert_array_equal(labels[:50], labels[240:290])
        np.testing.assert_array_equal(labels[:50], labels[290:])

    @pytest.mark.parametrize("n_features", [1, 2, 80])
    def test_all_rows_equal(self, algorithm: Algorithm, n_features: int) -> None:
        found = algorithm.fit(np.ones((30, n_features), np.float32))
        label = -1 if algorithm.name == "hdbscan" else 0  # one cluster of everything is none to it
        np.testing.assert_array_equal(found.labels_, np.full(30, label))

    @pytest.mark.parametrize("n_samples", [3, 4, 7])
    def test_a_handful_of_rows(self, algorithm: Algorithm, n_samples: int) -> None:
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

    def test_half_precision_is_refused_here_and_taken_at_the_door(
        self, algorithm: Algorithm
    ) -> None:
        X, _ = blobs()
        half = X.astype(np.float16)
        with pytest.raises(InputError, match="got ndarray float16"):
            algorithm.fit(half)
        params = algorithm.model_dump(exclude_unset=True, exclude={"algorithm"})
        single = half.astype(np.float32)
        labels = [Clusterer(algorithm.name, **params).fit_predict(rows) for rows in (half, single)]
        np.testing.assert_array_equal(*labels)

    def test_another_seed_is_another_start_and_no_other_meaning(self, algorithm: Algorithm) -> None:
        if "random_state" not in type(algorithm).model_fields:
            pytest.skip("it has no seed")
        X, y = blobs()
        for seed in (0, 1):
            found = algorithm.model_copy(update={"random_state": seed}).fit(X)
            assert adjusted_rand_score(y, found.labels_) > 0.95

    def test_a_fit_can_be_cancelled(self, algorithm: Algorithm) -> None:
        cancel = CancelToken()
        cancel.cancel()
        X, _ = blobs()
        with pytest.raises(Cancelled):
            algorithm.fit(X, reporter=Reporter("cluster", cancel=cancel))

    def test_the_plan_names_the_method_that_runs(self, algorithm: Algorithm) -> None:
        X, _ = blobs()
        cost = algorithm.cost(*X.shape, "cpu")
        assert algorithm.fit(X).method == cost.method
        assert cost.bytes > 0
        assert cost.seconds > 0

    def test_one_row_is_too_few(self, algorithm: Algorithm) -> None:
        with pytest.raises(TooFewSamplesError, match="insufficient documents.*n_samples=1"):
            algorithm.fit(np.ones((1, 4), np.float32))

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            (np.full((5, 2), np.nan, np.float32), "NaN or infinite"),
            (np.full((5, 2), np.inf, np.float32), "NaN or infinite"),
            (np.full((5, 2), 1e30, np.float32), "too large"),
            (np.eye(5, dtype=np.float32) * np.float32(1e-24), "too small"),
            (np.ones((5, 2)), "expected a float32 matrix"),
            (np.ones(5, np.float32), "expected a float32 matrix"),
            (np.ones((5, 0), np.float32), "0 dimensions"),
        ],
    )
    def test_refuses_what_is_no_matrix(
        self, algorithm: Algorithm, X: np.ndarray, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            algorithm.fit(X)


@counting
class TestWhereTheNumberIsGiven:
    def test_as_many_clusters_as_rows(self, algorithm: Algorithm) -> None:
        X = np.eye(6, dtype=np.float32)
        found = algorithm.model_copy(update={COUNTS[algorithm.name]: 6}).fit(X)
        if algorithm.name == "spectral":  # where all are alike, there is nothing to cut
            assert found.n_clusters_ <= 6
        else:
            np.testing.assert_array_equal(found.labels_, np.arange(6))

    def test_more_clusters_than_rows_are_refused(self, algorithm: Algorithm) -> None:
        name = COUNTS[algorithm.name]
        model = algorithm.model_copy(update={name: 9})
        with pytest.raises(
            ConfigError, match=rf"{algorithm.name}.{name}: got 9, but there are 5 rows"
        ):
            model.fit(np.eye(5, dtype=np.float32))


def lattice(values: list[int], n_features: int) -> np.ndarray:
    """Return rows on a lattice: full of ties, and of equal rows."""
    n_samples = max(3, len(values) // n_features)
    return np.resize(np.array(values, np.float32), (n_samples, n_features))


@algorithms
class TestPropertiesOfEveryAlgorithm:
    @settings(max_examples=30)
    @given(
        values=st.lists(st.integers(-2, 2), min_size=3, max_size=40), n_features=st.integers(1, 3)
    )
    def test_any_rows_at_all(
        self, algorithm: Algorithm, values: list[int], n_features: int
    ) -> None:
        X = lattice(values, n_features)
        found, again = algorithm.fit(X), algorithm.fit(X)
        np.testing.assert_array_equal(found.labels_, again.labels_)
        np.testing.assert_array_equal(found.labels_, canonical_labels(found.labels_))
        assert found.labels_.shape == (len(X),)
        assert found.n_clusters_ == len(set(found.labels_.tolist()) - {-1})
        assert found.method == algorithm.cost(*X.shape, "cpu").method
        if algorithm.name not in NOISY:
            assert (found.labels_ >= 0).all()
        if algorithm.name in COUNTS:
            assert found.n_clusters_ <= getattr(algorithm, COUNTS[algorithm.name])
        if getattr(algorithm, "affinity", "") != "nearest_neighbors":  # lists break ties by row
            for row in np.unique(X, axis=0):
                assert len(set(found.labels_[(row == X).all(axis=1)].tolist())) == 1
        if found.probabilities_ is not None:
            assert ((found.probabilities_ >= 0) & (found.probabilities_ <= 1)).all()

    @settings(max_examples=10)
    @given(seed=st.integers(0, 2**16), exponent=st.integers(-8, 8))
    def test_what_is_far_apart_is_told_apart(
        self, algorithm: Algorithm, seed: int, exponent: int
    ) -> None:
        X, y = blobs(120, seed=seed)
        offset = np.random.default_rng(seed).normal(size=X.shape[1]) * 2.0**exponent
        found = algorithm.fit((X + offset).astype(np.float32))
        assert adjusted_rand_score(y, found.labels_) > 0.9


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
