"""cuBLAS on pointers: products of float16 and float32, summed in float32; columns come first."""

from __future__ import annotations

import ctypes

import numpy as np

from cupy import _snapshot, stand_in

_TYPES = {0: np.float32, 2: np.float16}  # CUDA_R_32F, CUDA_R_16F


def __getattr__(name: str) -> int:
    return _snapshot.constant(f"cupy.cuda.cublas.{name}")


def gemmEx(*args: int) -> None:  # noqa: N802
    """Set C to alpha op(A) op(B) + beta C."""
    _snapshot.check("cupy.cuda.cublas.gemmEx", args, {})
    handle, transa, transb, m, n, k, alpha, *rest = (int(each) for each in args)
    a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute, _ = rest
    if (
        handle != 1
        or a_type != b_type
        or c_type != 0
        or compute != __getattr__("CUBLAS_COMPUTE_32F")
    ):
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
    left = _matrix(a, a_type, lda, *((m, k) if transa == 0 else (k, m)))
    right = _matrix(b, b_type, ldb, *((k, n) if transb == 0 else (n, k)))
    out = _matrix(c, c_type, ldc, m, n)
    left, right = (left if transa == 0 else left.T), (right if transb == 0 else right.T)
    with np.errstate(all="ignore"):
        product = left.astype(np.float32) @ right.astype(np.float32)
    factor, kept = (ctypes.c_float.from_address(each).value for each in (alpha, beta))
    out[...] = np.float32(factor) * product + (np.float32(kept) * out if kept else 0)


def _matrix(pointer: int, kind: int, lead: int, n_rows: int, n_cols: int) -> np.ndarray:
    """Return a view of a matrix whose columns lie `lead` values apart."""
    dtype = np.dtype(_TYPES[kind])
    if lead < max(1, n_rows):
        raise RuntimeError("CUBLAS_STATUS_INVALID_VALUE")
    n_values = lead * (n_cols - 1) + n_rows if n_rows and n_cols else 0
    if n_values:
        stand_in.require_allocated(pointer, n_values * dtype.itemsize)
    raw = (ctypes.c_char * (n_values * dtype.itemsize)).from_address(pointer)
    values = np.frombuffer(raw, dtype)
    strides = dtype.itemsize, lead * dtype.itemsize
    return np.lib.stride_tricks.as_strided(values, (n_rows, n_cols), strides)
