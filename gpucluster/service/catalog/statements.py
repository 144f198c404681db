"""The statements of a transaction, the same for all databases but for a `Dialect`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from datetime import datetime, timedelta
from typing import Any

from gpucluster.errors import ConfigError, InternalError
from gpucluster.service.catalog.conditions import Compiler, joined, locate
from gpucluster.service.catalog.cursors import order_of, read_cursor, write_cursor
from gpucluster.service.catalog.dialect import Dialect
from gpucluster.service.catalog.folding import fold
from gpucluster.service.catalog.port import Changed, Clock, Page, Query, Record, Summary, Taken
from gpucluster.service.catalog.rows import (
    COLUMNS,
    from_micros,
    from_row,
    is_storable,
    micros,
    to_row,
)
from gpucluster.sources.filters import Filters

Row = Sequence[Any]
Execute = Callable[[str, dict[str, Any]], list[Row]]

RECORD = ", ".join(f"r.{name}" for name in COLUMNS) + ", b.body"
WHOLE = "gpucluster_records r JOIN gpucluster_bodies b ON b.key = r.key"
MAX_PAGE = 100_000
THIS = "ns = :ns AND kind = :kind AND id = :id"
WRITTEN = ("name", "status", "parent", "text", "searched", "due_at", "updated_at", "version")


@dataclass(slots=True)
class Selection:
    """Conditions that are being put together, and the values that stand in them."""

    values: dict[str, Any] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    _names: dict[tuple[type, object], str] = field(default_factory=dict)

    def bind(self, value: object) -> str:
        """Keep a value, and return what stands for it."""
        name = self._names.setdefault((type(value), value), f"v{len(self._names)}")
        self.values[name] = value
        return f":{name}"

    def where(self) -> str:
        """Return the condition."""
        return joined(self.parts, "AND")


class SqlTransaction:
    """A transaction of a database; see `gpucluster.service.catalog.port.Transaction`.

    Parameters
    ----------
    execute : callable
        Runs a statement with its values, and returns its rows.
    dialect : Dialect
    clock : callable
    writes : bool
        Whether it may write. Those that do have the database to themselves.
    """

    def __init__(self, execute: Execute, dialect: Dialect, clock: Clock, *, writes: bool) -> None:
        self._execute = execute
        self._dialect = dialect
        self._clock = clock
        self._writes = writes

    def create(self, record: Record) -> Record:
        """Add a record; `Taken` where its id or name is."""
        self._about_to_write()
        now = micros(self._clock())
        row = {**to_row(record), "created_at": now, "updated_at": now, "version": 1}
        if self._one(THIS, _key(row)) is not None:
            raise Taken(f"{record.kind} {record.id} is there already")
        self._check_name(row)
        body = row.pop("body")
        names = ", ".join(row)
        self._execute(f"INSERT INTO gpucluster_records ({names}) VALUES (:{', :'.join(row)})", row)
        self._execute(
            "INSERT INTO gpucluster_bodies (key, body)"
            f" SELECT key, :body FROM gpucluster_records WHERE {THIS}",
            {"body": body, **_key(row)},
        )
        return from_row([*(row[name] for name in COLUMNS), body])

    def get(self, ns: str, kind: str, id: str) -> Record | None:  # noqa: A002
        """Return a record, or None."""
        return self._one(THIS, {"ns": ns, "kind": kind, "id": id})

    def find(self, ns: str, kind: str, name: str) -> Record | None:
        """Return the record of that name, or None."""
        return self._one(
            "ns = :ns AND kind = :kind AND name = :name", {"ns": ns, "kind": kind, "name": name}
        )

    def replace(self, record: Record) -> Record:
        """Write a record anew: `Changed` where it is not what was read, `Taken` by its name."""
        self._about_to_write()
        row = to_row(record)
        known = self._one(THIS, _key(row))
        if known is None or known.version != record.version or known.created_at is None:
            raise Changed(f"{record.kind} {record.id} is not what was read")
        self._check_name(row)
        row |= {"updated_at": micros(self._clock()), "version": record.version + 1}
        row |= {"created_at": micros(known.created_at)}
        self._execute(
            f"UPDATE gpucluster_records SET {', '.join(f'{name} = :{name}' for name in WRITTEN)}"
            f" WHERE {THIS}",
            {name: row[name] for name in WRITTEN} | _key(row),
        )
        self._execute(
            "UPDATE gpucluster_bodies SET body = :body"
            f" WHERE key = (SELECT key FROM gpucluster_records WHERE {THIS})",
            {"body": row["body"], **_key(row)},
        )
        return from_row([*(row[name] for name in COLUMNS), row["body"]])

    def delete(self, ns: str, kind: str, id: str) -> bool:  # noqa: A002
        """Remove a record, and say whether there was one."""
        self._about_to_write()
        key = {"ns": ns, "kind": kind, "id": id}
        if self._one(THIS, key) is None:
            return False
        self._execute(f"DELETE FROM gpucluster_records WHERE {THIS}", key)  # its body goes along
        return True

    def page(self, ns: str, kind: str, query: Query) -> Page:
        """Return a page of records."""
        if not (1 <= query.limit <= MAX_PAGE and 0 <= query.offset < 2**62):
            raise ConfigError(f"a page has 1 to {MAX_PAGE:,} records, and skips none or more")
        chosen = self._select(ns, kind, query)
        order = order_of(query, self._dialect, chosen.bind)
        offset = query.offset
        if query.cursor is not None:
            chosen.parts.append(order.behind(read_cursor(query, order), chosen.bind))
            offset = 0
        terms = [f"p.s{n}" for n in range(len(order.terms))]
        found = self._execute(
            f"SELECT {RECORD}, {', '.join(terms)} FROM (SELECT r.key, {order.columns()}"
            f" FROM {_tables(chosen, *order.terms)} WHERE {chosen.where()}"
            f" ORDER BY {order.within()} LIMIT :limit OFFSET :offset) p"
            " JOIN gpucluster_records r ON r.key = p.key JOIN gpucluster_bodies b ON b.key = p.key"
            f" ORDER BY {order.within()}",
            {**chosen.values, "limit": query.limit + 1, "offset": offset},
        )
        rows = found[: query.limit]
        more = len(found) > query.limit
        cursor = write_cursor(query, list(rows[-1][-len(terms) :])) if more else None
        return Page([from_row(row) for row in rows], cursor)

    def summary(self, ns: str, kind: str, query: Query, sums: Iterable[str] = ()) -> Summary:
        """Count all that are meant, whatever the page, and add up fields of their bodies."""
        chosen = self._select(ns, kind, query)
        wanted = {name: locate(name, self._dialect, chosen.bind).number for name in sums}
        added = [f"sum({number})" for number in wanted.values() if number]
        rows = self._execute(
            f"SELECT {', '.join(['r.status', 'count(*)', *added])}"
            f" FROM {_tables(chosen, *added)} WHERE {chosen.where()} GROUP BY r.status",
            chosen.values,
        )
        totals = iter([sum(row[n] or 0.0 for row in rows) for n in range(2, 2 + len(added))])
        return Summary(
            sum(row[1] for row in rows),
            {row[0]: row[1] for row in rows if row[0] is not None},
            {name: float(next(totals)) if number else 0.0 for name, number in wanted.items()},
        )

    def claim(
        self,
        kind: str,
        *,
        hold: timedelta,
        limit: int = 1,
        status: str | None = None,
        filters: Filters | None = None,
    ) -> list[Record]:
        """Take up records that are due; until now and `hold`, nobody else gets them."""
        self._about_to_write()
        time = self._clock()
        now, due = micros(time), micros(time + hold)
        chosen = self._select(None, kind, Query(status=status, filters=filters))
        rows = self._execute(
            f"SELECT {RECORD}, r.key FROM {WHOLE}"
            f" WHERE {chosen.where()} AND r.due_at <= :now"
            " ORDER BY r.due_at, r.key LIMIT :limit",
            {**chosen.values, "now": now, "limit": limit},
        )
        for row in rows:
            self._execute(
                "UPDATE gpucluster_records SET due_at = :due, version = version + 1"
                " WHERE key = :key",
                {"due": due, "key": row[-1]},
            )
        return [
            changed(record, due_at=from_micros(due), version=record.version + 1)
            for record in map(from_row, rows)
        ]

    def next_due(self, kind: str) -> Any:
        """Return when the next record of a kind is due."""
        ((due,),) = self._execute(
            "SELECT min(due_at) FROM gpucluster_records WHERE kind = :kind",
            {"kind": kind},
        )
        return None if due is None else from_micros(due)

    def count_due(self, kind: str, field: str) -> Mapping[tuple[str | None, str | None], int]:
        """Count records of any namespace that have a due time, by status and a text in the body."""
        chosen = self._select(None, kind, Query())
        text = locate(field, self._dialect, chosen.bind).text
        rows = self._execute(
            f"SELECT r.status, {text}, count(*) FROM {WHOLE}"
            f" WHERE {chosen.where()} AND r.due_at > 0 GROUP BY 1, 2",  # so that the index is used
            chosen.values,
        )
        return {(status, value): n for status, value, n in rows}

    def prune(self, kind: str, *, before: datetime, limit: int, keep: Collection[str] = ()) -> int:
        """Remove records that were last written before a time, and return how many."""
        self._about_to_write()
        chosen = self._select(None, kind, Query())
        kept = [f"r.status <> {chosen.bind(status)}" for status in keep]
        old = (
            f"SELECT r.key FROM gpucluster_records r WHERE {joined([*chosen.parts, *kept], 'AND')}"
            " AND r.updated_at < :before ORDER BY r.updated_at, r.key LIMIT :limit"
        )
        values = {**chosen.values, "before": micros(before), "limit": limit}
        ((n,),) = self._execute(f"SELECT count(*) FROM ({old}) o", values)
        if n:
            self._execute(f"DELETE FROM gpucluster_records WHERE key IN ({old})", values)
        return int(n)

    def counter(self, name: str, add: int = 1) -> int:
        """Add to a number that only grows, and return it."""
        self._about_to_write()
        self._execute(
            "INSERT INTO gpucluster_counters AS c (name, value) VALUES (:name, :add)"
            " ON CONFLICT (name) DO UPDATE SET value = c.value + :add",
            {"name": name, "add": add},
        )
        ((value,),) = self._execute(
            "SELECT value FROM gpucluster_counters WHERE name = :name", {"name": name}
        )
        return int(value)

    def _about_to_write(self) -> None:
        if not self._writes:
            raise InternalError("a transaction that only reads was to write")

    def _one(self, condition: str, values: dict[str, Any]) -> Record | None:
        if not all(is_storable(value) for value in values.values() if isinstance(value, str)):
            return None
        found = self._execute(f"SELECT {RECORD} FROM {WHOLE} WHERE {condition}", values)
        return from_row(found[0]) if found else None

    def _check_name(self, row: dict[str, Any]) -> None:
        if row["name"] is None:
            return
        other = self.find(row["ns"], row["kind"], row["name"])
        if other is not None and other.id != row["id"]:
            raise Taken(f"{row['kind']} {row['name']!r} is there already: {other.id}")

    def _select(self, ns: str | None, kind: str, query: Query) -> Selection:
        """Return the conditions of a query, its cursor apart."""
        chosen = Selection()
        for column, value in (
            ("ns", ns),
            ("kind", kind),
            ("status", query.status),
            ("parent", query.parent),
        ):
            if value is not None:
                chosen.parts.append(
                    f"r.{column} = {chosen.bind(value)}" if is_storable(value) else "FALSE"
                )
        if query.search:
            found = f"{self._dialect.position}(r.searched, {chosen.bind(fold(query.search))}) > 0"
            chosen.parts.append(found if is_storable(query.search) else "FALSE")
        if query.filters is not None:
            values = self._values_of(chosen)
            compiler = Compiler(self._dialect, chosen.bind, values)
            chosen.parts.append(compiler.group(query.filters))
        return chosen

    def _values_of(self, chosen: Selection) -> Callable[[str], list[str]]:
        """Return what reads all texts of an expression in what is selected so far."""
        where = chosen.where()

        def values(text: str) -> list[str]:
            rows = self._execute(
                f"SELECT DISTINCT {text} FROM {WHOLE} WHERE {where} AND {text} IS NOT NULL",
                chosen.values,
            )
            return [row[0] for row in rows]

        return values


def _key(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("ns", "kind", "id")}


def _tables(chosen: Selection, *expressions: str) -> str:
    """Return the tables that conditions and expressions are about."""
    bodies = any("b." in each for each in (*chosen.parts, *expressions))
    return WHOLE if bodies else "gpucluster_records r"
