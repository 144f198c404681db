"""Filters as SQL over the columns and bodies of records.

The rules are those of `gpucluster.sources.matching`, but a field of a record has no type of its
own: a value of another type than the given one does not match, and a field that no record has is
null. Numbers are compared as doubles, times of records as times.

A condition may be null where it is not true, but for what is denied: so that a database sees plain
comparisons, which its indexes serve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from gpucluster.errors import ConfigError
from gpucluster.service.catalog.dialect import Bind, Dialect, Element
from gpucluster.service.catalog.folding import fold
from gpucluster.service.catalog.port import COLUMNS
from gpucluster.service.catalog.rows import is_storable, micros
from gpucluster.sources.filters import ORDER, TEXTUAL, Condition, Filters
from gpucluster.sources.matching import CONTRARY, OF_ELEMENTS, compile_filter, evaluate

TIMES = ("created_at", "updated_at")
SIGNS = {"gt": ">", "lt": "<", "gte": ">=", "lte": "<="}
BY_VALUES = ("regex", "text")  # what databases would each do in their own way: RE2 decides here
MAX_BY_VALUES = 10  # fields, each of which has all its values read


@dataclass(frozen=True, slots=True)
class Field:
    """A field of records as SQL expressions, each null where its value has another type.

    Types that no value of the field has are None.
    """

    is_there: str
    text: str | None = None
    number: str | None = None
    boolean: str | None = None
    time: str | None = None
    elements: str | None = None  # a table of them, where it may hold a list


def locate(name: str, dialect: Dialect, bind: Bind) -> Field:
    """Return the expressions of a field: one of `COLUMNS`, or a dot path into the body."""
    if name in COLUMNS:
        column = f"r.{name}"
        there = f"{column} IS NOT NULL"
        return Field(there, time=column) if name in TIMES else Field(there, text=column)
    path = name.split(".")
    if not all(path) or not is_storable(name):
        return Field("FALSE")
    return Field(
        dialect.is_there(path, bind),
        dialect.text(path, bind),
        dialect.number(path, bind),
        dialect.boolean(path, bind),
        elements=dialect.elements(path, bind),
    )


@dataclass(slots=True)
class Compiler:
    """Compiles the filters of one query.

    Attributes
    ----------
    dialect : Dialect
    bind : callable
    values : callable
        Returns all texts that an expression has in the records that the query is about.
    """

    dialect: Dialect
    bind: Bind
    values: Callable[[str], Sequence[str]]
    _known: dict[str, Sequence[str]] = field(default_factory=dict)

    def group(self, filters: Filters, *, case_sensitive: bool = False) -> str:
        """Return the condition that a group of filters stands for."""
        case = case_sensitive if filters.case_sensitive is None else filters.case_sensitive

        def compiled(item: Condition | Filters) -> str:
            if isinstance(item, Filters):
                return self.group(item, case_sensitive=case)
            return self._condition(item, case_sensitive=case)

        parts = [compiled(item) for item in filters.AND]
        if filters.OR:
            parts.append(joined([compiled(item) for item in filters.OR], "OR"))
        parts += [denied(compiled(item)) for item in filters.NOT]
        return joined(parts, "AND") if parts else "TRUE"

    def _condition(self, condition: Condition, *, case_sensitive: bool) -> str:
        place = locate(condition.field, self.dialect, self.bind)
        operator = CONTRARY.get(condition.operator, condition.operator)
        if operator in {"exists", "is_null"}:
            negated = condition.value == (operator == "is_null")
            found = place.is_there
        else:
            negated = operator != condition.operator
            found = self._compare(operator, place, condition, case_sensitive=case_sensitive)
            if place.elements and operator in OF_ELEMENTS:
                asked, one = OF_ELEMENTS[operator], self.dialect.element
                holds = self._compare(asked, one, condition, case_sensitive=case_sensitive)
                in_list = f"EXISTS (SELECT 1 FROM {place.elements} WHERE {holds})"
                found = f"({found} OR {in_list})"
        return denied(found) if negated else found

    def _compare(
        self, operator: str, place: Field | Element, condition: Condition, *, case_sensitive: bool
    ) -> str:
        """Return a comparison that is not true of what is null or of another type."""
        value: Any = condition.value
        values = value if isinstance(value, list) else [value]
        texts = [v for v in values if isinstance(v, str)]
        if operator in TEXTUAL:  # numbers contain nothing
            values = texts
        if isinstance(place, Field) and place.time:
            return self._time(operator, place.time, texts)
        parts = []
        texts = [text for text in texts if is_storable(text)]  # of others there is none
        if place.text and texts and operator in BY_VALUES:
            parts.append(self._by_values(place.text, condition, case_sensitive=case_sensitive))
        elif place.text and texts:
            parts.append(self._text(operator, place.text, texts, case_sensitive=case_sensitive))
        for one in values:
            if isinstance(one, bool):
                parts += [f"{place.boolean} = {str(one).upper()}"] if place.boolean else []
            elif not isinstance(one, str) and place.number:
                given = self.dialect.double(_double(one), self.bind)
                parts.append(f"{place.number} {SIGNS.get(operator, '=')} {given}")
        return joined(parts, "OR") if parts else "FALSE"

    def _text(self, operator: str, text: str, values: list[str], *, case_sensitive: bool) -> str:
        if operator in ORDER:
            return f"{text} {SIGNS[operator]} {self.bind(values[0])}"
        if not case_sensitive:
            text, values = f"{self.dialect.fold}({text})", [fold(value) for value in values]
        if operator == "in":
            return self.dialect.among(text, values, self.bind)
        given, length = self.bind(values[0]), len(values[0])
        if operator == "contains":
            return f"{self.dialect.position}({text}, {given}) > 0"
        if operator == "starts_with":
            return f"substr({text}, 1, {length}) = {given}"
        if operator == "ends_with":  # of a shorter text, less than the given one is left
            return f"substr({text}, length({text}) - {length - 1}) = {given}"
        return f"{text} = {given}"

    def _by_values(self, text: str, condition: Condition, *, case_sensitive: bool) -> str:
        """Return whether a text is one of those, of all there are, that match."""
        name = condition.field
        if name not in self._known:
            if len(self._known) == MAX_BY_VALUES:
                raise ConfigError(
                    f"more than {MAX_BY_VALUES} fields have a condition of regex or text",
                    path="filters",
                )
            self._known[name] = self.values(text)
        texts = pa.RecordBatch.from_pydict(
            {"value": pa.array(self._known[name], pa.large_string())}
        )
        renamed = condition.model_copy(update={"field": "value"})
        alone = Filters(AND=(renamed,), case_sensitive=case_sensitive)
        matches = evaluate(compile_filter(alone, texts.schema), texts)
        found = [one for one, match in zip(self._known[name], matches, strict=True) if match]
        return self.dialect.among(text, found, self.bind)

    def _time(self, operator: str, time: str, values: list[str]) -> str:
        if operator in TEXTUAL or not values:
            return "FALSE"
        times = [self.bind(micros(_instant(value))) for value in values]
        if operator == "in":
            return f"{time} IN ({', '.join(times)})"
        return f"{time} {SIGNS.get(operator, '=')} {times[0]}"


def denied(condition: str) -> str:
    """Return the contrary of a condition, which is true or false."""
    return f"(NOT coalesce({condition}, FALSE))"


def joined(parts: Sequence[str], word: str) -> str:
    """Join conditions as a balanced tree: SQLite parses 1,000 levels and no more."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({joined(parts[:half], word)} {word} {joined(parts[half:], word)})"


def _double(number: int | float) -> str:
    try:
        return repr(float(number))
    except OverflowError:  # beyond all that a record can hold
        return "9e999" if number > 0 else "-9e999"


def _instant(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{text[:60]!r} is no time",
            path="filters",
            got=text,
            hint="write times as 2026-01-31T00:00:00Z",
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
