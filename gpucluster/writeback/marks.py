"""What an enriched file says of itself: who wrote which of its columns, and when."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.artifacts.store import Store
from gpucluster.places import place
from gpucluster.sources.base import reading
from gpucluster.sources.documents import DocumentFile

METADATA = b"gpucluster.enriched"  # of a Parquet file, as JSON


@dataclass(frozen=True, slots=True)
class EnrichedFile:
    """A file that was written.

    Attributes
    ----------
    name : str
        In the target folder.
    source : str
        The file that its documents come from.
    bytes : int
    sha256 : str
    rows : int
        Documents.
    enriched, num_noise : int
        Documents that the run has, and those of them that are noise.
    batches : int
        In which it was written.
    reused : bool
        Whether it was there already.
    """

    name: str
    source: str
    bytes: int
    sha256: str
    rows: int
    enriched: int
    num_noise: int
    batches: int
    reused: bool


def own_columns(file: DocumentFile) -> set[str]:
    """Return the columns of a file that an earlier enrichment has written."""
    record = record_of(file.metadata)
    return {*record.get("columns", ()), *record.get("kept", ())}


def is_enriched(file: DocumentFile, asked: str) -> bool:
    """Whether a file has the columns that were asked for under that key."""
    return record_of(file.metadata).get("asked") == asked


def as_it_is(file: DocumentFile) -> EnrichedFile:
    """Return an enriched file that is there."""
    counts = counts_of(record_of(file.metadata))
    with reading(file.path), place(file.path).open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        n_bytes = content.tell()
    name = file.path.rpartition("/")[2]
    return EnrichedFile(name, file.path, n_bytes, sha256, **counts, reused=True)


def stored_record(store: Store, key: str) -> dict[str, Any]:
    """Return what a file in a store says of its enrichment; nothing, where it is not enriched."""
    try:
        with store.open(key) as stored:
            return record_of(pq.read_metadata(stored).metadata or {})
    except (pa.ArrowException, FileNotFoundError):
        return {}


def record_of(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return what an enriched file says of itself; nothing, where it is none."""
    try:
        return dict(json.loads(metadata.get(METADATA, b"{}")))
    except (ValueError, TypeError):
        return {}


def counts_of(record: Mapping[str, Any]) -> dict[str, int]:
    """Return what was counted when a file was written."""
    return {name: int(record[name]) for name in ("rows", "enriched", "num_noise", "batches")}
