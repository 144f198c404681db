"""The catalog port: records that several servers read, change, and take turns at.

A record is a JSON object with an id, in a namespace, of a kind: a cluster definition, an
execution, a task, a trigger, a token. What has to be done at a time has a `due_at`. Whoever
takes it up moves that time on, for as long as it should take, and again while it is at work; so
what a dead server left undone is due again by itself. Changes compare the version that was read,
so a server that was taken for dead finds that out when it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol, TypeAlias

from gpucluster.sources.filters import Filters

Clock: TypeAlias = Callable[[], datetime]  # aware, UTC


def utc_now() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


class Taken(Exception):  # noqa: N818 - it says what happened, as FileExistsError does
    """A record with that id, or that name, is there already."""


class Changed(Exception):  # noqa: N818
    """The record is not what was read: somebody changed or removed it meanwhile."""


class Full(Exception):  # noqa: N818
    """The database could not be written to in time, or has no room."""


class NoRoom(Full):
    """The disk of the database is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing that the service knows.

    Attributes
    ----------
    ns : str
        Its namespace; empty for what belongs to the whole service.
    kind : str
        Such as ``cluster`` or ``execution``.
    id : str
        Unique in its namespace and kind.
    body : mapping
        JSON values. What lists filter and sort by is looked up here, by dot paths.
    name : str, optional
        Another unique key, that people gave it.
    status : str, optional
        Counted by `Transaction.summary`.
    parent : str, optional
        Id of what it belongs to: the cluster of an execution.
    text : str
        What a search looks in, besides id and name.
    due_at : datetime, optional
        When somebody has to see to it.
    created_at, updated_at : datetime
        Set by the catalog.
    version : int
        How often it was written; 0: never yet.
    """

    ns: str
    kind: str
    id: str
    body: Mapping[str, Any]
    name: str | None = None
    status: str | None = None
    parent: str | None = None
    text: str = ""
    due_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which records are meant, and in which order.

    Attributes
    ----------
    filters : Filters, optional
        Conditions on fields: dot paths into the body, or one of `COLUMNS`.
    search : str, optional
        Text that id, name or text contains; case does not count.
    parent, status : str, optional
        Only those.
    sort : str
        A field, as in `filters`; records without it come last.
    direction : {"asc", "desc"}
        Of `sort`; equal ones follow their ids in the same direction.
    limit : int
        Records of a page.
    offset : int
        Records that are skipped.
    cursor : str, optional
        Where the page before ended, instead of `offset`; ``ConfigError`` where it is none.
    """

    filters: Filters | None = None
    search: str | None = None
    parent: str | None = None
    status: str | None = None
    sort: str = "created_at"
    direction: Literal["asc", "desc"] = "desc"
    limit: int = 50
    offset: int = 0
    cursor: str | None = None


COLUMNS = ("id", "name", "status", "parent", "created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class Page:
    """Records in order, and the cursor of the next page where there is one."""

    records: Sequence[Record]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Summary:
    """How many records there are, by status, and sums of numbers in their bodies."""

    count: int
    by_status: Mapping[str, int]
    sums: Mapping[str, float] = field(default_factory=dict)


class Transaction(Protocol):
    """Reads and writes that happen together, or not at all.

    Two that write go one after the other where they meet; both see what was there before.
    """

    def create(self, record: Record) -> Record:
        """Add a record; `Taken` where its id or name is."""

    def get(self, ns: str, kind: str, id: str) -> Record | None:  # noqa: A002 - the field's word
        """Return a record, or None."""

    def find(self, ns: str, kind: str, name: str) -> Record | None:
        """Return the record of that name, or None."""

    def replace(self, record: Record) -> Record:
        """Write a record anew, version and times apart.

        `Changed` where its version is not that of the one that is there; `Taken` where another
        one has its name.
        """

    def delete(self, ns: str, kind: str, id: str) -> bool:  # noqa: A002
        """Remove a record, and say whether there was one."""

    def page(self, ns: str, kind: str, query: Query) -> Page:
        """Return a page of records."""

    def summary(self, ns: str, kind: str, query: Query, sums: Iterable[str] = ()) -> Summary:
        """Count all that are meant, whatever the page, and add up fields of their bodies."""

    def claim(
        self,
        kind: str,
        *,
        hold: timedelta,
        limit: int = 1,
        status: str | None = None,
        filters: Filters | None = None,
    ) -> list[Record]:
        """Take up records of any namespace that are due, those first that were due first.

        Their `due_at` moves to now and `hold`: until then nobody else gets them. Whoever has one
        moves it further by `replace`, or takes the time away.
        """

    def next_due(self, kind: str) -> datetime | None:
        """Return when the next record of a kind is due."""

    def count_due(self, kind: str, field: str) -> Mapping[tuple[str | None, str | None], int]:
        """Count records of any namespace that have a due time, by status and a text in the body."""

    def prune(self, kind: str, *, before: datetime, limit: int, keep: Collection[str] = ()) -> int:
        """Remove records of any namespace that were last written before a time, the oldest first.

        Those of a status that is to be kept stay. Returns how many went: `limit` of them at most.
        """

    def counter(self, name: str, add: int = 1) -> int:
        """Add to a number that only grows, such as that of events, and return it."""


class Catalog(Protocol):
    """Where records are kept; safe to use from several threads, and several servers."""

    clock: Clock

    def reading(self) -> AbstractContextManager[Transaction]:
        """Begin a transaction that only reads, from one state."""

    def writing(self) -> AbstractContextManager[Transaction]:
        """Begin one that writes; leaving it commits, and it is on the disk then.

        An exception undoes all of it. `Full` where the database is busy for too long.
        """

    def close(self) -> None:
        """Let go of all connections."""
