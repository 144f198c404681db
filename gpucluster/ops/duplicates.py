"""Equal rows, so that each is looked at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.memory import rows_per_block
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.shards import Shard, Shards
from gpucluster.types import Matrix, Rows, Weights


@dataclass(frozen=True, slots=True)
class DistinctRows:
    """The rows of a matrix that differ from all before them.

    Attributes
    ----------
    rows : ndarray of shape (n_distinct,), int64
        Their positions, rising.
    inverse : ndarray of shape (n_samples,), int64
        Which of them each row of the matrix equals.
    weights : ndarray of shape (n_distinct,), int64
        How many rows equal each.
    """

    rows: Rows
    inverse: Rows
    weights: Weights

    def summary(self) -> dict[str, Any]:
        """Return how many rows there are, and how much of the data repeats one before it."""
        n_samples, n_distinct = len(self.inverse), len(self.rows)
        return {
            "n_distinct": n_distinct,
            "n_duplicate_rows": n_samples - n_distinct,
            "share": (n_samples - n_distinct) / n_samples,
        }


def distinct_rows(X: Matrix) -> DistinctRows | None:
    """Find the rows that are equal; -0.0 equals 0.0.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32 or float64
        Finite.

    Returns
    -------
    DistinctRows or None
        None when no two rows are equal.

    Notes
    -----
    Rows of equal hashes are compared. Extra memory is 16 bytes a row and a block for each core;
    where there are equal rows, 48 bytes a row.
    """
    hashes = _hashes(X)
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    alike = hashes[1:] == hashes[:-1]
    del hashes
    if not alike.any():
        return None
    begins = np.concatenate(([True], ~alike))
    _split_collisions(X, order, begins)
    if begins.all():
        return None
    # within a run of equal rows the order is that of the rows: the first comes first
    first = order[begins]
    rank = np.argsort(first)
    number = np.empty_like(rank)
    number[rank] = np.arange(len(rank))
    inverse = np.empty(len(X), np.int64)
    inverse[order] = number[np.cumsum(begins) - 1]
    return DistinctRows(first[rank], inverse, np.bincount(inverse))


def equal_groups(X: Matrix) -> tuple[Rows, Rows]:
    """Return the first row of each group of equal rows, rising, and the group of every row."""
    found = distinct_rows(X)
    if found is None:
        return np.arange(len(X)), np.arange(len(X))
    return found.rows, found.inverse


def _hashes(X: Matrix) -> Any:
    """Return 64 bits for each row, the same for equal rows."""
    factors = np.random.default_rng(0).integers(1, 2**63, X.shape[1], dtype=np.uint64) | 1
    hashes, end = np.empty(len(X), np.uint64), 0
    shards = Shards(X, "equal rows", rows=rows_per_block(16 * X.shape[1]))
    for found in shards.map(_shard_hashes, factors):
        hashes[end : (end := end + len(found))] = found
    return hashes


def _shard_hashes(shard: Shard, factors: Any) -> Any:
    X = shard.X
    words = np.uint32 if X.dtype == np.float32 else np.uint64
    bits = (X + X.dtype.type(0)).view(words)  # -0.0 + 0.0 is 0.0: equal, so equal bits
    return bits.astype(np.uint64) @ factors


def _split_collisions(X: Matrix, order: Rows, begins: Any) -> None:
    """Correct `begins`, where runs of equal hashes in `order` begin, to runs of equal rows."""
    starts = np.flatnonzero(begins)
    inside = np.flatnonzero(~begins)
    start_of = starts[np.searchsorted(starts, inside, side="right") - 1]
    mixed: set[int] = set()
    for part in row_blocks(len(inside), rows_per_block(8 * X.shape[1])):
        differs = (X[order[inside[part]]] != X[order[start_of[part]]]).any(axis=1)
        mixed.update(start_of[part][differs].tolist())
    for start in mixed:
        stop = start + 1 + int(np.argmax(np.append(begins[start + 1 :], True)))
        rows = order[start:stop]
        _, inverse = np.unique(X[rows] + np.float32(0), axis=0, return_inverse=True)
        together = np.argsort(inverse, kind="stable")
        order[start:stop] = rows[together]
        begins[start + 1 : stop] = np.diff(inverse[together]) != 0
