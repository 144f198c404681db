"""A catalog in memory: the port's promises in a few lines, for tests of what is built on it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from gpucluster.service.catalog.port import (
    Changed,
    Page,
    Query,
    Record,
    Summary,
    Taken,
    Transaction,
    utc_now,
)


class MemoryCatalog:
    """Records in a dict; one transaction at a time, and nothing of one that failed."""

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self.clock = clock
        self.records: dict[tuple[str, str, str], Record] = {}
        self._counters: dict[str, int] = {}
        self._lock = threading.RLock()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        with self._lock:
            before = dict(self.records), dict(self._counters)
            try:
                yield _Transaction(self)
            except BaseException:
                self.records, self._counters = before
                raise

    reading = writing

    def close(self) -> None:
        pass


class _Transaction:
    def __init__(self, catalog: MemoryCatalog) -> None:
        self._it = catalog

    def create(self, record: Record) -> Record:
        if self.get(record.ns, record.kind, record.id) or self._named(record):
            raise Taken
        now = self._it.clock()
        return self._put(replace(record, version=1, created_at=now, updated_at=now))

    def get(self, ns: str, kind: str, id: str) -> Record | None:  # noqa: A002
        found = self._it.records.get((ns, kind, id))
        return copy.deepcopy(found)

    def find(self, ns: str, kind: str, name: str) -> Record | None:
        return next((each for each in self._of(ns, kind) if each.name == name), None)

    def replace(self, record: Record) -> Record:
        found = self.get(record.ns, record.kind, record.id)
        if found is None or found.version != record.version:
            raise Changed
        if self._named(record):
            raise Taken
        now, created = self._it.clock(), found.created_at
        it = replace(record, version=found.version + 1, created_at=created, updated_at=now)
        return self._put(it)

    def delete(self, ns: str, kind: str, id: str) -> bool:  # noqa: A002
        return self._it.records.pop((ns, kind, id), None) is not None

    def page(self, ns: str, kind: str, query: Query) -> Page:
        found = self._meant(ns, kind, query)
        found.sort(
            key=lambda it: (getattr(it, query.sort), it.id), reverse=query.direction == "desc"
        )
        start = int(query.cursor) if query.cursor else query.offset
        end = start + query.limit
        return Page(found[start:end], str(end) if end < len(found) else None)

    def summary(self, ns: str, kind: str, query: Query, sums=()) -> Summary:
        found = self._meant(ns, kind, query)
        statuses = [it.status for it in found if it.status]
        return Summary(len(found), {each: statuses.count(each) for each in statuses})

    def claim(
        self, kind: str, *, hold: timedelta, limit: int = 1, status: str | None = None
    ) -> list[Record]:
        now = self._it.clock()
        due = [it for it in self._due(kind) if it.due_at <= now and status in {None, it.status}]
        return [self.replace(replace(it, due_at=now + hold)) for it in due[:limit]]

    def next_due(self, kind: str) -> datetime | None:
        return next((it.due_at for it in self._due(kind)), None)

    def counter(self, name: str, add: int = 1) -> int:
        self._it._counters[name] = self._it._counters.get(name, 0) + add
        return self._it._counters[name]

    def _put(self, record: Record) -> Record:
        self._it.records[record.ns, record.kind, record.id] = copy.deepcopy(record)
        return record

    def _of(self, ns: str, kind: str) -> list[Record]:
        found = [it for key, it in self._it.records.items() if key[:2] == (ns, kind)]
        return copy.deepcopy(found)

    def _named(self, record: Record) -> bool:
        other = self.find(record.ns, record.kind, record.name) if record.name else None
        return other is not None and other.id != record.id

    def _meant(self, ns: str, kind: str, query: Query) -> list[Record]:
        assert query.filters is None
        assert query.search is None
        found = self._of(ns, kind)
        found = [it for it in found if query.parent in {None, it.parent}]
        return [it for it in found if query.status in {None, it.status}]

    def _due(self, kind: str) -> list[Record]:
        found = [it for it in self._it.records.values() if it.kind == kind and it.due_at]
        return sorted(found, key=lambda it: it.due_at)
