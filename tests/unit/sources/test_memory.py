"""Data in memory: whatever holds vectors, without the libraries that hold them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest

from gpucluster.errors import (
    ConfigError,
    CorruptInputError,
    DtypeError,
    SchemaMismatchError,
    ShapeError,
)
from gpucluster.sources import open_source
from tests.helpers.vectors import (
    N_FEATURES,
    N_ROWS,
    assert_same,
    names,
    read,
    table,
    vectors,
    write_parquet,
)


class OnlyStream:
    """Something that can give its rows as a stream, and nothing else."""

    def __init__(self, data: pa.Table) -> None:
        self.data = data

    def __arrow_c_stream__(self, requested_schema=None):
        return self.data.__arrow_c_stream__(requested_schema)


class OnDevice:
    """The part of a CuPy array that is used; it hands out host memory only by `get`."""

    taken_rows, is_written = 0, False

    def __init__(self, host: np.ndarray) -> None:
        self._host = host
        self.shape, self.dtype = host.shape, host.dtype
        self.__cuda_array_interface__ = {"shape": host.shape, "version": 3}
        self.device = self

    def synchronize(self) -> None:
        OnDevice.is_written = True

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, rows: slice) -> OnDevice:
        return OnDevice(self._host[rows])

    def __array__(self, *args, **kwargs):
        raise TypeError("implicit conversion is not allowed")

    def get(self) -> np.ndarray:
        assert OnDevice.is_written  # what the caller's stream still does would be missed
        OnDevice.taken_rows = max(OnDevice.taken_rows, len(self._host))
        return self._host


class DLPack:
    """An array of a library that is known by the exchange protocol alone."""

    def __init__(self, host: np.ndarray) -> None:
        self._host = host

    def __dlpack__(self, **kwargs):
        return self._host.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._host.__dlpack_device__()


def frame(n_rows: int = N_ROWS) -> pd.DataFrame:
    return pd.DataFrame({"id": names(n_rows), "embedding": list(vectors(n_rows))})


TABLES = {
    "table": lambda: table(vectors()),
    "batch": lambda: table(vectors()).to_batches()[0],
    "reader": lambda: table(vectors()).to_reader(max_chunksize=7),
    "stream": lambda: OnlyStream(table(vectors())),
    "pandas": frame,
    "polars": lambda: pl.DataFrame(
        {"id": names(), "embedding": vectors()},
        schema={"id": pl.String, "embedding": pl.Array(pl.Float32, N_FEATURES)},
    ),
    "polars lists": lambda: pl.DataFrame({"id": names(), "embedding": vectors().tolist()}),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_agree(kind):
    samples = read(TABLES[kind]())
    assert_same(samples, read((names(), vectors())))
    assert samples.source["paths"] == []


def test_datasets(tmp_path):
    write_parquet(tmp_path / "a.parquet", table(vectors()[:20], names()[:20]))
    write_parquet(tmp_path / "b.parquet", table(vectors()[20:], names()[20:]))
    assert_same(read(pyarrow.dataset.dataset(tmp_path)), read((names(), vectors())))


ARRAYS = {
    "numpy": lambda X: X,
    "fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "float64": lambda X: X.astype("float64"),
    "int64": lambda X: X.astype("int64"),
    "big-endian": lambda X: X.astype(">f4"),
    "device": OnDevice,
    "dlpack": DLPack,
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("ids", [None, names()], ids=["bare", "ids"])
def test_arrays_agree(kind, ids):
    X = vectors()
    data = ARRAYS[kind](X)
    samples = read(data if ids is None else (ids, data), batch_bytes=500)
    assert samples.X.tolist() == X.tolist()
    assert samples.ids.to_pylist() == (ids or list(range(N_ROWS)))
    assert not np.shares_memory(samples.X, X)


def test_device_arrays_come_in_blocks():
    OnDevice.taken_rows = 0
    read(OnDevice(vectors()), batch_bytes=10 * N_FEATURES * 4)
    assert OnDevice.taken_rows == 10


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16"])
def test_torch(dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.tensor(vectors()).to(getattr(torch, dtype)).requires_grad_()
    assert_same(read(tensor), read(vectors()))


@pytest.mark.parametrize(
    "ids",
    [
        names(),
        np.array(names()),
        pa.array(names()),
        pa.chunked_array([names()[:7], names()[7:]]),
        pd.Series(names()),
        pl.Series(names()),
    ],
    ids=lambda ids: f"{type(ids).__module__}.{type(ids).__name__}",
)
def test_ids_of_any_kind(ids):
    assert read((ids, vectors())).ids.equals(pa.array(names()))


def test_input_is_left_alone():
    X = vectors()
    X.flags.writeable = False
    read(X)
    assert X.tolist() == vectors().tolist()


def test_only_needed_columns_are_converted():
    data = frame()
    data["payload"] = [object()] * N_ROWS
    with pytest.raises(CorruptInputError):
        read(data)
    data["payload"] = [1, "mixed"] * (N_ROWS // 2)
    late = pd.concat([frame(2000), data.assign(id=[f"late-{row}" for row in range(N_ROWS)])])
    assert len(read(late).X) == 2000 + N_ROWS


def test_pandas_lists_may_be_ragged():
    data = frame()
    data.at[9, "embedding"] = np.ones(5, "f4")
    with pytest.raises(
        ShapeError, match=r"the pandas table row 9 \(document_id 'doc-9'\): .* 5 val"
    ):
        read(data)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"a": 1}, DtypeError, "data of type dict are not read.*a path, a two-dimensional array"),
        ([[1.0, 2.0]], DtypeError, "data of type list"),
        ([], DtypeError, "data of type list"),
        (None, DtypeError, "data of type NoneType"),
        (pl.LazyFrame({"a": [1]}), DtypeError, "data of type LazyFrame"),
        (
            np.array([["a", None]], object),
            DtypeError,
            "holds object.*Python objects are never read",
        ),
        ((names(), vectors()[:5]), ShapeError, "60 ids for 5 vectors"),
        (([1.5] * N_ROWS, vectors()), SchemaMismatchError, "ids are double"),
        (pl.Series([1.0]), CorruptInputError, "the polars table: it cannot be read"),
        (pd.DataFrame(vectors()), SchemaMismatchError, "no column looks like vectors"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_is_not_read(data, error, message):
    with pytest.raises(error, match=message):
        open_source(data)


def test_arrays_have_no_columns():
    with pytest.raises(ConfigError, match=r"vector_column: arrays have no columns.*\(ids, array\)"):
        open_source(vectors(), vector_column="v")
