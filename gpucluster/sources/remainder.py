"""What a sample left out, streamed: for assigning it to the clusters of the sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from gpucluster.events import Reporter
from gpucluster.sources.attributes import check_rows
from gpucluster.sources.base import BATCH_BYTES, Source
from gpucluster.sources.filters import Filters
from gpucluster.sources.loading import CLEAN, judge, rejected_table, too_many
from gpucluster.sources.matching import matching
from gpucluster.types import Matrix, Rows, Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Remainder:
    """Some rows that are not in the sample, in the order of the input.

    Attributes
    ----------
    ids : pyarrow.Array of shape (n,), string or int64
    X : ndarray of shape (n, n_features), float32, C-contiguous
        Finite, no zero row. Whoever reads it may scale it in place.
    rows : ndarray of shape (n,), int64
        Positions in the input, rising.
    payload : dict of str to pyarrow.Array of shape (n,)
    rejected : pyarrow.Table
        As in `Samples`: rows of this stretch of the input that cannot be clustered.
    """

    ids: pa.Array
    X: Matrix
    rows: Rows
    payload: Mapping[str, pa.Array]
    rejected: pa.Table


def remaining(
    source: Source,
    samples: Samples,
    *,
    reporter: Reporter,
    filters: Filters | None = None,
    on_bad_rows: Literal["quarantine", "error"] = "quarantine",
    max_bad_fraction: float = 0.01,
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[Remainder]:
    """Read the rows that match and that were not drawn, some at a time.

    Parameters
    ----------
    source : Source
    samples : Samples
        What `load` drew from `source`, with the same `filters`.
    reporter : Reporter
        Told of the rows read; asked for cancellation.
    filters : Filters, optional
    on_bad_rows : {"quarantine", "error"}
    max_bad_fraction : float
        Of all rows that match, those of the sample included.
    batch_bytes : int
        Vectors read at a time, in float32; unit: bytes.

    Yields
    ------
    Remainder
        Together with the sample, every row that matches is in exactly one: clean or rejected.

    Raises
    ------
    BadRowsError
        Too many rows cannot be clustered, as soon as that is sure.
    CorruptInputError
        The source has changed.

    Notes
    -----
    Memory: a byte for each row of the input, and one batch twice.
    """
    info = source.info
    n_rows = samples.n_rows
    check_rows(source, n_rows)  # no other source, and the same as before
    left = np.ones(n_rows, np.bool_) if filters is None else matching(source, filters)
    n_matching = int(np.count_nonzero(left))
    left[samples.rows] = False
    left[samples.rejected["row"].to_numpy()] = False
    if not left.any():
        return
    allowed = 0 if on_bad_rows == "error" else max_bad_fraction * n_matching
    bad, n_bad = [samples.rejected], samples.rejected.num_rows
    share = min(4, np.dtype(info.dtype).itemsize) / 4  # they become float32
    stop = 0
    for batch in source.batches(max(1, int(batch_bytes * share))):
        start, stop = stop, stop + len(batch.vectors)
        if stop > n_rows:
            break
        rows = np.flatnonzero(left[start:stop])
        found, reasons = _judged(batch.vectors, batch.null, rows)
        clean = reasons == CLEAN
        kept = pa.array(rows[clean])
        ids = pa.array(np.arange(start, stop)) if batch.ids is None else batch.ids
        rejected = rejected_table(ids, rows[~clean], reasons[~clean], offset=start)
        bad.append(rejected)
        n_bad += rejected.num_rows
        if n_bad > allowed:
            raise too_many(info.where, pa.concat_tables(bad), n_matching, allowed)
        if rows.size:
            yield Remainder(
                ids=ids.take(kept),
                X=found if clean.all() else found[clean],
                rows=start + rows[clean],
                payload={role: column.take(kept) for role, column in batch.payload.items()},
                rejected=rejected,
            )
        reporter.progress(stop, n_rows)
    check_rows(source, stop)


def _judged(
    vectors: NDArray[np.generic], null: NDArray[np.bool_], rows: NDArray[np.int64]
) -> tuple[Matrix, NDArray[np.int8]]:
    """Return some rows of a batch in float32, and what is wrong with each."""
    X = np.empty((len(rows), vectors.shape[1]), np.float32)
    with np.errstate(all="ignore"):  # what overflows becomes inf, and is judged as such
        X[:] = vectors[rows]
    return X, judge(X, null[rows])
