"""The source of a finished run, opened once more by what its manifest says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpucluster.errors import SourceNotFoundError
from gpucluster.sources.base import Source
from gpucluster.sources.opening import open_source


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
        The name of the column of each role, None where there is none. The column of texts is
        read by ``source.batches``, too.

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
                text_column=columns["text"],
            )
        except SourceNotFoundError as error:
            raise SourceNotFoundError(
                f"{error.message}, where the run found its data",
                hint="go to the folder where it was made, or say with data where they are now",
            ) from error
        yield begin, source, columns
        begin += part["n_rows"]
