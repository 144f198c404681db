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
    array of shape (n_samples,), float32
    """
    xp = namespace(X)
    return xp.sqrt(xp.einsum("ij,ij->i", X, X))


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
    norms = xp.empty(len(X), X.dtype)
    blocks = list(row_blocks(len(X), rows_per_block(X.shape[1] * 4)))
    for rows in blocks:
        norms[rows] = row_norms(X[rows])
    if out is None and bool((abs(norms - 1) <= UNIT_TOLERANCE).all()):
        return X
    out = xp.empty_like(X) if out is None else out
    norms[norms == 0] = 1
    for rows in blocks:
        xp.divide(X[rows], norms[rows, None], out=out[rows])
    return out


def without_offset(X: Any) -> Any:
    """Return `X`, moved to its mean when that lies farther from zero than the rows from it.

    Distances do not change. Computed as ``|x|^2 + |y|^2 - 2 x.y`` in float32 they lose
    their digits to a large common offset, unless it is taken off first.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32

    Returns
    -------
    array of shape (n_samples, n_features), float32
        `X` itself, or a centred copy.
    """
    xp = namespace(X)
    mean = X.mean(axis=0, dtype="float64")
    offset = float(mean @ mean)
    spread = float(xp.einsum("ij,ij->", X, X, dtype="float64")) / len(X) - offset
    return X - mean.astype("float32") if offset > spread else X
