"""Orders of records, and where in one a page ended.

An order is a few SQL terms, the last of them the id, all in one direction; a page begins behind
the values that the last record of the page before had. Nothing that comes or goes meanwhile can
make a record appear twice or not at all.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from gpucluster.errors import ConfigError
from gpucluster.service.catalog.conditions import TIMES, locate
from gpucluster.service.catalog.dialect import Bind, Dialect
from gpucluster.service.catalog.port import Query
from gpucluster.service.catalog.rows import is_storable

NUMBERS, TEXTS, BOOLEANS = 1, 2, 3  # they follow each other; what has no value is last either way


@dataclass(frozen=True, slots=True)
class Order:
    """The terms that records are sorted by, and the type of each."""

    terms: tuple[str, ...]
    types: tuple[type, ...]
    direction: str

    def within(self) -> str:
        """Return what follows ORDER BY, where the terms are columns ``s0``, ``s1`` and so on."""
        return ", ".join(f"s{n} {self.direction}" for n in range(len(self.terms)))

    def columns(self) -> str:
        """Return the terms as those columns."""
        return ", ".join(f"{term} AS s{n}" for n, term in enumerate(self.terms))

    def behind(self, values: list[Any], bind: Bind) -> str:
        """Return whether a record comes after the one that has these values."""
        sign = "<" if self.direction == "DESC" else ">"
        return f"({', '.join(self.terms)}) {sign} ({', '.join(map(bind, values))})"


def order_of(query: Query, dialect: Dialect, bind: Bind) -> Order:
    """Return the order that a query asks for."""
    direction = {"asc": "ASC", "desc": "DESC"}[query.direction]
    if query.sort in TIMES:
        return Order((f"r.{query.sort}", "r.id"), (int, str), direction)
    if query.sort == "id":
        return Order(("r.id",), (str,), direction)
    place = locate(query.sort, dialect, bind)
    text, number, boolean = place.text, place.number, place.boolean
    last = BOOLEANS + 1 if direction == "ASC" else 0
    ranks = [
        f"WHEN {found} IS NOT NULL THEN {rank}"
        for found, rank in ((number, NUMBERS), (text, TEXTS), (boolean, BOOLEANS))
        if found
    ]
    if not ranks:
        return Order(("r.id",), (str,), direction)
    terms = [f"CASE {' '.join(ranks)} ELSE {last} END"]
    types: list[type] = [int]
    if number:
        terms.append(
            f"CASE WHEN {number} IS NOT NULL THEN {number} WHEN {boolean} THEN 1.0 ELSE 0.0 END"
        )
        types.append(float)
    terms.append(f"coalesce({text}, '')")
    return Order((*terms, "r.id"), (*types, str, str), direction)


def write_cursor(query: Query, values: list[Any]) -> str:
    """Return the cursor of a page that ended with these values of the order's terms."""
    found = [query.sort, query.direction, *values]
    return base64.urlsafe_b64encode(json.dumps(found).encode()).decode().rstrip("=")


def read_cursor(query: Query, order: Order) -> list[Any]:
    """Return the values that a query's cursor holds."""
    cursor = query.cursor or ""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError, binascii.Error) as error:
        raise _no_cursor(cursor) from error
    if not isinstance(found, list) or len(found) < 2:
        raise _no_cursor(cursor)
    if found[:2] != [query.sort, query.direction]:
        raise ConfigError("it belongs to another order", path="query.cursor", got=cursor)
    values = found[2:]
    if len(values) != len(order.types) or not all(map(_fits, values, order.types)):
        raise _no_cursor(cursor)
    return values


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, str):
        return kind is str and is_storable(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return kind in {int, float} and abs(value) < 2**63
    return isinstance(value, float) and kind is float


def _no_cursor(cursor: str) -> ConfigError:
    return ConfigError(
        "no cursor of this list",
        path="query.cursor",
        got=cursor,
        hint="take next_cursor of the page before as it is",
    )
