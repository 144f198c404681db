"""Each kernel gives what numpy gives, at awkward sizes, with ties, copies, zeros and bad rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpucluster.device.kernels import (
    FINISH_ROWS,
    FOLD_OTHERS,
    FOLD_TOP2,
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


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scan_cast(run, shape, shifted) -> None:
    n_rows, n_features, rows_per_block = shape
    X, shift = rows(n_rows, n_features), np.zeros(n_features, np.float32)
    if shifted:
        shift += np.random.default_rng(1).normal(size=n_features).astype(np.float32)
    n_blocks = -(-n_rows // rows_per_block)
    cast = np.empty(X.shape, np.float16)
    norms, residuals = np.full((2, n_rows), np.nan, np.float32)
    flags = np.full(n_rows, 255, np.uint8)
    sums = np.full((n_blocks, n_features), np.nan, np.float32)
    sizes = n_rows, n_features, rows_per_block
    run(SCAN_CAST, X, shift, *sizes, cast, norms, residuals, flags, sums)

    X -= shift
    with np.errstate(all="ignore"):
        expected = X.astype(np.float16)
        lost = X.astype(np.float64) - expected
        square = np.square(X.astype(np.float64)).sum(axis=1)
    np.testing.assert_array_equal(cast, expected)
    clean = flags == 0
    wrong = (
        NAN * np.isnan(X).any(axis=1)
        | INFINITE * np.isinf(X).any(axis=1)
        | ZERO * (square < np.finfo(np.float32).tiny)
        | BEYOND * (np.isfinite(X) & (np.abs(X) > 65504)).any(axis=1)
    )
    np.testing.assert_array_equal(flags, wrong)
    np.testing.assert_allclose(norms[clean], np.sqrt(square[clean]), rtol=1e-6)
    gap = np.sqrt(np.square(lost[clean]).sum(axis=1))
    np.testing.assert_allclose(residuals[clean], gap, rtol=1e-5, atol=0)
    for block in range(n_blocks):
        part = slice(block * rows_per_block, (block + 1) * rows_per_block)
        total = X[part][clean[part]].sum(axis=0, dtype=np.float64)
        np.testing.assert_allclose(sums[block], total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_blocks", GRIDS)
@pytest.mark.parametrize("tile_cols", [1, 5, 32, 100])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (9, 31), (40, 33), (17, 100)], ids=str)
def test_fold_top2(run, shape, tile_cols, n_blocks) -> None:
    n_rows, n_centers = shape
    stream = np.random.default_rng([n_rows, n_centers])
    # few values: most rows have ties, within tiles and across them
    dots = stream.integers(-2, 3, size=shape).astype(np.float32)
    half_sqnorms = stream.integers(0, 2, size=n_centers).astype(np.float32)
    best, second = np.full((2, n_rows), -FLOAT_MAX, np.float32)
    label = np.full(n_rows, NO_LABEL, np.int32)
    for first in range(0, n_centers, tile_cols):
        tile = np.ascontiguousarray(dots[:, first : first + tile_cols])
        run(
            on_grid(FOLD_TOP2, n_blocks),
            tile,
            n_rows,
            tile.shape[1],
            first,
            half_sqnorms,
            best,
            second,
            label,
        )

    scores = dots - half_sqnorms
    np.testing.assert_array_equal(label, scores.argmax(axis=1))
    np.testing.assert_array_equal(best, scores.max(axis=1))
    if n_centers > 1:
        np.testing.assert_array_equal(second, np.sort(scores, axis=1)[:, -2])
    else:
        np.testing.assert_array_equal(second, -FLOAT_MAX)


@pytest.mark.parametrize("n_blocks", GRIDS)
@pytest.mark.parametrize("tile_cols", [1, 7, 100])
@pytest.mark.parametrize("shape", [(1, 1), (6, 2), (40, 33), (17, 100)], ids=str)
def test_fold_others(run, shape, tile_cols, n_blocks) -> None:
    n_rows, n_clusters = shape
    stream = np.random.default_rng([n_rows, n_clusters])
    dots = stream.integers(-2, 3, size=shape).astype(np.float32)
    half_sqnorms = stream.integers(0, 2, size=n_clusters).astype(np.float32)
    label = stream.integers(-1, n_clusters, n_rows).astype(np.int32)  # some are noise
    own, other = np.full((2, n_rows), -FLOAT_MAX, np.float32)
    other_label = np.full(n_rows, NO_LABEL, np.int32)
    for first in range(0, n_clusters, tile_cols):
        tile = np.ascontiguousarray(dots[:, first : first + tile_cols])
        sizes = n_rows, tile.shape[1], first
        run(
            on_grid(FOLD_OTHERS, n_blocks),
            tile,
            *sizes,
            half_sqnorms,
            label,
            own,
            other,
            other_label,
        )

    scores = dots - half_sqnorms
    held = np.flatnonzero(label >= 0)
    np.testing.assert_array_equal(own[held], scores[held, label[held]])
    np.testing.assert_array_equal(own[label < 0], -FLOAT_MAX)
    scores[held, label[held]] = -FLOAT_MAX
    np.testing.assert_array_equal(other, scores.max(axis=1))
    found = np.where(scores.max(axis=1) > -FLOAT_MAX, scores.argmax(axis=1), NO_LABEL)
    np.testing.assert_array_equal(other_label, found)


@pytest.mark.parametrize("n_blocks", GRIDS)
@pytest.mark.parametrize("to_unit_length", [0, 1])
@pytest.mark.parametrize("dtype", FINISH_ROWS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (33, 31), (20, 130)], ids=str)
def test_finish_rows(run, shape, dtype, to_unit_length, n_blocks) -> None:
    n_rows, n_features = shape
    stream = np.random.default_rng(n_rows)
    product, bias = stream.normal(size=shape), stream.normal(size=n_features)
    product, bias = product.astype(np.float32), bias.astype(np.float32)
    product[1::5] = -bias  # nothing is left of these rows
    out, norms = np.full(shape, np.nan, dtype), np.full(n_rows, np.nan, np.float32)
    run(
        on_grid(FINISH_ROWS[dtype], n_blocks),
        product,
        bias,
        n_rows,
        n_features,
        to_unit_length,
        out,
        norms,
    )

    expected = (product + bias).astype(np.float64)
    length = np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(norms, length, rtol=1e-6)
    if to_unit_length:
        expected /= np.where(length > 0, length, 1)[:, None]
    np.testing.assert_allclose(out, expected, rtol=1e-6 if dtype == "float32" else 1e-3, atol=1e-7)


def test_no_rows_are_no_launch(run) -> None:
    X, cast = np.empty((0, 3), np.float32), np.empty((0, 3), np.float16)
    norms, flags, zero = np.empty(0, np.float32), np.empty(0, np.uint8), np.zeros(3, np.float32)
    behind = np.full(3, 7, np.float32)
    run(SCAN_CAST, X, zero, 0, 3, 8, cast, norms, norms, flags, behind)
    assert (behind == 7).all()


def test_finish_rows_in_place(run) -> None:
    product, bias = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones(4, np.float32)
    norms, expected = np.empty(3, np.float32), product + 1
    run(FINISH_ROWS["float32"], product, bias, 3, 4, 0, product, norms)
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
    given = X, of_size(30), 70, 30, 8, half, row, row, flags, sums
    moved = X.nbytes + half.nbytes + 2 * row.nbytes + flags.nbytes + sums.nbytes
    assert SCAN_CAST.n_bytes(SCAN_CAST.numbers(given)) == moved

    label = of_size(70, dtype="int32")
    given = X, 70, 30, 0, of_size(30), row, row, label  # all but the tile is read and written
    assert FOLD_TOP2.n_bytes(FOLD_TOP2.numbers(given)) == X.nbytes + 6 * row.nbytes
    given = X, 70, 30, 0, of_size(30), label, row, row, label
    assert FOLD_OTHERS.n_bytes(FOLD_OTHERS.numbers(given)) == X.nbytes + 7 * row.nbytes

    spec = FINISH_ROWS["float16"]
    found = spec.n_bytes(spec.numbers((X, of_size(30), 70, 30, 1, half, row)))
    assert found == X.nbytes + half.nbytes + row.nbytes

    spec, order, starts = SEGMENT_SUMS["float16"], label, of_size(4, dtype="int64")
    sums = of_size(3, 30, dtype="float64")
    found = spec.n_bytes(spec.numbers((half, order, starts, 3, 30, sums)))
    assert found == half.nbytes + order.nbytes + sums.nbytes
