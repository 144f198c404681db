"""Documents that are sent: Parquet, lines of JSON, or a few JSON objects.

Whatever they claim about themselves is compared with limits before memory is given to it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import CorruptInputError, DtypeError, InputError, SchemaMismatchError
from gpucluster.notation import shown
from gpucluster.places import Place
from gpucluster.service.collections.versions import Version
from gpucluster.sources.base import MAX_COLUMNS, check_claims, reading
from gpucluster.sources.jsonl import read_objects
from gpucluster.sources.parquet import open_file

Kind: TypeAlias = Literal["parquet", "jsonl", "jsonl.gz", "jsonl.zst"]

ROWS = 4_096  # of one batch
BATCH_VALUES = 1 << 22  # numbers in the vectors of one batch
BATCH_BYTES = 64 << 20  # of all other values
ID = "document_id"
WHERE = "the upload"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may bring.

    Attributes
    ----------
    upload_bytes : int
        Of a body, as it is sent.
    decoded_bytes : int
        Of all that it holds.
    rows : int
        Documents.
    """

    upload_bytes: int = 1 << 30
    decoded_bytes: int = 16 << 30
    rows: int = 10_000_000


@dataclass(frozen=True, slots=True)
class Upload:
    """Documents that can be read several times.

    Attributes
    ----------
    where : str
        What it is called in messages.
    sha256 : str
        Of the content.
    schema : pyarrow.Schema
        Columns by the names of the collection.
    batches : callable
        Yields record batches with some of those columns, or all.
    """

    where: str
    sha256: str
    schema: pa.Schema
    batches: Callable[[Sequence[str] | None], Iterator[pa.RecordBatch]]


def open_upload(
    path: Place, kind: Kind, version: Version, limits: Limits, called: str = WHERE
) -> Upload:
    """Open a file that was sent.

    Parameters
    ----------
    path : Path or ObjectPath
    kind : {"parquet", "jsonl", "jsonl.gz", "jsonl.zst"}
    version : Version
        The collection that it is for.
    limits : Limits
    called : str
        What it is called in messages.

    Returns
    -------
    Upload

    Raises
    ------
    InputError, SourceError
        It is too large, damaged, or no such file.
    """
    stored_bytes = path.stat().st_size
    if stored_bytes > limits.upload_bytes:
        raise InputError(f"{stored_bytes:,} bytes, at most {limits.upload_bytes:,} expected")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if kind == "parquet":
        return _parquet(path, sha256, version, limits, called)

    def rows() -> Iterator[_Row]:
        packed = kind.removeprefix("jsonl")
        for number, n_bytes, row in read_objects(str(path), packed=packed, called=called):
            yield f"line {number}", n_bytes, row

    return _json(rows, sha256, version, limits, called)


def given_documents(
    documents: Sequence[Mapping[str, Any]], version: Version, limits: Limits
) -> Upload:
    """Return documents of a request as what could be a file."""
    text = json.dumps(documents, sort_keys=True, separators=(",", ":"))

    def rows() -> Iterator[_Row]:
        for number, row in enumerate(documents):
            yield f"documents.{number}", 0, row

    return _json(rows, hashlib.sha256(text.encode()).hexdigest(), version, limits, WHERE)


def _renamed(names: Sequence[str], version: Version) -> dict[str, str]:
    """Return the column that each name stands for: a URI is a feature, `ID` the ids."""
    aliases = {uri: str(feature.column) for uri, feature in version.features.items()}
    aliases[ID] = version.id_column
    columns = {name: aliases.get(name, name) for name in names}
    seen: dict[str, str] = {}
    for name, column in columns.items():
        if column in seen:
            raise SchemaMismatchError(f"{shown(name, 60)} and {seen[column]} are the same column")
        seen[column] = name
    return columns


def _parquet(path: Place, sha256: str, version: Version, limits: Limits, where: str) -> Upload:
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
    _check_rows(n_rows, limits)
    vectors = sum(feature.dim for feature in version.features.values() if feature.kind == "dense")
    claimed = max(claimed, n_rows * vectors)
    stored_bytes = path.stat().st_size
    check_claims(where, claimed_bytes=claimed, stored_bytes=stored_bytes)
    names = _renamed(schema.names, version)
    texts = [field.name for field in schema if _is_plain_text(field.type)]
    batch_rows = _batch_rows([vectors])

    def batches(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        wanted = [name for name in schema.names if columns is None or names[name] in columns]
        decoded = 0
        with reading(where), open_file(str(path), encoded=texts) as file:
            for batch in file.iter_batches(batch_rows, columns=wanted, use_threads=False):
                n_bytes = _decoded_bytes(batch)
                decoded += n_bytes
                check_claims(where, claimed_bytes=decoded, stored_bytes=stored_bytes)
                if decoded > limits.decoded_bytes:
                    raise CorruptInputError(f"{where}: it holds far more than its size promises")
                named = batch.rename_columns([names[name] for name in batch.schema.names])
                step = max(1, named.num_rows // (1 + n_bytes // BATCH_BYTES))
                yield from (named.slice(at, step) for at in range(0, named.num_rows, step))

    renamed = pa.schema([field.with_name(names[field.name]) for field in schema])
    return Upload(where, sha256, renamed, batches)


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


def _check_rows(n_rows: int, limits: Limits) -> None:
    if n_rows > limits.rows:
        raise InputError(
            f"{n_rows:,} documents, at most {limits.rows:,} expected in one request",
            hint="send them in parts",
        )


_Row: TypeAlias = tuple[str, int, Mapping[str, Any]]  # where it is, its bytes, its values
_Rows: TypeAlias = Callable[[], Iterator[_Row]]


def _json(rows: _Rows, sha256: str, version: Version, limits: Limits, where: str) -> Upload:
    vectors = {f.column: f.dim for f in version.features.values() if f.kind == "dense"}
    schema = _types(rows, version, set(vectors), limits)
    names = _renamed(schema.names, version)
    columns = pa.schema([field.with_name(names[field.name]) for field in schema])
    batch_rows = _batch_rows(vectors.values())

    def batches(wanted: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        fields = [f for f in schema if wanted is None or names[f.name] in wanted]
        for held in _together(rows, batch_rows):
            yield _batch(held, fields, names, vectors)

    return Upload(where, sha256, columns, batches)


def _batch_rows(dims: Iterable[int]) -> int:
    return max(1, min(ROWS, BATCH_VALUES // max(sum(dims), 1)))


def _together(rows: _Rows, batch_rows: int) -> Iterator[list[_Row]]:
    """Yield rows in batches of bounded bytes."""
    held: list[_Row] = []
    n_bytes = 0
    for row in rows():
        held.append(row)
        n_bytes += row[1]
        if len(held) == batch_rows or n_bytes >= BATCH_BYTES:
            yield held
            held, n_bytes = [], 0
    if held:
        yield held


def _types(rows: _Rows, version: Version, vectors: set[str | None], limits: Limits) -> pa.Schema:
    """Return the columns of all rows, each of the one type that its values have together."""
    aliases = {uri: feature.column for uri, feature in version.features.items()}
    types: dict[str, pa.DataType] = {}
    n_rows = n_bytes = 0
    for held in _together(rows, ROWS):
        cells: dict[str, list[Any]] = {}
        for _, line_bytes, row in held:
            n_bytes += line_bytes
            for name, value in row.items():
                cells.setdefault(name, []).append(value)
        n_rows += len(held)
        _check_rows(n_rows, limits)
        if n_bytes > limits.decoded_bytes:
            raise InputError(f"more than {limits.decoded_bytes:,} bytes of text")
        for name, values in cells.items():
            if aliases.get(name, name) in vectors:
                types[name] = pa.list_(pa.float64())
            else:
                found = _type_of(name, values)
                types[name] = _united(name, types.get(name, pa.null()), found)
        if len(types) > MAX_COLUMNS:
            raise InputError(f"more than {MAX_COLUMNS:,} columns")
    return pa.schema(types)


def _type_of(name: str, values: list[Any]) -> pa.DataType:
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError) as error:
        raise _mixed(name, str(error)) from error


def _united(name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other:
        return one
    fields = [pa.schema([("", type_)]) for type_ in (one, other)]
    try:
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except pa.ArrowException as error:
        raise _mixed(name, f"{one} and {other}") from error


def _mixed(name: str, why: str) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"column {shown(name, 60)!r}: its values are of several types "
        f"({' '.join(why.split())[:120]})",
        hint="write each field with one type",
    )


def _batch(
    rows: list[_Row],
    fields: Sequence[pa.Field],
    names: Mapping[str, str],
    vectors: Mapping[str | None, int],
) -> pa.RecordBatch:
    columns = []
    for field in fields:
        cells = [row.get(field.name) for _, _, row in rows]
        if names[field.name] in vectors:
            columns.append(_vectors(field.name, [where for where, _, _ in rows], cells))
        else:
            try:
                columns.append(pa.array(cells, field.type))
            except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError) as error:
                raise _mixed(field.name, str(error)) from error
    return pa.record_batch(columns, [names[field.name] for field in fields])


def _vectors(name: str, places: Sequence[str], cells: Sequence[Any]) -> pa.Array:
    """Return lists of numbers; no number is NaN."""
    parts, lengths, null = [], [0], []
    for where, cell in zip(places, cells, strict=True):
        null.append(cell is None)
        lengths.append(0 if cell is None else len(cell) if isinstance(cell, list) else -1)
        if cell is None:
            continue
        numbers = isinstance(cell, list) and all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool))
            for value in cell
        )
        if not numbers:
            raise DtypeError(f"{where}: {name} is no list of numbers")
        try:
            parts.append(np.array([math.nan if v is None else v for v in cell], np.float64))
        except OverflowError:  # an integer beyond float64
            raise DtypeError(f"{where}: {name} holds a number beyond float64") from None
    offsets = pa.array(np.cumsum(lengths).astype(np.int32))
    values = pa.array(np.concatenate([np.empty(0), *parts]))
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(null))
