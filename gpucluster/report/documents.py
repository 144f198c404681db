"""The documents of which a report knows more than a dot: their ids, texts and true classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import FallbackWarning, InputError, SourceError
from gpucluster.events import Reporter
from gpucluster.report.points import NO_CLASS
from gpucluster.sources import Source, check_names, find
from gpucluster.sources.base import reading
from gpucluster.sources.columns import to_keys, to_text
from gpucluster.sources.reopening import Parts, changed
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from gpucluster.artifacts import Run
    from gpucluster.types import Labels, Rows, Vector

TEXT_CHARACTERS = 280
N_CENTRAL, N_BOUNDARY = 3, 2  # examples of a cluster
MOST_DOCUMENTS = 200_000
SEED = 0


@dataclass(frozen=True, slots=True)
class Examples:
    """Members that show what a cluster is about.

    Attributes
    ----------
    members : ndarray of shape (n_examples,), int64
        The most central one of each cluster first, then others of each.
    clusters : ndarray of shape (n_examples,), int32
        What each is an example of.
    is_central : ndarray of shape (n_examples,), bool
        Whether it is near the centroid, or at the boundary.
    """

    members: Rows
    clusters: Labels
    is_central: np.ndarray


@dataclass(frozen=True, slots=True)
class Payload:
    """What the source says of some rows.

    Attributes
    ----------
    texts : dict of int to str
        By row, of those that are told of; without those that have none.
    classes : list of str
        The true classes, the most frequent first.
    truth : ndarray of shape (n_rows,), int32, or None
        Number of each row's class; -1: it has none.
    reason : str or None
        Why there are no texts.
    """

    texts: Mapping[int, str] = field(default_factory=dict)
    classes: Sequence[str] = ()
    truth: Labels | None = None
    reason: str | None = None


def examples(labels: Labels, similarity: Vector) -> Examples:
    """Choose members nearest to the centroid of their cluster, and farthest from it."""
    clustered = np.flatnonzero((labels != NOISE) & np.isfinite(similarity))
    order = clustered[np.lexsort((clustered, -similarity[clustered], labels[clustered]))]
    own = labels[order]
    first = np.flatnonzero(np.diff(own, prepend=NOISE))
    sizes = np.diff(first, append=len(own))
    rank = np.arange(len(own)) - np.repeat(first, sizes)
    from_end = np.repeat(sizes, sizes) - 1 - rank
    is_central = rank < N_CENTRAL
    # the farthest comes after the nearest, before the second nearest
    turn = np.where(is_central, 2 * rank, 2 * from_end + 1)
    chosen = np.flatnonzero(is_central | (from_end < N_BOUNDARY))
    chosen = chosen[np.argsort(turn[chosen], kind="stable")]
    return Examples(order[chosen], own[chosen], is_central[chosen])


def with_medoids(found: Examples, run: Run, ids: pa.ChunkedArray) -> Examples:
    """Return examples with the most central member of each cluster that has parts before them.

    Members know how far they are from the centroid of their part alone.
    """
    divided = np.unique(run.parents[run.parents != NOISE])
    if not len(divided):
        return found
    medoids = run.centroids["medoid_document_id"].take(pa.array(divided))
    is_medoid = pc.is_in(ids, value_set=medoids)
    place = pc.index_in(medoids, value_set=ids.filter(is_medoid))
    known = place.is_valid().to_numpy()
    members = np.flatnonzero(is_medoid.to_numpy())[place.drop_null().to_numpy()]
    return Examples(
        np.concatenate([members, found.members]),
        np.concatenate([divided[known].astype(np.int32), found.clusters]),
        np.concatenate([np.ones(len(members), bool), found.is_central]),
    )


def in_order(shown: Examples, drawn: Rows, n_members: int) -> Rows:
    """Return members in the order in which they are told of, examples first, each once."""
    others = drawn if len(drawn) else np.arange(n_members)
    others = np.random.default_rng(SEED).permutation(others)[:MOST_DOCUMENTS]
    both = np.concatenate([shown.members, others])
    _, first = np.unique(both, return_index=True)
    members: Rows = both[np.sort(first)][:MOST_DOCUMENTS]
    return members


def read_payload(
    run: Run,
    open_parts: Callable[[], Parts],
    *,
    ids: pa.ChunkedArray,
    rows: Rows,
    told: Rows,
    drawn: Rows,
    text_column: str | None,
    has_texts: bool,
    is_named: bool,
    reporter: Reporter,
) -> Payload:
    """Read texts and true classes of a run's documents.

    Parameters
    ----------
    run : Run
    open_parts : callable
        Opens the source of the rows.
    ids : pyarrow.ChunkedArray of shape (n_members,)
    rows : ndarray of shape (n_members,), int64
        Their rows in the input.
    told : ndarray of shape (n_told,), int64
        Members whose texts are wanted.
    drawn : ndarray of shape (n_drawn,), int64
        Members whose classes are.
    text_column : str or None
        None: that by which clusters were named, or that of the run, or one found by its name.
    has_texts : bool
        Whether texts are read.
    is_named : bool
        Whether a source was named; where that of the run itself cannot be read any more, or
        holds others by now, `Payload.reason` says so.
    reporter : Reporter

    Raises
    ------
    InputError, SourceError
        A source or column that was named cannot be read, or holds other documents.
    """
    wanted = np.unique(np.concatenate([told, drawn]))
    wanted = wanted[np.argsort(rows[wanted])]
    own = taken(ids, wanted) if run.has_ids else None
    try:
        found = _read(run, open_parts(), own, rows[wanted], text_column, has_texts, reporter)
    except (InputError, SourceError) as error:
        if is_named or text_column is not None:
            raise
        if has_texts and run.manifest.paths:  # of data in memory nobody expects them
            reporter.warn("texts_missing", f"there are no texts: {error.message}", FallbackWarning)
        return Payload(reason=error.message)
    texts, truth = found
    places = np.full(len(rows), -1)
    places[wanted] = np.arange(len(wanted))
    is_told = set(rows[told].tolist())
    kept = {row: text for row, text in texts.items() if row in is_told}
    reason = None if kept or not has_texts else "no column of texts is known"
    if truth is None:
        return Payload(kept, reason=reason)
    classes, numbers = classes_of(truth)
    return Payload(kept, classes, numbers[places[drawn]], reason)


def _read(
    run: Run,
    parts: Parts,
    ids: pa.Array | None,
    in_rows: Rows,
    text_column: str | None,
    has_texts: bool,  # noqa: FBT001 - passed on
    reporter: Reporter,
) -> tuple[dict[int, str], pa.ChunkedArray | None]:
    """Return texts by row, and the class of each of rising rows where there are any.

    `ids` are those of the rows; None: they have none of their own.
    """
    n_rows = run.manifest.counts.num_rows
    if ids is None and sum(source.info.n_rows for _, source, _ in parts) != n_rows:
        raise changed(parts[0][1])
    texts: dict[int, str] = {}
    truth: list[pa.Array] = []
    has_truth = all(columns.get("truth") for _, _, columns in parts)
    ends = [*(begin for begin, *_ in parts[1:]), n_rows]
    for (begin, source, columns), end in zip(parts, ends, strict=True):
        text = _text_column(run, source, columns, text_column) if has_texts else None
        names = [text, columns.get("truth") if has_truth else None, columns.get("id")]
        names = [name if name in source.info.fields else None for name in names]
        row = begin
        if not any(names[:2]):  # ids alone tell nothing
            continue
        for batch in source.columns([name for name in names if name]):
            first, last = np.searchsorted(in_rows, (row, row + batch.num_rows))
            here = batch.take(pa.array(in_rows[first:last] - row))
            with reading(source.info.where):
                texts_here, truth_here, ids_here = (_values(here, name) for name in names)
                if ids_here is not None and ids is not None:
                    theirs = to_keys(ids_here).cast(pa.string())
                    if not theirs.equals(ids.slice(first, last - first)):
                        raise changed(source)
                if texts_here is not None:
                    cut = _cut(texts_here)
                    pairs = zip(in_rows[first:last].tolist(), cut, strict=True)
                    texts |= {at: line for at, line in pairs if line}
                if truth_here is not None:
                    truth.append(to_keys(truth_here).cast(pa.large_string()))
            row += batch.num_rows
            reporter.progress(row, n_rows)
        if ((in_rows >= row) & (in_rows < end)).any():
            raise changed(source)
    found = pa.chunked_array(truth, pa.large_string())
    return texts, found if len(found) == len(in_rows) and has_truth else None


def _text_column(
    run: Run, source: Source, columns: Mapping[str, Any], given: str | None
) -> str | None:
    """Return the column of texts; a `SchemaMismatchError` where one that was named is missing."""
    info = source.info
    if given is not None:
        check_names({"text": given}, info.fields, info.where)
        return given
    named_by = None if run.labeling is None else run.labeling.text_column
    known = [named_by, columns.get("text"), *info.candidates.get("text", ())]
    known = [name for name in known if name in info.fields and name != columns.get("truth")]
    return known[0] if known else None


def _values(batch: pa.RecordBatch, name: str | None) -> pa.Array | None:
    is_there = name is not None and find(batch.schema, name) is not None
    return batch.column(name) if is_there else None


def _cut(column: pa.Array) -> Iterator[str]:
    """Yield texts in one line, and not too long."""
    for text in to_text(column).to_pylist():
        line = " ".join((text or "")[: 4 * TEXT_CHARACTERS].split())
        yield line if len(line) <= TEXT_CHARACTERS else line[: TEXT_CHARACTERS - 1].rstrip() + "…"


def classes_of(truth: pa.ChunkedArray) -> tuple[list[str], Labels]:
    """Return the true classes by falling frequency, and the number of each value.

    Parameters
    ----------
    truth : pyarrow.ChunkedArray of shape (n_rows,), large_string
        Null and empty ones are of no class.

    Returns
    -------
    classes : list of str
        Those of one frequency by their names. Of more than `NO_CLASS` the rarest are left out:
        numbers have two bytes.
    numbers : ndarray of shape (n_rows,), int32
        -1: none.
    """
    encoded = truth.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(NOISE).to_numpy()
    counts = np.bincount(codes[codes != NOISE], minlength=len(names)).tolist()
    ranked = sorted(range(len(names)), key=lambda code: (-counts[code], names[code]))
    ranked = [code for code in ranked if names[code]][:NO_CLASS]
    numbers = np.full(len(names) + 1, NOISE, np.int32)  # the last one is that of null
    numbers[ranked] = np.arange(len(ranked))
    return [names[code] for code in ranked], numbers[codes]


def taken(column: pa.ChunkedArray, places: Rows) -> pa.Array:
    """Return some values of a column, chunk by chunk.

    Arrow's own ``take`` copies all chunks into one, which cannot have more than 2 GiB of text.
    """
    order = np.argsort(places)
    bounds = np.cumsum([0, *map(len, column.chunks)])
    edges = np.searchsorted(places[order], bounds)
    found = [
        chunk.take(pa.array(places[order[first:last]] - begin))
        for chunk, begin, (first, last) in zip(column.chunks, bounds, pairwise(edges), strict=False)
    ]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return pa.chunked_array(found, column.type).combine_chunks().take(pa.array(back))
