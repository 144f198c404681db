"""Nearest centres and directions against float64: ties, lengths, offsets, shapes, cores, GPUs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.ops import blocks, nearest
from gpucluster.ops.assign import lloyd_step, most_similar, nearest_center
from gpucluster.ops.normalize import unit_rows

EPS = float(np.finfo(np.float32).eps)


def normal(n_samples: int, n_features: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_samples, n_features)).astype(np.float32)


def cosines(X: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Cosines in float64; 0 to a zero direction."""
    rows, others = X.astype(np.float64), directions.astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1)[:, None]
    lengths = np.linalg.norm(others, axis=1)
    return rows @ (others / np.where(lengths > 0, lengths, 1)[:, None]).T


def sqdistances(X: np.ndarray, centers: np.ndarray) -> np.ndarray:
    middle = centers.mean(axis=0, dtype=np.float64)
    rows, others = X - middle, centers - middle
    return (
        np.square(rows).sum(axis=1)[:, None] + np.square(others).sum(axis=1) - 2 * rows @ others.T
    )


def check_most_similar(X: np.ndarray, directions: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Every answer is the best but for float32 rounding, and its cosine is right."""
    found, similarity = most_similar(X, directions, device)
    assert (found.dtype, similarity.dtype) == (np.int32, np.float32)
    exact = cosines(X, directions)
    chosen = exact[np.arange(len(X)), found]
    assert (exact.max(axis=1) - chosen).max(initial=0) < 5e-7
    np.testing.assert_allclose(similarity, chosen, atol=5e-7)
    assert (abs(similarity) <= 1).all()
    return found


def check_nearest_center(X: np.ndarray, centers: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Every centre is the nearest but for rounding, whatever offset rows and centres share."""
    labels = nearest_center(X, centers, device)
    assert labels.dtype == np.int32
    exact = sqdistances(X, centers)
    middle = centers.mean(axis=0, dtype=np.float64)
    size = np.square(X - middle).sum(axis=1) + np.square(centers - middle).sum(axis=1).max()
    lost = exact[np.arange(len(X)), labels] - exact.min(axis=1)
    assert (lost <= 4 * (X.shape[1] + 20) * EPS * size).all()
    return labels


@given(
    n_samples=st.integers(0, 2500),
    n_features=st.integers(1, 12),
    n_centers=st.integers(1, 40),
    seed=st.integers(0, 99),
    offset=st.sampled_from([0, 1, 300]),
)
def test_answers_are_those_of_float64(
    n_samples: int, n_features: int, n_centers: int, seed: int, offset: int
) -> None:
    X = normal(n_samples, n_features, seed) + np.float32(offset)
    centers = normal(n_centers, n_features, seed + 1) + np.float32(offset)
    check_nearest_center(X, centers)
    check_most_similar(X, unit_rows(centers))


@pytest.mark.parametrize("scale", [0.3, 1e-2, 1e-3])
def test_directions_in_a_narrow_cone_are_told_apart(scale: float, device: str) -> None:
    middle, width = unit_rows(normal(1, 96, seed=1)), np.float32(scale / np.sqrt(96))
    directions = unit_rows(middle + width * normal(200, 96, seed=2))
    X = (middle + width * normal(3000, 96, seed=3)) * np.exp(normal(3000, 1, seed=4))
    found = check_most_similar(X, directions, device)
    exact = cosines(X, directions)
    lost = exact.max(axis=1) - exact[np.arange(len(X)), found]
    assert lost.max() < 1e-7 * scale
    assert (found == exact.argmax(axis=1)).mean() > 0.999


def test_rows_of_wildly_different_lengths() -> None:
    X = normal(4000, 24)
    directions = unit_rows(normal(50, 24, seed=1))
    found, similarity = most_similar(X, directions)
    for offset in (0, 1):  # with an offset, rows are brought to unit length
        wild = (X + offset) * 10.0 ** np.random.default_rng(2).integers(-30, 30, (len(X), 1))
        check_most_similar(wild.astype(np.float32), unit_rows(directions + np.float32(offset)))
    for length in (1e-30, 1e-18, 1e18, 1e30):
        again, cosine = most_similar(X * np.float32(length), directions)
        np.testing.assert_array_equal(again, found)
        np.testing.assert_allclose(cosine, similarity, atol=5e-7)


@pytest.mark.parametrize("n_features", [1, 2, 64, 100])
@pytest.mark.parametrize("offset", [0, 5])
def test_of_equal_centers_the_first_wins(n_features: int, offset: int, device: str) -> None:
    some = normal(7, n_features, seed=1) + np.float32(offset)
    drawn = np.random.default_rng(0).integers(0, 7, 36)
    X = normal(1500, n_features) + np.float32(offset)
    for centers, search in ((some, nearest_center), (unit_rows(some), most_similar)):
        repeated = centers[drawn]
        found = search(X, repeated, device)
        labels = found[0] if isinstance(found, tuple) else found
        first = np.array([np.argmax((repeated == row).all(axis=1)) for row in repeated])
        np.testing.assert_array_equal(first[labels], labels)


def test_ties_between_different_centers_go_to_the_lower(device: str) -> None:
    X = np.random.default_rng(0).integers(0, 4, (2500, 3)).astype(np.float32)
    centers = np.unique(X, axis=0)[::-1].copy()  # whole numbers: every score is exact
    apart = sqdistances(X + np.float32(0.5), centers)
    ours = nearest_center(X + np.float32(0.5), centers, device)
    np.testing.assert_array_equal(ours, np.round(apart, 6).argmin(axis=1))
    axes = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
    rows = np.random.default_rng(1).integers(-2, 3, (900, 4)).astype(np.float32)
    rows = rows[rows.any(axis=1)]
    found, _ = most_similar(rows, axes, device)
    np.testing.assert_array_equal(found, (rows @ axes.T).argmax(axis=1))


@pytest.mark.parametrize("tile_centers", [7, 31])
def test_tiles_of_centers_do_not_change_the_result(
    tile_centers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.random.default_rng(0).integers(0, 4, (2500, 3)).astype(np.float32)  # ties everywhere
    X = X[X.any(axis=1)]
    centers = X[:60].copy()
    whole = nearest_center(X, centers), most_similar(X, unit_rows(centers))[0]
    step = lloyd_step(X, centers)
    monkeypatch.setattr(nearest, "TILE_CENTERS", tile_centers)
    tiled = lloyd_step(X, centers)
    np.testing.assert_array_equal(nearest_center(X, centers), whole[0])
    np.testing.assert_array_equal(tiled.labels, step.labels)
    np.testing.assert_array_equal(tiled.sums, step.sums)
    check_most_similar(X, unit_rows(centers))


def test_more_centers_than_a_tile_holds() -> None:
    centers = normal(nearest.TILE_CENTERS + 904, 6, seed=1)
    X = centers[::-1] + np.float32(1e-3)
    np.testing.assert_array_equal(check_nearest_center(X, centers), np.arange(len(X))[::-1])
    directions = unit_rows(centers)
    found = check_most_similar(3 * directions[::-1], directions)
    np.testing.assert_array_equal(found, np.arange(len(X))[::-1])


def test_small_shapes(device: str) -> None:
    nothing = nearest_center(normal(0, 5), normal(3, 5), device)
    found, similarity = most_similar(normal(0, 5), unit_rows(normal(3, 5)), device)
    assert (nothing.shape, found.shape, similarity.shape) == ((0,), (0,), (0,))
    assert (nothing.dtype, found.dtype, similarity.dtype) == (np.int32, np.int32, np.float32)
    assert not check_nearest_center(normal(9, 4), normal(1, 4, seed=1), device).any()
    assert not check_most_similar(normal(9, 4), unit_rows(normal(1, 4, seed=1)), device).any()
    line = np.array([[-2.0], [0.4], [0.6], [7.0]], np.float32)
    ends = np.array([[1.0], [-1.0], [0.0]], np.float32)
    np.testing.assert_array_equal(nearest_center(line, ends, device), [1, 2, 0, 0])
    found, similarity = most_similar(line, ends[:2], device)
    np.testing.assert_array_equal(found, [1, 0, 0, 0])
    np.testing.assert_array_equal(similarity, [1, 1, 1, 1])
    assert most_similar(line, ends[1:2], device)[1].tolist() == [1, -1, -1, -1]


def test_a_zero_direction_is_at_right_angles_to_all(device: str) -> None:
    directions = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    X = np.array([[1, 3], [-2, -1], [1, -9]], np.float32)
    found, similarity = most_similar(X, directions, device)
    np.testing.assert_array_equal(found, [2, 0, 1])
    np.testing.assert_allclose(similarity, [3 / 10**0.5, 0, 1 / 82**0.5], atol=1e-7)


def test_views_and_what_cannot_be_written() -> None:
    wide, centers = normal(2100, 20), normal(40, 10, seed=1)
    X = np.ascontiguousarray(wide[:, ::2])
    views = wide[:, ::2], np.asfortranarray(X), np.ascontiguousarray(X[::-1])[::-1]
    directions = unit_rows(centers)
    labels, (found, similarity) = nearest_center(X, centers), most_similar(X, directions)
    for view in views:
        view.setflags(write=False)
        of_view, cosine = most_similar(view, np.asfortranarray(directions))
        np.testing.assert_array_equal(nearest_center(view, np.asfortranarray(centers)), labels)
        np.testing.assert_array_equal(of_view, found)
        np.testing.assert_array_equal(cosine, similarity)


def test_answers_do_not_depend_on_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    X, centers = normal(9000, 33), normal(150, 33, seed=1)
    for offset in (0, 3):
        rows, others = X + np.float32(offset), centers + np.float32(offset)
        answers = []
        for cores in (1, 2, 5):
            monkeypatch.setattr(blocks, "n_threads", lambda cores=cores: cores)
            answers.append((nearest_center(rows, others), *most_similar(rows, unit_rows(others))))
        for answer in answers[1:]:
            for one, other in zip(answers[0], answer, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("offset", [0, 50])
def test_devices_agree(offset: int, device: str) -> None:
    X = normal(1200, 30) + np.float32(offset)
    centers = normal(60, 30, seed=1) + np.float32(offset)
    exact = sqdistances(X, centers)
    labels = check_nearest_center(X, centers, device)
    found = check_most_similar(X, unit_rows(centers), device)
    if device == "gpu":  # proven: no rounding decides
        np.testing.assert_array_equal(labels, exact.argmin(axis=1))
        np.testing.assert_array_equal(found, cosines(X, unit_rows(centers)).argmax(axis=1))


def test_a_long_row_beside_short_ones_warns_of_nothing() -> None:
    X = np.array([[3e38, 3e38], [1e-38, 0], [0, 2]], np.float32)
    found, similarity = most_similar(X, np.eye(2, dtype=np.float32))
    np.testing.assert_array_equal(found, [0, 0, 1])
    np.testing.assert_allclose(similarity, [0.5**0.5, 1, 1], atol=1e-6)
