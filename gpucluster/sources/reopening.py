"""The source of a finished run, opened once more by what its manifest says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gpucluster.errors import SourceError, SourceNotFoundError
from gpucluster.events import Reporter
from gpucluster.sources.base import Block, Source
from gpucluster.sources.opening import open_source

if TYPE_CHECKING:
    from gpucluster.types import Rows

Parts = Sequence[tuple[int, Source, Mapping[str, Any]]]  # as `reopen` gives them


def reopen(described: Mapping[str, Any]) -> Iterator[tuple[int, Source, Mapping[str, Any]]]:
    """Open the parts of a source, in the order of its rows.

    Parameters
    ----------
    described : mapping
        A source as the manifest of a run describes it.

    Yields
    ------
    begin : int
        Rows of the parts before.
    source : Source
    columns : mapping
        The name of the column of each role, None where there is none. Not every file need have
        that of the texts, so it is read by ``source.columns`` alone.

    Raises
    ------
    SourceNotFoundError
        The data were in memory.
    SourceError
        They cannot be read any more.
    """
    begin = 0
    for part in described.get("collections") or [described]:
        columns = part["columns"]
        if not part["paths"]:
            raise SourceNotFoundError(
                "the data of the run were in memory", hint="give them once more, with data"
            )
        try:
            source = open_source(
                part["paths"],
                id_column=columns["id"],
                vector_column=columns["vector"],
            )
        except SourceNotFoundError as error:
            raise SourceNotFoundError(
                f"{error.message}, where the run found its data",
                hint="go to the folder where it was made, or say with data where they are now",
            ) from error
        yield begin, source, columns
        begin += part["n_rows"]


def reread(
    parts: Parts, rows: Rows, ids: pa.Array | None, reporter: Reporter
) -> Iterator[tuple[Rows, Block]]:
    """Read the vectors of some rows once more.

    Parameters
    ----------
    parts : sequence of (int, Source, mapping)
    rows : ndarray of shape (n,), int64
        Positions in the input, each once, in any order.
    ids : pyarrow.Array of shape (n,), string, or None
        What documents they were; None: a row is known by its number, whatever the data call it.
    reporter : Reporter
        Told of the rows read.

    Yields
    ------
    places : ndarray of shape (m,), int64
        Which of `rows` they are.
    vectors : ndarray of shape (m, n_features)

    Raises
    ------
    SourceError
        The documents cannot be read any more, or are others by now.
    """
    order = np.argsort(rows)
    wanted = rows[order]
    n_found = 0
    for begin, source, _ in parts:
        for batch in source.batches():
            start = begin + batch.row
            first, last = np.searchsorted(wanted, (start, start + len(batch.vectors)))
            reporter.progress(start + len(batch.vectors), None)
            if first == last:
                continue
            here, places = wanted[first:last] - start, order[first:last]
            own = pa.array(np.arange(start, start + len(batch.vectors)))
            their = (own if batch.ids is None else batch.ids).take(pa.array(here)).cast(pa.string())
            if ids is not None and not their.equals(ids.take(pa.array(places))):
                raise changed(source)
            yield places, batch.vectors[here]
            n_found += len(here)
    if n_found != len(rows):
        raise changed(parts[0][1])


def changed(source: Source) -> SourceError:
    """Return the error that says that the data are no more those of the run."""
    return SourceError(
        f"{source.info.where}: it does not hold the documents of the run any more",
        hint="name the data that the run was made of, with data",
    )
