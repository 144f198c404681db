"""Data that are in memory already: arrays, tables, and streams of record batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from gpucluster.errors import ConfigError, DtypeError, SchemaMismatchError
from gpucluster.sources.arrays import ArraySource, Part, check_matrix
from gpucluster.sources.base import Block, Columns, Source, SourceInfo, reading
from gpucluster.sources.columnar import ColumnarSource
from gpucluster.sources.columns import concatenate, is_key, to_keys
from gpucluster.sources.detect import choose
from gpucluster.sources.kinds import Reduced

HEAD_ROWS = 1000  # of a pandas frame, that tell the types of its object columns


def open_memory(data: Any, asked: Columns, *, vector_dtype: str | None = None) -> Source:
    """Open data in memory.

    Parameters
    ----------
    data : object
        An array of shape (rows, features) from NumPy, CuPy, PyTorch or any DLPack library; a
        sparse matrix of SciPy; a tuple of ids and one of these; a pandas or polars frame; a
        PyArrow table, dataset or record batch reader; or anything with ``__arrow_c_stream__``.
    asked : Columns
        The names that the user gave; only tables have names.
    vector_dtype : str, optional
        What the bytes of a binary column are.

    Returns
    -------
    Source
        A view of arrays and tables. Of what streams, the needed columns are collected.

    Raises
    ------
    DtypeError
        Such data are not read.
    """
    if _is_a(data, "pyarrow.dataset", "Dataset"):
        return _open_dataset(data, asked, vector_dtype)
    if _is_a(data, "pandas", "DataFrame") or hasattr(data, "__arrow_c_stream__"):
        return _open_table(data, asked, vector_dtype)
    if asked != Columns():
        raise ConfigError(
            "arrays have no columns to choose from",
            path="vector_column" if asked.vector else "id_column",
            hint="give a tuple (ids, array), or a data frame",
        )
    ids, array = data if isinstance(data, tuple) and len(data) == 2 else (None, data)
    return _open_array(ids, array)


def _is_a(data: Any, module: str, name: str) -> bool:
    """Whether `data` is of a class of a library that the caller has imported."""
    return module in sys.modules and isinstance(data, getattr(sys.modules[module], name))


def _called(data: Any) -> str:
    return type(data).__module__.split(".")[0]


def _open_dataset(data: Any, asked: Columns, vector_dtype: str | None) -> Source:
    where = "the pyarrow dataset"

    def read(names: Sequence[str], batch_rows: int) -> Iterator[tuple[str, pa.RecordBatch]]:
        with reading(where):
            for batch in data.to_batches(
                columns=[name for name in names if name in data.schema.names],
                batch_size=batch_rows,
                batch_readahead=1,
                fragment_readahead=1,
            ):
                yield where, batch

    with reading(where):
        n_rows = data.count_rows()
    info = SourceInfo("pyarrow", n_rows=n_rows)
    return ColumnarSource(info, {where: data.schema}, asked, read, vector_dtype=vector_dtype)


def _open_table(data: Any, asked: Columns, vector_dtype: str | None) -> Source:
    where = f"the {_called(data)} table"
    with reading(where):
        if _is_a(data, "pandas", "DataFrame"):  # only the needed columns need be convertible
            schema = pa.Schema.from_pandas(data.head(HEAD_ROWS), preserve_index=False)
            names = _needed(schema, asked, where)
            table = pa.Table.from_pandas(data[names], preserve_index=False)
        else:
            reader = pa.RecordBatchReader.from_stream(data)
            schema = reader.schema
            names = _needed(schema, asked, where)
            needed = pa.schema([schema.field(name) for name in names])
            table = pa.Table.from_batches([batch.select(names) for batch in reader], needed)

    def read(names: Sequence[str], batch_rows: int) -> Iterator[tuple[str, pa.RecordBatch]]:
        present = [name for name in names if name in schema.names]
        kept = set(present) <= set(table.column_names)  # not what only a filter needs
        source = table if kept else _again(data, present, where)
        for batch in source.select(present).to_batches(max_chunksize=batch_rows):
            yield where, batch

    info = SourceInfo(_called(data), n_rows=table.num_rows)
    return ColumnarSource(info, {where: schema}, asked, read, vector_dtype=vector_dtype)


def _again(data: Any, names: Sequence[str], where: str) -> pa.Table:
    """Read more columns of what was given."""
    if isinstance(data, pa.RecordBatchReader):
        raise SchemaMismatchError(
            f"{where}: a stream is read once, and {', '.join(names)} was not asked for then",
            hint="give a table or a file",
        )
    with reading(where):
        if _is_a(data, "pandas", "DataFrame"):
            return pa.Table.from_pandas(data[list(names)], preserve_index=False)
        reader = pa.RecordBatchReader.from_stream(data)
        needed = pa.schema([reader.schema.field(name) for name in names])
        return pa.Table.from_batches([batch.select(names) for batch in reader], needed)


def _needed(schema: pa.Schema, asked: Columns, where: str) -> list[str]:
    columns = choose(schema, asked, where)
    names = (columns.id, columns.vector, *asked.payload().values())
    return list(dict.fromkeys(name for name in names if name is not None))


def _open_array(ids: Any, data: Any) -> Source:
    where = f"the {_called(data)} array"
    info = SourceInfo(_called(data))
    with reading(where):
        if hasattr(data, "tocsr"):  # SciPy
            check_matrix(where, data.shape, data.dtype)
            reduced = Reduced(data.tocsr().astype(np.float32), np.zeros(data.shape[0], np.bool_))
            notes, stored = (reduced.note,), reduced.n_stored
            info = replace(info, kind="sparse", n_stored=stored, notes=notes)
            data = reduced
        array, to_host = _sliceable(data)
        check_matrix(where, array.shape, array.dtype)
        parts = [Part(where, array, None if ids is None else _ids(ids))]
    return ArraySource(info, parts, to_host=to_host)


def _sliceable(data: Any) -> tuple[Any, Callable[[Any], Block]]:
    """Return an array that slices by rows, and what brings a slice to the host."""
    if isinstance(data, np.ma.MaskedArray):
        raise DtypeError(
            "a masked array was given, and its mask would be lost",
            hint="fill it, for instance with numpy.nan: such rows are set aside",
        )
    if isinstance(data, np.ndarray | Reduced):
        return data, np.asarray
    if hasattr(data, "__cuda_array_interface__") and hasattr(data, "get"):  # CuPy
        data.device.synchronize()  # it is copied on another thread's stream
        return data, lambda block: block.get()
    if hasattr(data, "detach"):  # PyTorch
        data = data.detach().cpu()
        data = data.float() if str(data.dtype) == "torch.bfloat16" else data
    if hasattr(data, "__dlpack__"):
        return np.from_dlpack(data), np.asarray
    raise DtypeError(
        f"data of type {type(data).__qualname__} are not read",
        hint="give a path, a two-dimensional array, a tuple (ids, array), or a data frame",
    )


def _ids(values: Any) -> pa.Array:
    if hasattr(values, "__arrow_c_stream__"):  # a column of a data frame
        chunks = pa.chunked_array(values).chunks
    else:
        chunks = [pa.array(values)]
    for chunk in chunks:
        if not is_key(chunk.type):
            raise SchemaMismatchError(f"ids are {chunk.type}, integers or strings expected")
    return concatenate([to_keys(chunk) for chunk in chunks])
