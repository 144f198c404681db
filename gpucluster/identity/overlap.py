"""The documents that clusters of two runs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import DuplicateIdsError, InputError, ShapeError
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks
from gpucluster.ops.id_hash import CHUNK_ROWS, hash_ids
from gpucluster.types import Labels, Rows, Vector64, Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Overlap:
    """The pairs of a previous and a current cluster that share documents, and how many.

    Only documents that both runs have count here, for the sizes too.

    Attributes
    ----------
    previous, current : ndarray of shape (n_pairs,), int32
        Clusters of each pair, sorted by the previous one, then by the current one. Noise is no
        cluster.
    num_shared : ndarray of shape (n_pairs,), int64
        Documents in both clusters.
    previous_sizes : ndarray of shape (n_previous,), int64
        Members of each previous cluster; those that are noise in the other run are among them.
    current_sizes : ndarray of shape (n_current,), int64
    n_documents : int
        Documents that both runs have, noise included.
    """

    previous: Labels
    current: Labels
    num_shared: Weights
    previous_sizes: Weights
    current_sizes: Weights
    n_documents: int

    @property
    def share_of_previous(self) -> Vector64:
        """Share of the previous cluster that went into the current one, float64 in (0, 1]."""
        shares: Vector64 = self.num_shared / self.previous_sizes[self.previous]
        return shares

    @property
    def share_of_current(self) -> Vector64:
        """Share of the current cluster that came from the previous one, float64 in (0, 1]."""
        shares: Vector64 = self.num_shared / self.current_sizes[self.current]
        return shares

    @property
    def jaccard(self) -> Vector64:
        """Documents in both clusters over those in any of the two, float64 in (0, 1]."""
        either = self.previous_sizes[self.previous] + self.current_sizes[self.current]
        found: Vector64 = self.num_shared / (either - self.num_shared)
        return found


def shared_rows(
    previous_ids: pa.Array | pa.ChunkedArray,
    current_ids: pa.Array | pa.ChunkedArray,
    reporter: Reporter | None = None,
) -> tuple[Rows, Rows]:
    """Find the documents that both runs have.

    Parameters
    ----------
    previous_ids, current_ids : pyarrow.Array or pyarrow.ChunkedArray, string or large_string
        Unique in each run; in any order, of n_previous and n_current rows. Other types are
        compared by their text. Null is no document.
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    previous_rows : ndarray of shape (n_shared,), int64
        Where each shared id is in the previous run, rising.
    current_rows : ndarray of shape (n_shared,), int64
        Where it is in the current one.

    Raises
    ------
    DuplicateIdsError
        An id is twice in a run.

    Notes
    -----
    Candidates have equal hashes; their texts are compared, so a collision makes no pair. Extra
    memory: 32 bytes for each id of both runs, another copy of the ids where they are not one
    large_string array, and a block for each core.
    """
    previous, current = _Ids.of(previous_ids, "previous"), _Ids.of(current_ids, "current")

    def work(block: slice) -> tuple[Rows, Rows]:
        wanted = current.hashes[block]
        first = np.searchsorted(previous.hashes, wanted, "left")
        counts = np.searchsorted(previous.hashes, wanted, "right") - first
        # as a rule there is one candidate or none
        ends = np.cumsum(counts)
        at = np.arange(counts.sum()) + np.repeat(first - (ends - counts), counts)
        before, now = previous.order[at], np.repeat(current.order[block], counts)
        equal = _equal(previous.texts.take(before), current.texts.take(now))
        return before[equal], now[equal]

    partner = np.full(len(previous.texts), -1, np.int64)
    for before, now in map_blocks(work, len(current.texts), CHUNK_ROWS, reporter):
        partner[before] = now
    rows = np.flatnonzero(partner >= 0)
    return rows, partner[rows]


@dataclass(frozen=True, slots=True)
class _Ids:
    """Ids, and their hashes in rising order."""

    texts: pa.LargeStringArray
    hashes: NDArray[np.uint64]
    order: Rows

    @classmethod
    def of(cls, ids: pa.Array | pa.ChunkedArray, name: str) -> _Ids:
        texts = ids.cast(pa.large_string())
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
        hashes = np.empty(len(texts), np.uint64)

        def work(rows: slice) -> None:
            hashes[rows] = hash_ids(texts[rows])

        for _ in map_blocks(work, len(texts), CHUNK_ROWS):
            pass
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        alike = np.flatnonzero(hashes[1:] == hashes[:-1])
        equal = _equal(texts.take(order[alike]), texts.take(order[alike + 1]))
        if equal.any():
            twice = texts[int(order[alike[equal.argmax()]])].as_py()
            raise DuplicateIdsError(f"{twice!r} is twice among the ids of the {name} run")
        return cls(texts, hashes, order)


def _equal(first: pa.Array, second: pa.Array) -> NDArray[np.bool_]:
    """Return which texts are equal; nulls are equal to nothing."""
    found: NDArray[np.bool_] = np.asarray(pc.equal(first, second).fill_null(False))  # noqa: FBT003
    return found


def count_overlap(
    previous_labels: Labels, current_labels: Labels, n_previous: int, n_current: int
) -> Overlap:
    """Count the documents that each two clusters share.

    Parameters
    ----------
    previous_labels, current_labels : ndarray of shape (n_shared,), int32
        Clusters of the documents that both runs have, in one order; noise is -1.
    n_previous, n_current : int
        Clusters of each run, those without shared documents included.

    Returns
    -------
    Overlap

    Raises
    ------
    ShapeError
        The labels are not of the same documents.
    InputError
        A label is no cluster of its run.

    Notes
    -----
    Sorts one integer for each document: extra memory is about 30 bytes a document.
    """
    if len(previous_labels) != len(current_labels):
        raise ShapeError(
            f"labels of {len(previous_labels):,} and of {len(current_labels):,} documents, "
            "the same documents expected"
        )
    previous_sizes = _sizes(previous_labels, n_previous)
    current_sizes = _sizes(current_labels, n_current)
    both = (previous_labels >= 0) & (current_labels >= 0)
    pairs = previous_labels[both].astype(np.int64)
    pairs *= max(1, n_current)
    pairs += current_labels[both]
    found, num_shared = np.unique(pairs, return_counts=True)
    previous, current = np.divmod(found, max(1, n_current))
    return Overlap(
        previous.astype(np.int32),
        current.astype(np.int32),
        num_shared.astype(np.int64),
        previous_sizes,
        current_sizes,
        len(previous_labels),
    )


def _sizes(labels: Any, n_clusters: int) -> Weights:
    """Return how many rows each cluster has."""
    if labels.max(initial=-1) >= n_clusters:
        raise InputError(f"cluster {labels.max()} among {n_clusters} clusters, 0 is the first")
    return np.bincount(labels[labels >= 0], minlength=n_clusters).astype(np.int64)
