"""Row norms, unit rows, centred rows."""

from __future__ import annotations

from typing import Any

from gpucluster.device.arrays import namespace
from gpucluster.device.memory import rows_per_block
from gpucluster.ops.blocks import row_blocks

UNIT_TOLERANCE = 1e-6  # a few roundings of a float32 norm


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
    norms = xp.empty(len(X), "float64")
    for rows in row_blocks(len(X), rows_per_block(X.shape[1] * 8)):
        block = X[rows].astype("float64")
        norms[rows] = xp.sqrt(xp.einsum("ij,ij->i", block, block))
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
    out = xp.empty_like(X) if out is None else out
    norms[norms == 0] = 1
    xp.divide(X, norms[:, None], out=out, casting="same_kind")
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
        Summed over the features. Two passes in buffers, no temporary of the size of `X`.
    """
    xp = namespace(X)
    mean = X.mean(axis=0, dtype="float64")
    square = float(xp.einsum("ij,ij->", X, X, dtype="float64")) / len(X)
    return mean, max(0.0, square - float(mean @ mean))


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


def without_offset(X: Any) -> Any:
    """Return `X` without its `offset`: a centred copy, or `X` itself. Distances do not change."""
    common = offset(X)
    return X if common is None else X - common
