"""Documents of a PostgreSQL table with vectors of pgvector: read by COPY, and enriched there.

A table is read by one statement, so from one state. Values go in both directions as binary, and
names of tables and columns only as quoted identifiers that the database has confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gpucluster.errors import BackendUnavailableError
from gpucluster.service.collections.incoming import Limits, Upload, batch_rows, check_rows
from gpucluster.service.collections.versions import Version
from gpucluster.service.refusals import InvalidError, UnavailableError
from gpucluster.wire.collections import PgvectorSource

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

TIMEOUT_S = 10
UPDATE_ROWS = 10_000
_KEY, _NEWS = "gpucluster key", "gpucluster news"
_VECTORS = {"vector": ">f4", "halfvec": ">f2"}
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


def read(source: PgvectorSource, dsn: str, version: Version, limits: Limits) -> Upload:
    """Open a table.

    Parameters
    ----------
    source : PgvectorSource
    dsn : str
        The connection.
    version : Version
        What the documents are for.
    limits : Limits

    Raises
    ------
    InvalidError
        The table, or a column, is not there or no vector.
    UnavailableError
        The database does not answer.
    """
    with _connected(dsn) as connection:
        table, known = _table(connection, source)
    columns = _chosen(source, version, known)
    dims = [feature.dim for feature in version.features.values()]

    def batches(wanted: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        asked = [each for each in columns if wanted is None or each.name in wanted]
        held: list[tuple[Any, ...]] = []
        n_rows, at_once = 0, batch_rows(dims)
        with (
            _connected(dsn) as connection,
            connection.cursor() as cursor,
            cursor.copy(_select(table, asked)) as copy,
        ):
            copy.set_types([each.sent_as for each in asked])
            for row in copy.rows():
                held.append(row)
                if len(held) == at_once:
                    n_rows += len(held)
                    check_rows(n_rows, limits)
                    yield _batch(asked, held)
                    held = []
        if held:
            check_rows(n_rows + len(held), limits)
            yield _batch(asked, held)

    schema = pa.schema([(each.name, each.arrow) for each in columns])
    return Upload(f"the table {source.table}", "", schema, batches)


def write(
    source: PgvectorSource,
    dsn: str,
    version: Version,
    tables: Iterable[pa.Table],
    *,
    add_columns: bool,
) -> int:
    """Write columns of documents into their rows, and return how many rows there are.

    Each batch is a transaction; writing the same again changes nothing.

    Parameters
    ----------
    source : PgvectorSource
    dsn : str
    version : Version
    tables : iterable of pyarrow.Table
        The id first, then the columns.
    add_columns : bool
        Whether the table gets those that it does not have.
    """
    n_updated = 0
    is_ready = False
    with _connected(dsn, read_only=False) as connection:
        target, known = _table(connection, source)
        for table in tables:
            fields = {field.name: _kind(field) for field in list(table.schema)[1:]}
            if not is_ready:
                missing = {name: kind for name, kind in fields.items() if name not in known}
                _add(connection, target, source, missing, add_columns=add_columns)
                is_ready = True
            key = known[version.id_column]
            make, fill, update = _statements(target, key, fields)
            for start in range(0, table.num_rows, UPDATE_ROWS):
                rows = table.slice(start, UPDATE_ROWS)
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.execute(make)
                    with cursor.copy(fill) as copy:
                        for row in zip(*(c.to_pylist() for c in rows.columns), strict=True):
                            copy.write_row(row)
                    cursor.execute(update)
                    n_updated += cursor.rowcount
    return n_updated


def _statements(
    target: Composed, key: _Column, fields: Mapping[str, str]
) -> tuple[Composed, Composed, Composed]:
    """Return what makes a table of news, fills it, and takes them over."""
    from psycopg import sql

    names = [sql.Identifier(name) for name in fields]
    comma, id_, news = sql.SQL(", "), sql.Identifier(_KEY), sql.Identifier(_NEWS)
    typed = [
        sql.SQL("{} {}").format(name, sql.SQL(kind))
        for name, kind in zip(names, fields.values(), strict=True)
    ]
    make = sql.SQL("CREATE TEMP TABLE {} ({} {}, {}) ON COMMIT DROP").format(
        *(news, id_, sql.SQL(key.type), comma.join(typed))
    )
    fill = sql.SQL("COPY {} ({}, {}) FROM STDIN").format(
        sql.Identifier(_NEWS), id_, comma.join(names)
    )
    taken = comma.join(sql.SQL("{0} = news.{0}").format(name) for name in names)
    update = sql.SQL("UPDATE {} AS own SET {} FROM {} AS news WHERE own.{} = news.{}").format(
        *(target, taken, news, sql.Identifier(key.name), id_)
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


def _table(
    connection: Connection[Any], source: PgvectorSource
) -> tuple[Composed, dict[str, _Column]]:
    """Return a table as it stands in statements, and its columns."""
    from psycopg import sql

    name = sql.SQL(".").join(map(sql.Identifier, source.table.split(".", maxsplit=1)))
    found = connection.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [name.as_string(connection)],
    ).fetchall()
    if not found:
        raise InvalidError(f"there is no table {source.table}", loc=["source", "pgvector", "table"])
    return name, {each: _column(each, kind) for each, kind in found}


def _column(name: str, kind: str) -> _Column:
    if kind.rpartition(".")[2] in _VECTORS:
        return _Column(name, kind, "bytea", pa.list_(pa.float32()))
    return _Column(name, kind, *_TYPES.get(kind, _TEXT))


def _chosen(source: PgvectorSource, version: Version, known: dict[str, _Column]) -> list[_Column]:
    """Return the columns that are read: id, vectors and payload."""
    vectors = version.vector_columns
    needed = [version.id_column, *vectors]
    others = [name for name, each in known.items() if each.sent_as != "bytea"]
    payload = others if source.payload is None else source.payload
    names = list(dict.fromkeys([*needed, *payload]))
    for name in names:
        if name not in known:
            raise InvalidError(
                f"{source.table} has no column {name}, it has {', '.join(list(known)[:20])}",
                loc=["source", "pgvector"],
            )
    for name in vectors:
        if known[name].sent_as != "bytea":
            raise InvalidError(
                f"{source.table}.{name} is {known[name].type}, a vector or halfvec expected",
                loc=["features"],
            )
    return [known[name] for name in names]


def _select(table: Composed, columns: Sequence[_Column]) -> Composed:
    from psycopg import sql

    parts = []
    for each in columns:
        kind, name = each.type.rpartition(".")[2], sql.Identifier(each.name)
        if kind in _VECTORS:
            parts.append(sql.SQL("{}({})").format(sql.Identifier(f"{kind}_send"), name))
        else:
            parts.append(sql.SQL("{}::{}").format(name, sql.SQL(each.sent_as)))
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT BINARY)")
    return query.format(sql.SQL(", ").join(parts), table)


def _batch(columns: Sequence[_Column], rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    arrays = []
    for each, cells in zip(columns, zip(*rows, strict=True), strict=True):
        kind = each.type.rpartition(".")[2]
        is_vector = kind in _VECTORS
        arrays.append(_vectors(cells, _VECTORS[kind]) if is_vector else pa.array(cells, each.arrow))
    return pa.record_batch(arrays, [each.name for each in columns])


def _vectors(cells: Sequence[bytes | None], dtype: str) -> pa.Array:
    parts = [np.frombuffer(cell or b"", dtype, offset=_HEADER_BYTES if cell else 0)
             for cell in cells]  # fmt: skip
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int32)
    values = np.concatenate([np.empty(0, np.float32), *parts]).astype(np.float32)
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


def _add(
    connection: Connection[Any],
    target: Composed,
    source: PgvectorSource,
    missing: Mapping[str, str],
    *,
    add_columns: bool,
) -> None:
    from psycopg import sql

    if missing and not add_columns:
        raise InvalidError(
            f"{source.table} has no column {next(iter(missing))}",
            loc=["columns"],
            hint="add_columns: true adds it",
        )
    for name, kind in missing.items():
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}").format(
                target, sql.Identifier(name), sql.SQL(kind)
            )
        )
