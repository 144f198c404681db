"""Rows in float16, what that loses, and products of such rows, summed in float32.

On a GPU the products run on tensor cores; on the host they are the same numbers from float32
products, which gains nothing there, but shows without a GPU what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.device.kernels import BY_ROW
from gpucluster.device.memory import rows_per_block
from gpucluster.ops.blocks import row_blocks

TILE_COLS = 2048  # so that a tile has rows for all processors
TILE_BYTES = 24 << 20  # products that stay in the second cache of a GPU until they are used
SCAN_ROWS = 8  # of a block of the scan: those of all blocks at once stay in the second cache
SAMPLE_ROWS = 8192  # whose middle is near enough to that of all
MOST = 95  # percent of the values of a column
SHIFT_BITS = 8  # 4 to 10 give the same errors
HEADROOM = 8  # bits of a norm above 1, as in the kernel
HALF_MAX = 65504.0
NAN, INFINITE, VANISHES, BEYOND = 1, 2, 4, 8  # what is wrong with a row, as in the kernel
_CUDA_R_32F, _CUDA_R_16F = 0, 2  # of CUDA's library_types.h
_ONE, _ZERO = np.ones(1, np.float32), np.zeros(1, np.float32)


@dataclass(frozen=True, slots=True)
class HalfRows:
    """Rows less a shift, in float16, and what that lost.

    Attributes
    ----------
    cast : array of shape (n_rows, n_features), float16
        Each row divided by its scale.
    scales : array of shape (n_rows,), float32
        Powers of two.
    norms : array of shape (n_rows,), float32
        Of the rows less the shift.
    residuals : array of shape (n_rows,), float32
        Norms of what the copy lacks.
    flags : array of shape (n_rows,), uint8
        `NAN`, `INFINITE`, `VANISHES` (the squared norm) or `BEYOND` (float16), or several.
    shift : array of shape (n_features,), float32
    column_sums : array of shape (n_blocks, n_features), float32, or None
        Of the rows less the shift, those without flag, block by block.
    """

    cast: Any
    scales: Any
    norms: Any
    residuals: Any
    flags: Any
    shift: Any
    column_sums: Any = None

    def __getitem__(self, rows: Any) -> HalfRows:
        """Return some of the rows, without column sums."""
        return HalfRows(
            self.cast[rows],
            self.scales[rows],
            self.norms[rows],
            self.residuals[rows],
            self.flags[rows],
            self.shift,
        )


def sample_of(X: Any) -> Any:
    """Return rows of `X` at equal distances, at most twice `SAMPLE_ROWS`."""
    return X[:: max(1, len(X) // SAMPLE_ROWS)]


def coarse_middle(X: Any) -> Any:
    """Return a row in the middle of others whose entries have few digits.

    Many data have few digits themselves: embeddings that were stored in float16, counts, grey
    levels. Less a mean of many digits, all copies of one value, and all values of a range, round to
    float16 by the same error, which does not average out: covariances were wrong by 3e-4 of the
    largest instead of 6e-6. Less a row of few digits, many stay exact, and the errors of others
    differ. It is made of medians: some rows far away do not move it.

    Parameters
    ----------
    X : array of shape (n_rows, n_features), float32

    Returns
    -------
    array of shape (n_features,), float32
        Multiples of 1/256 of the power of two above most values of the column.
    """
    xp = namespace(X)
    large = xp.percentile(abs(X), MOST, axis=0)
    unit = xp.ldexp(xp.ones(X.shape[1], np.float64), xp.frexp(large)[1] - SHIFT_BITS)
    return (xp.rint(xp.median(X, axis=0) / unit) * unit).astype(np.float32)


def half_rows(X: Any, shift: Any, *, exponent: int = BY_ROW, with_sums: bool = False) -> HalfRows:
    """Copy rows to float16 and measure what that loses, in one pass.

    Parameters
    ----------
    X : array of shape (n_rows, n_features), float32, C-contiguous
        Its device decides where the work runs.
    shift : array of shape (n_features,), float32
    exponent : int, optional
        Of the power of two that all rows are divided by. Omitted: of each row's norm.
    with_sums : bool, default False
        Whether to sum the columns.

    Returns
    -------
    HalfRows
    """
    xp = namespace(X)
    n_rows, n_features = X.shape
    cast, flags = xp.empty(X.shape, np.float16), xp.empty(n_rows, np.uint8)
    scales, norms, residuals = (xp.empty(n_rows, np.float32) for _ in range(3))
    sums = xp.empty((-(-n_rows // SCAN_ROWS) if with_sums else 0, n_features), np.float32)
    if is_on_gpu(X):
        from gpucluster.device.kernels import SCAN_CAST, launch

        sizes = n_rows, n_features, SCAN_ROWS, exponent, int(with_sums)
        launch(SCAN_CAST, X, shift, *sizes, cast, scales, norms, residuals, flags, sums)
        return HalfRows(cast, scales, norms, residuals, flags, shift, sums if with_sums else None)
    limits = np.finfo(np.float32)
    block_rows = max(1, rows_per_block(n_features * 24) // SCAN_ROWS) * SCAN_ROWS
    with np.errstate(all="ignore"):  # bad rows are flagged
        for rows in row_blocks(n_rows, block_rows):
            block = X[rows] - shift
            square = np.einsum("ij,ij->i", block, block, dtype=np.float64)
            power = np.full(len(block), exponent)
            if exponent == BY_ROW:
                usable = (square >= limits.tiny) & (square <= limits.max)
                power = np.where(usable, np.frexp(np.sqrt(square))[1] - HEADROOM, 0)
            scales[rows] = scale = np.ldexp(np.float32(1), power)
            scaled = block / scale[:, None]
            cast[rows] = scaled
            lost = block - cast[rows] * scale[:, None]
            norms[rows] = np.sqrt(square)
            residuals[rows] = np.sqrt(np.einsum("ij,ij->i", lost, lost, dtype=np.float64))
            size = np.abs(block)
            flags[rows] = (
                NAN * np.isnan(size).any(axis=1)
                | INFINITE * np.isinf(size).any(axis=1)
                | VANISHES * (square < limits.tiny)
                | BEYOND * ((np.abs(scaled) > HALF_MAX) & (size <= limits.max)).any(axis=1)
            )
            if with_sums:
                clean = np.where(flags[rows, None] == 0, block, np.float32(0))
                starts = np.arange(0, len(block), SCAN_ROWS)
                first = rows.start // SCAN_ROWS
                sums[first : first + len(starts)] = np.add.reduceat(clean, starts, axis=0)
    return HalfRows(cast, scales, norms, residuals, flags, shift, sums if with_sums else None)


def half_product(rows: Any, others: Any) -> Any:
    """Return the products of float16 rows with others, summed in float32.

    Parameters
    ----------
    rows : array of shape (n_rows, n_features), float16, C-contiguous
    others : array of shape (n_others, n_features), float16, C-contiguous

    Returns
    -------
    array of shape (n_rows, n_others), float32
    """
    if not is_on_gpu(rows):
        with np.errstate(all="ignore"):  # bad rows are flagged
            return rows.astype(np.float32) @ others.astype(np.float32).T
    out = namespace(rows).empty((len(rows), len(others)), np.float32)
    width = rows.shape[1]
    _gemm(out, rows.data.ptr, others.data.ptr, width, width, by_columns=False)
    return out


def each_tile(
    rows: Any,
    others: Any,
    use: Callable[[Any, slice, slice], None],
    tile_cols: int | None = None,
) -> None:
    """Call ``use(products, rows, others)`` for each tile of the products of rows with others.

    Tiles of a row come one after the other. A tile is overwritten by the next, at the same address:
    on a GPU it never leaves the second cache.

    Parameters
    ----------
    rows : array of shape (n_rows, n_features), float16, C-contiguous
    others : array of shape (n_others, n_features), float16, C-contiguous
    use : callable
        Gets a tile, float32, and which rows and which others it is of.
    tile_cols : int, optional
        Others of a tile; `TILE_COLS` if omitted.
    """
    tile_cols = min(tile_cols or TILE_COLS, len(others))
    tile_rows = min(rows_per_block(4 * tile_cols, TILE_BYTES), len(rows))
    on_gpu, width = is_on_gpu(rows), rows.shape[1]
    memory = namespace(rows).empty(tile_rows * tile_cols if on_gpu else 0, np.float32)
    shaped: dict[tuple[int, int], Any] = {}  # a view of a shape is made once: tiles are short work
    for part in row_blocks(len(rows), tile_rows):
        for cols in row_blocks(len(others), tile_cols):
            if not on_gpu:
                use(half_product(rows[part], others[cols]), part, cols)
                continue
            shape = part.stop - part.start, cols.stop - cols.start
            if shape not in shaped:
                shaped[shape] = memory[: shape[0] * shape[1]].reshape(shape)
            first, other = (
                each.data.ptr + each.itemsize * width * cut.start
                for each, cut in ((rows, part), (others, cols))
            )
            _gemm(shaped[shape], first, other, width, width, by_columns=False)
            use(shaped[shape], part, cols)


def half_gram(rows: Any, left: slice, right: slice) -> Any:
    """Return the products of float16 columns of one matrix, summed in float32.

    Parameters
    ----------
    rows : array of shape (n_rows, n_features), float16, C-contiguous
    left, right : slice
        Consecutive columns.

    Returns
    -------
    array of shape (n_left, n_right), float32
    """
    if not is_on_gpu(rows):
        with np.errstate(all="ignore"):  # bad rows are flagged
            return rows[:, left].astype(np.float32).T @ rows[:, right].astype(np.float32)
    n_rows, width = rows.shape
    out = namespace(rows).empty((left.stop - left.start, right.stop - right.start), np.float32)
    first, other = (rows.data.ptr + rows.itemsize * each.start for each in (left, right))
    _gemm(out, first, other, n_rows, width, by_columns=True)
    return out


def _gemm(out: Any, first: int, other: int, n_summed: int, width: int, *, by_columns: bool) -> None:
    """Multiply float16 matrices of rows of this width at these addresses.

    cupy.matmul would return float16. cuBLAS counts columns first, so it is told the transposes.
    """
    import cupy
    from cupy.cuda import cublas

    if 0 in (*out.shape, n_summed):
        out[...] = 0
        return
    plain, transposed = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T
    cublas.gemmEx(
        cupy.cuda.device.get_cublas_handle(),
        *((plain, transposed) if by_columns else (transposed, plain)),
        *(out.shape[1], out.shape[0], n_summed, _ONE.ctypes.data),
        *(other, _CUDA_R_16F, width),
        *(first, _CUDA_R_16F, width),
        *(_ZERO.ctypes.data, out.data.ptr, _CUDA_R_32F, out.shape[1]),
        cublas.CUBLAS_COMPUTE_32F,
        cublas.CUBLAS_GEMM_DEFAULT,
    )
