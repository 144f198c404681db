"""Lines of JSON, plain or compressed: for small data, since text costs ten times the bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from json import JSONDecodeError
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gpucluster.errors import CorruptInputError, DtypeError, SchemaMismatchError
from gpucluster.places import for_arrow, place
from gpucluster.sources.base import BATCH_BYTES, Columns, Source, SourceInfo, check_claims, reading
from gpucluster.sources.columnar import ColumnarSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD_ROWS = 100  # that tell which columns there are, and of what type
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20
PACKED = {".gz": "gzip", ".zst": "zstd"}

NULL = pa.null()
VECTOR = pa.list_(pa.float64())
VECTORS = pa.list_(VECTOR)  # several a row
SPARSE = pa.struct({"indices": pa.list_(pa.int64()), "values": VECTOR})
SCALARS = {
    NoneType: NULL,
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
}


def open_jsonl(paths: Sequence[str], asked: Columns) -> Source:
    """Open files with one JSON object a line; ``.gz`` and ``.zst`` are decompressed.

    The first rows tell the columns and their types. Lines are counted now and parsed when
    they are read. ``NaN`` and ``Infinity``, which JSON does not know, are read as NaN.

    Parameters
    ----------
    paths : sequence of str
        In reading order.
    asked : Columns
        The names that the user gave.

    Returns
    -------
    Source

    Raises
    ------
    CorruptInputError
        A line is no JSON object, or a compressed file expands beyond all reason.
    SchemaMismatchError, ConfigError
        See `gpucluster.sources.detect.choose`.
    """
    n_rows = text_bytes = 0
    for path in paths:
        for _, line in _lines(path):
            n_rows += 1
            text_bytes += len(line)
    schema = _schema(paths, asked)

    def read(names: Sequence[str], batch_rows: int) -> Iterator[tuple[str, pa.RecordBatch]]:
        for path in paths:
            for batch in _record_batches(path, pa.schema(map(schema.field, names)), batch_rows):
                yield path, batch

    info = SourceInfo("jsonl", tuple(paths), n_rows)
    source = ColumnarSource(
        info,
        dict.fromkeys(paths, schema),
        asked,
        read,
        read_columns=lambda names: _plain_columns(paths, names),
    )
    check_claims(source.info.where, claimed_bytes=source.info.vector_bytes, stored_bytes=text_bytes)
    return source


def _plain_columns(paths: Sequence[str], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns whose types all rows tell together; they are held in memory."""
    cells: dict[str, list[Any]] = {}
    n_rows = 0
    for path in paths:
        for _, row in _objects(path):
            for name in names:
                if name in row:  # a column may begin late
                    cells.setdefault(name, [None] * n_rows)
            for name, column in cells.items():
                column.append(row.get(name))
            n_rows += 1
    columns = {}
    for name, column in cells.items():
        try:
            columns[name] = pa.array(column)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise SchemaMismatchError(
                f"{' and '.join(paths[:2])}: the values of {name!r} are of several types "
                f"({' '.join(str(error).split())[:120]})",
                hint="write each field with one type",
            ) from error
    table = pa.table(columns) if columns else pa.table({"": pa.nulls(n_rows)}).select([])
    yield from table.combine_chunks().to_batches()


def _lines(
    path: str,
    packed: str | None = None,
    called: str | None = None,
    heard: Callable[[int], object] | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers from 1 on."""
    number = read_bytes = 0
    rest = b""
    where = place(path)
    packed = PACKED.get(where.suffix.lower()) if packed is None else PACKED.get(packed)
    path = called or path
    with reading(path), pa.input_stream(for_arrow(where), compression=None) as stored:
        stream = stored if packed is None else pa.CompressedInputStream(stored, packed)
        stored_bytes = where.stat().st_size
        while block := stream.read(BLOCK_BYTES):
            read_bytes += len(block)
            if heard is not None:
                heard(stored.tell())
            check_claims(path, claimed_bytes=read_bytes, stored_bytes=stored_bytes)
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                number += 1
                if line.strip():
                    yield number, line
            if len(rest) > MAX_LINE_BYTES:
                raise CorruptInputError(
                    f"{path} line {number + 1}: {len(rest):,} bytes without an end, "
                    f"at most {MAX_LINE_BYTES:,} expected"
                )
    if rest.strip():
        yield number + 1, rest


def _objects(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, _, row in read_objects(path):
        yield number, row


def read_objects(
    path: str,
    *,
    packed: str | None = None,
    called: str | None = None,
    heard: Callable[[int], object] | None = None,
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield the object of each line, with the line's number and bytes.

    Parameters
    ----------
    path : str
    packed : {"", ".gz", ".zst"}, optional
        How it is compressed; by default as its name says.
    called : str, optional
        What it is called in messages.
    heard : callable, optional
        Gets how many bytes were read, as they are stored, again and again.
    """
    lines = _lines(path, packed, called, heard)
    path = called or path
    for number, line in lines:
        try:
            value = json.loads(line.decode("utf-8-sig"), parse_constant=lambda _: math.nan)
        except (ValueError, RecursionError) as error:
            place = f" at character {error.pos + 1}" if isinstance(error, JSONDecodeError) else ""
            why = f"{getattr(error, 'msg', error)}{place}"
            raise CorruptInputError(f"{path} line {number}: it is no JSON ({why})") from error
        if not isinstance(value, dict):
            raise CorruptInputError(
                f"{path} line {number}: a JSON object expected, got {_short(value)}"
            )
        yield number, len(line), value


def _schema(paths: Sequence[str], asked: Columns) -> pa.Schema:
    """Return the columns of the first rows, each with the type of its first value."""
    types: dict[str, pa.DataType] = {}
    rows = (row for path in paths for _, row in _objects(path))
    for row in islice(rows, HEAD_ROWS):
        for name, value in row.items():
            if types.get(name, NULL) == NULL:
                types[name] = _type(value)
    named = {"id": asked.id, "vector": asked.vector, **asked.payload()}
    for role, column in named.items():
        if column is not None and types.get(column) == NULL:  # no value yet: the user knows
            types[column] = VECTOR if role == "vector" else pa.string()
    with reading(paths[0]):  # names may hold half a surrogate pair, which is no text
        return pa.schema(types)


def _type(value: object) -> pa.DataType:
    if isinstance(value, dict):
        return SPARSE if _is_sparse(value) else pa.struct([])
    if not isinstance(value, list):
        return SCALARS[type(value)]
    if value and _are_vectors(value):
        return VECTORS
    return VECTOR if value and _are_numbers(value) else pa.list_(NULL)


def _are_vectors(value: list[Any]) -> bool:
    return all(isinstance(item, list) and _are_numbers(item) for item in value)


def _is_sparse(value: dict[str, Any]) -> bool:
    return set(value) == {"indices", "values"} and _are_vectors(list(value.values()))


def _are_numbers(value: list[Any]) -> bool:
    return set(map(type, value)) <= {int, float, NoneType}  # bool is an int, and no number here


def _record_batches(path: str, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the columns of `schema`, at most `batch_rows` rows or `BATCH_BYTES` of vectors each."""
    cells: list[list[Any]] = [[] for _ in schema]
    n_bytes = 0
    for number, row in _objects(path):
        for field, column in zip(schema, cells, strict=True):
            cell = _cell(row.get(field.name), field, f"{path} line {number}")
            column.append(cell)
            n_bytes += getattr(cell, "nbytes", 0)
        if len(cells[0]) == batch_rows or n_bytes >= BATCH_BYTES:
            yield _record_batch(path, cells, schema)
            cells, n_bytes = [[] for _ in schema], 0
    if cells[0]:
        yield _record_batch(path, cells, schema)


def _record_batch(path: str, cells: list[list[Any]], schema: pa.Schema) -> pa.RecordBatch:
    with reading(path):
        columns = [
            _vectors(column) if field.type == VECTOR else pa.array(column, field.type)
            for field, column in zip(schema, cells, strict=True)
        ]
        return pa.record_batch(columns, schema=schema)


def _vectors(cells: list[NDArray[np.float64] | None]) -> pa.Array:
    lengths = [0 if cell is None else len(cell) for cell in cells]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    values = np.concatenate([np.empty(0), *(cell for cell in cells if cell is not None)])
    null = pa.array([cell is None for cell in cells])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=null)


def _cell(value: Any, field: pa.Field, where: str) -> Any:
    """Return a value of the column's type; raise for any other, since JSON promises none."""
    if value is None:
        return None
    if field.type == VECTORS and isinstance(value, list) and _are_vectors(value):
        return value
    if field.type == SPARSE and isinstance(value, dict) and _is_sparse(value):
        return value
    if field.type != VECTOR:
        if SCALARS.get(type(value)) != field.type:
            raise SchemaMismatchError(
                f"{where}: {field.name} is {_short(value)}, {field.type} in the first rows"
            )
        return value
    if isinstance(value, list) and _are_numbers(value):
        try:
            return np.array(value, np.float64)
        except OverflowError:  # an integer beyond float64
            pass
    raise DtypeError(f"{where}: {field.name} is {_short(value)}, a list of numbers expected")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
