"""Closed forms against scikit-learn's pairwise ones."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from gpucluster.algorithms import canonical_labels
from gpucluster.metrics import quality
from gpucluster.metrics.external import compare_with_truth
from gpucluster.metrics.quality import measure, size_entropy
from gpucluster.metrics.recluster import QualityThresholds, judge
from gpucluster.metrics.rows import compare_rows
from gpucluster.ops import streaming
from gpucluster.ops.normalize import unit_rows
from gpucluster.ops.silhouette import squared_silhouette


@settings(max_examples=40, deadline=None)
@given(
    n_samples=st.integers(8, 300),
    n_features=st.integers(2, 20),
    n_clusters=st.integers(2, 7),
    noise=st.floats(0, 0.4),
    seed=st.integers(0, 2**16),
)
def test_quality_equals_scikit_learn(
    n_samples: int, n_features: int, n_clusters: int, noise: float, seed: int
) -> None:
    stream = np.random.default_rng(seed)
    X = stream.normal(1, 1, size=(n_samples, n_features)).astype(np.float32)
    raw = stream.integers(0, n_clusters, n_samples)
    raw[stream.random(n_samples) < noise] = -1
    labels = canonical_labels(raw)
    measured = measure(X, labels)
    kept = labels >= 0
    unit, found = unit_rows(X)[kept].astype(np.float64), labels[kept]
    k = len(set(found.tolist()))
    metrics = measured.metrics
    assert metrics["noise_ratio"] == pytest.approx((~kept).mean())
    if not 2 <= k < kept.sum():
        return
    silhouette = reference.silhouette_score(unit, found, metric="cosine")
    # cosines are of float32: a row whose neighbours lie at 1e-3 rad is off by up to 1e-3 / n
    assert metrics["silhouette_score"] == pytest.approx(silhouette, abs=2e-5 + 1e-3 / kept.sum())
    davies_bouldin = reference.davies_bouldin_score(unit, found)
    assert metrics["davies_bouldin_index"] == pytest.approx(davies_bouldin, rel=2e-3)
    calinski = reference.calinski_harabasz_score(unit, found)
    assert metrics["calinski_harabasz_score"] == pytest.approx(calinski, rel=1e-3)
    for cluster in range(k):
        members = unit[found == cluster]
        mean = members.mean(axis=0)
        np.testing.assert_allclose(measured.centroids[cluster], mean, atol=1e-5)
        cosines = np.clip(members @ mean / np.linalg.norm(mean), 0, 1)
        assert measured.mean_cosine[cluster] == pytest.approx(cosines.mean(), abs=1e-4)
        assert measured.min_cosine[cluster] == pytest.approx(cosines.min(), abs=1e-4)
        assert measured.num_members[cluster] == len(members)
        total = (1 - members @ members.T).sum(axis=1)
        medoid = (
            np.flatnonzero(kept)[found == cluster].tolist().index(measured.medoid_rows[cluster])
        )
        assert total[medoid] == pytest.approx(total.min(), abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(n_samples=st.integers(8, 200), n_clusters=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_each_centroid_stands_for_its_cluster(n_samples: int, n_clusters: int, seed: int) -> None:
    stream = np.random.default_rng(seed)
    X = stream.normal(1, 1, size=(n_samples, 6)).astype(np.float32)
    labels = canonical_labels(stream.integers(-1, n_clusters, n_samples))
    unit = unit_rows(X).astype(np.float64)
    by_center = {
        center: measure(X, labels, center=center) for center in ("mean", "median", "medoid")
    }
    for center, measured in by_center.items():
        for cluster, vector in enumerate(measured.centroids.astype(np.float64)):
            members = unit[labels == cluster]
            expected = {
                "mean": members.mean(axis=0),
                "median": np.median(members, axis=0),
                "medoid": unit[measured.medoid_rows[cluster]],
            }[center]
            np.testing.assert_allclose(vector, expected, atol=1e-5)
            cosines = np.clip(members @ vector / np.linalg.norm(vector), 0, 1)
            assert measured.mean_cosine[cluster] == pytest.approx(cosines.mean(), abs=1e-4)
        assert measured.metrics["silhouette_score"] == by_center["mean"].metrics["silhouette_score"]
        directions = measured.centroids / np.linalg.norm(measured.centroids, axis=1, keepdims=True)
        if len(directions):
            cosines = unit @ directions.T
            np.testing.assert_allclose(measured.nearest_similarity, cosines.max(axis=1), atol=1e-5)
            np.testing.assert_allclose(
                cosines[np.arange(n_samples), measured.nearest], cosines.max(axis=1), atol=1e-5
            )


def test_tight_clusters_keep_their_digits() -> None:
    stream = np.random.default_rng(0)
    centers = unit_rows(stream.normal(size=(5, 16)).astype(np.float32))
    labels = (np.arange(500) % 5).astype(np.int32)
    X = (centers[labels] + 1e-5 * stream.normal(size=(500, 16))).astype(np.float32)
    measured = measure(X, labels)
    unit, metrics = unit_rows(X).astype(np.float64), measured.metrics
    davies_bouldin = reference.davies_bouldin_score(unit, labels)
    assert metrics["davies_bouldin_index"] == pytest.approx(davies_bouldin, rel=1e-4)
    calinski = reference.calinski_harabasz_score(unit, labels)
    assert metrics["calinski_harabasz_score"] == pytest.approx(calinski, rel=1e-4)
    assert metrics["silhouette_score"] <= 1
    for cluster in range(5):
        members = np.flatnonzero(labels == cluster)
        distance = np.linalg.norm(unit[members] - unit[members].mean(axis=0), axis=1)
        assert measured.medoid_rows[cluster] == members[distance.argmin()]
        assert measured.variance[cluster] == pytest.approx((distance**2).mean(), rel=1e-4)


def test_mean_cosine_is_the_length_of_the_mean() -> None:
    X = np.abs(np.random.default_rng(0).normal(size=(500, 16))).astype(np.float32)
    measured = measure(X, np.zeros(500, np.int32))
    assert measured.mean_cosine[0] == pytest.approx(np.linalg.norm(measured.centroids[0]), abs=1e-5)
    assert measured.variance[0] == pytest.approx(1 - measured.mean_cosine[0] ** 2, abs=1e-4)


@pytest.mark.parametrize("labels", [[-1, -1, -1], [0, 0, 0], [0, 1, 2]])
def test_undefined_metrics_are_none_and_nothing_is_nan(labels: list[int]) -> None:
    X = np.eye(3, dtype=np.float32)
    metrics = measure(X, np.array(labels, np.int32)).metrics
    assert all(value is None or np.isfinite(value) for value in metrics.values())
    if len(set(labels)) == 1:
        assert metrics["silhouette_score"] is None


def test_noise_knows_its_nearest_cluster() -> None:
    X = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0.2, 1]], np.float32)
    measured = measure(X, np.array([1, 1, 0, 0, -1], np.int32))
    assert measured.nearest.tolist() == [1, 1, 0, 0, 0]
    assert np.isnan(measured.cosine_similarity[4])


def test_opposite_members_are_clipped_and_counted() -> None:
    X = np.array([[1, 0], [1, 0.2], [1, -0.2], [-1, 0]], np.float32)
    measured = measure(X, np.zeros(4, np.int32))
    assert measured.cosine_similarity[3] == 0
    assert measured.metrics["num_clipped_cosines"] == 1


def test_entropy() -> None:
    assert size_entropy(np.array([5, 5, 5])) == pytest.approx(1)
    assert size_entropy(np.array([7])) == 0
    assert str(size_entropy(np.array([7, 0]))) == "0.0"  # and not -0.0
    assert 0 < size_entropy(np.array([99, 1])) < 0.1


def test_truth_counts_noise_as_one_group() -> None:
    labels = np.array([0, 0, 1, 1, -1, -1], np.int32)
    scores = compare_with_truth(labels, pa.array(["a", "a", "b", "b", "c", None]))
    assert scores["ami"] == pytest.approx(1)
    assert scores["num_labelled"] == 5
    assert scores["purity"] == 1
    assert scores["purity_noise_as_error"] == pytest.approx(0.8)
    assert compare_with_truth(labels, pa.nulls(6, pa.string())) == {}


def test_recluster_gives_reasons_and_lists_what_it_could_not_judge() -> None:
    metrics = {
        "silhouette_score": None,
        "mean_cosine_to_centroid": 0.4,
        "noise_ratio": 0.1,
        "cluster_size_entropy": 0.9,
    }
    reasons, not_evaluated = judge(metrics, 12, QualityThresholds())
    assert [reason["metric"] for reason in reasons] == ["mean_cosine_to_centroid"]
    assert reasons[0]["threshold"] == 0.5
    assert not_evaluated == ["silhouette_score"]
    calm, _ = judge(metrics, 12, QualityThresholds(mean_cosine_to_centroid=None))
    assert calm == []


@settings(max_examples=40, deadline=None)
@given(
    n_samples=st.integers(3, 120),
    n_clusters=st.integers(2, 9),
    shift=st.sampled_from([0.0, 100.0]),
    seed=st.integers(0, 999),
)
def test_the_squared_silhouette_is_that_of_all_pairs(
    n_samples: int, n_clusters: int, shift: float, seed: int
) -> None:
    stream = np.random.default_rng(seed)
    X = (stream.normal(size=(n_samples, 3)).round(1) + shift).astype(np.float32)
    labels = stream.integers(-1, n_clusters, n_samples).astype(np.int32)
    kept = labels >= 0
    labels[kept] = np.unique(labels[kept], return_inverse=True)[1]
    found = squared_silhouette(X, labels)
    assert np.isnan(found[~kept]).all()
    n_found = len(np.unique(labels[kept]))
    if not 2 <= n_found < kept.sum():
        assert (found[kept] == 0).all()
        return
    expected = reference.silhouette_samples(
        X[kept].astype(np.float64), labels[kept], metric="sqeuclidean"
    )
    np.testing.assert_allclose(found[kept], expected, atol=2e-5)


@pytest.mark.parametrize("center", ["mean", "median", "medoid"])
@pytest.mark.parametrize("n_clusters", [1, 2, 9])
def test_certified_searches_measure_the_same(n_clusters, center, device, monkeypatch) -> None:
    monkeypatch.setattr(streaming, "STREAM_BYTES", 4 * 24 * 700)
    stream = np.random.default_rng(n_clusters)
    middles = stream.normal(size=(n_clusters, 24))
    raw = stream.integers(-1, n_clusters, 2000)
    X = (middles[raw] + 0.7 * stream.normal(size=(2000, 24))).astype(np.float32)
    labels = canonical_labels(raw)
    plain = measure(X, labels, center=center)
    if device == "gpu":
        found = measure(X, labels, center=center, device="gpu")
    else:
        monkeypatch.setattr(quality, "rows_on_cpu", partial(compare_rows, np))
        found = measure(X, labels, center=center)
    assert (found.nearest == plain.nearest).mean() > 0.999
    for name in (
        "cosine_similarity",
        "nearest_similarity",
        "mean_cosine",
        "min_cosine",
        "variance",
    ):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), atol=1e-6)
    np.testing.assert_array_equal(found.medoid_rows, plain.medoid_rows)
    known = {name: value for name, value in plain.metrics.items() if value is not None}
    assert found.metrics.keys() == plain.metrics.keys()
    assert {name: found.metrics[name] for name in known} == pytest.approx(known, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("apart", [1e-2, 1e-3, 3e-4])
def test_silhouettes_of_clusters_that_are_tight_and_close(apart: float, device: str) -> None:
    stream = np.random.default_rng(0)
    raw = stream.integers(0, 4, 800)
    middles = 1 + apart * stream.normal(size=(4, 16))
    X = (middles[raw] + apart * stream.normal(size=(800, 16))).astype(np.float32)
    labels = canonical_labels(raw)
    unit = unit_rows(X).astype(np.float64)
    # scikit-learn makes rows of unit length again, and loses to that what lies so close
    exact = reference.silhouette_score(unit, labels, metric="sqeuclidean")
    found = measure(X, labels, device=device).metrics["silhouette_score"]
    assert found == pytest.approx(exact, abs=1e-5)
