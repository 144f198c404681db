"""Rows in the order of the input, each judged once, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa

from gpucluster.errors import CorruptInputError, InputError
from gpucluster.events import Reporter
from gpucluster.ops.blocks import read_ahead
from gpucluster.ops.id_hash import BASES, hash_ids
from gpucluster.sources.base import BATCH_BYTES, Source
from gpucluster.sources.filters import Filters
from gpucluster.sources.loading import CLEAN, judge, no_match, rejected_table, too_many
from gpucluster.sources.matching import matching
from gpucluster.types import Matrix, Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class KnownIds:
    """Ids of which only hashes are kept: 16 bytes each, however long they are.

    Attributes
    ----------
    hashes : tuple of 2 ndarrays of shape (n_ids,), uint64
        Each sorted.
    """

    hashes: tuple[Any, Any]

    @classmethod
    def of(cls, ids: pa.ChunkedArray) -> Self:
        """Take note of ids, as strings."""
        first, second = (np.sort(hash_ids(ids, base=base)) for base in range(len(BASES)))
        return cls((first, second))

    @classmethod
    def none(cls) -> Self:
        """Return no ids."""
        return cls((np.empty(0, np.uint64), np.empty(0, np.uint64)))

    def and_of(self, ids: pa.ChunkedArray) -> Self:
        """Return these ids and more."""
        more = type(self).of(ids).hashes
        first, second = (
            np.sort(np.concatenate(pair)) for pair in zip(self.hashes, more, strict=True)
        )
        return type(self)((first, second))

    def include(self, ids: pa.Array) -> NDArray[np.bool_]:
        """Say which of `ids` are known.

        Both hashes must be: beside 10 million known ids, those of a new one are by a chance of
        3e-25, unless somebody has chosen it for that.
        """
        found = np.ones(len(ids), np.bool_)
        for base, hashes in enumerate(self.hashes):
            own = hash_ids(ids, base=base)
            place = np.minimum(np.searchsorted(hashes, own), max(0, len(hashes) - 1))
            found &= hashes[place] == own if len(hashes) else False
        return found


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a stretch of the input holds.

    Attributes
    ----------
    stop : int
        Rows of the input up to its end.
    ids : pyarrow.Array of shape (n,), string
    X : ndarray of shape (n, n_features), float32, C-contiguous
        Finite, no zero row. Whoever reads it may scale it in place.
    rows : ndarray of shape (n,), int64
        Positions in the input, rising.
    rejected : pyarrow.Table
        As in `Samples`: rows of this stretch that cannot be compared with anything.
    num_filtered, num_known : int
        Rows that the filters leave out, and others whose ids are known.
    """

    stop: int
    ids: pa.Array
    X: Matrix
    rows: Rows
    rejected: pa.Table
    num_filtered: int
    num_known: int


def stream(
    source: Source,
    *,
    reporter: Reporter,
    filters: Filters | None = None,
    known: KnownIds | None = None,
    on_bad_rows: Literal["quarantine", "error"] = "quarantine",
    max_bad_fraction: float = 0.01,
    start: int = 0,
    num_bad: int = 0,
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[Stretch]:
    """Read the rows that match and are not known, some at a time.

    Parameters
    ----------
    source : Source
    reporter : Reporter
        Told of the rows read; asked for cancellation.
    filters : Filters, optional
    known : KnownIds, optional
        Ids of rows to leave out.
    on_bad_rows : {"quarantine", "error"}
    max_bad_fraction : float
        Of all rows that match; one is always allowed.
    start : int
        Rows of the input that were dealt with before.
    num_bad : int
        Bad rows among these.
    batch_bytes : int
        Vectors read at a time; unit: bytes.

    Yields
    ------
    Stretch
        Together they cover the input from `start` on.

    Raises
    ------
    BadRowsError
        Too many rows cannot be compared, as soon as that is sure.
    InputError
        An id is null.
    TooFewSamplesError
        No row matches `filters`.
    CorruptInputError
        The source has changed.

    Notes
    -----
    Memory: two batches, the next one being read while one is judged; with filters a byte for
    each row of the input.
    """
    info = source.info
    meant = None if filters is None else matching(source, filters)
    n_meant = info.n_rows if meant is None else int(np.count_nonzero(meant))
    if info.n_rows and not n_meant:
        raise no_match(info.where, info.n_rows)
    # one bad row must not keep a small batch out
    allowed = 0 if on_bad_rows == "error" else max(1, max_bad_fraction * n_meant)
    stop = 0
    for batch in read_ahead(source.batches(batch_bytes)):
        begin, stop = stop, stop + len(batch.vectors)
        if stop > info.n_rows:
            break
        if stop <= start:  # read, as formats differ in whether they can skip, and left alone
            reporter.progress(stop, info.n_rows)
            continue
        rows = np.arange(begin, stop)
        ids = pa.array(rows) if batch.ids is None else batch.ids
        ahead = rows >= start
        matches = ahead if meant is None else ahead & meant[begin:stop]
        _no_null(ids, matches, begin, info.where)
        keep = matches if known is None else matches & ~known.include(ids.cast(pa.string()))
        wanted = np.flatnonzero(keep)
        X = np.empty((len(wanted), info.n_features), np.float32)
        with np.errstate(all="ignore"):  # what overflows becomes inf, and is judged as such
            X[:] = batch.vectors if len(wanted) == len(rows) else batch.vectors[wanted]
        reasons = judge(X, batch.null[wanted])
        clean = reasons == CLEAN
        rejected = rejected_table(ids, wanted[~clean], reasons[~clean], offset=begin)
        num_bad += rejected.num_rows
        if num_bad > allowed:
            raise too_many(info.where, rejected, n_meant, allowed, num_bad)
        kept = pa.array(wanted[clean])
        yield Stretch(
            stop=stop,
            ids=ids.take(kept).cast(pa.string()),
            X=X if clean.all() else X[clean],
            rows=rows[wanted[clean]],
            rejected=rejected,
            num_filtered=int(np.count_nonzero(ahead) - np.count_nonzero(matches)),
            num_known=int(np.count_nonzero(matches)) - len(wanted),
        )
        reporter.progress(stop, info.n_rows)
    if stop != info.n_rows:
        raise CorruptInputError(
            f"{info.where}: {info.n_rows:,} rows at first, {stop:,} or more when they were read",
            hint="does something write to it?",
        )


def _no_null(ids: pa.Array, keep: NDArray[np.bool_], begin: int, where: str) -> None:
    """Raise where a row that is meant has no id."""
    if ids.null_count:
        null = np.flatnonzero(np.asarray(ids.is_null()) & keep)
        if len(null):
            raise InputError(f"{where} row {begin + null[0]}: the id is null")
