"""Texts of single documents, read once more from where their vectors came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.sources.reopening import reopen

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
        # few rows at a time: the texts beside narrow vectors may be long
        row_bytes = max(1, source.info.vector_bytes // max(1, source.info.n_rows))
        for batch in source.batches(TEXT_ROWS * row_bytes):
            rows = range(begin + batch.row, begin + batch.row + len(batch.vectors))
            ids = (pa.array(rows) if batch.ids is None else batch.ids).cast(pa.string())
            here = pc.is_in(ids, value_set=wanted)
            texts = batch.payload["text"].filter(here).to_pylist()
            own = ids.filter(here).to_pylist()
            found |= {i: text for i, text in zip(own, texts, strict=True) if text}
    return found
