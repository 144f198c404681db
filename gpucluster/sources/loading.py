"""From a source to samples: every row judged, nothing clustered yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.device.storage import Site, on_disk
from gpucluster.errors import (
    BadRowsError,
    CorruptInputError,
    DuplicateIdsError,
    InputError,
    OutOfMemoryError,
    TooFewSamplesError,
)
from gpucluster.events import Reporter
from gpucluster.ops.blocks import read_ahead
from gpucluster.sources.base import BATCH_BYTES, Source, SourceInfo
from gpucluster.sources.columns import concatenate
from gpucluster.sources.digests import WholeDigest
from gpucluster.sources.filters import Filters
from gpucluster.sources.joined import collection_names
from gpucluster.sources.matching import matching
from gpucluster.sources.sampling import draw
from gpucluster.types import Matrix, Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

REASONS = ("null", "nan", "inf", "zero_norm")  # why a row cannot be clustered
CLEAN = -1

SHOWN = 5  # ids in one message


def load(
    source: Source,
    *,
    reporter: Reporter,
    on_bad_rows: Literal["quarantine", "error"] = "quarantine",
    max_bad_fraction: float = 0.01,
    sample_size: int | None = None,
    random_state: int = 42,
    filters: Filters | None = None,
    digest_all: bool = False,
    site: Site | None = None,
    batch_bytes: int = BATCH_BYTES,
) -> Samples:
    """Read all rows of a source, or a sample of them, into one matrix.

    Parameters
    ----------
    source : Source
    reporter : Reporter
        Told of the rows read; asked for cancellation.
    on_bad_rows : {"quarantine", "error"}
        Whether rows that cannot be clustered are set aside, with the reason, or refused.
        Reasons are ``null`` (no vector), ``nan``, ``inf`` (a value, in float32) and
        ``zero_norm`` (the squared norm vanishes in float32, so there is no direction).
    max_bad_fraction : float
        More bad rows than this fraction are refused in any case.
    sample_size : int, optional
        How many rows to draw, uniformly and without replacement. Which ones depends on their
        ids and `random_state` only, not on the order or the division of the files. All rows
        when there are no more than that.
    random_state : int
        Seed of the sample.
    filters : Filters, optional
        Which rows are meant. The others are neither samples nor rejected, nobody looks at
        their ids, and a sample is drawn from those that match.
    digest_all : bool
        Whether `Samples.everything` is a digest of all rows that match, drawn or not.
    site : Site, optional
        Where the matrix lies on disk. Omitted: it lies in memory.
    batch_bytes : int
        Vectors read at a time; unit: bytes. The result does not depend on it.

    Returns
    -------
    Samples
        In the order of the input.

    Raises
    ------
    BadRowsError
        Too many rows cannot be clustered.
    ShapeError
        A vector has another dimension than the first.
    DuplicateIdsError
        An id appears twice.
    InputError
        An id is null.
    TooFewSamplesError
        No row is left, or none matches `filters`.
    OutOfMemoryError, DiskFullError
        The matrix does not fit.

    Notes
    -----
    Memory: the float32 matrix unless it lies on disk, the ids, the payload that was asked for,
    and two batches: the next one is read while one is judged.
    """
    info = source.info
    ids, matches, has_ids = _checked_ids(source, filters)
    n_rows = len(ids)
    num_filtered = 0 if matches is None else n_rows - int(np.count_nonzero(matches))
    among = ids if matches is None else ids.filter(pa.array(matches))
    sampled = draw(among, sample_size, random_state)
    drawn = _within(matches, sampled)
    n_drawn = n_rows if drawn is None else int(np.count_nonzero(drawn))
    X = _allocate(n_drawn, info.n_features, info.where, site)

    good: list[NDArray[np.int64]] = []
    bad: list[NDArray[np.int64]] = []
    why: list[NDArray[np.int8]] = []
    payload: dict[str, list[pa.Array]] = {}
    filled = stop = 0
    everything = WholeDigest(ids, matches) if digest_all else None
    for batch in read_ahead(source.batches(batch_bytes)):
        start, stop = stop, stop + len(batch.vectors)
        if stop > n_rows:
            break
        if everything is not None:
            everything.add(batch)
        rows = np.arange(stop - start) if drawn is None else np.flatnonzero(drawn[start:stop])
        target = X[filled : filled + len(rows)]
        with np.errstate(all="ignore"):  # what overflows becomes inf, and is judged as such
            target[:] = batch.vectors if drawn is None else batch.vectors[rows]
        reasons = judge(target, batch.null[rows])
        clean = reasons == CLEAN
        if not clean.all():
            X[filled : filled + np.count_nonzero(clean)] = target[clean]
        filled += int(np.count_nonzero(clean))
        good.append(start + rows[clean])
        bad.append(start + rows[~clean])
        why.append(reasons[~clean])
        for role, column in batch.payload.items():
            payload.setdefault(role, []).append(column.take(pa.array(rows[clean])))
        reporter.progress(stop, n_rows)
    if stop != n_rows:
        raise CorruptInputError(
            f"{info.where}: {n_rows:,} rows at first, {stop:,} or more when they were read",
            hint="does something write to it?",
        )

    rejected = rejected_table(ids, np.concatenate(bad), np.concatenate(why))
    allowed = 0 if on_bad_rows == "error" else max_bad_fraction * n_drawn
    if len(rejected) > allowed:
        raise too_many(info.where, rejected, n_drawn, allowed)
    if not filled:
        raise TooFewSamplesError(f"{info.where}: none of {n_drawn:,} rows can be clustered")
    rows_kept = np.concatenate(good)
    drawing = {"sample_size": sample_size, "random_state": random_state}
    return Samples(
        ids=ids if filled == n_rows else ids.take(pa.array(rows_kept)),
        X=X[:filled],
        rows=rows_kept,
        payload={role: concatenate(chunks) for role, chunks in payload.items()},
        rejected=rejected,
        n_rows=n_rows,
        source=info.to_json()
        | {"sample": None if sampled is None else drawing, "has_ids": has_ids}
        | ({} if filters is None else {"filters": filters.to_dict()}),
        num_filtered=num_filtered,
        everything=None if everything is None else everything.hexdigest(),
    )


def judge(X: Matrix, null: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Return for each row the position in `REASONS` of what is wrong with it, or `CLEAN`.

    Parameters
    ----------
    X : ndarray of shape (rows, n_features), float32
    null : ndarray of shape (rows,), bool
        Rows without a vector.

    Returns
    -------
    ndarray of shape (rows,), int8
    """
    squared_norm = np.einsum("ij,ij->i", X, X, dtype=np.float64)
    tests = {
        "null": null,
        "nan": np.isnan(squared_norm),
        "inf": np.isinf(squared_norm),
        "zero_norm": squared_norm < np.finfo(np.float32).tiny,
    }
    return np.select([tests[reason] for reason in REASONS], range(len(REASONS)), CLEAN).astype(
        np.int8
    )


def _within(
    matches: NDArray[np.bool_] | None, sampled: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Return which rows of the input are drawn, `sampled` being among those that match."""
    if matches is None or sampled is None:
        return sampled if matches is None else matches
    drawn = matches.copy()
    drawn[matches] = sampled
    return drawn


def _checked_ids(
    source: Source, filters: Filters | None
) -> tuple[pa.Array, NDArray[np.bool_] | None, bool]:
    """Return the ids of all rows, which rows match (None: all), and whether rows have ids.

    Those that match have ids that are unique and not null; without ids, row numbers.
    """
    where = source.info.where
    ids = source.ids()
    n_rows = source.info.n_rows if ids is None else len(ids)
    if not n_rows or not source.info.n_features:
        raise TooFewSamplesError(
            f"{where}: {'no row has a vector' if n_rows else 'it has no rows'}"
        )
    matches = None if filters is None else matching(source, filters)
    if matches is not None and not matches.any():
        raise no_match(where, n_rows)
    if ids is None:
        return pa.array(np.arange(n_rows)), matches, False
    _check_unique(ids, matches, source.info)
    return ids, matches, True


def not_unique(where: str, repeated: pa.Array, found_in: str = "") -> DuplicateIdsError:
    """Return the error of ids that several rows have; `found_in` is said after them."""
    return DuplicateIdsError(
        f"{where}: ids must be unique, {len(repeated):,} are not: {_shown(repeated)}{found_in}",
        hint="name a column of unique ids with id_column, or remove the duplicates",
    )


def no_match(where: str, n_rows: int) -> TooFewSamplesError:
    """Return the error of a filter that leaves nothing."""
    return TooFewSamplesError(
        f"{where}: no row matches the filter ({n_rows:,} rows)",
        hint="inspect says which columns there are; texts are compared as a whole by eq",
    )


def _check_unique(ids: pa.Array, matches: NDArray[np.bool_] | None, info: SourceInfo) -> None:
    """Raise unless the ids of the rows that match are unique and not null."""
    where = info.where
    among = ids if matches is None else ids.filter(pa.array(matches))
    if among.null_count:
        null = np.asarray(ids.is_null())
        row = int(np.argmax(null if matches is None else null & matches))
        raise InputError(f"{where} row {row}: the id is null ({among.null_count:,} rows have none)")
    if pc.count_distinct(among).as_py() < len(among):
        counts = pc.value_counts(among)
        repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise not_unique(where, repeated, _shared(ids, repeated[0], info))


def _shared(ids: pa.Array, repeated: pa.Scalar, info: SourceInfo) -> str:
    """Say which collections an id is in, where there are several."""
    rows = np.flatnonzero(np.asarray(pc.equal(ids, repeated).fill_null(False)))  # noqa: FBT003
    names = collection_names(info.to_json(), rows).unique().drop_null().to_pylist()
    return f" ({repeated.as_py()!r} is in {' and in '.join(names)})" if len(names) > 1 else ""


def _allocate(n_rows: int, n_features: int, where: str, site: Site | None) -> Matrix:
    if site is not None:
        site.folder.mkdir(parents=True, exist_ok=True)
        matrix: Matrix = on_disk((n_rows, n_features), site)
        return matrix
    try:
        return np.empty((n_rows, n_features), np.float32)
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{where}: {n_rows:,} vectors of {n_features:,} values take "
            f"{n_rows * n_features * 4 / 1e9:,.1f} GB, more than there is",
            hint="use sample_size, or let it lie on disk (storage)",
        ) from error


def rejected_table(
    ids: pa.Array, rows: NDArray[np.int64], why: NDArray[np.int8], offset: int = 0
) -> pa.Table:
    """Return what is known of bad rows: positions in `ids`, that begin at row `offset`."""
    return pa.table(
        {
            "document_id": ids.take(pa.array(rows)).cast(pa.string()),
            "row": pa.array(offset + rows, pa.int64()),
            "reason": pa.array(REASONS).take(pa.array(why)),
        }
    )


def too_many(
    where: str, rejected: pa.Table, n_rows: int, allowed: float, count: int | None = None
) -> BadRowsError:
    """Return the error that names what is wrong, how often, and where first.

    `count` is how many rows are bad, where `rejected` are only the last of them.
    """
    more = "" if count in {None, len(rejected)} else "the last ones: "
    counts = pc.value_counts(rejected["reason"]).to_pylist()
    by_reason = ", ".join(f"{item['counts']:,} {item['values']}" for item in counts)
    return BadRowsError(
        f"{where}: {count or len(rejected):,} of {n_rows:,} rows cannot be clustered "
        f"({more}{by_reason}), "
        f"at most {int(allowed):,} may be: document_id {_shown(rejected['document_id'])}",
        hint="mend these rows, or set on_bad_rows to quarantine and raise max_bad_fraction",
    )


def _shown(ids: pa.Array | pa.ChunkedArray) -> str:
    more = ", ..." if len(ids) > SHOWN else ""
    return ", ".join(map(repr, ids[:SHOWN].to_pylist())) + more
