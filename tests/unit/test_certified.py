"""Labels from float16 products are those of float64, however close the centres lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.device.arrays import to_device, to_host
from gpucluster.errors import InternalError
from gpucluster.ops import bounded, certified, half
from gpucluster.ops.bounded import FLOAT_MAX
from gpucluster.ops.certified import certified_nearest
from gpucluster.ops.half import half_product, half_rows
from gpucluster.ops.pairs import pair_sqdist

if TYPE_CHECKING:
    from numpy.typing import NDArray


def common_shift(centers: NDArray[np.float32]) -> NDArray[np.float32]:
    return centers.mean(axis=0, dtype=np.float64).astype(np.float32)


def exact_scores(X: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.float64]:
    shift = common_shift(centers).astype(np.float64)
    rows, others = X.astype(np.float64) - shift, centers.astype(np.float64) - shift
    return rows @ others.T - 0.5 * np.square(others).sum(axis=1)


def problem(
    seed: int, n_rows: int, n_centers: int, n_features: int, spread: float, offset: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    stream = np.random.default_rng(seed)
    centers = stream.normal(size=(n_centers, n_features)) * spread + offset
    X = centers[stream.integers(0, n_centers, n_rows)] + stream.normal(size=(n_rows, n_features))
    X[::7] = centers[:2].mean(axis=0)  # as near to one as to the other
    return X.astype(np.float32), centers.astype(np.float32)


@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(1, 70)),
    spread=st.sampled_from([1e-4, 0.01, 1.0, 30.0]),
    offset=st.sampled_from([0.0, 5.0, 300.0]),
)
def test_labels_are_those_of_float64(seed, shape, spread, offset) -> None:
    X, centers = problem(seed, *shape, spread, offset)
    found = certified_nearest(X, centers)
    np.testing.assert_array_equal(found.labels, exact_scores(X, centers).argmax(axis=1))
    assert 0 <= found.n_rechecked <= len(X)


def interval(X, centers, shift, weights=None, dots=None):
    """Return the bounds of all scores, and the products that they come from."""
    search = certified.CertifiedSearch.of(centers.astype(np.float64), shift, weights)
    rows = half_rows(X, shift)
    if dots is None:
        dots = half_product(rows.cast, search.scores.cast)
    lower, upper = search.scores.interval(dots, 0, rows, np.full(len(X), -1, np.int32))
    return lower.astype(np.float64), upper.astype(np.float64)


@given(
    seed=st.integers(0, 99),
    n_features=st.integers(1, 300),
    offset=st.sampled_from([0.0, 50.0]),
    unit=st.sampled_from([1e-9, 1.0, 1e9]),
    far=st.sampled_from([1.0, 1e4]),
)
def test_every_score_lies_between_its_bounds(seed, n_features, offset, unit, far) -> None:
    X, centers = problem(seed, 30, 9, n_features, 1.0, offset)
    X, centers = X * np.float32(unit), centers * np.float32(unit)
    centers[3] *= np.float32(far)
    X[5] *= np.float32(far)
    exact = exact_scores(X, centers)
    lower, upper = interval(X, centers, common_shift(centers))
    assert (lower <= exact).all()
    assert (exact <= upper).all()
    # and none is much wider than it must be: twelve bits of a product of norms
    shift = common_shift(centers).astype(np.float64)
    norms = np.linalg.norm(X - shift, axis=1)[:, None] * np.linalg.norm(centers - shift, axis=1)
    off = np.square(centers - shift).sum(axis=1)
    assert (upper - lower <= 2.0**-8 * norms + 1e-6 * off + 1e-30).all()


@pytest.mark.parametrize("n_features", [16, 300, 3000])
def test_the_bounds_hold_where_every_addition_cuts_off(n_features: int) -> None:
    stream = np.random.default_rng(n_features)
    X = np.abs(stream.normal(size=(6, n_features))).astype(np.float16).astype(np.float32)
    centers = np.abs(stream.normal(size=(3, n_features))).astype(np.float16).astype(np.float32)
    zero = np.zeros(n_features, np.float32)
    rows, others = half_rows(X, zero), half_rows(centers, zero)
    assert not rows.residuals.any()  # the copies are exact: all that is off comes from the sums
    copies = rows.cast.astype(np.float64), others.cast.astype(np.float64)
    cut = np.zeros((6, 3), np.float32)
    for f in range(n_features):
        exact = cut.astype(np.float64) + np.outer(copies[0][:, f], copies[1][:, f])
        cut = exact.astype(np.float32)
        cut = np.where(cut > exact, np.nextafter(cut, np.float32(0)), cut)
    scores = X.astype(np.float64) @ centers.astype(np.float64).T
    weights = -np.square(centers.astype(np.float64)).sum(axis=1)  # nothing is taken off
    lower, upper = interval(X, centers, zero, weights, cut)
    assert ((lower <= scores) & (scores <= upper)).all()
    assert np.abs(cut * (rows.scales[:, None] * others.scales) - scores).max() > 1e-7 * n_features


@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(1, 40)),
    spread=st.sampled_from([1e-3, 1.0]),
)
def test_weights_and_a_centre_that_is_skipped(seed, shape, spread) -> None:
    X, centers = problem(seed, *shape, spread, 1.0)
    stream = np.random.default_rng(seed)
    weights = stream.normal(size=len(centers))
    skip = stream.integers(-1, len(centers), len(X)).astype(np.int32)
    found = certified_nearest(X, centers, weights=weights, skip=skip)
    gap = X[:, None].astype(np.float64) - centers
    keys = np.square(gap).sum(axis=2) + weights
    held = np.flatnonzero(skip >= 0)
    keys[held, skip[held]] = np.inf
    expected = np.where(np.isinf(keys).all(axis=1), -1, keys.argmin(axis=1))
    np.testing.assert_array_equal(found.labels, expected)


def test_a_score_beyond_float32_proves_nothing() -> None:
    X, centers = problem(0, 40, 6, 5, 1.0, 0.0)
    centers[2] = 1e30
    found = certified_nearest(X, centers, shift=np.zeros(5, np.float32))
    assert found.n_rechecked == len(X)
    usual = np.delete(np.arange(6), 2)
    expected = usual[exact_scores(X, centers[usual]).argmax(axis=1)]
    np.testing.assert_array_equal(found.labels, expected)


def test_one_centre_far_away_leaves_no_other_row_open() -> None:
    X, centers = problem(0, 3000, 8, 32, 5.0, 0.0)
    near = certified_nearest(X, centers).n_rechecked
    far = np.concatenate([centers, 1e4 * centers[:1]])
    found = certified_nearest(X, far, shift=common_shift(centers))
    assert found.n_rechecked <= 1.2 * near
    np.testing.assert_array_equal(found.labels, exact_scores(X, far).argmax(axis=1))


def test_many_candidates_are_thinned_before_they_are_compared(monkeypatch) -> None:
    stream = np.random.default_rng(0)
    base = stream.normal(size=(2, 24)) * 100
    centers = base[stream.integers(0, 2, 60)] + 1e-3 * stream.normal(size=(60, 24))
    X = base[stream.integers(0, 2, 200)] + 1e-3 * stream.normal(size=(200, 24))
    X, centers = X.astype(np.float32), centers.astype(np.float32)
    compared = []

    def counted(X, centers, rows, labels):
        compared.append(len(rows))
        return pair_sqdist(X, centers, rows, labels)

    monkeypatch.setattr(certified, "pair_sqdist", counted)
    found = certified_nearest(X, centers)
    assert found.n_rechecked == len(X)
    assert sum(compared) < 2 * len(X)  # of some thirty a row
    gap = X[:, None].astype(np.float64) - centers
    np.testing.assert_array_equal(found.labels, np.square(gap).sum(axis=2).argmin(axis=1))


@pytest.mark.parametrize("scale", [1e-30, 3.741e-23, 1e-19, 1e-12])
def test_what_vanishes_proves_nothing(scale: float) -> None:
    stream = np.random.default_rng(0)
    for _ in range(200):
        centers = np.array([[scale], [-scale]]) * (1 + 1e-3 * stream.random((2, 1)))
        X = 1e-3 * scale * stream.normal(size=(3, 1))  # about as near to one as to the other
        X, centers = X.astype(np.float32), centers.astype(np.float32)
        found = certified_nearest(X, centers, shift=np.zeros(1, np.float32))
        gap = np.abs(X.astype(np.float64) - centers.astype(np.float64).T)
        np.testing.assert_array_equal(found.labels, gap.argmin(axis=1))


@pytest.mark.parametrize("shape", [(1, 5, 100), (3, 9, 33), (40, 7, 5), (2, 30, 784)], ids=str)
def test_ties_go_to_the_lower_centre(shape: tuple[int, int, int], device: str) -> None:
    n_rows, n_centers, n_features = shape
    stream = np.random.default_rng(shape)
    center = stream.normal(size=(1, n_features)).astype(np.float32)
    for _ in range(20):
        other = 3 * stream.normal(size=(1, n_features))
        centers = np.concatenate([np.repeat(center, n_centers, axis=0), other]).astype(np.float32)
        X = (center + 3 * stream.normal(size=(n_rows, n_features))).astype(np.float32)
        found = certified_nearest(to_device(X, device), to_device(centers, device))
        assert set(to_host(found.labels).tolist()) <= {0, n_centers}
    x = stream.integers(0, 256, size=(1, n_features))
    between = np.concatenate([x + center.round(), x - center.round()]).astype(np.float32)
    found = certified_nearest(to_device(x.astype(np.float32), device), to_device(between, device))
    assert to_host(found.labels).tolist() == [0]


def test_clear_rows_are_not_looked_at_again(device: str) -> None:
    stream = np.random.default_rng(0)
    centers = stream.normal(size=(20, 64)).astype(np.float32)
    labels = stream.integers(0, 20, 500)
    X = centers[labels] + 0.1 * stream.normal(size=(500, 64)).astype(np.float32)
    found = certified_nearest(to_device(X, device), to_device(centers, device))
    assert found.n_rechecked == 0
    np.testing.assert_array_equal(to_host(found.labels), labels)


def test_equal_centres_give_the_lower_one_after_a_second_look() -> None:
    X = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    found = certified_nearest(X, np.repeat(X[:3], 2, axis=0))
    assert found.n_rechecked == len(X)
    assert set(found.labels.tolist()) <= {0, 2, 4}


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    X, centers = problem(3, 200, 50, 20, 0.3, 2.0)
    whole = certified_nearest(X, centers)
    monkeypatch.setattr(half, "TILE_COLS", 7)
    monkeypatch.setattr(bounded, "TILE_COLS", 7)
    monkeypatch.setattr(half, "TILE_BYTES", 4 * 7 * 11)
    monkeypatch.setattr(bounded, "TILE_BYTES", 12 * 7 * 3)
    monkeypatch.setattr(bounded, "MOST_PAIRS", 11)
    cut = certified_nearest(X, centers)
    np.testing.assert_array_equal(cut.labels, whole.labels)
    assert cut.n_rechecked == whole.n_rechecked > 0


FAMILIES = {
    "any": lambda stream, shape: stream.normal(size=shape),
    "positive": lambda stream, shape: np.abs(stream.normal(size=shape)),
    "equal entries": lambda stream, shape: np.repeat(
        stream.normal(size=(shape[0], 1)), shape[1], 1
    ),
    "of all sizes": lambda stream, shape: (
        stream.normal(size=shape) * 2.0 ** stream.integers(-40, 1, size=shape)
    ),
    "between halves": lambda stream, shape: stream.choice(
        [1, 1 + 2**-11, 1 - 2**-12, -1 - 2**-11], shape
    ),
}


@given(
    seed=st.integers(0, 10_000),
    n_features=st.sampled_from([1, 2, 3, 7, 32, 100]),
    exponents=st.tuples(st.integers(-62, 60), st.integers(-62, 60), st.integers(-62, 60)),
    alike=st.booleans(),
    shifted=st.booleans(),
    family=st.sampled_from(sorted(FAMILIES)),
)
def test_bounds_hold_at_any_scale(seed, n_features, exponents, alike, shifted, family) -> None:
    """In exact arithmetic, near enough: 64 bits and more of a long double."""
    stream = np.random.default_rng(seed)

    def rows(count, exponent):
        values = FAMILIES[family](stream, (count, n_features))
        return (values * 2.0**exponent / n_features**0.5).astype(np.float32)

    of_rows, of_centers, of_shift = exponents
    X, centers = rows(12, of_rows), rows(5, of_rows if alike else of_centers)
    shift = rows(1, of_shift)[0] if shifted else np.zeros(n_features, np.float32)
    with np.errstate(all="ignore"):
        if shifted:
            X, centers = X + shift, centers + shift
        X[0] = shift
        lower, upper = interval(X, centers, shift)
    exact_rows = X.astype(np.longdouble) - shift
    exact_centers = centers.astype(np.longdouble) - shift
    exact = exact_rows @ exact_centers.T - np.square(exact_centers).sum(axis=1) / 2
    known = upper < FLOAT_MAX
    assert (lower <= exact)[known].all()
    assert (exact <= upper)[known].all()


@pytest.mark.parametrize("n_features", [1, 2, 4])
@pytest.mark.parametrize("exponent", [-53, -56, -59])
def test_scores_near_what_a_gpu_takes_for_zero(exponent: int, n_features: int, device: str) -> None:
    stream = np.random.default_rng(0)
    unit = 2.0**exponent
    centers = stream.normal(size=(6, n_features))
    centers *= unit / np.linalg.norm(centers, axis=1, keepdims=True)
    X = centers[stream.integers(0, 6, 200)] + 0.3 * unit * stream.normal(size=(200, n_features))
    X, centers = X.astype(np.float32), centers.astype(np.float32)
    shift = np.zeros(n_features, np.float32)
    found = certified_nearest(
        *(to_device(each, device) for each in (X, centers)), shift=to_device(shift, device)
    )
    gap = X[:, None].astype(np.float64) - centers
    np.testing.assert_array_equal(to_host(found.labels), np.square(gap).sum(axis=2).argmin(axis=1))


def test_weights_beyond_float32_leave_rows_open() -> None:
    X, centers = problem(0, 20, 4, 5, 1.0, 0.0)
    for unit in (1e39, 1e42, 1e45):
        found = certified_nearest(X, centers, weights=unit * np.array([3.0, 1.0, 2.0, 4.0]))
        assert (found.labels == 1).all()
        assert found.n_rechecked == len(X)


def test_what_float64_rounds_proves_nothing() -> None:
    X = np.zeros((1, 40), np.float32)
    for seed in range(60):
        centers = 1e3 * np.random.default_rng(seed).normal(size=(6, 40))
        weights = -np.square(centers).sum(axis=1)  # at the shift, all scores are what rounding left
        assert certified_nearest(X, centers, weights=weights, shift=X[0]).n_rechecked == 1


def test_copies_less_another_shift_are_refused() -> None:
    X, centers = problem(0, 20, 4, 5, 1.0, 0.0)
    search = certified.CertifiedSearch.of(centers, common_shift(centers))
    with pytest.raises(InternalError, match="another shift"):
        search.nearest(X, half_rows(X, common_shift(centers)))
