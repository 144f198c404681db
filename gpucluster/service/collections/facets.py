"""How many documents have which value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import ConfigError
from gpucluster.service.collections.incoming import ID
from gpucluster.service.collections.scanning import check_filters, known_columns, scan
from gpucluster.service.collections.values import json_value
from gpucluster.service.collections.versions import Version, Versions
from gpucluster.sources.attributes import absent, find, names_to_read
from gpucluster.sources.columns import is_any_list, is_text
from gpucluster.sources.filters import Filters

MAX_DISTINCT = 1_000_000  # values that are held in memory
MERGE_AT = 1 << 18  # partial counts


@dataclass(frozen=True, slots=True)
class Facet:
    """The values of a field.

    Attributes
    ----------
    values : list of (value, int)
        The most frequent ones with their documents, equal counts in the order of the values.
    other_count : int
        Documents (or elements of lists) with another value.
    null_count : int
        Documents without a value.
    distinct : int
        How many different values there are.
    """

    values: list[tuple[Any, int]]
    other_count: int
    null_count: int
    distinct: int


def count_values(
    versions: Versions,
    version: Version,
    fields: Sequence[str],
    *,
    filters: Filters | None = None,
    limit: int,
) -> dict[str, Facet]:
    """Count the values of some fields.

    Parameters
    ----------
    versions : Versions
    version : Version
    fields : sequence of str
        Columns, or dot paths into struct columns. Of lists each element counts.
    filters : Filters, optional
        Which documents are meant.
    limit : int
        Values of each.

    Returns
    -------
    dict of str to Facet

    Raises
    ------
    ConfigError
        A field has too many different values, or such as cannot be counted.
    SchemaMismatchError
        It is not there.
    """
    known = known_columns(version)
    schema = pa.schema([version.schema.field(name) for name in known])
    counters = {}
    for field in fields:
        path = version.id_column if field == ID and ID not in known else field
        place = find(schema, path)
        if place is None:
            raise absent(field, schema, known, version.collection_id)
        counters[field] = _Counter(field, *place)
    check_filters(version, filters)
    texts = [c.path[0] for c in counters.values() if len(c.path) == 1 and is_text(c.type)]
    names = names_to_read([counter.path[0] for counter in counters.values()])
    names += [counter.path[0] for counter in counters.values()]
    for scanned in scan(versions, version, names, filters=filters, encoded=texts):
        batch = scanned.matching
        for counter in counters.values():
            counter.add(batch)
    return {field: counter.facet(limit) for field, counter in counters.items()}


class _Counter:
    """The values of one field, counted batch by batch."""

    def __init__(self, field: str, path: tuple[str, ...], type_: pa.DataType) -> None:
        self.field, self.path, self.type = field, path, type_
        value = type_.value_type if is_any_list(type_) else type_
        if pa.types.is_nested(value):
            raise ConfigError(f"{field} is {type_}, whose values are not counted", path="fields")
        self._parts = pa.table({"value": pa.array([], value), "n": pa.array([], pa.int64())})
        self._value = value
        self._new: list[pa.Table] = []
        self._n_new = 0
        self._null = 0

    def add(self, batch: pa.RecordBatch) -> None:
        name, *inner = self.path
        if name not in batch.schema.names:
            self._null += batch.num_rows
            return
        column = batch.column(name)
        values = pc.struct_field(column, inner) if inner else column
        if is_any_list(self.type):
            lengths = pc.fill_null(pc.list_value_length(values), 0)
            self._null += pc.sum(pc.equal(lengths, 0)).as_py() or 0
            values = pc.list_flatten(values).drop_null()
        else:
            self._null += values.null_count
            values = values.drop_null()
        counted = values.value_counts()
        found = counted.field("values")
        if pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        self._new.append(pa.table({"value": found.cast(self._value), "n": counted.field("counts")}))
        self._n_new += len(found)
        if self._n_new > MERGE_AT:
            self._merge()

    def _merge(self) -> None:
        table = pa.concat_tables([self._parts, *self._new])
        merged = table.group_by("value", use_threads=False).aggregate([("n", "sum")])
        self._parts = merged.rename_columns({"n_sum": "n"}).select(["value", "n"])
        self._new, self._n_new = [], 0
        if self._parts.num_rows > MAX_DISTINCT:
            raise ConfigError(
                f"{self.field} has more than {MAX_DISTINCT:,} different values",
                path="fields",
                hint="a facet is a field whose values come again",
            )

    def facet(self, limit: int) -> Facet:
        self._merge()
        order = [("n", "descending"), ("value", "ascending")]
        top = self._parts.sort_by(order).slice(0, limit)
        shown = [json_value(value) for value in top["value"].to_pylist()]
        values = [*zip(shown, top["n"].to_pylist(), strict=True)]
        total = pc.sum(self._parts["n"]).as_py() or 0
        others = total - sum(n for _, n in values)
        return Facet(values, others, self._null, self._parts.num_rows)
