"""The chunked reader of Parquet files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pylibcudf.column import Column
from pylibcudf.io.types import SourceInfo, TableWithMetadata

MOST_VALUES = int(os.environ.get("STAND_IN_CUDF_VALUES", str(2**31 - 1)))


class ParquetReaderOptions:
    source: SourceInfo
    pandas_metadata = True
    names: list[str]
    row_groups: list[list[int]]

    @staticmethod
    def builder(source):
        builder = ParquetReaderOptionsBuilder()
        builder.options.source = source
        return builder

    def set_column_names(self, col_names):
        self.names = col_names

    def set_row_groups(self, row_groups):
        assert len(row_groups) == len(self.source.paths)
        self.row_groups = row_groups


class ParquetReaderOptionsBuilder:
    def __init__(self) -> None:
        self.options = ParquetReaderOptions()

    def use_pandas_metadata(self, val):
        self.options.pandas_metadata = val
        return self

    def build(self):
        return self.options


class ChunkedParquetReader:
    def __init__(
        self,
        options,
        stream=None,
        mr=None,
        chunk_read_limit=0,
        pass_read_limit=1024000000,
        parquet_metadatas=None,
    ):
        (path,), (row_groups,) = options.source.paths, options.row_groups
        self._how, _, first = os.environ.get("STAND_IN_CUDF_FAILS", "").partition(" ")
        if not self._how or max(row_groups) < int(first or 0):
            self._how = ""
        file = pq.ParquetFile(path)
        names = list(options.names)
        if options.pandas_metadata:  # the index comes along
            pandas = (file.schema_arrow.pandas_metadata or {}).get("index_columns", [])
            names += [name for name in pandas if isinstance(name, str)]
        table = file.read_row_groups(row_groups, columns=names)
        self._chunks = self._cut(table, chunk_read_limit)
        self._next = next(self._chunks, None)

    def _cut(self, table: pa.Table, limit: int) -> Iterator[list[pa.Array]]:
        columns = [plain(column.combine_chunks()) for column in table.columns]
        lists = columns[0]
        widest = pa.compute.max(pa.compute.list_value_length(lists)).as_py() or 1
        row_bytes = widest * lists.type.value_type.bit_width // 8
        step = max(1, limit // row_bytes if limit else len(lists))
        for start in range(0, len(lists), step):
            yield [column.slice(start, step) for column in columns]

    def has_next(self):
        return self._next is not None

    def read_chunk(self):
        if self._how == "abort":
            os.abort()
        if self._how == "memory":
            raise MemoryError("std::bad_alloc: out_of_memory: CUDA error at: cuda_memory_resource")
        if self._how == "error":
            raise RuntimeError("CUDF failure at: page_hdr.cu: unsupported encoding")
        chunk, self._next = self._next, next(self._chunks, None)
        if self._how == "short":
            chunk = [column.slice(1) for column in chunk]
        if self._how == "broken":
            offsets = pa.array([0] + [10**9] * len(chunk[0]), pa.int32())
            chunk = [pa.ListArray.from_arrays(offsets, chunk[0].values)]
        elif len(chunk[0].flatten()) > MOST_VALUES:
            raise OverflowError("CUDF failure: size of output exceeds the column size limit")
        return TableWithMetadata(tuple(map(Column, chunk)))


def plain(column: pa.Array) -> pa.Array:
    """Return a column as cuDF has it, whose lists are of one kind."""
    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    nested = hasattr(column.type, "value_type")
    return column.cast(pa.list_(column.type.value_type)) if nested else column
