"""Files of documents with all their columns: what is read to be written again with more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa

from gpucluster.device.memory import rows_per_block
from gpucluster.errors import CorruptInputError, DtypeError, SchemaMismatchError
from gpucluster.places import is_address
from gpucluster.sources.arrow import validated_copy
from gpucluster.sources.base import reading
from gpucluster.sources.collection import collection_files, is_manifest, read_manifest
from gpucluster.sources.columns import to_keys
from gpucluster.sources.copies import copies_of
from gpucluster.sources.detect import candidates, check_names
from gpucluster.sources.jsonl import read_objects
from gpucluster.sources.opening import common_format, expand
from gpucluster.sources.parquet import open_file

BATCH_BYTES = 32 << 20  # of all columns, read at a time
MAX_ROWS = 1 << 16
PROBE_ROWS = 64  # that tell how large a row is
TYPED_ROWS = 4096  # of JSON lines, whose types are told together


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """A file of documents.

    Attributes
    ----------
    path : str
    schema : pyarrow.Schema
        All columns.
    n_rows : int
    row_bytes : int
        Of one row in memory, about.
    metadata : dict of bytes to bytes
        What a Parquet file carries beside its columns.
    id_column : str or None
        None: documents are known by their rows.
    read : callable
        ``read(n)`` yields all rows in order, at most `n` at a time.
    """

    path: str
    schema: pa.Schema
    n_rows: int
    row_bytes: int
    metadata: dict[bytes, bytes]
    id_column: str | None
    read: Callable[[int], Iterator[pa.RecordBatch]]

    def batches(self, batch_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order: at most `batch_rows` at a time, and `BATCH_BYTES`.

        Raises
        ------
        CorruptInputError
            It is damaged, or has changed since it was opened.
        """
        rows = min(batch_rows or MAX_ROWS, rows_per_block(max(1, self.row_bytes), BATCH_BYTES))
        n_rows = 0
        for batch in self.read(rows):
            n_rows += batch.num_rows
            yield batch
        if n_rows != self.n_rows:
            raise CorruptInputError(
                f"{self.path}: {self.n_rows:,} rows at first, {n_rows:,} when they were read",
                hint="does something write to it?",
            )

    def ids(self, batch: pa.RecordBatch) -> pa.Array | None:
        """Return the ids of a batch, as `gpucluster.sources` reads them; None without any."""
        if self.id_column is None:
            return None
        with reading(self.path):
            return to_keys(batch.column(self.id_column))


def document_paths(data: str | Sequence[str]) -> list[tuple[str, str | None]]:
    """Return the files that paths, folders, globs and manifests of collections stand for.

    Returns
    -------
    list of (str, str or None)
        Each file, and the column of ids that a manifest names.
    """
    found: list[tuple[str, str | None]] = []
    for item in [data] if isinstance(data, str) else data:
        if is_manifest(item):
            collection = read_manifest(item)
            found += ((path, collection.id_column) for path in collection_files(item, collection))
        else:
            found += ((path, None) for path in expand(item))
    return found


def open_documents(
    path: str, *, needs_ids: bool, id_column: str | None = None, usual: str | None = None
) -> DocumentFile:
    """Open a file of documents.

    Parameters
    ----------
    path : str
        Parquet, Arrow IPC or JSON lines; on a disk or in a bucket.
    needs_ids : bool
        Whether documents are known by their ids, or by their rows.
    id_column : str, optional
        Where ids are. Omitted: in `usual` where there is such a column, else found by its name.
    usual : str, optional

    Raises
    ------
    DtypeError
        Files of this kind have no columns that others could stand beside.
    SchemaMismatchError
        There is no such column, or none that holds ids.
    SourceError
        The file is missing or damaged.
    """
    match common_format([path]):
        case "parquet":
            opened = _open_parquet(path)
        case "arrow":
            opened = _open_arrow(path)
        case "jsonl":
            opened = _open_jsonl(path)
        case other:
            raise DtypeError(
                f"{path}: {other} files hold vectors and no other columns",
                hint="documents are Parquet, Arrow IPC or JSON lines",
            )
    schema: pa.Schema = opened["schema"]
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise SchemaMismatchError(f"{path}: several columns are called {twice[0]!r}")
    name = None
    if needs_ids:
        check_names({"id": id_column}, schema.names, path)
        own = usual if usual in schema.names else next(iter(candidates(schema)["id"]), None)
        name = id_column or own
        if name is None:
            raise SchemaMismatchError(
                f"{path}: no column holds ids, by which the run knows its documents",
                hint="name it with id_column",
            )
    return DocumentFile(path=path, id_column=name, **opened)


def _open_parquet(path: str) -> dict[str, Any]:
    with reading(path), open_file(path) as file:
        found = file.metadata
        groups = [found.row_group(i) for i in range(found.num_row_groups)]
        stored = sum(group.total_byte_size for group in groups) // max(1, found.num_rows)
        # what a dictionary stores once may be large in each row
        head = next(file.iter_batches(PROBE_ROWS), None)
        decoded = head.nbytes // head.num_rows if head is not None else 0
        return {
            "schema": file.schema_arrow,
            "n_rows": found.num_rows,
            "row_bytes": max(stored, decoded),
            "metadata": found.metadata or {},
            "read": partial(_read_parquet, path),
        }


def _read_parquet(path: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
    with reading(path), open_file(path) as file:
        yield from file.iter_batches(batch_rows)


def _open_arrow(path: str) -> dict[str, Any]:
    def batches(batch_rows: int) -> Iterator[pa.RecordBatch]:
        with _arrow_copy(path) as copy, pa.memory_map(copy) as mapped:
            file = pa.ipc.open_file(mapped)
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                for start in range(0, batch.num_rows, batch_rows):
                    yield batch.slice(start, batch_rows)

    n_rows = n_bytes = 0
    with _arrow_copy(path) as copy, pa.memory_map(copy) as mapped:
        file = pa.ipc.open_file(mapped)
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            n_rows, n_bytes = n_rows + batch.num_rows, n_bytes + batch.nbytes
        return {
            "schema": file.schema,
            "n_rows": n_rows,
            "row_bytes": n_bytes // max(1, n_rows),
            "metadata": {},
            "read": batches,
        }


def _arrow_copy(path: str) -> Any:
    here = copies_of([path])[0] if is_address(path) else None
    return validated_copy(path if here is None else str(here.path))


def _open_jsonl(path: str) -> dict[str, Any]:
    """Read all lines once, for what types their fields have; they are read again to be written."""
    type_ = pa.struct([])
    n_rows = n_bytes = 0
    for rows in _rows(path, TYPED_ROWS):
        with _typing(path):
            found = pa.array(rows)
            type_ = _unified(type_, found.type)
        n_rows, n_bytes = n_rows + len(rows), n_bytes + found.nbytes

    def batches(batch_rows: int) -> Iterator[pa.RecordBatch]:
        for rows in _rows(path, batch_rows):
            with _typing(path):
                batch = pa.RecordBatch.from_struct_array(pa.array(rows, type_))
            yield batch

    return {
        "schema": pa.schema(list(type_)),
        "n_rows": n_rows,
        "row_bytes": n_bytes // max(1, n_rows),
        "metadata": {},
        "read": batches,
    }


def _rows(path: str, n_rows: int) -> Iterator[list[dict[str, Any]]]:
    lines = (row for *_, row in read_objects(path))
    while rows := list(islice(lines, n_rows)):
        yield rows


def _unified(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    schemas = [pa.schema(list(one)), pa.schema(list(other))]
    return pa.struct(list(pa.unify_schemas(schemas, promote_options="permissive")))


@contextmanager
def _typing(path: str) -> Iterator[None]:
    """Say of what Arrow refuses that the values of a field are of several types."""
    try:
        yield
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise SchemaMismatchError(
            f"{path}: the values of a field are of several types "
            f"({' '.join(str(error).split())[:120]})",
            hint="write each field with one type",
        ) from error
