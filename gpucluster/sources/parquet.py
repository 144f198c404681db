"""Parquet files: one, or many as one table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.errors import CorruptInputError, SchemaMismatchError
from gpucluster.places import for_arrow, place
from gpucluster.places.bucket import PART_BYTES
from gpucluster.sources.base import MAX_COLUMNS, Columns, Source, SourceInfo, check_claims, reading
from gpucluster.sources.columnar import ColumnarSource
from gpucluster.sources.columns import concatenate, to_keys
from gpucluster.sources.detect import candidates

STREAM_BYTES = 1 << 20  # of a column chunk held at a time ...
WHOLE_BYTES = 64 << 20  # ... in files larger than this


def open_parquet(
    paths: Sequence[str], asked: Columns, *, vector_dtype: str | None = None
) -> Source:
    """Open Parquet files.

    Parameters
    ----------
    paths : sequence of str
        In reading order.
    asked : Columns
        The names that the user gave.
    vector_dtype : str, optional
        What the bytes of a binary column are.

    Returns
    -------
    Source
        It decodes the pages of the columns it needs one after the other, so its memory
        grows neither with row groups nor with other columns.

    Raises
    ------
    SourceError
        A file is missing, damaged or hostile, or lacks a column.
    """
    schemas: dict[str, pa.Schema] = {}
    n_rows = stored_bytes = 0
    for path in paths:
        with reading(path), open_file(path) as file:
            schemas[path] = file.schema_arrow
            n_rows += _count_rows(path, file.metadata)
            stored_bytes += place(path).stat().st_size

    def read(names: Sequence[str], batch_rows: int) -> Iterator[tuple[str, pa.RecordBatch]]:
        for path in paths:
            with reading(path), open_file(path) as file:
                for batch in file.iter_batches(batch_rows, columns=list(names)):
                    yield path, batch

    info = SourceInfo("parquet", tuple(paths), n_rows)
    source = ColumnarSource(info, schemas, asked, read, vector_dtype=vector_dtype)
    check_claims(
        source.info.where, claimed_bytes=source.info.vector_bytes, stored_bytes=stored_bytes
    )
    return source


def open_file(path: str, *, encoded: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a file to be read page by page, its checksums verified.

    Text columns that are `encoded` come as dictionaries.
    """
    # A column chunk may be gigabytes, so it is streamed. But a stream allocates what a page header
    # claims, up to 2 GiB, before it reads; of a small file, a chunk is read as a whole instead.
    where = place(path)
    file: Any = for_arrow(where)
    if isinstance(where, Path):
        stored_bytes, stream_bytes = where.stat().st_size, STREAM_BYTES
    else:
        stored_bytes, stream_bytes = file.seek(0, os.SEEK_END), PART_BYTES
    return pq.ParquetFile(
        file,
        pre_buffer=False,
        buffer_size=0 if stored_bytes <= WHOLE_BYTES else stream_bytes,
        page_checksum_verification=True,
        read_dictionary=list(encoded) or None,
    )


def _count_rows(path: str, metadata: pq.FileMetaData) -> int:
    """Return the rows of a file whose footer agrees with itself."""
    if metadata.num_columns > MAX_COLUMNS:
        raise CorruptInputError(
            f"{path}: {metadata.num_columns:,} columns, at most {MAX_COLUMNS:,} expected"
        )
    grouped: int = sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if grouped != metadata.num_rows or grouped < 0:
        raise CorruptInputError(
            f"{path}: its row groups hold {grouped:,} rows, its footer says {metadata.num_rows:,}"
        )
    return grouped


def read_ids(path: str) -> pa.Array:
    """Return the ids of a file of ids: its only column, or the one with a usual name."""
    with open_file(path) as file:
        schema = file.schema_arrow
        names = schema.names if len(schema) == 1 else candidates(schema)["id"]
        if not names:
            raise SchemaMismatchError(f"{path}: no column holds ids")
        chunks = file.read(columns=[names[0]]).column(0).chunks
    return concatenate([to_keys(chunk) for chunk in chunks])
