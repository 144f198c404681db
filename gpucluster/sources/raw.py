"""One array a file: .npy, and the .fvecs and .fbin families of benchmark sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from gpucluster.errors import ConfigError, CorruptInputError, SchemaMismatchError, ShapeError
from gpucluster.sources.arrays import ArraySource, Part, check_matrix
from gpucluster.sources.base import Block, Columns, Source, SourceInfo, check_features, reading
from gpucluster.sources.columns import to_keys
from gpucluster.sources.parquet import read_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

VECS = {"fvecs": "<f4", "bvecs": "u1"}  # each row: its dimension as int32, then its values
BINS = {"fbin": "<f4", "u8bin": "u1", "i8bin": "i1"}  # rows and dimension as uint32, values


def open_raw(paths: Sequence[str], asked: Columns, kind: str) -> Source:
    """Open files that hold one array each, mapped into memory.

    Ids lie beside a file ``x.npy``, in ``x.ids.npy``, ``x.ids.parquet`` or ``x.ids.txt``
    (one a line); without them rows are known by their position.

    Parameters
    ----------
    paths : sequence of str
        In reading order.
    asked : Columns
        Must be empty: such files have no names to choose from.
    kind : {"npy", "fvecs", "bvecs", "fbin", "u8bin", "i8bin"}

    Returns
    -------
    Source

    Raises
    ------
    CorruptInputError
        The header and the size of a file disagree. Nothing is allocated on a header's word.
    SchemaMismatchError
        Several files hold the ids of one, or only some files have ids.
    """
    if asked != Columns():
        raise ConfigError(
            f"{kind} files have no columns to choose from",
            path="vector_column" if asked.vector else "id_column",
            hint="lay ids beside the file, as <name>.ids.npy, .ids.parquet or .ids.txt",
        )
    parts = []
    for path in paths:
        with reading(path):
            vectors = _map_as(kind, path)
        parts.append(Part(path, vectors, _ids_beside(path)))
    return ArraySource(SourceInfo(kind, tuple(paths)), parts)


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, Fortran order and dtype of an .npy stream, up to its values."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:  # 3.0 is for names of fields, which no matrix has
        raise ValueError(f".npy version {version}")
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape}")
    return shape, fortran, dtype


def array_keys(where: str, array: NDArray[Any]) -> pa.Array:
    """Return a one-dimensional array of ids or labels as int64 or string."""
    if array.ndim != 1:
        raise ShapeError(f"{where}: ids or labels have shape {array.shape}, one a row expected")
    if array.dtype.kind not in "iuUS":
        raise SchemaMismatchError(
            f"{where}: ids or labels are {array.dtype}, integers or strings expected",
            hint="convert them with astype(str)",
        )
    return to_keys(pa.array(array.astype(array.dtype.newbyteorder("="))))


def _map_as(kind: str, path: str) -> Block:
    if kind == "npy":
        return _map_npy(path)
    if kind in VECS:
        return _map_vecs(path, np.dtype(VECS[kind]))
    return _map_bin(path, np.dtype(BINS[kind]))


def _map_npy(path: str) -> Block:
    shape, fortran, dtype, offset = _npy_layout(path)
    check_matrix(path, shape, dtype)
    return _map(path, dtype, shape, offset, "F" if fortran else "C")


def _npy_layout(path: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, order, dtype and offset of values that fill the file exactly."""
    with Path(path).open("rb") as file:
        shape, fortran, dtype = npy_header(file)
        offset = file.tell()
    _check_size(path, offset + math.prod(shape) * dtype.itemsize)
    return shape, fortran, dtype, offset


def _map_vecs(path: str, dtype: np.dtype[Any]) -> Block:
    (n_features,) = _header(path, "<i4", 1)
    check_features(path, n_features)
    row = np.dtype([("n_features", "<i4"), ("values", dtype, (n_features,))])
    n_rows = Path(path).stat().st_size // row.itemsize
    _check_size(path, n_rows * row.itemsize)
    rows = _map(path, row, (n_rows,), 0)
    wrong = np.flatnonzero(rows["n_features"] != n_features)
    if wrong.size:
        raise ShapeError(
            f"{path} row {wrong[0]}: the vector has {rows['n_features'][wrong[0]]:,} values, "
            f"{n_features:,} expected"
        )
    return rows["values"]


def _map_bin(path: str, dtype: np.dtype[Any]) -> Block:
    n_rows, n_features = _header(path, "<u4", 2)
    check_features(path, n_features)
    _check_size(path, 8 + n_rows * n_features * dtype.itemsize)
    return _map(path, dtype, (n_rows, n_features), 8)


def _header(path: str, dtype: str, count: int) -> list[int]:
    with Path(path).open("rb") as file:
        return [int(value) for value in np.frombuffer(file.read(4 * count), dtype, count)]


def _check_size(path: str, expected_bytes: int) -> None:
    size = Path(path).stat().st_size
    if size != expected_bytes:
        raise CorruptInputError(
            f"{path}: its header stands for {expected_bytes:,} bytes, the file has {size:,}"
        )


def _map(
    path: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    offset: int,
    order: Literal["C", "F"] = "C",
) -> NDArray[Any]:
    if 0 in shape:  # nothing can be mapped
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, order)


def _ids_beside(path: str) -> pa.Array | None:
    beside = [Path(path).with_suffix(f".ids.{end}") for end in ("npy", "parquet", "txt")]
    found = [candidate for candidate in beside if candidate.exists()]
    if not found:
        return None
    if len(found) > 1:
        raise SchemaMismatchError(
            f"{path}: its ids lie in {' and in '.join(candidate.name for candidate in found)}",
            hint="remove all but one",
        )
    where = str(found[0])
    with reading(where):
        if found[0].suffix == ".parquet":
            return read_ids(where)
        if found[0].suffix == ".txt":
            return pa.array(found[0].read_text(encoding="utf-8").splitlines(), pa.string())
        _npy_layout(where)
        return array_keys(where, np.load(where, allow_pickle=False))
