"""Each kernel gives what numpy gives, at awkward sizes, with ties, copies, zeros and bad rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpucluster.device.kernels import (
    BY_ROW,
    FINISH_ROWS,
    FOLD_NEAREST,
    FOLD_NEIGHBORS,
    PAIR_SQDIST,
    SCAN_CAST,
    SEGMENT_SUMS,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAN, INFINITE, ZERO, BEYOND = 1, 2, 4, 8
FLOAT_MAX = np.finfo(np.float32).max
NO_LABEL = np.iinfo(np.int32).max

GRIDS = [None, 1]  # of a kernel that strides over its grid: its own, and one block for all

SHAPES = [(1, 1, 1), (7, 3, 2), (33, 31, 8), (64, 32, 64), (70, 130, 17), (5, 300, 64)]


def on_grid(spec, n_blocks):
    """Return a kernel that runs in so many blocks, if there is anything to do."""
    return spec if n_blocks is None else replace(spec, n_blocks=lambda _: n_blocks)


def rows(n_rows: int, n_features: int) -> NDArray[np.float32]:
    """Return rows of which some are bad, equal, zero or tiny."""
    X = np.random.default_rng([n_rows, n_features]).normal(size=(n_rows, n_features))
    X = X.astype(np.float32)
    X[2::9] = X[0]
    X[3::11] = 0
    X[4::13, -1] = np.nan
    X[5::13, 0] = -np.inf
    X[6::13, n_features // 2] = 1e5
    X[1::7] *= np.float32(1e-6)
    return X


@pytest.mark.parametrize("with_sums", [0, 1])
@pytest.mark.parametrize("exponent", [BY_ROW, 0, 3])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scan_cast(run, shape, shifted, exponent, with_sums) -> None:
    n_rows, n_features, rows_per_block = shape
    X, shift = rows(n_rows, n_features), np.zeros(n_features, np.float32)
    if shifted:
        shift += np.random.default_rng(1).normal(size=n_features).astype(np.float32)
    n_blocks = -(-n_rows // rows_per_block)
    cast = np.empty(X.shape, np.float16)
    scales, norms, residuals = np.full((3, n_rows), np.nan, np.float32)
    flags = np.full(n_rows, 255, np.uint8)
    sums = np.full((n_blocks, n_features), 7, np.float32)
    sizes = n_rows, n_features, rows_per_block, exponent, with_sums
    run(SCAN_CAST, X, shift, *sizes, cast, scales, norms, residuals, flags, sums)

    X -= shift
    with np.errstate(all="ignore"):
        square = np.square(X.astype(np.float64)).sum(axis=1)
        scaled = X / scales[:, None]
        expected = scaled.astype(np.float16)
        lost = X.astype(np.float64) - expected * scales[:, None].astype(np.float64)
    powers = np.log2(scales)
    np.testing.assert_array_equal(powers, powers.round())
    usable = (square >= np.finfo(np.float32).tiny) & (square < FLOAT_MAX)
    if exponent == BY_ROW:
        length = np.sqrt(square[usable]) / scales[usable]
        assert ((length > 127.9) & (length < 256.1)).all()
        assert (scales[~usable] == 1).all()
    else:
        assert (scales == 2.0**exponent).all()
    np.testing.assert_array_equal(cast, expected)
    clean = flags == 0
    wrong = (
        NAN * np.isnan(X).any(axis=1)
        | INFINITE * np.isinf(X).any(axis=1)
        | ZERO * (square < np.finfo(np.float32).tiny)
        | BEYOND * (np.isfinite(X) & (np.abs(scaled) > 65504)).any(axis=1)
    )
    np.testing.assert_array_equal(flags, wrong)
    np.testing.assert_allclose(norms[clean], np.sqrt(square[clean]), rtol=1e-6)
    gap = np.sqrt(np.square(lost[clean]).sum(axis=1))
    np.testing.assert_allclose(residuals[clean], gap, rtol=1e-5, atol=0)
    for block in range(n_blocks):
        part = slice(block * rows_per_block, (block + 1) * rows_per_block)
        total = X[part][clean[part]].sum(axis=0, dtype=np.float64) if with_sums else 7
        np.testing.assert_allclose(sums[block], total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_blocks", GRIDS)
@pytest.mark.parametrize("tile_cols", [1, 5, 32, 100])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (9, 31), (40, 33), (17, 100)], ids=str)
def test_fold_nearest(run, shape, tile_cols, n_blocks) -> None:
    n_rows, n_centers = shape
    stream = np.random.default_rng([n_rows, n_centers])
    # few values, all exact: most rows have ties, within tiles and across them
    dots = stream.integers(-2, 3, size=shape).astype(np.float32)
    columns = stream.integers(0, 3, size=(5, n_centers)).astype(np.float32)
    columns[0] = 2.0 ** columns[0]
    scales, norms, residuals = stream.integers(1, 4, size=(3, n_rows)).astype(np.float32)
    norms[1::6] = np.nan  # nothing is known of these rows
    residuals[2::7] = np.inf
    skip = stream.integers(-1, n_centers, n_rows).astype(np.int32)
    best, second, floor = np.full((3, n_rows), -FLOAT_MAX, np.float32)
    label = np.full(n_rows, NO_LABEL, np.int32)
    for first in range(0, n_centers, tile_cols):
        for first_row in (0, n_rows // 3):
            tile = dots[first_row : n_rows if first_row else n_rows // 3]
            tile = np.ascontiguousarray(tile[:, first : first + tile_cols])
            sizes = first_row, *tile.shape, first, n_centers
            of_rows = columns, scales, norms, residuals, skip
            kept = best, second, floor, label
            run(on_grid(FOLD_NEAREST, n_blocks), tile, *sizes, *of_rows, *kept)

    scale, offset, per_norm, per_residual, alone = columns
    with np.errstate(all="ignore"):
        score = dots * (scales[:, None] * scale) - offset
        error = norms[:, None] * per_norm + (residuals[:, None] * per_residual + alone)
        known = score + error <= FLOAT_MAX
    upper = np.where(known, score + error, FLOAT_MAX)
    lower = np.where(known, score - error, -FLOAT_MAX)
    held = np.flatnonzero(skip >= 0)
    upper[held, skip[held]] = -FLOAT_MAX
    found = upper.max(axis=1) > -FLOAT_MAX
    at = upper.argmax(axis=1)
    np.testing.assert_array_equal(label, np.where(found, at, NO_LABEL))
    np.testing.assert_array_equal(best, upper.max(axis=1))
    expected = np.where(found, lower[np.arange(n_rows), at], -FLOAT_MAX)
    np.testing.assert_array_equal(floor, expected)
    runner_up = np.sort(upper, axis=1)[:, -2] if n_centers > 1 else np.float32(-FLOAT_MAX)
    np.testing.assert_array_equal(second, runner_up)


@pytest.mark.parametrize("n_blocks", GRIDS)
@pytest.mark.parametrize("tile_cols", [7, 32, 300])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 2, 2), (9, 40, 33), (6, 290, 128), (5, 70, 40)], ids=str
)
def test_fold_neighbors(run, shape, tile_cols, n_blocks) -> None:
    n_rows, n_others, n_kept = shape
    stream = np.random.default_rng(shape)
    dots = stream.integers(-6, 7, size=(n_rows, n_others)).astype(np.float32)  # many ties
    columns = stream.integers(0, 3, size=(5, n_others)).astype(np.float32)
    columns[0] = 2.0 ** columns[0]
    scales, norms, residuals = stream.integers(1, 4, size=(3, n_rows)).astype(np.float32)
    norms[2::6] = np.nan  # nothing is known of these rows
    skip = stream.integers(-1, n_others, n_rows).astype(np.int32)
    bounds = np.full((n_rows, n_kept), -FLOAT_MAX, np.float32)
    found = np.full((n_rows, n_kept), NO_LABEL, np.int32)
    for first in range(0, n_others, tile_cols):
        tile = np.ascontiguousarray(dots[:, first : first + tile_cols])
        sizes = 0, *tile.shape, first, n_others
        of_rows = columns, scales, norms, residuals, skip
        run(on_grid(FOLD_NEIGHBORS, n_blocks), tile, *sizes, *of_rows, n_kept, bounds, found)

    scale, offset, per_norm, per_residual, alone = columns
    with np.errstate(all="ignore"):
        score = dots * (scales[:, None] * scale) - offset
        upper = score + norms[:, None] * per_norm + (residuals[:, None] * per_residual + alone)
    upper[np.isnan(upper)] = FLOAT_MAX
    held = np.flatnonzero(skip >= 0)
    upper[held, skip[held]] = -FLOAT_MAX
    order = np.argsort(-upper, axis=1, kind="stable")[:, :n_kept]
    expected = np.take_along_axis(upper, order, axis=1)
    n_found = min(n_kept, n_others)
    np.testing.assert_array_equal(bounds[:, :n_found], expected)
    real = expected > -FLOAT_MAX
    np.testing.assert_array_equal(found[:, :n_found], np.where(real, order, NO_LABEL))
    assert (bounds[:, n_found:] == -FLOAT_MAX).all()


@pytest.mark.parametrize("n_blocks", GRIDS)
@pytest.mark.parametrize("dtype", PAIR_SQDIST)
@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 31, 4), (40, 33, 70), (5, 300, 3)], ids=str)
def test_pair_sqdist(run, shape, dtype, n_blocks) -> None:
    n_rows, n_features, n_pairs = shape
    stream = np.random.default_rng(shape)
    X, centers = rows(n_rows, n_features), stream.normal(size=(3, n_features)).astype(dtype)
    np.nan_to_num(X, copy=False)
    at, label = stream.integers(0, n_rows, n_pairs), stream.integers(-1, 3, n_pairs)
    at, label = at.astype(np.int32), label.astype(np.int32)
    sqdist = np.full(n_pairs, np.nan)
    run(
        *(on_grid(PAIR_SQDIST[dtype], n_blocks), X, centers, at, label),
        *(n_pairs, n_features, sqdist),
    )
    expected = np.square(X[at].astype(np.float64) - centers[label]).sum(axis=1)
    np.testing.assert_allclose(sqdist, np.where(label >= 0, expected, 0), rtol=1e-12)


@pytest.mark.parametrize("n_blocks", GRIDS)
@pytest.mark.parametrize("to_unit_length", [0, 1])
@pytest.mark.parametrize("dtype", FINISH_ROWS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (33, 31), (20, 130)], ids=str)
def test_finish_rows(run, shape, dtype, to_unit_length, n_blocks) -> None:
    n_rows, n_features = shape
    stream = np.random.default_rng(n_rows)
    product = stream.normal(size=shape).astype(np.float32)
    product[1::5] = 0
    scales = (2.0 ** stream.integers(-3, 4, n_rows)).astype(np.float32)
    columns = (2.0 ** stream.integers(-3, 4, n_features)).astype(np.float32)
    out, norms = np.full(shape, np.nan, dtype), np.full(n_rows, np.nan, np.float32)
    for first, last in ((0, n_rows // 3), (n_rows // 3, n_rows)):  # tile by tile
        tile, sizes = product[first:last], (last - first, n_features, to_unit_length)
        of_rows = first, scales, columns
        run(on_grid(FINISH_ROWS[dtype], n_blocks), tile, *of_rows, *sizes, out, norms)

    expected = product.astype(np.float64) * scales[:, None] * columns
    length = np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(norms, length, rtol=1e-6)
    if to_unit_length:
        expected /= np.where(length > 0, length, 1)[:, None]
    np.testing.assert_allclose(out, expected, rtol=1e-6 if dtype == "float32" else 1e-3, atol=1e-6)


def test_no_rows_are_no_launch(run) -> None:
    X, cast = np.empty((0, 3), np.float32), np.empty((0, 3), np.float16)
    norms, flags, zero = np.empty(0, np.float32), np.empty(0, np.uint8), np.zeros(3, np.float32)
    behind = np.full(3, 7, np.float32)
    run(SCAN_CAST, X, zero, 0, 3, 8, 0, 1, cast, norms, norms, norms, flags, behind)
    assert (behind == 7).all()


def test_finish_rows_in_place(run) -> None:
    product, two = np.arange(12, dtype=np.float32).reshape(3, 4), np.full(4, 2, np.float32)
    norms, expected = np.empty(3, np.float32), 2 * product
    run(FINISH_ROWS["float32"], product, 0, np.ones(3, np.float32), two, 3, 4, 0, product, norms)
    np.testing.assert_array_equal(product, expected)


@pytest.mark.parametrize("n_blocks", GRIDS)
@pytest.mark.parametrize("dtype", SEGMENT_SUMS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (10, 3, 4), (50, 257, 3), (200, 40, 7)], ids=str)
def test_segment_sums(run, shape, dtype, n_blocks) -> None:
    n_rows, n_features, n_segments = shape
    stream = np.random.default_rng([n_rows, n_features])
    X = stream.normal(size=(n_rows, n_features)).astype(dtype)
    labels = stream.integers(0, max(1, n_segments - 1), n_rows)  # the last segment stays empty
    order = np.argsort(labels, kind="stable").astype(np.int32)
    starts = np.searchsorted(labels[order], np.arange(n_segments + 1))
    sums = np.full((n_segments, n_features), np.nan)
    run(on_grid(SEGMENT_SUMS[dtype], n_blocks), X, order, starts, n_segments, n_features, sums)

    expected = np.zeros((n_segments, n_features))
    np.add.at(expected, labels[order], X[order].astype(np.float64))  # one row after the other
    np.testing.assert_array_equal(sums, expected)


def test_the_wrong_dtype_or_order_is_refused() -> None:
    X, order = np.zeros((4, 2)), np.arange(4, dtype=np.int32)
    starts, sums = np.array([0, 4]), np.zeros((1, 2))
    with pytest.raises(TypeError, match="segment_sums_f32: X is float64, contiguous"):
        SEGMENT_SUMS["float32"].numbers((X, order, starts, 1, 2, sums))
    with pytest.raises(TypeError, match="segment_sums_f64: X is float64, not contiguous"):
        SEGMENT_SUMS["float64"].numbers((X.T, order, starts, 1, 2, sums))


def test_bytes_are_those_of_the_arrays() -> None:
    def of_size(*shape, dtype="float32"):
        return np.empty(shape, dtype)

    X, row, half = of_size(70, 30), of_size(70), of_size(70, 30, dtype="float16")
    flags, sums = of_size(70, dtype="uint8"), of_size(9, 30)
    given = X, of_size(30), 70, 30, 8, 0, 1, half, row, row, row, flags, sums
    moved = X.nbytes + half.nbytes + 3 * row.nbytes + flags.nbytes + sums.nbytes
    assert SCAN_CAST.n_bytes(SCAN_CAST.numbers(given)) == moved

    label, sqdist = of_size(70, dtype="int32"), of_size(70, dtype="float64")
    given = X, 0, 70, 30, 0, 30, of_size(5, 30), row, row, row, label, row, row, row, label
    found = FOLD_NEAREST.n_bytes(FOLD_NEAREST.numbers(given))
    assert found == X.nbytes + 12 * row.nbytes  # four that are read, four that are changed
    kept = of_size(70, 9), of_size(70, 9, dtype="int32")
    given = X, 0, 70, 30, 0, 30, of_size(5, 30), row, row, row, label, 9, *kept
    found = FOLD_NEIGHBORS.n_bytes(FOLD_NEIGHBORS.numbers(given))
    assert found == X.nbytes + 4 * row.nbytes + 4 * kept[0].nbytes
    given = X, of_size(4, 30, dtype="float64"), label, label, 70, 30, sqdist
    found = PAIR_SQDIST["float64"].n_bytes(PAIR_SQDIST["float64"].numbers(given))
    assert found == X.nbytes + 2 * label.nbytes + sqdist.nbytes

    spec = FINISH_ROWS["float16"]
    found = spec.n_bytes(spec.numbers((X, 0, row, of_size(30), 70, 30, 1, half, row)))
    assert found == X.nbytes + half.nbytes + 2 * row.nbytes

    spec, order, starts = SEGMENT_SUMS["float16"], label, of_size(4, dtype="int64")
    sums = of_size(3, 30, dtype="float64")
    found = spec.n_bytes(spec.numbers((half, order, starts, 3, 30, sums)))
    assert found == half.nbytes + order.nbytes + sums.nbytes


def test_an_array_of_another_size_is_refused() -> None:
    X, rows, labels = np.zeros((4, 2), np.float32), np.zeros(4, np.int32), np.zeros(3, np.int32)
    with pytest.raises(ValueError, match="pair_sqdist_f64: labels has 3 values, not 4"):
        PAIR_SQDIST["float64"].numbers((X, X[:1].astype(float), rows, labels, 4, 2, np.zeros(4)))
