"""Filters as Arrow expressions over the columns of a source.

Logic has two values. A condition on a null is false, but for ``is_null``; ``ne`` and ``nin``
are the contrary of ``eq`` and ``in``, so they hold for null, as NOT does of a false condition.

Of a list, ``contains`` means that one of its elements equals the value, and ``in`` that one of them
is among the values. Expressions know no such thing, so it is found out beforehand, for each list.
"""

from __future__ import annotations

import math
import operator as op
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import ConfigError
from gpucluster.sources.attributes import (
    absent,
    check_rows,
    find,
    is_elsewhere,
    names_to_read,
    without_views,
)
from gpucluster.sources.base import Source, reading
from gpucluster.sources.columns import is_any_list, is_text
from gpucluster.sources.filters import TEXTUAL, Condition, Filters

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTRARY = {"ne": "eq", "nin": "in"}
OF_ELEMENTS = {"contains": "eq", "in": "in"}  # what they ask of one element of a list
ORDER = {"gt": op.gt, "lt": op.lt, "gte": op.ge, "lte": op.le}
MATCHERS: dict[str, Callable[..., pc.Expression]] = {
    "contains": pc.match_substring,
    "starts_with": pc.starts_with,
    "ends_with": pc.ends_with,
}

NEVER = pc.scalar(False)  # noqa: FBT003 - what it is
ALWAYS = pc.scalar(True)  # noqa: FBT003

NO_WORD = r"[^\pL\pM\pN_]"  # RE2's own \b knows ASCII alone


@dataclass(frozen=True, slots=True)
class Elements:
    """A condition on the elements of a list.

    Attributes
    ----------
    path : tuple of str
        The way to the list from the column on.
    expression : pyarrow.compute.Expression
        True or false for an element, the only column.
    """

    path: tuple[str, ...]
    expression: pc.Expression

    def hold(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """Return for each row whether an element of its list holds."""
        name, *inner = self.path
        column = batch.column(name)
        lists = without_views(pc.struct_field(column, inner) if inner else column)
        lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
        elements = pa.record_batch([pc.list_flatten(lists)], names=["element"])
        found = _projected(self.expression, elements)
        rows = np.repeat(np.arange(len(lists)), lengths)
        holds = np.zeros(len(lists), np.bool_)
        holds[rows[found]] = True
        return holds


@dataclass(frozen=True, slots=True)
class Compiled:
    """Conditions over the columns of a schema.

    Attributes
    ----------
    expression : pyarrow.compute.Expression
        True or false for each row, never null.
    elements : sequence of Elements
        What the expression reads behind the columns of the schema.
    """

    expression: pc.Expression
    elements: Sequence[Elements]


def compile_filter(
    filters: Filters, schema: pa.Schema, *, known: Mapping[str, str] | None = None, where: str = ""
) -> Compiled:
    """Compile conditions for the columns of `schema`.

    Parameters
    ----------
    filters : Filters
    schema : pyarrow.Schema
    known : dict of str to str, optional
        Columns that other files of the source have; where this schema lacks one, it is null.
    where : str
        The source, for messages.

    Returns
    -------
    Compiled
        For `evaluate`.

    Raises
    ------
    SchemaMismatchError
        A field is not there, and the operator is not ``exists``.
    ConfigError
        A value cannot be compared with a field of that type.
    """
    place = _Place(schema, known or {}, where or "the data")
    return Compiled(_group(filters, place, case_sensitive=False), tuple(place.elements))


def matching(source: Source, filters: Filters) -> NDArray[np.bool_]:
    """Return which rows of a source match, reading no vectors.

    Parameters
    ----------
    source : Source
    filters : Filters

    Returns
    -------
    ndarray of shape (n_rows,), bool

    Raises
    ------
    ConfigError, SourceError
        See `compile_filter`; or the format has no columns, or the source has changed.
    """
    info = source.info
    masks = [np.empty(0, np.bool_)]
    names = names_to_read(condition.field for condition in filters.conditions())
    compiled: tuple[pa.Schema, Compiled] | None = None
    for batch in source.columns(names):
        if compiled is None or not compiled[0].equals(batch.schema):
            compiled = (
                batch.schema,
                compile_filter(filters, batch.schema, known=info.fields, where=info.where),
            )
        with reading(info.where):
            masks.append(evaluate(compiled[1], batch))
    found = np.concatenate(masks)
    check_rows(source, len(found))
    return found


def evaluate(compiled: Compiled, batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Return the value of a compiled filter for each row."""
    found = [pa.array(elements.hold(batch)) for elements in compiled.elements]
    for number, column in enumerate(found):
        batch = batch.append_column(f"elements {number}", column)
    return _projected(compiled.expression, batch)


def _projected(expression: pc.Expression, batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Return the value of an expression for each row."""
    from pyarrow import acero  # it brings pandas along, where that is installed

    plan = acero.Declaration.from_sequence(
        [
            acero.Declaration(
                "table_source", acero.TableSourceNodeOptions(pa.Table.from_batches([batch]))
            ),
            acero.Declaration("project", acero.ProjectNodeOptions([expression], ["match"])),
        ]
    )
    column = plan.to_table(use_threads=False).column(0)
    found: NDArray[np.bool_] = column.to_numpy().astype(np.bool_)
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """The columns that conditions are compiled for."""

    schema: pa.Schema
    known: Mapping[str, str]
    where: str
    elements: list[Elements] = field(default_factory=list)


def _group(filters: Filters, place: _Place, *, case_sensitive: bool) -> pc.Expression:
    case = case_sensitive if filters.case_sensitive is None else filters.case_sensitive

    def compiled(item: Condition | Filters) -> pc.Expression:
        if isinstance(item, Filters):
            return _group(item, place, case_sensitive=case)
        return _condition(item, place, case_sensitive=case)

    parts = [compiled(item) for item in filters.AND]
    if filters.OR:
        parts.append(reduce(op.or_, map(compiled, filters.OR)))
    parts += [~compiled(item) for item in filters.NOT]
    return reduce(op.and_, parts) if parts else ALWAYS


def _condition(condition: Condition, place: _Place, *, case_sensitive: bool) -> pc.Expression:
    operator = condition.operator
    found = find(place.schema, condition.field)
    if found is None:
        if operator == "exists":
            return NEVER if condition.value else ALWAYS
        if not is_elsewhere(condition.field, place.schema, place.known):
            raise absent(condition.field, place.schema, place.known, place.where)
    path, type_ = found or ((), pa.null())
    column = pc.field(*path) if path else pc.scalar(None)
    if operator in {"exists", "is_null"}:
        null = ALWAYS if pa.types.is_null(type_) else column.is_null()
        return null if condition.value == (operator == "is_null") else ~null
    if pa.types.is_null(type_):  # no value to compare with
        return ALWAYS if operator in CONTRARY else NEVER
    is_contrary, asked = operator in CONTRARY, CONTRARY.get(operator, operator)
    if is_any_list(type_) and asked in OF_ELEMENTS:
        holds = _of_elements(asked, path, type_, condition, place, case_sensitive=case_sensitive)
    else:
        holds = _compare(asked, column, type_, condition, case_sensitive)
    return ~holds if is_contrary else holds


def _of_elements(
    operator: str,
    path: tuple[str, ...],
    type_: pa.DataType,
    condition: Condition,
    place: _Place,
    *,
    case_sensitive: bool,
) -> pc.Expression:
    """Return whether an element of a list holds: a column that `evaluate` adds."""
    if pa.types.is_null(type_.value_type):
        return NEVER
    kind = OF_ELEMENTS[operator], pc.field("element"), type_.value_type
    asked = condition.model_copy(update={"field": f"an element of {condition.field}"})
    place.elements.append(Elements(path, _compare(*kind, asked, case_sensitive)))
    return pc.field(len(place.schema) + len(place.elements) - 1)


def _compare(
    operator: str,
    column: pc.Expression,
    type_: pa.DataType,
    condition: Condition,
    case_sensitive: bool,  # noqa: FBT001
) -> pc.Expression:
    """Return a comparison that is false for null."""
    value: Any = condition.value
    values = value if isinstance(value, list) else [value]
    comparable = _comparable(operator, type_, values)
    if comparable is None:
        kinds = " or ".join(dict.fromkeys(type(v).__name__ for v in values))
        raise ConfigError(
            f"{condition.field} is {type_}, {condition.operator} does not compare it with "
            f"{kinds} {_short(value)}",
            path="filters",
            got=value,
            hint="contains finds an element of a list, in one of several"
            if is_any_list(type_) and condition.operator not in OF_ELEMENTS
            else None,
        )
    column = column.cast(comparable)
    if is_text(type_):
        return pc.coalesce(_text(operator, column, values, case_sensitive=case_sensitive), NEVER)
    if operator in ORDER:
        (limit,) = values
        if pa.types.is_integer(comparable) and isinstance(limit, float):  # exactly, beyond 2^53 too
            limit = math.floor(limit) if operator in {"gt", "lte"} else math.ceil(limit)
        within = _scalar(limit, comparable, condition)
        return pc.coalesce(ORDER[operator](column, within), NEVER)
    if pa.types.is_integer(comparable):
        values = [int(v) for v in values if v == int(v)]
    scalars = [_scalar(v, comparable, condition) for v in values]
    if not scalars:
        return NEVER
    if operator == "eq":
        return pc.coalesce(column == scalars[0], NEVER)
    return column.isin(pa.array([scalar.as_py() for scalar in scalars], comparable))


def _comparable(operator: str, type_: pa.DataType, values: list[Any]) -> pa.DataType | None:
    """Return the type in which a column and the values are compared; None where they cannot be."""
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    kinds = {type(value) for value in values}
    if operator not in TEXTUAL and kinds <= {int, float}:
        return _number(type_)
    if is_text(type_):
        return pa.large_string() if kinds == {str} else None
    is_time = pa.types.is_timestamp(type_) or pa.types.is_date(type_)
    expected = bool if pa.types.is_boolean(type_) else str if is_time else None
    refused = TEXTUAL if is_time else (*TEXTUAL, *ORDER)
    return type_ if kinds == {expected} and operator not in refused else None


def _number(type_: pa.DataType) -> pa.DataType | None:
    """Return the type in which numbers of a type are compared."""
    if pa.types.is_integer(type_):
        return pa.uint64() if pa.types.is_uint64(type_) else pa.int64()
    if pa.types.is_floating(type_):
        return pa.float32() if pa.types.is_float16(type_) else type_
    return pa.float64() if pa.types.is_decimal(type_) else None


def _scalar(value: Any, type_: pa.DataType, condition: Condition) -> pa.Scalar:
    """Return a value in the precision of its column."""
    try:
        return pa.scalar(value).cast(type_) if isinstance(value, str) else pa.scalar(value, type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError) as error:
        raise ConfigError(
            f"{condition.field} is {type_}, which cannot be {_short(value)}",
            path="filters",
            got=value,
            hint="write times as 2026-01-31T00:00:00, with Z or an offset where the column has one"
            if isinstance(value, str)
            else None,
        ) from error


def _text(
    operator: str, column: pc.Expression, values: list[str], *, case_sensitive: bool
) -> pc.Expression:
    """Compare texts; without case, both sides are lower case."""
    if operator in ORDER:
        return ORDER[operator](column, values[0])
    if operator == "regex":
        return pc.match_substring_regex(column, values[0], ignore_case=not case_sensitive)
    if not case_sensitive:
        column = pc.utf8_lower(column)
        values = pc.utf8_lower(pa.array(values)).to_pylist()
    if operator in {"eq", "in"}:
        return column.isin(pa.array(values, pa.large_string()))
    if operator == "text":
        words = [re.escape(word) for word in values[0].split()]
        patterns = [rf"(?:^|{NO_WORD}){word}(?:$|{NO_WORD})" for word in words]
        return reduce(op.and_, (pc.match_substring_regex(column, p) for p in patterns))
    return MATCHERS[operator](column, values[0])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
