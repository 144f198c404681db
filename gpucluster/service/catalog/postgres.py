"""The catalog in PostgreSQL: several servers, each transaction that writes after the other.

One lock for all that write gives them what SQLite gives: what one has read is still so when it
writes, no two wait for each other, and no claim meets another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, cast

from gpucluster.errors import (
    BackendUnavailableError,
    ConfigError,
    InternalError,
    PermissionRefusedError,
    StoreError,
)
from gpucluster.service.catalog.connections import PATIENCE_S, Connection, SqlCatalog
from gpucluster.service.catalog.dialect import Bind, Dialect, Element
from gpucluster.service.catalog.folding import pairs
from gpucluster.service.catalog.port import Clock, Full, NoRoom
from gpucluster.service.catalog.statements import Row

if TYPE_CHECKING:
    from psycopg.rows import TupleRow

OLDEST = 14
LOCK = 0x6770_636C  # "gpcl", among the locks of whoever else uses the database
LIMIT_MS = round(PATIENCE_S * 1000)
LIMITS = (
    f"SET LOCAL statement_timeout = {LIMIT_MS}; SET LOCAL lock_timeout = {LIMIT_MS};"
    f" SET LOCAL idle_in_transaction_session_timeout = {2 * LIMIT_MS}"  # a server that is no more
)
BEGIN = {
    False: f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {LIMITS}",
    True: f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {LIMITS};"
    f" SELECT pg_advisory_xact_lock({LOCK})",
}
BUSY = ("53", "57014", "55P03", "40")  # no room, took too long, no lock in time, a deadlock
LOST = ("08", "57P", "25P03")  # no connection, a server that ends, a transaction that idled
OF_SERVER = (*BUSY, *LOST, "42501", "25006")  # not allowed, and a standby that only reads


def open_postgres(url: str, clock: Clock) -> SqlCatalog:
    """Open the catalog in a database, whose tables are made where there are none.

    Parameters
    ----------
    url : str
    clock : callable

    Returns
    -------
    SqlCatalog

    Raises
    ------
    ConfigError
        The address is none, or the database cannot hold it.
    StoreError, Full, SchemaTooNewError
        See `SqlCatalog`.
    """
    return SqlCatalog(Postgres(url), clock)


def _text(node: str) -> str:
    inner = f"({node} #>> '{{}}') COLLATE \"C\""
    return f"(CASE jsonb_typeof({node}) WHEN 'string' THEN {inner} END)"


def _number(node: str) -> str:
    return f"(CASE jsonb_typeof({node}) WHEN 'number' THEN ({node})::float8 END)"


def _boolean(node: str) -> str:
    return f"(CASE jsonb_typeof({node}) WHEN 'boolean' THEN ({node})::boolean END)"


class PostgresDialect:
    """SQL of PostgreSQL; see `gpucluster.service.catalog.dialect.Dialect`."""

    position = "strpos"
    fold = "gpucluster_fold"
    element = Element(_text("e.value"), _number("e.value"), _boolean("e.value"))

    def is_there(self, path: Sequence[str], bind: Bind) -> str:
        """Return whether a field has a value that is not null."""
        return f"jsonb_typeof({_node(path, bind)}) <> 'null'"

    def text(self, path: Sequence[str], bind: Bind) -> str:
        """Return the text that a field holds, ordered by code points."""
        return _text(_node(path, bind))

    def number(self, path: Sequence[str], bind: Bind) -> str:
        """Return the number that it holds, as a double."""
        return _number(_node(path, bind))

    def boolean(self, path: Sequence[str], bind: Bind) -> str:
        """Return the boolean that it holds."""
        return _boolean(_node(path, bind))

    def elements(self, path: Sequence[str], bind: Bind) -> str:
        """Return a table of the elements of the list that it holds."""
        node = _node(path, bind)
        lists = f"CASE jsonb_typeof({node}) WHEN 'array' THEN {node} END"
        return f"jsonb_array_elements({lists}) AS e (value)"

    def double(self, number: str, bind: Bind) -> str:
        """Return a number that Python wrote."""
        return bind(float(number))

    def among(self, expression: str, values: Sequence[Any], bind: Bind) -> str:
        """Return whether an expression is one of many texts."""
        return f"{expression} = ANY({bind(tuple(values))}::text[])"


def _node(path: Sequence[str], bind: Bind) -> str:
    """Return the JSON at a path: key by key, so that numbers do not lead into arrays."""
    return "(b.fields" + "".join(f" -> {bind(key)}::text" for key in path) + ")"


def _functions() -> str:
    upper, lower = pairs()
    ascii_lower = 'lower(given COLLATE "C")'  # which knows ASCII alone, wherever the server is
    return f"""
        CREATE FUNCTION gpucluster_fold(given text) RETURNS text
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
            SELECT CASE WHEN octet_length(given) = char_length(given) THEN {ascii_lower}
                ELSE translate({ascii_lower}, '{upper}', '{lower}') END
        $$
    """


class Postgres:
    """A database; see `gpucluster.service.catalog.connections.Database`.

    Parameters
    ----------
    url : str
    """

    dialect: ClassVar[Dialect] = PostgresDialect()
    words: ClassVar[Mapping[str, str]] = {
        "key": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "text": 'TEXT COLLATE "C"',
        "json": ", fields JSONB NOT NULL GENERATED ALWAYS AS (body::jsonb) STORED",
        "functions": _functions(),
        # for filters by status, in which case does not count
        "folded_index": """
            CREATE INDEX gpucluster_by_folded_status ON gpucluster_records
            (ns, kind, gpucluster_fold(status), created_at, id) WHERE status IS NOT NULL
        """,
    }

    def __init__(self, url: str) -> None:
        try:
            import psycopg
            from psycopg import conninfo
        except ImportError as missing:
            raise BackendUnavailableError(
                "a catalog in PostgreSQL needs psycopg", hint="pip install 'gpucluster[postgres]'"
            ) from missing
        self.errors: type[Exception] = psycopg.Error
        try:
            parts = conninfo.conninfo_to_dict(url, application_name="gpucluster")
        except psycopg.ProgrammingError:
            raise ConfigError(
                "the address of PostgreSQL cannot be read",
                path="catalog",
                expected="postgresql://user:password@host:5432/database",
            ) from None  # which would show the password
        self._parts = {"connect_timeout": 10, **parts}
        host, name = parts.get("host") or "localhost", parts.get("dbname") or ""
        self.where = f"postgresql://{host}/{name}"

    def connect(self) -> Connection:
        """Open a connection."""
        import psycopg

        connection = psycopg.connect(
            autocommit=True,
            **self._parts,  # type: ignore[arg-type]
        )
        version = connection.info.server_version
        encoding = connection.info.parameter_status("server_encoding")
        if version < OLDEST * 10_000 or encoding != "UTF8":
            connection.close()
            raise ConfigError(
                f"{self.where} is PostgreSQL {version // 10_000} with {encoding}",
                path="catalog",
                expected=f"PostgreSQL {OLDEST} or newer with UTF8",
            )
        return cast("Connection", connection)

    def begin(self, connection: Connection, *, writes: bool) -> None:
        """Begin a transaction; one that writes waits until no other one does."""
        connection.execute(BEGIN[writes])

    def undo(self, connection: Connection) -> None:
        """Undo a transaction."""
        connection.execute("ROLLBACK")

    def run(self, connection: Connection, statement: str, values: dict[str, Any]) -> list[Row]:
        """Run a statement and return its rows."""
        bound = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        cursor = connection.execute(_in_driver_style(statement), bound or None)
        found: list[TupleRow] = cursor.fetchall() if cursor.description else []
        return cast("list[Row]", found)

    def is_gone(self, error: Exception) -> bool:
        """Return whether the server ended, or is not there."""
        state = _state(error)
        return state is not None and (not state or state.startswith(LOST))

    def refusal(self, error: Exception) -> Exception:
        """Return what an error of PostgreSQL means."""
        state = _state(error)
        said = str(error).strip().splitlines() or [type(error).__name__]
        message = f"{self.where}: {said[0]}"
        if state is None:
            return InternalError(message)
        if state == "53100":
            return NoRoom(message)
        if state.startswith(BUSY):
            return Full(message)
        if self.is_gone(error):
            return StoreError(message, hint="is the server of the database there?")
        if state == "42501":
            return PermissionRefusedError(message)
        return StoreError(message)


def _state(error: Exception) -> str | None:
    """Return the code of what is wrong with the server; None where the statement is at fault."""
    import psycopg

    state = getattr(error, "sqlstate", None) or ""
    of_server = isinstance(error, psycopg.OperationalError) or state.startswith(OF_SERVER)
    return state if of_server else None


@lru_cache(maxsize=512)
def _in_driver_style(statement: str) -> str:
    """Return a statement with values as ``%(name)s``."""
    return re.sub(r"(?<!:):([a-z]\w*)", r"%(\1)s", statement.replace("%", "%%"))
