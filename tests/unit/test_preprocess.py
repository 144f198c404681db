"""Each step against its formula, and its state applied again."""

from __future__ import annotations

import json
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.spatial.distance import pdist

from gpucluster.errors import ConfigError, GpuclusterWarning, QualityWarning
from gpucluster.events import Reporter
from gpucluster.preprocess import PCA, UMAP, AnyStep, Whitening, check_chain
from gpucluster.preprocess.normalize import Center, L2Normalize
from gpucluster.preprocess.pca import RemoveTopComponents
from gpucluster.preprocess.whitening import effective_rank

STEPS = [
    Whitening(),
    UMAP(n_components=3, n_neighbors=8),
    PCA(n_components=4),
    L2Normalize(),
    Center(),
    RemoveTopComponents(n_components=2),
]


def correlated(n_samples: int = 400, n_features: int = 12, seed: int = 0) -> np.ndarray:
    stream = np.random.default_rng(seed)
    mix = stream.normal(size=(n_features, n_features)) * np.geomspace(1, 0.05, n_features)
    return (stream.normal(size=(n_samples, n_features)) @ mix + 1).astype(np.float32)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.method)
def test_state_is_arrays_and_json_and_applies_to_blocks(step: AnyStep) -> None:
    X = correlated()
    X.setflags(write=False)
    fitted = step.fit(X, "cpu", Reporter())
    json.dumps(fitted.info)
    out = step.output(X, fitted.arrays)
    assert out.shape == (400, step.n_out(12))
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    assert np.isfinite(out).all()
    applied = {name: fitted.arrays[name] for name in step.applied}
    whole, parts = step.apply(X, applied), [step.apply(X[:7], applied), step.apply(X[7:], applied)]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-4, atol=1e-5)
    if step.trained is None:
        np.testing.assert_allclose(out, whole, rtol=1e-4, atol=1e-5)
    again = step.fit(X, "cpu", Reporter())
    np.testing.assert_array_equal(step.output(X, again.arrays), out)


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.2, 20), n_features=st.integers(2, 16), scale=st.floats(0.01, 100))
def test_relative_whitening_is_soft_zca_at_any_scale(
    share: float, n_features: int, scale: float
) -> None:
    X = correlated(300, n_features) * np.float32(scale)
    step = Whitening(regularization=share, regularization_mode="relative")
    fitted = step.fit(X, "cpu", Reporter())
    exact = X.astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(exact, rowvar=False))
    epsilon = share * values.mean()
    matrix = vectors @ np.diag((values + epsilon) ** -0.5) @ vectors.T
    expected = (exact - exact.mean(axis=0)) @ matrix
    np.testing.assert_allclose(step.output(X, fitted.arrays), expected, rtol=2e-3, atol=2e-3)
    assert fitted.info["epsilon"] == pytest.approx(epsilon, rel=1e-4)


def test_full_whitening_gives_unit_covariance_and_says_it_is_too_much() -> None:
    X = correlated(3000)
    with pytest.warns(QualityWarning, match=r"of the mean eigenvalue.*amplifies noise"):
        fitted = Whitening(regularization=1e-9).fit(X, "cpu", Reporter())
    white = Whitening(regularization=1e-9).output(X, fitted.arrays)
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(12), atol=2e-3)
    assert fitted.info["effective_rank_after"] == pytest.approx(12, abs=1e-3)
    assert fitted.info["condition_number_after"] < fitted.info["condition_number_before"]


def test_whitening_of_a_constant_column_or_matrix_stays_finite() -> None:
    X = correlated()
    X[:, 3] = 5
    fitted = Whitening().fit(X, "cpu", Reporter())
    assert np.isfinite(Whitening().output(X, fitted.arrays)).all()
    with pytest.warns(GpuclusterWarning, match="all rows are equal"):
        fitted = Whitening().fit(np.ones((9, 4), np.float32), "cpu", Reporter())
    assert not Whitening().output(np.ones((9, 4), np.float32), fitted.arrays).any()


@pytest.mark.parametrize(
    ("given_", "strength", "mode"),
    [
        ({}, 1.0, "relative"),
        ({"regularization": 1e-5}, 1e-5, "absolute"),
        ({"regularization": "relative:0.5"}, 0.5, "relative"),
        ({"regularization": 0.5, "regularization_mode": "relative"}, 0.5, "relative"),
        ({"regularization": "relative:2", "regularization_mode": "relative"}, 2, "relative"),
        ({"regularization_mode": "relative"}, 1.0, "relative"),
    ],
)
def test_whitening_strength_forms(given_: dict, strength: float, mode: str) -> None:
    step = Whitening(**given_)
    assert (step.regularization, step.regularization_mode) == (strength, mode)


@pytest.mark.parametrize("strength", [{}, {"regularization": "relative:0.5"}])
def test_absolute_whitening_needs_a_number(strength: dict) -> None:
    with pytest.raises(ValidationError, match="absolute needs a number"):
        Whitening(regularization_mode="absolute", **strength)


def test_force_silences_the_warning_and_changes_nothing_else() -> None:
    X = correlated()
    with pytest.warns(QualityWarning, match="amplifies noise"):
        warned = Whitening(regularization=1e-5).fit(X, "cpu", Reporter())
    forced = Whitening(regularization=1e-5, force=True).fit(X, "cpu", Reporter())
    np.testing.assert_array_equal(warned.arrays["matrix"], forced.arrays["matrix"])


def test_pca_with_all_components_keeps_distances() -> None:
    X = correlated(50)
    step = PCA(n_components=12)
    rotated = step.output(X, step.fit(X, "cpu", Reporter()).arrays)
    np.testing.assert_allclose(pdist(rotated), pdist(X), rtol=1e-4)


def test_pca_keeps_the_largest_directions_with_fixed_signs() -> None:
    X = correlated()
    fitted = PCA(n_components=3).fit(X, "cpu", Reporter())
    exact = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    _, _, rows = np.linalg.svd(exact, full_matrices=False)
    agreement = np.abs(np.sum(rows[:3].T * fitted.arrays["components"], axis=0))
    np.testing.assert_allclose(agreement, 1, atol=1e-4)
    components = fitted.arrays["components"]
    assert (components[np.abs(components).argmax(axis=0), np.arange(3)] > 0).all()


def test_umap_places_training_rows_near_themselves() -> None:
    centers = np.eye(4, 10) * 5
    X = (
        np.repeat(centers, 50, axis=0) + np.random.default_rng(0).normal(size=(200, 10)) / 5
    ).astype(np.float32)
    step = UMAP(n_components=2, n_neighbors=10)
    arrays = step.fit(X, "cpu", Reporter()).arrays
    layout = step.output(X, arrays)
    group = np.repeat(np.arange(4), 50)
    means = np.stack([layout[group == k].mean(axis=0) for k in range(4)])
    placed = step.apply(X, {name: arrays[name] for name in step.applied})
    nearest = np.linalg.norm(placed[:, None] - means, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, group)


def test_umap_places_many_rows_in_little_memory() -> None:
    stream = np.random.default_rng(0)
    arrays = {
        "landmarks": stream.normal(size=(20_000, 4)).astype(np.float32),
        "landmark_layout": stream.normal(size=(20_000, 2)).astype(np.float32),
    }
    X = stream.normal(size=(1500, 4)).astype(np.float32)
    tracemalloc.start()
    UMAP(n_components=2, n_neighbors=5, metric="euclidean").apply(X, arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20  # at once: 1500 x 20,000 x 16 bytes


def test_defaults_are_those_for_clustering() -> None:
    step = UMAP()
    assert (step.n_components, step.n_neighbors, step.min_dist, step.metric) == (
        50,
        30,
        0,
        "cosine",
    )


def chain(*steps: AnyStep, n_samples: int = 500, n_features: int = 100) -> list[AnyStep]:
    return check_chain(steps, n_samples, n_features, Reporter())


def test_pca_after_whitening_is_refused_unless_forced() -> None:
    with pytest.raises(ConfigError, match="arbitrary directions"):
        chain(Whitening(), PCA(n_components=5))
    assert len(chain(Whitening(force=True), PCA(n_components=5))) == 2
    assert len(chain(PCA(n_components=5), Whitening())) == 2


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (UMAP(n_components=100), "umap.n_components: got 100 for rows of 100 dimensions"),
        (UMAP(n_components=120), "got 120"),
        (PCA(n_components=101), "pca.n_components: got 101"),
        (RemoveTopComponents(n_components=100), "got 100 of 100 dimensions"),
    ],
)
def test_steps_that_cannot_run_are_refused(step: AnyStep, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chain(step)


def test_n_neighbors_is_cut_with_a_warning() -> None:
    with pytest.warns(GpuclusterWarning, match="n_neighbors 30 cut to 19"):
        (step,) = chain(UMAP(n_components=5), n_samples=20)
    assert step.n_neighbors == 19


def test_whitening_after_umap_warns_and_dimensions_follow_the_chain() -> None:
    with pytest.warns(GpuclusterWarning, match="distorts its layout"):
        chain(UMAP(n_components=5), Whitening())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain(PCA(n_components=60), UMAP(n_components=50))
    with pytest.raises(ConfigError, match="rows of 50 dimensions"):
        chain(PCA(n_components=50), UMAP(n_components=50))


def test_effective_rank() -> None:
    assert effective_rank(np.ones(7)) == pytest.approx(7)
    assert effective_rank(np.array([1.0, 0, 0])) == pytest.approx(1)
    assert effective_rank(np.zeros(3)) == 0


@pytest.mark.parametrize(
    "bad", [{"method": "umap", "n_neighbors": 1}, {"method": "whitening", "regularization": -1}]
)
def test_ranges(bad: dict) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AnyStep).validate_python(bad)
