"""Columns, here on the host."""

from __future__ import annotations

import pyarrow as pa


class Column:
    def __init__(self, values: pa.Array) -> None:
        self._values = values

    def size(self):
        return len(self._values)

    def to_arrow(self, metadata=None, stream=None):
        """Return lists whose type says whether they hold a null, as libcudf's do."""
        column = self._values
        leaf = pa.field("element", column.type.value_type, nullable=column.values.null_count > 0)
        return column.cast(pa.list_(leaf))
