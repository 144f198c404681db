"""Documents of a PostgreSQL table with vectors of pgvector: read by COPY, and enriched there.

A table is read by one statement, so from one state. Values go in both directions as binary, and
names of tables and columns only as quoted identifiers that the database has confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gpucluster.errors import BackendUnavailableError
from gpucluster.service.collections.incoming import Heard, Limits, Upload, batch_rows, check_rows
from gpucluster.service.collections.versions import Version
from gpucluster.service.refusals import InvalidError, UnavailableError
from gpucluster.wire.collections import PgvectorSource

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import SQL, Composed, Identifier

TIMEOUT_S = 10
_KEY, _NEWS = "gpucluster key", "gpucluster news"
# how a vector is sent, and what that is to Arrow
_VECTORS = {"vector": (">f4", pa.float32()), "halfvec": (">f2", pa.float16())}
_HEADER_BYTES = 4  # of a vector as it is sent: its dimension, and nothing
# what a type is read as: by PostgreSQL, and by Arrow; all others are read as text
_TYPES: dict[str, tuple[str, pa.DataType]] = {
    "smallint": ("int8", pa.int64()),
    "integer": ("int8", pa.int64()),
    "bigint": ("int8", pa.int64()),
    "real": ("float8", pa.float64()),
    "double precision": ("float8", pa.float64()),
    "numeric": ("float8", pa.float64()),
    "boolean": ("bool", pa.bool_()),
    "date": ("date", pa.date32()),
    "timestamp without time zone": ("timestamp", pa.timestamp("us")),
    "timestamp with time zone": ("timestamptz", pa.timestamp("us", "UTC")),
    "text[]": ("text[]", pa.list_(pa.string())),
    "character varying[]": ("text[]", pa.list_(pa.string())),
    "integer[]": ("int8[]", pa.list_(pa.int64())),
    "bigint[]": ("int8[]", pa.list_(pa.int64())),
    "double precision[]": ("float8[]", pa.list_(pa.float64())),
}
_TEXT = ("text", pa.string())


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table, and how it is read."""

    name: str
    type: str
    sent_as: str
    arrow: pa.DataType


class Table:
    """A table as a `Connection`.

    Parameters
    ----------
    source : PgvectorSource
    dsn : str
        How it is reached.
    """

    batch_rows = 10_000

    def __init__(self, source: PgvectorSource, dsn: str) -> None:
        self._source = source
        self._dsn = dsn

    def check(self, version: Version) -> None:
        """Refuse a table or columns that are not there, and what is no vector."""
        with _connected(self._dsn) as connection:
            _, known = self._table(connection)
            self._chosen(version, known)

    def rows_to_read(self) -> int:
        """Return how many rows the table has now."""
        with _connected(self._dsn) as connection:
            table, _ = self._table(connection)
            count = _sql("SELECT count(*) FROM {}").format(table)
            return int(connection.execute(count).fetchall()[0][0])

    def read(self, version: Version, limits: Limits, heard: Heard) -> Upload:
        """Open the table, which is read by one COPY."""
        with _connected(self._dsn) as connection:
            table, known = self._table(connection)
            columns = self._chosen(version, known)
        dims = [feature.dim for feature in version.features.values()]

        def batches(wanted: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
            asked = [each for each in columns if wanted is None or each.name in wanted]
            n_rows, at_once = 0, batch_rows(dims)
            with (
                _connected(self._dsn) as connection,
                connection.cursor() as cursor,
                cursor.copy(_select(table, asked)) as copy,
            ):
                copy.set_types([each.sent_as for each in asked])
                rows = iter(copy.rows())
                while held := list(islice(rows, at_once)):
                    n_rows += len(held)
                    check_rows(n_rows, limits)
                    yield _batch(asked, held)
                    heard(n_rows)

        schema = pa.schema([(each.name, each.arrow) for each in columns])
        return Upload(f"the table {self._source.table}", "", schema, batches)

    def check_target(self, version: Version, schema: pa.Schema, *, add_columns: bool) -> None:
        """Refuse columns that the table does not have, or cannot get."""
        with _connected(self._dsn) as connection:
            _, known = self._table(connection)
            self._missing(version, schema, known, add_columns=add_columns)

    @contextmanager
    def writing(
        self, version: Version, schema: pa.Schema, *, add_columns: bool
    ) -> Iterator[Callable[[pa.Table], int]]:
        """Yield what writes columns of documents into their rows, each time as a transaction."""
        with _connected(self._dsn, read_only=False) as connection:
            target, known = self._table(connection)
            missing = self._missing(version, schema, known, add_columns=add_columns)
            for name, kind in missing.items():
                add = _sql("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}")
                connection.execute(add.format(target, _quoted(name), _sql(kind)))
            fields = {field.name: _kind(field) for field in list(schema)[1:]}
            make, fill, update = _statements(target, known[version.id_column], fields)

            def write(rows: pa.Table) -> int:
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.execute(make)
                    with cursor.copy(fill) as copy:
                        for row in zip(*(c.to_pylist() for c in rows.columns), strict=True):
                            copy.write_row(row)
                    cursor.execute(update)
                    return cursor.rowcount

            yield write

    def _table(self, connection: Connection[Any]) -> tuple[Composed, dict[str, _Column]]:
        """Return the table as it stands in statements, and its columns."""
        name = _sql(".").join(map(_quoted, self._source.table.split(".", maxsplit=1)))
        found = connection.execute(
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            [name.as_string(connection)],
        ).fetchall()
        if not found:
            raise InvalidError(
                f"there is no table {self._source.table}", loc=["source", "pgvector", "table"]
            )
        return name, {each: _column(each, kind) for each, kind in found}

    def _chosen(self, version: Version, known: Mapping[str, _Column]) -> list[_Column]:
        """Return the columns that are read: id, vectors and payload."""
        vectors = version.vector_columns
        others = [name for name, each in known.items() if each.sent_as != "bytea"]
        payload = others if self._source.payload is None else self._source.payload
        names = list(dict.fromkeys([version.id_column, *vectors, *payload]))
        self._require(names, known)
        for name in vectors:
            if known[name].sent_as != "bytea":
                raise InvalidError(
                    f"{self._source.table}.{name} is {known[name].type}, a vector or halfvec "
                    "expected",
                    loc=["features"],
                )
        return [known[name] for name in names]

    def _require(self, names: Iterable[str], known: Mapping[str, _Column]) -> None:
        for name in names:
            if name not in known:
                has = ", ".join(list(known)[:20])
                raise InvalidError(
                    f"{self._source.table} has no column {name}, it has {has}",
                    loc=["source", "pgvector"],
                )

    def _missing(
        self,
        version: Version,
        schema: pa.Schema,
        known: Mapping[str, _Column],
        *,
        add_columns: bool,
    ) -> dict[str, str]:
        """Return the columns that the table is to get, with their types."""
        self._require([version.id_column], known)
        fields = {field.name: _kind(field) for field in list(schema)[1:]}
        missing = {name: kind for name, kind in fields.items() if name not in known}
        if missing and not add_columns:
            raise InvalidError(
                f"{self._source.table} has no column {next(iter(missing))}",
                loc=["columns"],
                hint="add_columns: true adds it",
            )
        return missing


def _statements(
    target: Composed, key: _Column, fields: Mapping[str, str]
) -> tuple[Composed, Composed, Composed]:
    """Return what makes a table of news, fills it, and takes them over."""
    names = [*map(_quoted, fields)]
    comma, id_, news = _sql(", "), _quoted(_KEY), _quoted(_NEWS)
    typed = [
        _sql("{} {}").format(name, _sql(kind))
        for name, kind in zip(names, fields.values(), strict=True)
    ]
    make = _sql("CREATE TEMP TABLE {} ({} {}, {}) ON COMMIT DROP").format(
        *(news, id_, _sql(key.type), comma.join(typed))
    )
    fill = _sql("COPY {} ({}, {}) FROM STDIN").format(_quoted(_NEWS), id_, comma.join(names))
    taken = comma.join(_sql("{0} = news.{0}").format(name) for name in names)
    update = _sql("UPDATE {} AS own SET {} FROM {} AS news WHERE own.{} = news.{}").format(
        *(target, taken, news, _quoted(key.name), id_)
    )
    return make, fill, update


@contextmanager
def _connected(dsn: str, *, read_only: bool = True) -> Iterator[Connection[Any]]:
    """Connect, and say of errors nothing that the connection may hold."""
    try:
        import psycopg
    except ImportError:
        raise BackendUnavailableError(
            "psycopg is not installed", hint="pip install 'gpucluster[postgres]'"
        ) from None
    try:
        options = "-c default_transaction_read_only=on" if read_only else ""
        with psycopg.connect(
            dsn, connect_timeout=TIMEOUT_S, autocommit=True, options=options
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        code = f" ({error.sqlstate})" if error.sqlstate else ""
        raise UnavailableError(f"the database does not answer, or refuses{code}") from None
    except psycopg.Error as error:
        said = (error.diag.message_primary or type(error).__name__)[:200]
        raise InvalidError(f"the database says: {said}", loc=["source", "pgvector"]) from None


def _column(name: str, kind: str) -> _Column:
    if (vector := kind.rpartition(".")[2]) in _VECTORS:
        return _Column(name, kind, "bytea", pa.list_(_VECTORS[vector][1]))
    return _Column(name, kind, *_TYPES.get(kind, _TEXT))


def _select(table: Composed, columns: Sequence[_Column]) -> Composed:
    parts = []
    for each in columns:
        kind, name = each.type.rpartition(".")[2], _quoted(each.name)
        if kind in _VECTORS:
            parts.append(_sql("{}({})").format(_quoted(f"{kind}_send"), name))
        else:
            parts.append(_sql("{}::{}").format(name, _sql(each.sent_as)))
    query = _sql("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT BINARY)")
    return query.format(_sql(", ").join(parts), table)


def _batch(columns: Sequence[_Column], rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    arrays = []
    for each, cells in zip(columns, zip(*rows, strict=True), strict=True):
        sent = _VECTORS.get(each.type.rpartition(".")[2])
        arrays.append(pa.array(cells, each.arrow) if sent is None else _vectors(cells, *sent))
    return pa.record_batch(arrays, [each.name for each in columns])


def _vectors(cells: Sequence[bytes | None], dtype: str, type_: pa.DataType) -> pa.Array:
    parts = [np.frombuffer(cell or b"", dtype, offset=_HEADER_BYTES if cell else 0)
             for cell in cells]  # fmt: skip
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int32)
    values = np.concatenate([np.empty(0, dtype), *parts]).astype(type_.to_pandas_dtype())
    null = pa.array([cell is None for cell in cells])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=null)


def _kind(field: pa.Field) -> str:
    """Return the type that a table has for values of a column."""
    type_ = field.type
    inner = type_.value_type if pa.types.is_list(type_) else type_
    more = "[]" if pa.types.is_list(type_) else ""
    for test, kind in (
        (pa.types.is_string, "text"),
        (pa.types.is_integer, "bigint"),
        (pa.types.is_floating, "double precision"),
        (pa.types.is_boolean, "boolean"),
        (pa.types.is_date, "date"),
    ):
        if test(inner):
            return kind + more
    raise InvalidError(f"{field.name} is {type_}, which no table gets", loc=["columns"])


def _sql(text: str) -> SQL:
    from psycopg.sql import SQL

    return SQL(text)


def _quoted(name: str) -> Identifier:
    from psycopg.sql import Identifier

    return Identifier(name)
