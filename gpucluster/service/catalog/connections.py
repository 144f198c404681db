"""A catalog over connections to a database, and what a database has to offer for that."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Protocol

from gpucluster.errors import InternalError
from gpucluster.service.catalog.dialect import Dialect
from gpucluster.service.catalog.port import Clock, Full
from gpucluster.service.catalog.schema import migrate
from gpucluster.service.catalog.statements import Execute, Row, SqlTransaction

PATIENCE_S = 30.0  # how long a transaction waits for its turn
RETURN_S = 10.0  # how long for a database that is being started again
MAX_CONNECTIONS = 16


class Connection(Protocol):
    """What drivers agree on, each statement a transaction of its own unless one was begun."""

    def execute(self, statement: Any, values: Any = ..., /) -> Any:
        """Run a statement."""

    def close(self) -> None:
        """Let go."""


class Database(Protocol):
    """A kind of database at one address.

    Attributes
    ----------
    where : str
        The address, without secrets.
    dialect : Dialect
    words : mapping
        Its words in `gpucluster.service.catalog.schema`.
    errors : type
        The root of what its driver raises.
    """

    where: str
    dialect: ClassVar[Dialect]
    words: ClassVar[Mapping[str, str]]
    errors: type[Exception]

    def connect(self) -> Connection:
        """Open a connection."""

    def begin(self, connection: Connection, *, writes: bool) -> None:
        """Begin a transaction; one that writes has the database to itself."""

    def run(self, connection: Connection, statement: str, values: dict[str, Any]) -> list[Row]:
        """Run a statement whose values stand as ``:name``, and return its rows."""

    def undo(self, connection: Connection) -> None:
        """Undo a transaction, where one is still there."""

    def is_gone(self, error: Exception) -> bool:
        """Return whether a connection was lost, or not made, so that a new one may help."""

    def refusal(self, error: Exception) -> Exception:
        """Return what an error of the driver means."""


class SqlCatalog:
    """Records in a database; see `gpucluster.service.catalog.port.Catalog`.

    Parameters
    ----------
    database : Database
    clock : callable

    Raises
    ------
    StoreError, Full
        The database cannot be reached or written to.
    SchemaTooNewError
        A newer version of gpucluster has been there.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self.clock = clock
        self._database = database
        self._idle: list[Connection] = []
        self._is_closed = False
        self._lent = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._turn = threading.Lock()  # of writers: where they wait for the database, they poll
        self._thread = threading.local()
        self._return_s = 0.0  # a database that was never there need not be waited for
        try:
            with self._begun(writes=True) as execute:
                migrate(lambda statement: execute(statement, {}), database.words, database.where)
        except BaseException:
            self.close()
            raise
        self._return_s = RETURN_S

    @contextmanager
    def reading(self) -> Iterator[SqlTransaction]:
        """Begin a transaction that only reads, from one state."""
        with self._begun(writes=False) as execute:
            yield SqlTransaction(execute, self._database.dialect, self.clock, writes=False)

    @contextmanager
    def writing(self) -> Iterator[SqlTransaction]:
        """Begin one that writes; leaving it commits, and it is on the disk then."""
        if getattr(self._thread, "writes", False):
            raise InternalError("a transaction that writes was begun within another one")
        if not self._turn.acquire(timeout=PATIENCE_S):
            raise Full(f"{self._database.where}: no turn to write for {PATIENCE_S:g} s")
        self._thread.writes = True
        try:
            with self._begun(writes=True) as execute:
                yield SqlTransaction(execute, self._database.dialect, self.clock, writes=True)
        finally:
            self._thread.writes = False
            self._turn.release()

    def close(self) -> None:
        """Let go of all connections."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def _begun(self, *, writes: bool) -> Iterator[Execute]:
        """Begin a transaction, give what runs its statements, and end it."""
        if not self._lent.acquire(timeout=PATIENCE_S):
            raise Full(f"{self._database.where}: no connection was free for {PATIENCE_S:g} s")
        try:
            connection = self._take(writes=writes, until=time.monotonic() + self._return_s)
            failures: list[Exception] = []

            def execute(statement: str, values: dict[str, Any]) -> list[Row]:
                try:
                    return self._database.run(connection, statement, values)
                except self._database.errors as error:
                    failures.append(self._database.refusal(error))
                    raise failures[0] from error

            try:
                yield execute
                _raise_first(failures)  # whoever caught it has not written what they think
                execute("COMMIT", {})
            except BaseException:
                self._undo(connection)
                raise
            self._give_back(connection)
        finally:
            self._lent.release()

    def _take(self, *, writes: bool, until: float) -> Connection:
        """Return a connection on which a transaction has begun; lost ones are made anew."""
        while True:
            connection, is_known = None, False
            try:
                with suppress(IndexError):
                    connection, is_known = self._idle.pop(), True
                connection = connection or self._database.connect()
                self._database.begin(connection, writes=writes)
            except self._database.errors as error:
                if connection is not None:
                    connection.close()
                if not self._database.is_gone(error):
                    raise self._database.refusal(error) from error
                if not is_known and time.monotonic() >= until:
                    raise self._database.refusal(error) from error
                time.sleep(0.0 if is_known else 0.1)
            else:
                return connection

    def _undo(self, connection: Connection) -> None:
        try:
            self._database.undo(connection)
        except self._database.errors:  # lost: the database undoes it
            connection.close()
        else:
            self._give_back(connection)

    def _give_back(self, connection: Connection) -> None:
        if self._is_closed:
            connection.close()
        else:
            self._idle.append(connection)


def _raise_first(failures: list[Exception]) -> None:
    if failures:
        raise failures[0]
