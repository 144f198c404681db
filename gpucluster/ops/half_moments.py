"""Mean, covariance and products by float16, for a whitening that is not almost full: on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace, to_host
from gpucluster.device.kernels import FINISH_ROWS, prepared
from gpucluster.events import Reporter
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.half import (
    BEYOND,
    HalfRows,
    coarse_middle,
    each_tile,
    half_gram,
    half_rows,
    sample_of,
)
from gpucluster.ops.moments import Moments, centred_moments, shifted_products
from gpucluster.ops.normalize import row_norms
from gpucluster.ops.streaming import each_block
from gpucluster.types import Vector64

SUMMED_ROWS = 65_536  # whose products are summed in float32
GRAM_BLOCKS = 2  # of columns: 3 of 4 products are computed, and each is large


def half_moments(X: Any, xp: Any = np, reporter: Reporter | None = None) -> Moments:
    """Measure mean and covariance in one pass by float16 products.

    Rounding to float16 is unbiased and averages out over the rows (`ops.half.coarse_middle`
    says why that needs care); sums of at most `SUMMED_ROWS` rows are in float32, those of all in
    float64. The error of an entry is near 1e-5 of the largest, far below what drawing other rows
    would change.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32, C-contiguous
        Where the products are computed, or on the host, from where it comes block by block.
    xp : module, default numpy
        NumPy or CuPy: where the products are computed.
    reporter : Reporter, optional
        Asked for cancellation after each block.

    Returns
    -------
    Moments

    Notes
    -----
    All rows are divided by one power of two, by the median norm of a sample. Blocks with rows
    beyond float16 are multiplied in float32. Only blocks of columns on and above the diagonal
    are multiplied. Extra memory: ``2 * SUMMED_ROWS`` bytes a feature, ``32 * n_features**2`` bytes.
    """
    n_samples, n_features = X.shape
    sample = xp.asarray(sample_of(X))
    shift = coarse_middle(sample)
    norms = row_norms(sample - shift)
    norms = norms[norms > 0]  # rows may all be the shift, and most may
    typical = float(xp.median(norms)) / n_features**0.5 if len(norms) else 1.0
    exponent = int(np.frexp(typical)[1])
    total = xp.zeros(n_features, np.float64)
    outer = xp.zeros((n_features, n_features), np.float64)

    def work(_: slice, block: Any) -> None:
        blocks = [block[rows] for rows in row_blocks(len(block), SUMMED_ROWS)]
        beyond, parts = xp.zeros((), np.uint8), []
        for rows in blocks:
            half = half_rows(rows, shift, exponent=exponent, with_sums=True)
            beyond |= half.flags.max() & BEYOND if len(rows) else 0
            sums = half.column_sums.sum(axis=0, dtype=np.float64)
            parts.append((sums, _gram(half.cast, 4.0**exponent)))
        if bool(beyond):  # asked once a block: the GPU goes on meanwhile
            parts = [shifted_products(rows, shift) for rows in blocks]
        for part_total, part_outer in parts:  # last: a block that ran out of memory comes again
            total[...] += part_total
            outer[...] += part_outer

    each_block(work, X, xp, reporter)
    return centred_moments(total, outer, n_samples, shift)


def _gram(cast: Any, unit: float) -> Any:
    """Return ``unit * cast.T @ cast`` in float64, by products on and above the diagonal."""
    n_features = cast.shape[1]
    outer = namespace(cast).empty((n_features, n_features), np.float64)
    columns = list(row_blocks(n_features, -(-n_features // GRAM_BLOCKS)))
    for number, left in enumerate(columns):
        for right in columns[number:]:
            products = half_gram(cast, left, right)
            outer[left, right] = products
            outer[right, left] = products.T
    outer *= unit
    return outer


def half_centred_product(
    X: Any, mean: Vector64, matrix: Any, xp: Any = np, reporter: Reporter | None = None
) -> Any:
    """Return ``(X - mean) @ matrix`` by float16 products.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32, C-contiguous
        Where the products are computed, or on the host, from where it comes block by block.
    mean : array of shape (n_features,), float64
    matrix : array of shape (n_features, n_out), float64
    xp : module, default numpy
        NumPy or CuPy: where the products are computed.
    reporter : Reporter, optional
        Asked for cancellation after each block.

    Returns
    -------
    ndarray of shape (n_samples, n_out), float32
        Where `X` is. The error is near 5e-4 of a row's norm.

    Notes
    -----
    Products are finished while they are in cache. Extra memory: the copy of a block, a tile, and
    a block where rows come.
    """
    shift = xp.asarray(mean, np.float32)
    n_out = matrix.shape[1]
    columns = xp.ascontiguousarray(xp.asarray(matrix, np.float32).T)
    others = half_rows(columns, xp.zeros(len(mean), np.float32))
    out = namespace(X).empty((len(X), n_out), np.float32)
    comes = namespace(X) is not xp

    def work(rows: slice, block: Any) -> None:
        there = xp.empty((len(block), n_out), np.float32) if comes else out[rows]
        half = half_rows(block, shift)
        finish_rows(half, others, there)
        if comes:
            out[rows] = to_host(there)

    each_block(work, X, xp, reporter)
    return out


def finish_rows(
    rows: HalfRows, columns: HalfRows, out: Any, *, to_unit_length: bool = False
) -> Any:
    """Write the products of rows with columns, as they are without the scales of the copies.

    Parameters
    ----------
    rows : HalfRows
        ``n_rows`` of them.
    columns : HalfRows
        ``n_out`` of them.
    out : array of shape (n_rows, n_out), float32 or float16
    to_unit_length : bool, default False
        Divide rows by their norms; a row of norm 0 stays 0.

    Returns
    -------
    array of shape (n_rows,), float32
        The norms.
    """
    xp = namespace(out)
    norms = xp.empty(len(out), np.float32)
    launches: list[Callable[..., None]] = []

    def finish(products: Any, part: slice, _: slice) -> None:
        if is_on_gpu(products):
            sizes = *products.shape, int(to_unit_length)
            if not launches:
                given = products, part.start, rows.scales, columns.scales, *sizes, out, norms
                launches.append(prepared(FINISH_ROWS[out.dtype.name], *given))
            launches[0](part.start, *sizes)
            return
        scaled = products * (rows.scales[part, None] * columns.scales)
        norms[part] = length = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
        out[part] = scaled / np.where(length > 0, length, 1)[:, None] if to_unit_length else scaled

    each_tile(rows.cast, columns.cast, finish, tile_cols=len(columns.cast))
    return norms
