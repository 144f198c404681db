"""Texts of single documents, read once more from where their vectors came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.sources.base import reading
from gpucluster.sources.columns import texts_of, to_keys
from gpucluster.sources.reopening import reopen


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
        Without the documents that have no text; empty where no column of texts is known.

    Raises
    ------
    SourceError
        The source cannot be read any more, or was in memory.
    """
    parts = described.get("collections") or [described]
    known = any(part["columns"]["text"] for part in parts)
    if not known or described.get("vector_bytes", 0) > max_vector_bytes:
        return {}
    wanted = pa.array(document_ids, pa.string())
    found: dict[str, str] = {}
    for begin, source, columns in reopen(described):
        if not columns["text"]:
            continue
        row = begin
        for batch in source.columns([name for name in (columns["text"], columns["id"]) if name]):
            with reading(source.info.where):
                ids = pa.array(range(row, row + batch.num_rows))
                if columns["id"]:
                    ids = to_keys(batch.column(columns["id"]))
                ids = ids.cast(pa.string())
                here = pc.is_in(ids, value_set=wanted)
                texts = texts_of(batch, columns["text"]).filter(here).to_pylist()
            own = ids.filter(here).to_pylist()
            found |= {i: text for i, text in zip(own, texts, strict=True) if text}
            row += batch.num_rows
    return found
