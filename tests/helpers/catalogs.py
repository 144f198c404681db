"""Records as a test makes them, and what filters mean for them, in plain Python."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.service.catalog.port import Catalog, Query, Record, Transaction
from gpucluster.sources.filters import Condition, Filters

BEGIN = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float = 1.0) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


class Undo(Exception):  # noqa: N818
    pass


@contextmanager
def undone(catalog: Catalog) -> Iterator[Transaction]:
    """Write, and leave nothing."""
    try:
        with catalog.writing() as transaction:
            yield transaction
            raise Undo  # noqa: TRY301
    except Undo:
        pass


def record(key: str = "a", **changes: Any) -> Record:
    return Record(**{"ns": "n", "kind": "k", "id": key, "body": {}, **changes})


def add(catalog: Catalog, *records: Record) -> list[Record]:
    with catalog.writing() as transaction:
        return [transaction.create(each) for each in records]


def assert_whole(url: str) -> None:
    """Let SQLite look at all of its file."""
    if not url.startswith("postgres"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def walk(transaction: Transaction, query: Query, ns: str = "n") -> Iterator[list[str]]:
    """Give the ids of each page."""
    while True:
        page = transaction.page(ns, "k", query)
        yield [each.id for each in page.records]
        if page.next_cursor is None:
            return
        query = Query(
            filters=query.filters, search=query.search, parent=query.parent, status=query.status,
            sort=query.sort, direction=query.direction, limit=query.limit, cursor=page.next_cursor,
        )  # fmt: skip


def holds(filters: Filters, of: Record, *, case: bool = False) -> bool:
    """Return whether filters hold for a record."""
    case = case if filters.case_sensitive is None else filters.case_sensitive

    def one(item: Condition | Filters) -> bool:
        if isinstance(item, Filters):
            return holds(item, of, case=case)
        return condition_holds(item, value_of(of, item.field), case=case)

    return (
        all(map(one, filters.AND))
        and (not filters.OR or any(map(one, filters.OR)))
        and not any(map(one, filters.NOT))
    )


def value_of(of: Record, name: str) -> Any:
    if name in {"id", "name", "status", "parent", "created_at", "updated_at"}:
        return getattr(of, name)
    found: Any = of.body
    for key in name.split("."):
        found = found.get(key) if isinstance(found, dict) and key else None
    return found


def condition_holds(condition: Condition, value: Any, *, case: bool) -> bool:
    operator, given = condition.operator, condition.value
    if operator in {"exists", "is_null"}:
        return ((value is None) == (operator == "is_null")) == given
    if operator in {"ne", "nin"}:
        contrary = {"ne": "eq", "nin": "in"}[operator]
        return not compared(contrary, value, given, case=case)
    return compared(operator, value, given, case=case)


def compared(operator: str, value: Any, given: Any, *, case: bool) -> bool:
    if isinstance(value, list):
        asked = {"contains": "eq", "in": "in"}.get(operator)
        return asked is not None and any(
            compared_plain(asked, one, given, case=case) for one in value
        )
    return compared_plain(operator, value, given, case=case)


def compared_plain(operator: str, value: Any, given: Any, *, case: bool) -> bool:
    if operator == "in":
        return any(compared_plain("eq", value, one, case=case) for one in given)
    if isinstance(value, datetime):
        if not isinstance(given, str) or operator not in {"eq", "gt", "gte", "lt", "lte"}:
            return False
        given = datetime.fromisoformat(given)
        given = given if given.tzinfo else given.replace(tzinfo=UTC)
        return in_order(operator, value, given)
    if type_of(value) != type_of(given) or type_of(value) == "other":
        return False
    if type_of(value) == "number":
        return in_order(operator, float(value), float(given))
    if type_of(value) == "boolean":
        return operator == "eq" and value == given
    if isinstance(value, str) and operator not in {"gt", "gte", "lt", "lte", "regex"} and not case:
        value, given = lowered(value), lowered(given)
    if operator == "contains":
        return given in value
    if operator == "starts_with":
        return value.startswith(given)
    if operator == "ends_with":
        return value.endswith(given)
    if operator == "regex":
        found = pc.match_substring_regex(pa.array([value]), given, ignore_case=not case)
        return found[0].as_py()
    if operator == "text":
        return all(has_word(value, word) for word in given.split())
    return in_order(operator, value, given)


def in_order(operator: str, value: Any, given: Any) -> bool:
    return {
        "eq": value == given, "gt": value > given, "gte": value >= given, "lt": value < given,
        "lte": value <= given,
    }.get(operator, False)  # fmt: skip


def type_of(value: Any) -> str:
    kinds = {bool: "boolean", int: "number", float: "number", str: "text"}
    return kinds.get(type(value), "other")


def lowered(text: str) -> str:
    return "".join(one.lower()[0] for one in text)


def has_word(text: str, word: str) -> bool:
    starts = [n for n in range(len(text)) if text.startswith(word, n)]
    return any(
        not is_of_words(text[n - 1 : n]) and not is_of_words(text[n + len(word) :][:1])
        for n in starts
    )


def is_of_words(one: str) -> bool:
    return one == "_" or (one != "" and unicodedata.category(one)[0] in "LMN")


def sort_key(of: Record, name: str, direction: str) -> tuple[Any, ...]:
    """Return what sorts records, those without a value last in either direction."""
    value = value_of(of, name)
    rank = {"number": 1, "text": 2, "boolean": 3}.get(type_of(value))
    if isinstance(value, datetime):
        rank, value = 1, (value - BEGIN).total_seconds()
    if rank is None:
        return (4 if direction == "asc" else 0, 0.0, "", of.id)
    number, text = (0.0, value) if rank == 2 else (float(value), "")
    return (rank, number, text, of.id)
