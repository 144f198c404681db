"""Rows of a version that conditions match, and the documents in some rows.

Rows are numbered through all files of a version, from 0. They are found by the columns that the
conditions are about, and nothing else of a document is read before it is known to be meant.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gpucluster.errors import ConfigError, SchemaMismatchError
from gpucluster.service.collections.data import open_data, read_data
from gpucluster.service.collections.incoming import ID
from gpucluster.service.collections.versions import DataFile, Version, Versions
from gpucluster.sources.attributes import names_to_read
from gpucluster.sources.columns import is_key, is_text, to_keys, to_plain
from gpucluster.sources.filters import Condition, Filters
from gpucluster.sources.matching import compile_filter, evaluate

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCAN_ROWS = 1 << 16
FETCH_ROWS = 1 << 12


@dataclass(frozen=True, slots=True)
class Scanned:
    """Consecutive rows of a file.

    Attributes
    ----------
    row : int
        Number of the first.
    batch : pyarrow.RecordBatch
        The columns that were asked for, where the file has them.
    matches : ndarray of shape (rows,), bool, or None
        Which of them are meant; None for all.
    """

    row: int
    batch: pa.RecordBatch
    matches: NDArray[np.bool_] | None

    @property
    def matching(self) -> pa.RecordBatch:
        """The rows that are meant."""
        return self.batch if self.matches is None else self.batch.filter(pa.array(self.matches))

    def numbers(self) -> NDArray[np.int64]:
        """Return the numbers of the rows that are meant."""
        found = np.arange(self.row, self.row + self.batch.num_rows, dtype=np.int64)
        return found if self.matches is None else found[self.matches]


def scan(
    versions: Versions,
    version: Version,
    columns: Iterable[str] = (),
    *,
    filters: Filters | None = None,
    start: int = 0,
    encoded: Sequence[str] = (),
) -> Iterator[Scanned]:
    """Yield all rows from a number on, with those that filters match.

    Parameters
    ----------
    versions : Versions
    version : Version
    columns : iterable of str
        What is to be read besides what the filters need.
    filters : Filters, optional
    start : int
        The first row.
    encoded : sequence of str
        Text columns that are to come as dictionaries.

    Raises
    ------
    ConfigError, SchemaMismatchError
        A filter does not fit the columns.
    CorruptArtifactError
        A file is missing or damaged.
    """
    fields = [] if filters is None else [c.field for c in filters.conditions()]
    wanted = {*names_to_read(fields), *columns}
    names = [name for name in version.schema.names if name in wanted]
    if ID in wanted and version.id_column not in names:
        names.append(version.id_column)
    matcher = None if filters is None else _Matcher(filters, version)
    for first, file in _from(version, start):
        row, groups = _groups(versions, file, start - first)
        texts = [name for name in encoded if name in names and name not in fields]
        for batch in read_data(
            versions, file, names, batch_rows=SCAN_ROWS, groups=groups, encoded=texts
        ):
            skip = max(0, start - first - row)
            if skip < batch.num_rows:
                rest = batch.slice(skip)
                matches = None if matcher is None else matcher.matches(rest)
                yield Scanned(first + row + skip, rest, matches)
            row += batch.num_rows


def _from(version: Version, start: int) -> Iterator[tuple[int, DataFile]]:
    """Yield the files that have rows from `start` on, with the number of their first row."""
    first = 0
    for file in version.files:
        if file.rows and first + file.rows > start:
            yield first, file
        first += file.rows


def _groups(versions: Versions, file: DataFile, start: int) -> tuple[int, list[int] | None]:
    """Return the row groups that have rows from `start` on, and the first row of those."""
    if start <= 0:
        return 0, None
    with open_data(versions, file) as opened:
        sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
    stops = [*accumulate(sizes)]
    group = bisect_right(stops, start)
    return (stops[group - 1] if group else 0), [*range(group, len(sizes))]


class _Matcher:
    """Filters, compiled once for each schema that files have."""

    def __init__(self, filters: Filters, version: Version) -> None:
        self._filters = filters
        self._id = version.id_column
        self._where = version.collection_id
        self._known = known_columns(version)
        self._compiled: tuple[pa.Schema, Any] | None = None

    def matches(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        if ID not in batch.schema.names and self._id in batch.schema.names:
            batch = batch.append_column(ID, batch.column(self._id))
        if self._compiled is None or not self._compiled[0].equals(batch.schema):
            expression = compile_filter(
                self._filters, batch.schema, known=self._known, where=self._where
            )
            self._compiled = batch.schema, expression
        return evaluate(self._compiled[1], batch)


def known_columns(version: Version) -> Mapping[str, str]:
    """Return the columns that filters may be about, with their types."""
    vectors = set(version.vector_columns)
    return {f.name: str(f.type) for f in version.schema if f.name not in vectors}


def check_filters(version: Version, filters: Filters | None) -> None:
    """Refuse filters that do not fit a version, also where it has no rows."""
    if filters is not None:
        known = [version.schema.field(name) for name in known_columns(version)]
        empty = [pa.array([], field.type) for field in known]
        _Matcher(filters, version).matches(pa.record_batch(empty, schema=pa.schema(known)))


def searching(version: Version, search: str | None, filters: Filters | None) -> Filters | None:
    """Return filters that also ask for a text in one of the text columns.

    It is the text column that the collection names, or any where it names none.
    """
    if not search or not search.strip():
        return filters
    texts = [field.name for field in version.schema if is_text(field.type)]
    names = [version.text_column, version.id_column] if version.text_column else texts
    found = tuple(
        Condition(field=name, operator="contains", value=search) for name in texts if name in names
    )
    if not found:
        raise ConfigError(f"{version.collection_id} has no texts to search in", path="search")
    either = Filters(OR=found)
    return either if filters is None else Filters(AND=(filters, either))


def fetch(
    versions: Versions, version: Version, rows: Sequence[int], columns: Sequence[str]
) -> pa.Table:
    """Return columns of some rows, in their order; null in files that lack a column.

    Parameters
    ----------
    versions : Versions
    version : Version
    rows : sequence of int
        Their numbers, each once.
    columns : sequence of str
        Columns of the version.
    """
    schema = pa.schema([version.schema.field(name) for name in columns])
    wanted = np.sort(np.asarray(rows, np.int64))
    found: list[pa.Table] = []
    first = 0
    for file in version.files:
        inside = wanted[(wanted >= first) & (wanted < first + file.rows)] - first
        if inside.size:
            found += _rows_of(versions, file, inside, schema)
        first += file.rows
    table = pa.concat_tables(found) if found else schema.empty_table()
    order = np.empty(len(wanted), np.int64)
    order[np.argsort(np.asarray(rows, np.int64), kind="stable")] = np.arange(len(wanted))
    return table.take(pa.array(order))


def _rows_of(
    versions: Versions, file: DataFile, rows: NDArray[np.int64], schema: pa.Schema
) -> Iterator[pa.Table]:
    """Yield rows of one file, which are sorted, with all columns of a schema."""
    with open_data(versions, file) as opened:
        sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
    stops = np.cumsum(sizes)
    for group in np.unique(np.searchsorted(stops, rows, side="right")).tolist():
        row = int(stops[group] - sizes[group])
        inside = rows[(rows >= row) & (rows < stops[group])]
        for batch in read_data(versions, file, schema.names, batch_rows=FETCH_ROWS, groups=[group]):
            here = inside[(inside >= row) & (inside < row + batch.num_rows)] - row
            if here.size:
                yield completed(batch.take(pa.array(here)), schema)
            row += batch.num_rows
            if row > inside[-1]:
                break


def completed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """Return rows with all columns of a schema, in its types; null where one is not there."""
    columns = []
    for field in schema:
        if field.name not in batch.schema.names:
            columns.append(pa.nulls(batch.num_rows, field.type))
            continue
        column = batch.column(field.name)
        columns.append(column if column.type == field.type else _plainly(column, field.type))
    return pa.table(columns, schema=schema)


def _plainly(column: pa.Array, type_: pa.DataType) -> pa.Array:
    """Return a column of a file that stayed where it was in the type of the collection."""
    if is_key(column.type) and is_key(type_):
        return to_keys(column).cast(type_)
    return to_plain(column).cast(type_)


def require_columns(version: Version, names: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuse names of columns that a version does not have."""
    for name in names:
        if name not in allowed:
            known = ", ".join(allowed[:20])
            raise SchemaMismatchError(
                f"{version.collection_id}: there is no field {name!r}", hint=f"known are: {known}"
            )
