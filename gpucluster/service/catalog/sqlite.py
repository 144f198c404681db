"""The catalog in a SQLite file on a disk of this machine: readers beside one writer."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from gpucluster.errors import ConfigError, InternalError, PermissionRefusedError, StoreError
from gpucluster.service.catalog.connections import PATIENCE_S, Connection, SqlCatalog
from gpucluster.service.catalog.dialect import Bind, Dialect, Element
from gpucluster.service.catalog.folding import fold
from gpucluster.service.catalog.port import Clock, Full, NoRoom
from gpucluster.service.catalog.rows import encode_texts, label
from gpucluster.service.catalog.statements import Row

MOUNTS = Path("/proc/self/mounts")
NETWORKS = (
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
    "nfs4", "smb3", "smbfs",
)  # fmt: skip
LOCAL_FUSE = "fuse.fuse-overlayfs"  # the root of containers that have none of their own

SETTINGS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)
MEANINGS: dict[int, type[Exception]] = {
    sqlite3.SQLITE_BUSY: Full,
    sqlite3.SQLITE_FULL: NoRoom,
    sqlite3.SQLITE_LOCKED: Full,
    sqlite3.SQLITE_PERM: PermissionRefusedError,
    sqlite3.SQLITE_READONLY: PermissionRefusedError,
    sqlite3.SQLITE_CANTOPEN: StoreError,
    sqlite3.SQLITE_CORRUPT: StoreError,
    sqlite3.SQLITE_IOERR: StoreError,
    sqlite3.SQLITE_NOTADB: StoreError,
    sqlite3.SQLITE_PROTOCOL: Full,
}


def open_sqlite(path: Path, clock: Clock) -> SqlCatalog:
    """Open the catalog in a file, which is made where there is none.

    Parameters
    ----------
    path : Path
    clock : callable

    Returns
    -------
    SqlCatalog

    Raises
    ------
    ConfigError
        The file would lie on a network file system.
    StoreError, Full, SchemaTooNewError
        See `SqlCatalog`.
    """
    path = path.expanduser().resolve()
    kind = file_system(path)
    if kind != LOCAL_FUSE and kind.partition(".")[0] in NETWORKS:
        raise ConfigError(
            f"{path} lies on {kind}; SQLite needs a disk of this machine",
            path="catalog",
            got=str(path),
            hint="point GPUCLUSTER_STATE_DIR to a folder on a local disk, or use PostgreSQL",
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # hashes of tokens are in there
    except OSError as error:
        kind_of = PermissionRefusedError if isinstance(error, PermissionError) else StoreError
        raise kind_of(f"{path}: {error.strerror}") from error
    return SqlCatalog(Sqlite(path), clock)


def file_system(path: Path, mounts: Path | None = None) -> str:
    """Return the type of the file system that a path is or will be on; empty where unknown."""
    try:
        lines = (mounts or MOUNTS).read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    best, found = -1, ""
    for line in lines:
        place, kind = line.split(" ")[1:3]
        place = place.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\134", "\\")
        if path.is_relative_to(place) and len(place) >= best:  # what is mounted later lies above
            best, found = len(place), kind
    return found


class SqliteDialect:
    """SQL of SQLite; see `gpucluster.service.catalog.dialect.Dialect`."""

    position = "instr"
    fold = "gpucluster_fold"
    element = Element(
        "CASE e.type WHEN 'text' THEN e.atom END",
        "CASE WHEN e.type IN ('integer', 'real') THEN CAST(e.atom AS REAL) END",
        "CASE WHEN e.type IN ('true', 'false') THEN e.atom END",
    )

    def is_there(self, path: Sequence[str], bind: Bind) -> str:
        """Return whether a field has a value that is not null."""
        return f"json_type(b.body, {_path(path, bind)}) <> 'null'"

    def text(self, path: Sequence[str], bind: Bind) -> str:
        """Return the text that a field holds."""
        return self._of_type(("text",), path, bind)

    def number(self, path: Sequence[str], bind: Bind) -> str:
        """Return the number that it holds, as a double."""
        return f"CAST({self._of_type(('integer', 'real'), path, bind)} AS REAL)"

    def boolean(self, path: Sequence[str], bind: Bind) -> str:
        """Return the boolean that it holds."""
        return self._of_type(("true", "false"), path, bind)

    def elements(self, path: Sequence[str], bind: Bind) -> str:
        """Return a table of the elements of the list that it holds."""
        where = _path(path, bind)
        body = f"CASE json_type(b.body, {where}) WHEN 'array' THEN b.body END"
        return f"json_each({body}, {where}) e"

    def double(self, number: str, bind: Bind) -> str:
        """Return a number as SQLite reads it in JSON, which may differ from Python in a bit."""
        return f"CAST({bind(number)} AS REAL)"

    def among(self, expression: str, values: Sequence[Any], bind: Bind) -> str:
        """Return whether an expression is one of many texts."""
        return f"{expression} IN (SELECT value FROM json_each({bind(encode_texts(values))}))"

    def _of_type(self, types: Sequence[str], path: Sequence[str], bind: Bind) -> str:
        where = _path(path, bind)
        meant = ", ".join(f"'{kind}'" for kind in types)
        return (
            f"CASE WHEN json_type(b.body, {where}) IN ({meant})"
            f" THEN json_extract(b.body, {where}) END"
        )


def _path(path: Sequence[str], bind: Bind) -> str:
    return bind("$" + "".join(f'."{label(key)}"' for key in path))


class Sqlite:
    """A SQLite file; see `gpucluster.service.catalog.connections.Database`.

    Parameters
    ----------
    path : Path
    """

    dialect: ClassVar[Dialect] = SqliteDialect()
    words: ClassVar[Mapping[str, str]] = {
        "key": "INTEGER PRIMARY KEY",
        "text": "TEXT",
        "json": "",
        "functions": "SELECT 1",  # they belong to connections
        "folded_index": "SELECT 1",  # which an index cannot call
    }
    errors: type[Exception] = sqlite3.Error

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._is = _identity(path)

    def connect(self) -> Connection:
        """Open a connection."""
        connection = sqlite3.connect(
            self.where, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._begin_log(connection)
            for setting in SETTINGS:
                connection.execute(setting)
            connection.create_function(SqliteDialect.fold, 1, _fold, deterministic=True)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def begin(self, connection: Connection, *, writes: bool) -> None:
        """Begin a transaction, unless others would not see it: the file has to be there still."""
        if _identity(Path(self.where)) != self._is:
            raise StoreError(
                f"{self.where} was removed or replaced while it was open",
                hint="put it back and start the server again",
            )
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    def undo(self, connection: Connection) -> None:
        """Undo a transaction, where SQLite has not done so by itself."""
        if cast("sqlite3.Connection", connection).in_transaction:
            connection.execute("ROLLBACK")

    def run(self, connection: Connection, statement: str, values: dict[str, Any]) -> list[Row]:
        """Run a statement and return its rows."""
        rows: list[Row] = connection.execute(statement, values).fetchall()
        return rows

    def is_gone(self, error: Exception) -> bool:
        """Return False: a file does not go away."""
        return False

    def refusal(self, error: Exception) -> Exception:
        """Return what an error of SQLite means."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        meaning = MEANINGS.get(code, InternalError)
        return meaning(f"{self.where}: {error}")

    def _begin_log(self, connection: sqlite3.Connection) -> None:
        """Let readers read while one writes; it takes a lock that SQLite does not wait for."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                ((mode,),) = connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > until:
                    raise
                time.sleep(0.01)
            else:
                break
        if mode != "wal":
            raise StoreError(
                f"{self.where}: SQLite cannot keep a write-ahead log there",
                hint="point GPUCLUSTER_STATE_DIR to a folder on a local disk",
            )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _fold(text: str | None) -> str | None:
    return None if text is None else fold(text)
