"""Documents that are sent: Parquet, lines of JSON, or a few JSON objects.

Whatever they claim about themselves is compared with limits before memory is given to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import CorruptInputError, InputError, SchemaMismatchError
from gpucluster.places import Place
from gpucluster.service.collections.incoming import (
    BATCH_BYTES,
    Heard,
    Limits,
    Upload,
    batch_rows,
    check_rows,
    renamed,
    unheard,
)
from gpucluster.service.collections.objects import Row, of_objects
from gpucluster.service.collections.versions import Version
from gpucluster.sources.base import MAX_COLUMNS, check_claims, reading
from gpucluster.sources.jsonl import read_objects
from gpucluster.sources.parquet import open_file

Kind: TypeAlias = Literal["parquet", "jsonl", "jsonl.gz", "jsonl.zst"]

WHERE = "the upload"


def open_upload(path: Place, kind: Kind, version: Version, limits: Limits) -> Upload:
    """Open a file that was sent.

    Parameters
    ----------
    path : Path or ObjectPath
    kind : {"parquet", "jsonl", "jsonl.gz", "jsonl.zst"}
    version : Version
        The collection that it is for.
    limits : Limits

    Returns
    -------
    Upload
        With the digest of the file.

    Raises
    ------
    InputError, SourceError
        It is too large, damaged, or no such file.
    """
    check_bytes(path.stat().st_size, limits, WHERE)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(open_stored(path, kind, version, limits, WHERE), sha256=sha256)


def check_bytes(n_bytes: int, limits: Limits, where: str) -> None:
    """Refuse a file that is larger than one may be."""
    if n_bytes > limits.upload_bytes:
        raise InputError(f"{where}: {n_bytes:,} bytes, at most {limits.upload_bytes:,} expected")


def bytes_to_read(kind: Kind, stored_bytes: int) -> int:
    """Return how many bytes are read of a file in all: lines of JSON once for types before."""
    return stored_bytes if kind == "parquet" else 2 * stored_bytes


def open_stored(
    path: Place,
    kind: Kind,
    version: Version,
    limits: Limits,
    where: str,
    heard: Heard = unheard,
) -> Upload:
    """Open a file of documents, without a digest of it.

    Parameters
    ----------
    path : Path or ObjectPath
    kind : {"parquet", "jsonl", "jsonl.gz", "jsonl.zst"}
    version : Version
        The collection that it is for.
    limits : Limits
    where : str
        What it is called in messages.
    heard : callable
        Gets how many of its `bytes_to_read` were read, again and again.

    Raises
    ------
    InputError, SourceError
        It is damaged, or holds too much.
    """
    if kind == "parquet":
        return _parquet(path, version, limits, where, heard)
    before = 0  # what was read in passes that are over

    def rows() -> Iterator[Row]:
        nonlocal before
        lines = read_objects(
            str(path),
            packed=kind.removeprefix("jsonl"),
            called=where,
            heard=lambda at: heard(before + at),
        )
        for number, n_bytes, row in lines:
            yield f"{where} line {number}", n_bytes, row
        before += path.stat().st_size

    return of_objects(rows, "", version, limits, where)


def given_documents(
    documents: Sequence[Mapping[str, Any]], version: Version, limits: Limits
) -> Upload:
    """Return documents of a request as what could be a file."""
    text = json.dumps(documents, sort_keys=True, separators=(",", ":"))

    def rows() -> Iterator[Row]:
        for number, row in enumerate(documents):
            yield f"documents.{number}", 0, row

    return of_objects(rows, hashlib.sha256(text.encode()).hexdigest(), version, limits, WHERE)


def _parquet(path: Place, version: Version, limits: Limits, where: str, heard: Heard) -> Upload:
    with reading(where), open_file(str(path)) as file:
        metadata, schema = file.metadata, file.schema_arrow
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        n_rows = sum(group.num_rows for group in groups)
        claimed = sum(group.total_byte_size for group in groups)
    if n_rows != metadata.num_rows or min([n_rows, *(g.num_rows for g in groups)]) < 0:
        raise CorruptInputError(f"{where}: its row groups and its footer differ in rows")
    if len(schema) > MAX_COLUMNS or metadata.num_columns > MAX_COLUMNS:
        raise CorruptInputError(f"{where}: more than {MAX_COLUMNS:,} columns")
    if len(set(schema.names)) < len(schema.names):
        raise SchemaMismatchError(f"{where}: two columns have one name")
    check_rows(n_rows, limits)
    vectors = sum(feature.dim for feature in version.features.values() if feature.kind == "dense")
    claimed = max(claimed, n_rows * vectors)
    stored_bytes = path.stat().st_size
    check_claims(where, claimed_bytes=claimed, stored_bytes=stored_bytes)
    names = renamed(schema.names, version)
    texts = [field.name for field in schema if _is_plain_text(field.type)]
    n_rows_held = batch_rows([vectors])

    def batches(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        wanted = [name for name in schema.names if columns is None or names[name] in columns]
        decoded = n_read = 0
        with reading(where), open_file(str(path), encoded=texts) as file:
            for batch in file.iter_batches(n_rows_held, columns=wanted, use_threads=False):
                n_bytes = _decoded_bytes(batch)
                decoded += n_bytes
                check_claims(where, claimed_bytes=decoded, stored_bytes=stored_bytes)
                if decoded > limits.decoded_bytes:
                    raise CorruptInputError(f"{where}: it holds far more than its size promises")
                named = batch.rename_columns([names[name] for name in batch.schema.names])
                step = max(1, named.num_rows // (1 + n_bytes // BATCH_BYTES))
                yield from (named.slice(at, step) for at in range(0, named.num_rows, step))
                n_read += batch.num_rows
                heard(stored_bytes * n_read // max(n_rows, 1))

    columns = pa.schema([field.with_name(names[field.name]) for field in schema])
    return Upload(where, "", columns, batches)


def _is_plain_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _decoded_bytes(batch: pa.RecordBatch) -> int:
    """Return what a batch takes once its dictionaries are texts."""
    n_bytes = 0
    for column in batch.columns:
        n_bytes += column.nbytes
        if isinstance(column, pa.DictionaryArray):
            lengths = pc.binary_length(column.dictionary).take(column.indices)
            n_bytes += pc.sum(lengths).as_py() or 0
    return n_bytes
