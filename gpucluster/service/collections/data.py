"""Data files: Parquet whose pages carry checksums, written and read in batches."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.artifacts.parquet import parquet_options
from gpucluster.artifacts.store import Store
from gpucluster.errors import CorruptArtifactError, CorruptInputError, SourceNotFoundError
from gpucluster.service.collections.versions import DataFile, Versions
from gpucluster.sources.base import reading
from gpucluster.sources.digests import file_state
from gpucluster.sources.parquet import open_file

GROUP_ROWS = 1 << 16
GROUP_BYTES = 64 << 20  # of Arrow memory
READ_ROWS = 1 << 14


def write_data(
    store: Store,
    folder: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    id_column: str,
    *,
    name: str | None = None,
) -> DataFile:
    """Write a data file.

    Parameters
    ----------
    store : Store
    folder : str
        The key of the collection's folder.
    schema : pyarrow.Schema
        Of all batches.
    batches : iterable of pyarrow.RecordBatch
        Its rows.
    id_column : str
        Ids are all different, so they get no dictionary.
    name : str, optional
        Its key in the folder ``data``. Omitted: one that nothing else has.

    Returns
    -------
    DataFile
        No manifest names it yet.
    """
    if name is None:
        name = f"{int(time.time() * 1000):012x}{secrets.token_hex(8)}.parquet"
    n_rows = 0

    def write(file: BinaryIO) -> None:
        nonlocal n_rows
        with pq.ParquetWriter(file, schema, **parquet_options(schema, id_column)) as writer:
            for table in _groups(schema, batches):
                writer.write_table(table, row_group_size=GROUP_ROWS)
                n_rows += table.num_rows

    stored = store.put(f"{folder}/data/{name}", write)
    return DataFile(name=f"../data/{name}", rows=n_rows, bytes=stored.bytes, sha256=stored.sha256)


def begun_at(name: str) -> float | None:
    """Return when `write_data` began a file, as its name says, in ms; None for files of others."""
    return int(name[:12], 16) if re.fullmatch(r"[0-9a-f]{28}\.parquet", name) else None


def _groups(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Put batches together until they are worth a row group."""
    held: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    for batch in batches:
        held.append(batch)
        n_rows += batch.num_rows
        n_bytes += batch.nbytes
        if n_rows >= GROUP_ROWS or n_bytes >= GROUP_BYTES:
            yield pa.Table.from_batches(held, schema)
            held, n_rows, n_bytes = [], 0, 0
    if n_rows:
        yield pa.Table.from_batches(held, schema)


def empty_data(store: Store, folder: str, schema: pa.Schema, id_column: str) -> DataFile:
    """Write a file without documents, which tells the engine the columns of a collection."""
    return write_data(store, folder, schema, (), id_column)


@contextmanager
def open_data(
    versions: Versions, file: DataFile, *, encoded: Sequence[str] = ()
) -> Iterator[pq.ParquetFile]:
    """Open a file of a version.

    Parameters
    ----------
    versions : Versions
    file : DataFile
    encoded : sequence of str
        Text columns that are to come as dictionaries.

    Raises
    ------
    CorruptArtifactError
        It is missing or damaged, or has changed although nobody may change it.
    """
    path = versions.open_place(file)
    try:
        with reading(path):
            if file.state is not None and file_state(path) != file.state:
                raise CorruptArtifactError(
                    f"{path}: it is not the file that it was when it became part of the collection",
                    hint="files that stay where they are must not change; copy: true takes a copy",
                )
            with open_file(path, encoded=encoded) as opened:
                yield opened
    except (CorruptInputError, SourceNotFoundError) as error:
        raise CorruptArtifactError(error.message, hint=error.hint) from error


def read_data(
    versions: Versions,
    file: DataFile,
    columns: Sequence[str],
    *,
    batch_rows: int = READ_ROWS,
    groups: Sequence[int] | None = None,
    encoded: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Yield columns of a file in order; one that it lacks is left out.

    Parameters
    ----------
    versions : Versions
    file : DataFile
    columns : sequence of str
    batch_rows : int
        At most.
    groups : sequence of int, optional
        Only these row groups.
    encoded : sequence of str
        Text columns that are to come as dictionaries.

    Raises
    ------
    CorruptArtifactError
        See `open_data`.
    """
    with open_data(versions, file, encoded=encoded) as opened:
        yield from opened.iter_batches(
            batch_rows, row_groups=groups, columns=list(columns), use_threads=False
        )
