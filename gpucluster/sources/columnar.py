"""A source over Arrow record batches, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Self, TypeAlias

import numpy as np
import pyarrow as pa

from gpucluster.device.memory import rows_per_block
from gpucluster.errors import SchemaMismatchError, ShapeError
from gpucluster.sources.base import (
    BATCH_BYTES,
    Batch,
    Columns,
    SourceInfo,
    check_features,
    reading,
)
from gpucluster.sources.columns import (
    VectorType,
    concatenate,
    is_key,
    to_keys,
    to_plain,
    to_text,
)
from gpucluster.sources.detect import candidates, check_names, choose
from gpucluster.sources.kinds import Reduced, mean_vectors, read_sparse

Reader: TypeAlias = Callable[[Sequence[str], int], Iterator[tuple[str, pa.RecordBatch]]]

ColumnReader: TypeAlias = Callable[[Sequence[str]], Iterator[pa.RecordBatch]]

PROBE_ROWS = 64  # read at a time while looking for the first vector
ID_ROWS = 1 << 20  # read at a time when ids are read alone
VECTORS_A_ROW = 128  # what batches reckon with, where a row holds several
PLAIN_ROWS = 1 << 16  # of other columns, which may hold long texts


class ColumnarSource:
    """Rows of Arrow record batches.

    Parameters
    ----------
    info : SourceInfo
        What the schemas cannot tell: format, paths, rows.
    schemas : dict of str to pyarrow.Schema
        The columns of each file, by path; in memory, of the data by what they are called.
    asked : Columns
        The names that the user gave; the payload is what they name.
    read : callable
        ``read(names, batch_rows)`` yields ``(path, record batch)`` in order: the named
        columns and no others, at most `batch_rows` rows at a time, translated errors. What a
        file lacks is left out.
    vector_dtype : str, optional
        What the bytes of a binary column are.
    read_columns : callable, optional
        What `columns` is to do, where `read` cannot read every column.

    Raises
    ------
    ConfigError, SchemaMismatchError
        A column cannot be chosen or is missing, or files differ in one.
    ShapeError
        Files differ in the dimension of their vectors.
    DtypeError
        The vector column holds no vectors, or the id column no ids.
    """

    def __init__(
        self,
        info: SourceInfo,
        schemas: Mapping[str, pa.Schema],
        asked: Columns,
        read: Reader,
        *,
        vector_dtype: str | None = None,
        read_columns: ColumnReader | None = None,
    ) -> None:
        where, first = next(iter(schemas.items()))
        columns = choose(first, asked, where)
        assert columns.vector is not None  # noqa: S101 - choosing one is what choose is for
        self._columns = columns
        self._vector = columns.vector
        self._payload = asked.payload()
        self._read = read
        self._read_columns = read_columns or self._plain
        self._type = _agreed_type(schemas, columns, self._payload, vector_dtype)
        self._sparse = self._read_sparse() if self._type.kind == "sparse" else None
        n_features = self._type.n_features
        if n_features is None:
            n_features = self._sparse.shape[1] if self._sparse is not None else self._first_length()
        note = self._type.note if self._sparse is None else self._sparse.note
        self.info = replace(
            info,
            n_features=n_features,
            dtype=self._type.dtype.name,
            columns=columns,
            fields={
                field.name: str(field.type)
                for schema in reversed(list(schemas.values()))
                for field in schema
            },
            candidates=candidates(first),
            notes=(note,) if note else (),
            kind=self._type.kind,
            n_stored=0 if self._sparse is None else self._sparse.n_stored,
        )

    def ids(self) -> pa.Array | None:
        """Return all ids, reading no other column; None when rows have none."""
        if (name := self._columns.id) is None:
            return None
        chunks = []
        for path, table in self._read([name], ID_ROWS):
            with reading(path):
                chunks.append(to_keys(table.column(name)))
        return concatenate(chunks)

    def batches(self, budget_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
        """Yield all rows in order.

        Raises
        ------
        ShapeError
            A vector has another dimension than the first.
        """
        row_bytes = self.info.n_features * self._type.dtype.itemsize
        if self._type.kind == "multi_vector":
            row_bytes *= VECTORS_A_ROW
        # a column that is read costs little beside vectors that are there already
        vector = None if self._sparse is not None and self._columns.id else self._vector
        names = [self._columns.id, vector, *self._payload.values()]
        row = first = 0  # of the input, and of the file's first row in it
        current: str | None = None
        unique = list(dict.fromkeys(name for name in names if name is not None))
        for path, table in self._read(unique, rows_per_block(row_bytes, budget_bytes)):
            if path != current:
                current, first = path, row
            with reading(path):
                batch = self._decode(path, table, row, row - first)
            yield batch
            row += table.num_rows

    def with_reader(
        self, read: Callable[[Reader, Sequence[str], int], Iterator[tuple[str, pa.RecordBatch]]]
    ) -> Self:
        """Return the same source, read by something that is also given the reader it had."""
        other = copy(self)
        other._read = partial(read, self._read)
        return other

    def columns(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield plain columns of all rows in order; a name is left out where it is not there."""
        return self._read_columns(names)

    def _plain(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for _, table in self._read(names, PLAIN_ROWS):
            yield table.select([name for name in names if name in table.schema.names])

    def _decode(self, path: str, table: pa.RecordBatch, row: int, row_in_file: int) -> Batch:
        name = self._columns.id
        ids = None if name is None else to_keys(table.column(name))
        convert = {"text": to_text, "truth": to_keys}
        payload = {role: convert[role](table.column(c)) for role, c in self._payload.items()}
        if self._sparse is not None:
            rows = slice(row, row + table.num_rows)
            return Batch(row, ids, self._sparse[rows], self._sparse.null[rows], payload)
        column = self._dense(table, f"{path} from row {row_in_file} on")
        lengths = self._type.lengths(column)
        wrong = np.flatnonzero((lengths >= 0) & (lengths != self.info.n_features))
        if wrong.size:
            at = int(wrong[0])
            who = "" if ids is None else f" (document_id {ids[at].as_py()!r})"
            raise ShapeError(
                f"{path} row {row_in_file + at}{who}: {self._vector} has {lengths[at]:,} values, "
                f"{self.info.n_features:,} expected"
            )
        vectors, null = self._type.decode(column, self.info.n_features)
        return Batch(row, ids, vectors, null, payload)

    def _dense(self, table: pa.RecordBatch, where: str) -> pa.Array:
        """Return the vector column as one list of numbers, or bytes, a row."""
        column = to_plain(table.column(self._vector))
        return mean_vectors(column, where) if self._type.kind == "multi_vector" else column

    def _read_sparse(self) -> Reduced:
        def chunks() -> Iterator[tuple[str, pa.Array]]:
            for path, table in self._read([self._vector], PLAIN_ROWS):
                with reading(path):
                    yield path, table.column(self._vector)

        return read_sparse(chunks())

    def _first_length(self) -> int:
        """Return the length of the first vector; 0 when there is none."""
        for path, table in self._read([self._vector], PROBE_ROWS):
            with reading(path):
                lengths = self._type.lengths(self._dense(table, path))
                if (known := lengths[lengths >= 0]).size:
                    check_features(path, int(known[0]))
                    return int(known[0])
        return 0


def _agreed_type(
    schemas: Mapping[str, pa.Schema],
    columns: Columns,
    payload: Mapping[str, str],
    vector_dtype: str | None,
) -> VectorType:
    """Return the vector type of all files, which have the same columns of the same kinds."""
    roles = {"id": columns.id, "vector": columns.vector, **payload}
    seen: list[tuple[str, VectorType, str | None]] = []
    for path, schema in schemas.items():
        check_names(roles, schema.names, path)
        type_ = VectorType.of(schema.field(columns.vector), vector_dtype)
        if type_.n_features is not None:
            check_features(path, type_.n_features)
        keys = None if columns.id is None else _kind_of_keys(path, schema.field(columns.id))
        seen.append((path, type_, keys))
    first, agreed, kind = seen[0]
    for path, type_, keys in seen:
        if (type_.kind, type_.dtype, keys) != (agreed.kind, agreed.dtype, kind):
            raise SchemaMismatchError(
                f"{path}: vectors are {_called(type_)} and ids {keys}, "
                f"{_called(agreed)} and {kind} in {first}",
                hint="convert the files to one schema",
            )
        if type_.n_features is None or type_.n_features == agreed.n_features:
            continue
        if agreed.n_features is not None:
            raise ShapeError(
                f"{path}: {columns.vector} has {type_.n_features:,} values a row, "
                f"{agreed.n_features:,} in {first}"
            )
        first, agreed = path, type_
    return agreed


def _called(type_: VectorType) -> str:
    return str(type_.dtype) if type_.kind == "dense" else f"{type_.kind} {type_.dtype}"


def _kind_of_keys(path: str, field: pa.Field) -> str:
    if not is_key(field.type):
        raise SchemaMismatchError(
            f"{path}: column {field.name!r} is {field.type}, it cannot be the id",
            hint="ids are integers or strings",
        )
    return "integers" if pa.types.is_integer(field.type) else "strings"
