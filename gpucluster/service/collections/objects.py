"""Documents as JSON objects: their types are found out first, and then they become columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from gpucluster.errors import DtypeError, InputError, SchemaMismatchError
from gpucluster.notation import shown
from gpucluster.service.collections.incoming import (
    BATCH_BYTES,
    ROWS,
    Limits,
    Upload,
    batch_rows,
    check_rows,
    renamed,
)
from gpucluster.service.collections.versions import Version
from gpucluster.sources.base import MAX_COLUMNS

Row: TypeAlias = tuple[str, int, Mapping[str, Any]]  # where it is, its bytes, its values
Rows: TypeAlias = Callable[[], Iterator[Row]]


def of_objects(
    rows: Rows,
    sha256: str,
    version: Version,
    limits: Limits,
    where: str,
    heads: Rows | None = None,
) -> Upload:
    """Return objects as documents.

    Parameters
    ----------
    rows : callable
        Yields them; called again each time that they are read.
    sha256 : str
        Of all of them.
    version : Version
        What they are for.
    limits : Limits
    where : str
        What they are called in messages.
    heads : callable, optional
        Yields the same without their vectors, to find out types; a vector may be anything.

    Raises
    ------
    InputError, SchemaMismatchError
        There are too many, or values of one field are of several types.
    """
    vectors = {f.column: f.dim for f in version.features.values() if f.kind == "dense"}
    schema = _types(heads or rows, version, set(vectors), limits, where)
    names = renamed(schema.names, version)
    columns = pa.schema([field.with_name(names[field.name]) for field in schema])
    n_rows = batch_rows(vectors.values())

    def batches(wanted: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        fields = [f for f in schema if wanted is None or names[f.name] in wanted]
        for held in _together(rows, n_rows):
            yield _batch(held, fields, names, vectors, where)

    return Upload(where, sha256, columns, batches)


def _together(rows: Rows, n_rows: int) -> Iterator[list[Row]]:
    """Yield rows in batches of bounded bytes."""
    held: list[Row] = []
    n_bytes = 0
    for row in rows():
        held.append(row)
        n_bytes += row[1]
        if len(held) == n_rows or n_bytes >= BATCH_BYTES:
            yield held
            held, n_bytes = [], 0
    if held:
        yield held


def _types(
    rows: Rows, version: Version, vectors: set[str | None], limits: Limits, where: str
) -> pa.Schema:
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
        check_rows(n_rows, limits)
        if n_bytes > limits.decoded_bytes:
            raise InputError(f"{where}: more than {limits.decoded_bytes:,} bytes of text")
        for name, values in cells.items():
            if aliases.get(name, name) in vectors:
                types[name] = pa.list_(pa.float64())
            else:
                found = _type_of(name, values, where)
                types[name] = _united(name, types.get(name, pa.null()), found, where)
        if len(types) > MAX_COLUMNS:
            raise InputError(f"{where}: more than {MAX_COLUMNS:,} columns")
    return pa.schema(types)


def _type_of(name: str, values: list[Any], where: str) -> pa.DataType:
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError) as error:
        raise _mixed(name, str(error), where) from error


def _united(name: str, one: pa.DataType, other: pa.DataType, where: str) -> pa.DataType:
    if one == other:
        return one
    fields = [pa.schema([("", type_)]) for type_ in (one, other)]
    try:
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except pa.ArrowException as error:
        raise _mixed(name, f"{one} and {other}", where) from error


def _mixed(name: str, why: str, where: str) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"{where}: the values of column {shown(name, 60)!r} are of several types "
        f"({' '.join(why.split())[:120]})",
        hint="write each field with one type",
    )


def _batch(
    rows: list[Row],
    fields: Sequence[pa.Field],
    names: Mapping[str, str],
    vectors: Mapping[str | None, int],
    where: str,
) -> pa.RecordBatch:
    columns = []
    for field in fields:
        cells = [row.get(field.name) for _, _, row in rows]
        if names[field.name] in vectors:
            columns.append(_vectors(field.name, [place for place, _, _ in rows], cells))
        else:
            try:
                columns.append(pa.array(cells, field.type))
            except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError) as error:
                raise _mixed(field.name, str(error), where) from error
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
