"""Pages of documents, each after the one before, of one version however often others follow.

A cursor names the version and the last row. It holds no value of a document, since the row says
it, and a digest of what was asked for, because a cursor of another question means nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.artifacts.files import digest
from gpucluster.errors import ConfigError
from gpucluster.service.collections.incoming import ID
from gpucluster.service.collections.scanning import (
    check_filters,
    fetch,
    require_columns,
    scan,
    searching,
)
from gpucluster.service.collections.values import to_json
from gpucluster.service.collections.versions import Version, Versions
from gpucluster.sources.filters import Filters


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which documents are meant, what of them, and in which order.

    Attributes
    ----------
    filters : Filters, optional
    search : str, optional
        Text that one of their texts, or the id, contains; case does not count.
    sort : str, optional
        A column; documents without a value come last. Omitted: as they were added.
    direction : {"asc", "desc"}
        Of `sort`; equal ones come as they were added.
    fields : sequence of str, optional
        Columns, all payload by default.
    include_vectors : bool
        Whether vectors are given too.
    """

    filters: Filters | None = None
    search: str | None = None
    sort: str | None = None
    direction: Literal["asc", "desc"] = "asc"
    fields: Sequence[str] | None = None
    include_vectors: bool = False

    def digest(self) -> str:
        """Return what tells it from other questions."""
        filters = None if self.filters is None else self.filters.model_dump(mode="json")
        return digest([filters, self.search, self.sort, self.direction])[:12]


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """Documents in order.

    Attributes
    ----------
    documents : list of dict
        Id and fields, as JSON values.
    version : int
        What they were read from.
    next_cursor : str or None
        Leads to the page after it.
    total : int or None
        How many there are in all pages, where asked for.
    """

    documents: list[dict[str, Any]]
    version: int
    next_cursor: str | None
    total: int | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended."""

    version: int
    row: int
    question: str

    def __str__(self) -> str:
        text = json.dumps([self.version, self.row, self.question])
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read one; ``ConfigError`` where it is none."""
        try:
            padded = text.encode() + b"=" * (-len(text) % 4)
            found = json.loads(base64.b64decode(padded, b"-_", validate=True))
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list) and [type(part) for part in found] == [int, int, str]:
            version, row, question = found
            if 0 < version < 10**8 and 0 <= row < 2**62:
                return cls(version, row, question)
        raise _no_cursor()


def _no_cursor() -> ConfigError:
    hint = "take next_cursor of a page as it is"
    return ConfigError("it is no cursor", path="query.cursor", hint=hint)


def page(
    versions: Versions,
    version: Version,
    question: Question,
    *,
    limit: int,
    cursor: Cursor | None = None,
    include_total: bool = False,
) -> DocumentPage:
    """Return a page of documents.

    Parameters
    ----------
    versions : Versions
    version : Version
        That of the cursor, where there is one.
    question : Question
    limit : int
        Documents of the page.
    cursor : Cursor, optional
        Where the page before ended.
    include_total : bool
        Whether to count all that are meant; with filters all rows are read for it.

    Returns
    -------
    DocumentPage

    Raises
    ------
    ConfigError, SchemaMismatchError
        A field is not there, a filter does not fit, or the cursor is of another question.

    Notes
    -----
    Memory: one batch of the columns that are needed, and the page.
    """
    columns = fields_of(version, question)
    filters = searching(version, question.search, question.filters)
    check_filters(version, filters)
    if cursor is not None and cursor.question != question.digest():
        raise ConfigError(
            "it belongs to another question",
            path="query.cursor",
            hint="ask the same, or without it",
        )
    after = None if cursor is None else cursor.row
    if after is not None and after >= version.n_rows:
        raise _no_cursor()
    if question.sort is not None:
        rows = _sorted_rows(versions, version, question, filters, after, limit + 1)
    else:
        rows = _next_rows(versions, version, filters, 0 if after is None else after + 1, limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    table = fetch(versions, version, rows, columns)
    following = Cursor(version.number, rows[-1], question.digest()) if more else None
    return DocumentPage(
        to_documents(table, version),
        version.number,
        None if following is None else str(following),
        count_rows(versions, version, filters) if include_total else None,
    )


def fields_of(version: Version, question: Question) -> list[str]:
    """Return the columns that are given, the id first."""
    allowed = [*version.payload, *(version.vector_columns if question.include_vectors else [])]
    fields = allowed if question.fields is None else list(dict.fromkeys(question.fields))
    require_columns(version, fields, [*allowed, version.id_column, ID])
    return [version.id_column, *(name for name in fields if name not in {version.id_column, ID})]


def to_documents(table: pa.Table, version: Version) -> list[dict[str, Any]]:
    """Return rows as JSON values, with the id under its own name."""
    names = [ID if name == version.id_column else name for name in table.column_names]
    columns = [to_json(column) for column in table.columns]
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def count_rows(versions: Versions, version: Version, filters: Filters | None) -> int:
    """Return how many documents are meant."""
    if filters is None:
        return version.n_rows
    return sum(len(found.numbers()) for found in scan(versions, version, filters=filters))


def find_document(versions: Versions, version: Version, document_id: str) -> int | None:
    """Return the row of a document, or None."""
    column = version.id_column
    type_ = version.schema.field(column).type
    try:
        wanted = pa.scalar(document_id).cast(type_)
    except pa.ArrowException:
        return None
    for scanned in scan(versions, version, [column]):
        at = pc.index(scanned.batch.column(column).cast(type_), wanted).as_py()
        if at >= 0:
            return scanned.row + int(at)
    return None


def _next_rows(
    versions: Versions, version: Version, filters: Filters | None, start: int, n: int
) -> list[int]:
    if filters is None:
        return [*range(start, min(start + n, version.n_rows))]
    rows: list[int] = []
    for scanned in scan(versions, version, filters=filters, start=start):
        rows += scanned.numbers()[: n - len(rows)].tolist()
        if len(rows) == n:
            break
    return rows


def _sorted_rows(
    versions: Versions,
    version: Version,
    question: Question,
    filters: Filters | None,
    after: int | None,
    n: int,
) -> list[int]:
    """Return the rows that come next in order: of each batch the best are kept."""
    name = version.id_column if question.sort == ID else str(question.sort)
    require_columns(version, [name], [*version.payload, version.id_column])
    type_ = version.schema.field(name).type
    if pa.types.is_nested(type_) or pa.types.is_binary(type_):
        raise ConfigError(f"{name} is {type_}, which has no order", path="sort.field")
    last = None
    if after is not None:
        last = _orderable(fetch(versions, version, [after], [name]).column(0))[0]
    keys = [("missing", "ascending"), ("value", f"{question.direction}ending"),
            ("row", "ascending")]  # fmt: skip
    best = pa.table({"missing": pa.array([], pa.bool_()), "value": pa.array([], type_),
                     "row": pa.array([], pa.int64())})  # fmt: skip
    for scanned in scan(versions, version, [name], filters=filters):
        batch = scanned.matching
        present = name in batch.schema.names
        value = batch.column(name).cast(type_) if present else pa.nulls(batch.num_rows, type_)
        value = _orderable(value)
        found = pa.table({"missing": pc.is_null(value), "value": value,
                          "row": pa.array(scanned.numbers())})  # fmt: skip
        if last is not None:
            found = found.filter(_later(found, last, after, question.direction))
        best = pa.concat_tables([best, found]).sort_by(keys).slice(0, n)
    return [int(row) for row in best["row"].to_pylist()]


def _orderable(values: Any) -> Any:
    """Return values among which none is NaN: it is neither less nor more than another."""
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def _later(found: pa.Table, last: pa.Scalar, row: int | None, direction: str) -> Any:
    """Return which rows come after the last one of the page before."""
    value, missing = found["value"], found["missing"]
    after_row = pc.greater(found["row"], row)
    if not last.is_valid:
        return pc.and_(missing, after_row)
    beyond = (pc.greater if direction == "asc" else pc.less)(value, last)
    equal = pc.and_(pc.equal(value, last), after_row)
    return pc.or_(missing, pc.fill_null(pc.or_(beyond, equal), fill_value=False))
