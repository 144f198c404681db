"""Texts of single documents, read once more from where their vectors came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.sources.opening import open_source

TEXT_ROWS = 2048  # decoded at a time


def read_texts(
    described: Mapping[str, Any], document_ids: Sequence[str], max_vector_bytes: int
) -> dict[str, str]:
    """Return the texts of documents by their id.

    Parameters
    ----------
    described : mapping
        A source as the manifest of a run describes it.
    document_ids : sequence of str
    max_vector_bytes : int
        A source with more bytes of vectors is not read.

    Returns
    -------
    dict of str to str
        Without the documents that have no text; empty where no column of texts is known, or the
        data were in memory.

    Raises
    ------
    SourceError
        The source cannot be read any more.
    """
    if described.get("vector_bytes", 0) > max_vector_bytes:
        return {}
    wanted = pa.array(document_ids, pa.string())
    found: dict[str, str] = {}
    begin = 0
    for part in described.get("collections") or [described]:
        columns = part["columns"]
        if part["paths"] and columns["text"]:
            source = open_source(
                part["paths"],
                id_column=columns["id"],
                vector_column=columns["vector"],
                text_column=columns["text"],
            )
            # few rows at a time: the texts beside narrow vectors may be long
            row_bytes = max(1, source.info.vector_bytes // max(1, source.info.n_rows))
            for batch in source.batches(TEXT_ROWS * row_bytes):
                rows = range(begin + batch.row, begin + batch.row + len(batch.vectors))
                ids = (pa.array(rows) if batch.ids is None else batch.ids).cast(pa.string())
                here = pc.is_in(ids, value_set=wanted)
                texts = batch.payload["text"].filter(here).to_pylist()
                own = ids.filter(here).to_pylist()
                found |= {i: text for i, text in zip(own, texts, strict=True) if text}
        begin += part["n_rows"]
    return found
