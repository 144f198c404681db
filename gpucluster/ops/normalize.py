"""Row norms, unit rows, centred rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any, TypeVar

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.device.memory import rows_per_block
from gpucluster.device.storage import like
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.pairs import pair_sqdist
from gpucluster.ops.shards import ByRow, Shard, Shards, Written, sharing

T = TypeVar("T")

UNIT_TOLERANCE = 1e-6  # a few roundings of a float32 norm
CACHED_BYTES = 8 << 20  # of a block in float64 on the host; a larger one leaves the caches
LOOKED_AT = 2000  # rows that tell whether all have an offset
GPU_BYTES = 256 << 20  # on a GPU, where few large kernels are faster


def row_norms(X: Any) -> Any:
    """Return the Euclidean norm of each row.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        Its device decides where the work runs.

    Returns
    -------
    array of shape (n_samples,), float64
        Of any finite row: in float32, squares vanish below 1e-19 and overflow above 1e19.
    """
    xp = namespace(X)
    if is_on_gpu(X) and X.dtype == np.float32 and X.flags.c_contiguous:
        nowhere, numbers = xp.zeros((1, X.shape[1]), np.float64), xp.arange(len(X), dtype=np.int32)
        return xp.sqrt(pair_sqdist(X, nowhere, numbers, xp.zeros_like(numbers)))
    if sharing(X) is not None:
        return np.concatenate(list(Shards(X, "norms").map(_shard_norms)))
    norms = xp.empty(len(X), "float64")

    def work(rows: slice) -> None:
        block = X[rows].astype("float64")
        norms[rows] = xp.sqrt(xp.einsum("ij,ij->i", block, block))

    for _ in _by_rows(work, X):
        pass
    return norms


def unit_rows(X: Any, *, out: Any = None) -> Any:
    """Return `X` with rows of unit length; zero rows stay zero.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
    out : array of the same shape, optional
        Where to write; may be `X` itself.

    Returns
    -------
    array of shape (n_samples, n_features), float32
        Without `out`, `X` itself when its rows have unit length already.
    """
    xp = namespace(X)
    norms = row_norms(X)
    if out is None and bool((abs(norms - 1) <= UNIT_TOLERANCE).all()):
        return X
    out = like(X, X.shape, to_lend=True) if out is None else out
    norms[norms == 0] = 1
    is_shared = sharing(X) is not None and sharing(out) is not None
    # in place, what a worker had begun could not be begun again
    if is_shared and not np.may_share_memory(X, out):
        for _ in Shards(X, "unit rows").map(_shard_divided, ByRow(norms), Written(out)):
            pass
        return out

    def work(rows: slice) -> None:
        xp.divide(X[rows], norms[rows, None], out=out[rows], casting="same_kind")

    for _ in _by_rows(work, X):
        pass
    return out


def spread(X: Any) -> tuple[Any, float]:
    """Return the mean row, and the mean squared distance of the rows to it.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32

    Returns
    -------
    mean : array of shape (n_features,), float64
    variance : float
        Summed over the features. One pass in blocks, no temporary of the size of `X`.
    """
    xp = namespace(X)
    if xp is np and len(X):
        mean, square = Shards(X, "spread").reduce(_shard_totals, _both)
    else:
        mean, square = xp.zeros(X.shape[1], "float64"), xp.zeros((), "float64")
        for rows in row_blocks(len(X), rows_per_block(X.shape[1] * 8, GPU_BYTES)):
            mean, square = _both((mean, square), _totals(X[rows]))
    mean /= len(X)
    return mean, max(0.0, float(square) / len(X) - float(mean @ mean))


def _totals(X: Any) -> tuple[Any, Any]:
    """Return the sum of some rows, and of their squares."""
    block = X.astype("float64")
    return block.sum(axis=0), namespace(X).einsum("ij,ij->", block, block)


def _both(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    return one[0] + other[0], one[1] + other[1]


def _shard_totals(shard: Shard) -> tuple[Any, Any]:
    cut = row_blocks(len(shard.X), rows_per_block(shard.X.shape[1] * 8, CACHED_BYTES))
    return reduce(_both, (_totals(shard.X[rows]) for rows in cut))


def _shard_norms(shard: Shard) -> Any:
    return row_norms(shard.X)


def _shard_divided(shard: Shard, norms: Any, out: Any) -> None:
    np.divide(shard.X, norms[:, None], out=out, casting="same_kind")


def _shard_centred(shard: Shard, out: Any, common: Any) -> None:
    np.subtract(shard.X, common, out=out)


def offset(X: Any) -> Any:
    """Return the mean row when it lies farther from zero than the rows from it, else None.

    Computed as ``|x|^2 + |y|^2 - 2 x.y`` in float32, distances lose their digits to a
    large common offset, unless it is taken off first.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32

    Returns
    -------
    array of shape (n_features,), float32, or None
    """
    mean, variance = spread(X)
    return mean.astype("float32") if float(mean @ mean) > variance else None


def lies_far(X: Any, *, is_unit: bool) -> bool:
    """Return whether rows have an `offset`, as far as a sample tells.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    is_unit : bool
        Whether their directions are meant.

    Returns
    -------
    bool
    """
    sample = np.ascontiguousarray(X[:: max(1, len(X) // LOOKED_AT)])
    return offset(unit_rows(sample) if is_unit else sample) is not None


def without_offset(X: Any) -> Any:
    """Return `X` without its `offset`: a centred copy, or `X` itself. Distances do not change."""
    common = offset(X)
    if common is None:
        return X
    xp = namespace(X)
    centred = like(X, X.shape, to_lend=True)
    if sharing(X) is not None and sharing(centred) is not None:
        for _ in Shards(X, "centred rows").map(_shard_centred, Written(centred), common):
            pass
        return centred

    def work(rows: slice) -> None:
        xp.subtract(X[rows], common, out=centred[rows])

    for _ in _by_rows(work, X):
        pass
    return centred


def _by_rows(work: Callable[[slice], T], X: Any) -> Iterator[T]:
    """Yield what `work` finds in each block of rows: on the host computed on all cores."""
    on_host = namespace(X) is np
    block_rows = rows_per_block(X.shape[1] * 8, CACHED_BYTES if on_host else GPU_BYTES)
    if on_host and len(X) > block_rows:
        return map_blocks(work, len(X), block_rows)
    return map(work, row_blocks(len(X), block_rows))
