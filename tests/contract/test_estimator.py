"""The estimator keeps scikit-learn's contract."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpucluster import Clusterer
from gpucluster.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")


def known_deviations(estimator: Clusterer) -> dict[str, str]:
    if estimator.get_params().keys() <= Clusterer().get_params().keys():
        return {}
    return {
        "check_no_attributes_set_in_init": "parameters of the algorithm are attributes like all "
        "others, but the signature cannot name those of every algorithm"
    }


@parametrize_with_checks(
    [
        Clusterer(device="cpu"),
        Clusterer("kmeans", n_init=1, device="cpu"),
        Clusterer("dbscan", device="cpu"),
        Clusterer("agglomerative", device="cpu"),
        Clusterer("spectral", n_init=1, device="cpu"),
        Clusterer("gaussian_mixture", n_components=3, device="cpu"),
        Clusterer("mean_shift", device="cpu"),
        Clusterer("optics", device="cpu"),
        Clusterer(preprocessing_steps=[{"method": "whitening"}], device="cpu"),
    ],
    expected_failed_checks=known_deviations,
)
def test_scikit_learn_checks(estimator: Clusterer, check: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def blobs() -> tuple[np.ndarray, np.ndarray]:
    return make_blobs(300, centers=np.eye(3, 6) * 9, cluster_std=0.5, random_state=0)


def test_parameters_of_the_algorithm_are_parameters() -> None:
    estimator = Clusterer("kmeans", n_clusters=3)
    assert estimator.get_params()["n_clusters"] == 3
    assert clone(estimator).set_params(n_clusters=4).n_clusters == 4
    assert repr(estimator) == "Clusterer(algorithm='kmeans', n_clusters=3)"


def test_predict_agrees_with_fit_and_goes_through_the_preparation() -> None:
    X, y = blobs()
    estimator = Clusterer(
        "kmeans", n_clusters=3, preprocessing_steps=[{"method": "pca", "n_components": 2}]
    ).fit(X)
    assert adjusted_rand_score(y, estimator.labels_) == 1
    np.testing.assert_array_equal(estimator.predict(X), estimator.labels_)
    assert estimator.cluster_centers_.shape == (3, 2)
    assert estimator.n_features_in_ == 6


def test_in_a_pipeline_and_with_float64_fortran_input() -> None:
    X, y = blobs()
    labels = make_pipeline(StandardScaler(), Clusterer(min_cluster_size=20)).fit_predict(
        np.asfortranarray(X)
    )
    assert adjusted_rand_score(y, labels) > 0.9


def test_noise_has_probability_zero_and_no_cluster_predicts_noise() -> None:
    X, _ = blobs()
    estimator = Clusterer("dbscan", eps=1e-6).fit(X)
    assert estimator.n_clusters_ == 0
    assert (estimator.probabilities_ == 0).all()
    assert (estimator.predict(X) == -1).all()


def test_unknown_parameters_are_refused_by_fit_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean min_cluster_size"):
        Clusterer(min_clustersize=3).fit(np.eye(5))


@pytest.mark.parametrize("name", ["fit", "predict", "n_clusters_", "labels_", "_matrix", "_x"])
def test_names_of_methods_and_results_are_no_parameters(name: str) -> None:
    for estimator in (
        Clusterer("kmeans", **{name: 3}),
        Clusterer("kmeans").set_params(**{name: 3}),
        clone(Clusterer("kmeans", **{name: 3})),
    ):
        assert estimator.get_params()[name] == 3
        assert not hasattr(estimator, "labels_")
        with pytest.raises(ConfigError, match=name):
            estimator.fit(np.eye(9))


def test_fit_mirrors_progress_to_an_observer() -> None:
    seen: list[str] = []
    Clusterer("kmeans", n_clusters=3).fit(
        blobs()[0], observer=lambda event: seen.append(type(event).__name__)
    )
    assert "Progress" in seen
