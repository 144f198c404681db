"""Nearest centres by float16 products: each label proven, or its row looked at again in float64.

A row and a centre differ from their float16 copies by known residuals, so a product of the
copies differs from that of the originals by a known bound (Cauchy-Schwarz). Where the best
score leads by more than twice that bound, no rounding can have changed the label. On a GPU the
products run on tensor cores; on the host they are the same numbers from float32 products, which
proves nothing faster, but shows without a GPU what is proven.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.device.memory import rows_per_block
from gpucluster.ops.blocks import row_blocks
from gpucluster.types import Matrix

ROUNDING = float(np.finfo(np.float32).eps) / 2
ACCUMULATED = 4.0 * ROUNDING  # of each addition: tensor cores cut off, and keep no guard bits
VANISHING = 2.0**-62  # values whose squares are lost, on a GPU denormal ones as well
DENORMAL = 2.0**-126  # what each sum may lose where a GPU takes denormals for zero
TILE_BYTES = 24 << 20  # products that stay in the second cache of a GPU until they are folded
TILE_COLS = 8192
SCAN_ROWS = 16  # of a block of the scan: those of all blocks at once stay in the second cache
EXACT_BYTES = 64 << 20  # of float64 products at a time
_CUDA_R_32F, _CUDA_R_16F = 0, 2  # of CUDA's library_types.h


@dataclass(frozen=True, slots=True)
class HalfRows:
    """Rows less a shift, in float16, and what that lost.

    Attributes
    ----------
    cast : array of shape (n_rows, n_features), float16
    norms : array of shape (n_rows,), float32
        Of the rows less the shift.
    residuals : array of shape (n_rows,), float32
        Norms of what the copy lacks.
    shift : array of shape (n_features,), float32
    """

    cast: Any
    norms: Any
    residuals: Any
    shift: Any


@dataclass(frozen=True, slots=True)
class Certified:
    """Nearest centres, equal to those of a search in float64.

    Attributes
    ----------
    labels : array of shape (n_rows,), int32
        Ties to the lower centre.
    n_rechecked : int
        Rows whose label the float16 products left open.
    """

    labels: Any
    n_rechecked: int


def half_rows(X: Any, shift: Any) -> HalfRows:
    """Copy rows to float16 and measure what that loses, in one pass.

    Parameters
    ----------
    X : array of shape (n_rows, n_features), float32, C-contiguous
        Its device decides where the work runs. Finite; where a value less the shift is beyond
        +-65504, nothing will be proven of the row.
    shift : array of shape (n_features,), float32

    Returns
    -------
    HalfRows
    """
    xp = namespace(X)
    n_rows, n_features = X.shape
    cast = xp.empty(X.shape, np.float16)
    norms, residuals = xp.empty(n_rows, np.float32), xp.empty(n_rows, np.float32)
    if is_on_gpu(X):
        from gpucluster.device.kernels import SCAN_CAST, launch

        flags = xp.empty(n_rows, np.uint8)
        sums = xp.empty((-(-n_rows // SCAN_ROWS), n_features), np.float32)
        sizes = n_rows, n_features, SCAN_ROWS
        launch(SCAN_CAST, X, shift, *sizes, cast, norms, residuals, flags, sums)
        return HalfRows(cast, norms, residuals, shift)
    for rows in row_blocks(n_rows, rows_per_block(n_features * 16)):
        block = X[rows] - shift
        cast[rows] = block
        lost = block - cast[rows]
        norms[rows] = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
        residuals[rows] = np.sqrt(np.einsum("ij,ij->i", lost, lost, dtype=np.float64))
    return HalfRows(cast, norms, residuals, shift)


def certified_nearest(X: Any, centers: Any, half: HalfRows | None = None) -> Certified:
    """Find the nearest centre of each row.

    Parameters
    ----------
    X : array of shape (n_rows, n_features), float32, C-contiguous
        Finite; its device decides where the work runs.
    centers : array of shape (n_centers, n_features), float32
        On the same device.
    half : HalfRows, optional
        Of `X`, less anything near the centres: the closer, the more is proven. Less their mean
        if omitted.

    Returns
    -------
    Certified

    Notes
    -----
    Extra memory: a tile of products, 2 bytes for each value of `X` unless `half` is given, 16
    bytes a row, and `EXACT_BYTES` for rows that are looked at again.
    """
    xp = namespace(X)
    rows = half or half_rows(X, centers.mean(axis=0, dtype=np.float64).astype(np.float32))
    others = half_rows(centers, rows.shift)
    shift = rows.shift.astype(np.float64)
    exact_centers = centers.astype(np.float64) - shift
    half_sqnorms = 0.5 * xp.einsum("ij,ij->i", exact_centers, exact_centers)
    best, second, labels = _top2(rows.cast, others.cast, half_sqnorms.astype(np.float32))
    proven = best - second > 2 * _bound(rows, others, half_sqnorms)  # no NaN proves anything
    open_rows = xp.flatnonzero(~proven)
    row_bytes = 16 * len(centers) + 12 * X.shape[1]
    for part in row_blocks(len(open_rows), rows_per_block(row_bytes, EXACT_BYTES)):
        at = open_rows[part]
        exact = X[at].astype(np.float64) - shift
        scores = exact @ exact_centers.T - half_sqnorms
        labels[at] = _decided(X[at], centers, scores, _exact_bound(exact, half_sqnorms))
    return Certified(labels, len(open_rows))


def _exact_bound(exact: Any, half_sqnorms: Any) -> Any:
    """Bound by how much the float64 scores of a row may be off."""
    xp = namespace(exact)
    squares = xp.einsum("ij,ij->i", exact, exact) + 2 * float(half_sqnorms.max())
    return 4 * (exact.shape[1] + 4) * np.finfo(np.float64).eps * squares


def _decided(X: Any, centers: Any, scores: Any, bound: Any) -> Any:
    """Return the best centre of each row; where scores cannot tell, by differences in float64.

    A product may give equal columns other last bits, so ties are none to it.
    """
    xp = namespace(X)
    labels = scores.argmax(axis=1)
    near = scores >= (scores.max(axis=1) - 2 * bound)[:, None]
    near &= (near.sum(axis=1) > 1)[:, None]
    rows, found = xp.nonzero(near)
    if not len(rows):
        return labels
    sqdist = xp.empty(len(rows), np.float64)
    for part in row_blocks(len(rows), rows_per_block(24 * X.shape[1], EXACT_BYTES)):
        gap = X[rows[part]].astype(np.float64) - centers[found[part]]
        sqdist[part] = xp.einsum("ij,ij->i", gap, gap)
    order = xp.lexsort(xp.stack((found, sqdist, rows)))  # the nearest of a row first, then lower
    rows, found = rows[order], found[order]
    first = xp.concatenate((xp.ones(1, bool), rows[1:] != rows[:-1]))
    labels[rows[first]] = found[first]
    return labels


def _bound(rows: HalfRows, centers: HalfRows, half_sqnorms: Any) -> Any:
    """Bound, for each row, by how much any of its scores is off; float64."""
    n_features = rows.cast.shape[1]
    vanished = VANISHING * n_features**0.5
    longest = float(centers.norms.max()) + vanished
    # and what the shift rounds
    lost = float((centers.residuals + ROUNDING * centers.norms).max()) + vanished
    norms = rows.norms.astype(np.float64) + vanished
    residuals = rows.residuals + ROUNDING * norms + vanished
    products = norms * lost + residuals * (longest + lost)
    growth = n_features * ACCUMULATED / (1 - n_features * ACCUMULATED)
    sums = growth * (norms + residuals) * (longest + lost)
    differences = 2 * ROUNDING * (norms * longest + float(half_sqnorms.max()))
    total = 1.001 * (products + sums + differences)  # norms and residuals are rounded as well
    return total + (n_features + 4) * DENORMAL


def _top2(rows: Any, centers: Any, half_sqnorms: Any) -> tuple[Any, Any, Any]:
    """Return the best score of each row, the second, and the label of the best."""
    xp = namespace(rows)
    best = xp.full(len(rows), -np.finfo(np.float32).max, np.float32)
    second, labels = best.copy(), xp.full(len(rows), np.iinfo(np.int32).max, np.int32)
    tile_cols = min(TILE_COLS, len(centers))
    for part in row_blocks(len(rows), rows_per_block(4 * tile_cols, TILE_BYTES)):
        for cols in row_blocks(len(centers), tile_cols):
            dots = _half_product(rows[part], centers[cols])
            _fold(dots, cols.start, half_sqnorms, best[part], second[part], labels[part])
    return best, second, labels


def _fold(dots: Any, first: int, half_sqnorms: Any, best: Any, second: Any, labels: Any) -> None:
    """Keep the two best of a tile and of what was there before, in place."""
    if is_on_gpu(dots):
        from gpucluster.device.kernels import FOLD_TOP2, launch

        launch(FOLD_TOP2, dots, *dots.shape, first, half_sqnorms, best, second, labels)
        return
    scores: Matrix = dots - half_sqnorms[first : first + dots.shape[1]]
    own = np.arange(len(scores))
    found = scores.argmax(axis=1)
    score = scores[own, found]
    scores[own, found] = -np.finfo(np.float32).max
    runner_up = scores.max(axis=1)
    wins = score > best
    second[:] = np.where(wins, np.maximum(best, runner_up), np.maximum(second, score))
    best[wins], labels[wins] = score[wins], found[wins] + first


def _half_product(rows: Any, centers: Any) -> Any:
    """Return the products of float16 rows and centres, summed in float32."""
    if not is_on_gpu(rows):
        return rows.astype(np.float32) @ centers.astype(np.float32).T
    import cupy
    from cupy.cuda import cublas

    # cupy.matmul would return float16. cuBLAS counts columns first, so it is told the transposes.
    out = cupy.empty((len(rows), len(centers)), np.float32)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    n_features = rows.shape[1]
    cublas.gemmEx(
        cupy.cuda.device.get_cublas_handle(),
        cublas.CUBLAS_OP_T,
        cublas.CUBLAS_OP_N,
        *(len(centers), len(rows), n_features, one.ctypes.data),
        *(centers.data.ptr, _CUDA_R_16F, n_features),
        *(rows.data.ptr, _CUDA_R_16F, n_features),
        *(zero.ctypes.data, out.data.ptr, _CUDA_R_32F, len(centers)),
        cublas.CUBLAS_COMPUTE_32F,
        cublas.CUBLAS_GEMM_DEFAULT,
    )
    return out
