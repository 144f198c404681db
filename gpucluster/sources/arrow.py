"""Arrow IPC files and streams, read in a process of their own.

A damaged Arrow IPC file can end the process that reads it, before any check sees it. So a
child opens it, validates every value, and leaves vectors and keys in plain files for us.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.device.child import Child
from gpucluster.errors import CorruptInputError, StageCrashedError
from gpucluster.sources.arrays import ArraySource, Part
from gpucluster.sources.base import Columns, Source, SourceInfo, check_claims, reading
from gpucluster.sources.columnar import ColumnarSource
from gpucluster.sources.columns import concatenate

FILE_MAGIC = b"ARROW1"

VECTORS, COLUMNS = "vectors", "columns.parquet"  # in the scratch folder


def open_arrow(
    paths: Sequence[str],
    asked: Columns,
    *,
    vector_dtype: str | None = None,
    child: Child | None = None,
) -> Source:
    """Open Arrow IPC files or streams; the vectors are copied to temporary files once.

    Parameters
    ----------
    paths : sequence of str
        In reading order.
    asked : Columns
        The names that the user gave.
    vector_dtype : str, optional
        What the bytes of a binary column are.
    child : Child, optional
        The process to read them in; by default one is started and ended.

    Returns
    -------
    Source
        Needs as much temporary disk space as the vectors have bytes, until it is dropped.

    Raises
    ------
    CorruptInputError
        The file is damaged, or took the process down that read it.
    """
    given = child
    with _supervised(SourceInfo("arrow", tuple(paths)), child) as (reader, scratch):
        info = _info(
            reader.call(
                f"{__name__}:stage",
                paths=list(paths),
                asked=asdict(asked),
                vector_dtype=vector_dtype,
                scratch=scratch,
            )
        )
        shape = (info.n_rows, info.n_features)
        vectors: Any = np.empty(shape, info.dtype)
        if vectors.size:  # The mapping outlives the name; the space is freed with the source.
            vectors = np.memmap(Path(scratch, VECTORS), info.dtype, "r", shape=shape)
        table = pq.ParquetFile(Path(scratch, COLUMNS)).read()
    columns = {name: concatenate(table.column(name).chunks) for name in table.column_names}
    null = np.asarray(columns.pop("null"))
    part = Part(info.where, vectors, columns.pop("id", None), null, columns)

    def read_columns(names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return _read_columns(info, names, given)

    return ArraySource(info, [part], read_columns=read_columns)


@contextmanager
def _supervised(info: SourceInfo, child: Child | None) -> Iterator[tuple[Child, str]]:
    """Give a process to read in, and a folder for what it read."""
    with ExitStack() as stack:
        scratch = stack.enter_context(TemporaryDirectory(prefix="gpucluster-"))
        child = child or stack.enter_context(Child("read arrow"))
        try:
            yield child, scratch
        except StageCrashedError as error:
            raise CorruptInputError(
                f"{info.where}: it could not be read to its end: {error.message}",
                hint="it is damaged, or needs more memory than there is",
            ) from error


def _read_columns(
    info: SourceInfo, names: Sequence[str], child: Child | None
) -> Iterator[pa.RecordBatch]:
    """Yield columns that a child has copied, by way of temporary files."""
    with _supervised(info, child) as (reader, scratch):
        parts = reader.call(
            f"{__name__}:stage_columns", paths=list(info.paths), names=list(names), scratch=scratch
        )
        for part in parts:
            with pa.memory_map(str(Path(scratch, part))) as mapped:  # our own child wrote it
                batches = pa.ipc.open_file(mapped)
                yield from map(batches.get_batch, range(batches.num_record_batches))


@contextmanager
def validated_copy(path: str) -> Iterator[str]:
    """Give an Arrow file with all columns of another one, that a child has validated.

    It is a temporary file, and gone afterwards.
    """
    with _supervised(SourceInfo("arrow", (path,)), None) as (reader, scratch):
        (name,) = reader.call(
            f"{__name__}:stage_columns", paths=[path], names=None, scratch=scratch
        )
        yield str(Path(scratch, name))


def stage(
    paths: Sequence[str], asked: Mapping[str, str | None], vector_dtype: str | None, scratch: str
) -> dict[str, Any]:
    """Leave validated vectors and columns in `scratch`; runs in a child.

    Parameters
    ----------
    paths : sequence of str
    asked : dict
        `Columns`, as JSON.
    vector_dtype : str, optional
    scratch : str
        A folder. Gets the vectors in their own dtype, row by row, and a Parquet file of
        ``null`` (bool), ``id`` and the payload.

    Returns
    -------
    dict
        `SourceInfo`, as JSON.
    """
    schemas: dict[str, pa.Schema] = {}
    stored_bytes = 0
    for path in paths:
        with reading(path), pa.memory_map(path) as mapped:
            schemas[path] = _reader(mapped).schema
            stored_bytes += mapped.size()

    def read(names: Sequence[str], batch_rows: int) -> Iterator[tuple[str, pa.RecordBatch]]:
        for path in paths:
            with reading(path), pa.memory_map(path) as mapped:
                present = [name for name in names if name in schemas[path].names]
                for batch in _validated(mapped, present):
                    for start in range(0, batch.num_rows, batch_rows):
                        yield path, batch.slice(start, batch_rows)

    info = SourceInfo("arrow", tuple(paths))
    source = ColumnarSource(info, schemas, Columns(**asked), read, vector_dtype=vector_dtype)
    columns: dict[str, list[pa.Array]] = {"null": []}
    n_rows = written_bytes = 0
    with reading(source.info.where), Path(scratch, VECTORS).open("wb") as file:
        for batch in source.batches():
            written_bytes += batch.vectors.nbytes
            check_claims(paths[0], claimed_bytes=written_bytes, stored_bytes=stored_bytes)
            file.write(np.ascontiguousarray(batch.vectors).data)
            n_rows += len(batch.vectors)
            ids = {} if batch.ids is None else {"id": batch.ids}
            for name, chunk in {"null": pa.array(batch.null), **ids, **batch.payload}.items():
                copy = pa.concat_arrays([chunk, chunk[:0]])  # a view keeps the record batch alive
                columns.setdefault(name, []).append(copy)
    table = pa.table({name: concatenate(chunks) for name, chunks in columns.items()})
    with reading(source.info.where):
        pq.write_table(table, Path(scratch, COLUMNS))
    return asdict(replace(source.info, n_rows=n_rows))


def stage_columns(paths: Sequence[str], names: Sequence[str] | None, scratch: str) -> list[str]:
    """Leave validated columns in `scratch`; runs in a child.

    Parameters
    ----------
    paths : sequence of str
    names : sequence of str or None
        What a file lacks is left out. None: all columns.
    scratch : str
        A folder. Gets an Arrow file for each path.

    Returns
    -------
    list of str
        The files in `scratch`, one for each path.
    """
    written = []
    for number, path in enumerate(paths):
        with reading(path), pa.memory_map(path) as mapped:
            schema = _reader(mapped).schema
            present = schema
            if names is not None:
                present = pa.schema([schema.field(name) for name in names if name in schema.names])
            mapped.seek(0)
            written.append(f"{number}.arrow")
            copied_bytes = 0
            with pa.ipc.new_file(str(Path(scratch, written[-1])), present) as writer:
                for batch in _validated(mapped, present.names):
                    copied_bytes += batch.nbytes
                    check_claims(path, claimed_bytes=copied_bytes, stored_bytes=mapped.size())
                    writer.write_batch(batch.select(present.names))
    return written


def _info(plain: dict[str, Any]) -> SourceInfo:
    """Return the `SourceInfo` that JSON brought."""
    return SourceInfo(
        **plain
        | {
            "paths": tuple(plain["paths"]),
            "columns": Columns(**plain["columns"]),
            "candidates": {role: tuple(names) for role, names in plain["candidates"].items()},
            "notes": tuple(plain["notes"]),
            "collections": (),
        }
    )


def _reader(
    mapped: pa.MemoryMappedFile, options: pa.ipc.IpcReadOptions | None = None
) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    """Open a file or a stream, whichever it is."""
    is_file = mapped.read(len(FILE_MAGIC)) == FILE_MAGIC
    mapped.seek(0)
    open_ = pa.ipc.open_file if is_file else pa.ipc.open_stream
    return open_(mapped, options=options)


def _validated(mapped: pa.MemoryMappedFile, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the named columns of every batch, each value checked."""
    schema = _reader(mapped).schema
    options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(n) for n in names])
    mapped.seek(0)
    reader = _reader(mapped, options)
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = iter(reader)
    for batch in batches:
        batch.validate(full=True)
        yield batch
