"""Float16 products: what they lose is measured, bounded, and does not add up."""

from __future__ import annotations

import numpy as np
import pytest

from gpucluster.device.arrays import namespace, to_device, to_host
from gpucluster.events import Reporter
from gpucluster.ops import half as half_module
from gpucluster.ops import half_moments as module
from gpucluster.ops import streaming
from gpucluster.ops.half import coarse_middle, half_gram, half_product, half_rows
from gpucluster.ops.half_moments import finish_rows, half_centred_product, half_moments
from gpucluster.preprocess import Whitening


def correlated(n_samples: int, n_features: int, offset: float = 0.0) -> np.ndarray:
    stream = np.random.default_rng(n_features)
    mixing = stream.normal(size=(n_features, n_features)) / n_features**0.5
    X = stream.normal(size=(n_samples, n_features)) @ mixing
    return (X + offset * stream.normal(size=n_features)).astype(np.float32)


def worst(found, exact) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_copies_lose_what_they_say_in_any_unit(unit: float, device: str) -> None:
    X = correlated(300, 37, 2.0) * np.float32(unit)
    shift = X[:50].mean(axis=0)
    half = half_rows(to_device(X, device), to_device(shift, device))
    cast = to_host(half.cast).astype(np.float64) * to_host(half.scales)[:, None]
    less = X - shift
    lost = np.linalg.norm(less - cast, axis=1)
    np.testing.assert_allclose(to_host(half.residuals), lost, rtol=1e-4)
    np.testing.assert_allclose(to_host(half.norms), np.linalg.norm(less, axis=1), rtol=1e-5)
    assert (lost <= 2.0**-11 * np.linalg.norm(less, axis=1)).all()
    assert (to_host(half.flags) == 0).all()


def test_products_are_those_of_the_copies(device: str) -> None:
    A, B = correlated(40, 19).astype(np.float16), correlated(23, 19).astype(np.float16)
    exact = A.astype(np.float64) @ B.T.astype(np.float64)
    found = to_host(half_product(to_device(A, device), to_device(B, device)))
    np.testing.assert_allclose(found, exact, atol=1e-5)
    gram = to_host(half_gram(to_device(A, device), slice(2, 9), slice(5, 19)))
    exact = A.astype(np.float64)[:, 2:9].T @ A.astype(np.float64)[:, 5:19]
    np.testing.assert_allclose(gram, exact, atol=1e-5)
    nothing = half_product(to_device(A[:0], device), to_device(B, device))
    assert nothing.shape == (0, 23)


@pytest.mark.parametrize("kind", ["round", "float16", "counts", "far"])
def test_moments_are_near_those_of_float64(kind: str, device: str) -> None:
    X = correlated(20_000, 60, 1.0)
    if kind == "float16":
        X = X.astype(np.float16).astype(np.float32)
    if kind == "counts":
        X = np.random.default_rng(0).poisson(0.3, size=X.shape).astype(np.float32)
    if kind == "far":
        X += 30
    on = to_device(X, device)
    found = half_moments(on, namespace(on))
    np.testing.assert_allclose(found.mean, X.mean(axis=0, dtype=np.float64), atol=1e-6)
    assert worst(to_host(found.covariance), np.cov(X.T.astype(np.float64))) < 2e-5


def test_a_mean_of_few_digits_keeps_errors_from_adding_up(device: str, monkeypatch) -> None:
    X = correlated(20_000, 60, 1.0).astype(np.float16).astype(np.float32)
    exact = np.cov(X.T.astype(np.float64))
    on = to_device(X, device)
    shift = coarse_middle(on)
    spread = X.std(axis=0)
    assert (np.abs(to_host(shift) - X.mean(axis=0)) < spread / 10 + np.abs(X).max() / 256).all()
    coarse = worst(to_host(half_moments(on, namespace(on)).covariance), exact)
    plain = lambda rows: rows.mean(axis=0, dtype=np.float64).astype(np.float32)  # noqa: E731
    monkeypatch.setattr(module, "coarse_middle", plain)
    fine = worst(to_host(half_moments(on, namespace(on)).covariance), exact)
    assert coarse < 2e-5
    assert coarse < fine / 3


def test_values_beyond_float16_are_multiplied_in_float32(device: str) -> None:
    X = correlated(3000, 12)
    X[1500] *= np.float32(1e7)
    on = to_device(X, device)
    found = half_moments(on, namespace(on))
    assert worst(to_host(found.covariance), np.cov(X.T.astype(np.float64))) < 1e-5


def test_most_rows_may_be_equal(device: str) -> None:
    X = correlated(4000, 12) * np.float32(1e-7)
    X[::7] = X[:2200] = X[0]
    on = to_device(X, device)
    found = half_moments(on, namespace(on))
    assert worst(to_host(found.covariance), np.cov(X.T.astype(np.float64))) < 1e-4


def test_rows_that_come_in_blocks_change_nothing(device: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "SUMMED_ROWS", 256)
    monkeypatch.setattr(streaming, "STREAM_BYTES", 4 * 20 * 512)
    X, matrix = correlated(2000, 20, 1.0), correlated(20, 20).astype(np.float64)
    on = to_device(X, device)
    xp = namespace(on)
    held, comes = half_moments(on, xp), half_moments(X, xp)
    np.testing.assert_array_equal(held.mean, comes.mean)
    np.testing.assert_array_equal(to_host(held.covariance), to_host(comes.covariance))
    product = half_centred_product(on, held.mean, matrix, xp)
    np.testing.assert_array_equal(to_host(product), half_centred_product(X, held.mean, matrix, xp))


def test_products_with_a_matrix_are_near_those_of_float64(device: str) -> None:
    X = correlated(1500, 48, 3.0)
    matrix = np.random.default_rng(0).normal(size=(48, 7))
    mean = X.mean(axis=0, dtype=np.float64)
    on = to_device(X, device)
    found = to_host(half_centred_product(on, mean, matrix, namespace(on)))
    exact = (X - mean) @ matrix
    off = np.linalg.norm(found - exact, axis=1)
    assert (off <= 2e-3 * np.linalg.norm(exact, axis=1).mean()).all()
    assert np.linalg.norm(off) <= 5e-4 * np.linalg.norm(exact)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("unit", [False, True])
def test_rows_are_finished(unit: bool, dtype: type, device: str, monkeypatch) -> None:
    monkeypatch.setattr(half_module, "TILE_BYTES", 4 * 9 * 11)
    X, W = correlated(30, 19), correlated(9, 19)
    X[4] = 0
    zero = to_device(np.zeros(19, np.float32), device)
    rows, columns = (half_rows(to_device(each, device), zero) for each in (X, W))
    out = to_device(np.empty((30, 9), dtype), device)
    norms = to_host(finish_rows(rows, columns, out, to_unit_length=unit))
    expected = X.astype(np.float64) @ W.T
    length = np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(norms, length, rtol=5e-3)
    if unit:
        expected /= np.where(length > 0, length, 1)[:, None]
    np.testing.assert_allclose(
        to_host(out), expected, rtol=0.02, atol=4e-3 * np.abs(expected).max()
    )


@pytest.mark.parametrize("regularization", ["relative:1.0", "relative:0.001", 0.5])
def test_whitening_by_float16_where_it_is_mild(regularization, device) -> None:
    X, reporter = correlated(4000, 40, 1.0), Reporter("whitening")
    step = Whitening(regularization=regularization, force=True)
    plain = step.fit(X, "cpu", reporter)
    found = step.fit(X, device, reporter)
    mild = step._is_mild(float(plain.arrays["eigenvalues"].mean()))
    assert mild == (regularization != "relative:0.001")
    for name in ("mean", "matrix"):
        assert worst(found.arrays[name], plain.arrays[name]) < (1e-4 if mild else 1e-5)
    white, expected = to_host(step.output(X, found.arrays, device)), step.output(X, plain.arrays)
    off = np.linalg.norm(white - expected) / np.linalg.norm(expected)
    assert off < (1e-3 if mild else 1e-5)
    assert worst(np.cov(white.T), np.cov(expected.T)) < 1e-3
