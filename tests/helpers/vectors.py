"""The same vectors in every format that is read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.events import Reporter
from gpucluster.sources import load, open_source
from gpucluster.types import Samples

N_ROWS, N_FEATURES = 60, 8


def vectors(n_rows: int = N_ROWS, dtype: str = "float32") -> np.ndarray:
    """Return rows of small integers, which every dtype holds exactly; none is zero."""
    X = np.random.default_rng(0).integers(-100, 100, (n_rows, N_FEATURES))
    X[:, 0] = np.arange(n_rows) % 100 + 1
    return np.abs(X).astype(dtype) if dtype == "uint8" else X.astype(dtype)


def names(n_rows: int = N_ROWS) -> list[str]:
    """Return ids of different lengths."""
    return [f"doc-{row}" for row in range(n_rows)]


def table(X: np.ndarray, ids: Any = None, **columns: Any) -> pa.Table:
    """Return ids and fixed-size vectors, with more columns."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(X)), X.shape[1])
    ids = names(len(X)) if ids is None else ids
    return pa.table({"id": ids, "embedding": column, **columns})


def write_json(path: Path, X: np.ndarray, ids: list[Any]) -> Path:
    """Write one object a line, compressed as the name says."""
    rows = zip(ids, X.tolist(), strict=True)
    text = "".join(json.dumps({"id": i, "embedding": v}) + "\n" for i, v in rows).encode()
    if path.suffix == ".gz":
        text = gzip.compress(text)
    elif path.suffix == ".zst":
        text = pa.compress(text, "zstd", asbytes=True)
    path.write_bytes(text)
    return path


def write_arrow(path: Path, data: pa.Table) -> Path:
    """Write an Arrow file, or a stream when the name ends in .arrows."""
    opened = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
    with path.open("wb") as file, opened(file, data.schema) as writer:
        writer.write_table(data, max_chunksize=17)
    return path


def write_parquet(path: Path, data: pa.Table, **options: Any) -> Path:
    """Write a Parquet file."""
    pq.write_table(data, path, **options)
    return path


def write_npy(path: Path, X: np.ndarray, ids: list[Any] | None = None) -> Path:
    """Write an array, and its ids beside it."""
    np.save(path, X)
    if ids is not None:
        np.save(path.with_suffix(".ids.npy"), _array(ids))
    return path


def write_npz(path: Path, X: np.ndarray, ids: list[Any], **arrays: Any) -> Path:
    """Write a compressed archive of vectors and ids."""
    np.savez_compressed(path, embeddings=X, ids=_array(ids), **arrays)
    return path


def _array(ids: list[Any]) -> np.ndarray:
    return np.array(ids, None if ids else str)


def write_vecs(path: Path, X: np.ndarray) -> Path:
    """Write rows that are led by their dimension."""
    lead = np.full((len(X), 1), X.shape[1], "<i4").view(np.uint8)
    np.hstack([lead, np.ascontiguousarray(X).view(np.uint8)]).tofile(path)
    return path


def write_bin(path: Path, X: np.ndarray) -> Path:
    """Write a matrix that is led by its shape."""
    path.write_bytes(np.array(X.shape, "<u4").tobytes() + X.tobytes())
    return path


# Formats that carry ids: what writes them, to a file of this name.
WITH_IDS: dict[str, Callable[[Path, np.ndarray, list[Any]], Path]] = {
    "x.parquet": lambda path, X, ids: write_parquet(path, table(X, ids)),
    "x.arrow": lambda path, X, ids: write_arrow(path, table(X, ids)),
    "x.feather": lambda path, X, ids: write_arrow(path, table(X, ids)),
    "x.arrows": lambda path, X, ids: write_arrow(path, table(X, ids)),
    "x.npy": write_npy,
    "x.npz": write_npz,
    "x.jsonl": write_json,
    "x.ndjson.gz": write_json,
    "x.jsonl.zst": write_json,
}

# Formats of benchmark sets: no ids, one dtype each.
WITHOUT_IDS: dict[str, tuple[str, Callable[[Path, np.ndarray], Path]]] = {
    "x.fvecs": ("float32", write_vecs),
    "x.bvecs": ("uint8", write_vecs),
    "x.fbin": ("float32", write_bin),
    "x.u8bin": ("uint8", write_bin),
    "x.i8bin": ("int8", write_bin),
}


def read(data: Any, **options: Any) -> Samples:
    """Open and load in one go; options of both."""
    columns = ("id_column", "vector_column", "text_column", "truth_column", "vector_dtype", "child")
    opening = {name: options.pop(name) for name in columns if name in options}
    return load(open_source(data, **opening), reporter=Reporter(), **options)


def assert_same(a: Samples, b: Samples) -> None:
    """Assert that two samples hold the same, bit for bit, wherever they came from."""
    assert a.ids.equals(b.ids)
    assert a.X.dtype == b.X.dtype == np.float32
    assert a.X.flags.c_contiguous
    assert a.X.tobytes() == b.X.tobytes()
    assert a.X.shape == b.X.shape
    assert a.rows.tolist() == b.rows.tolist()
    assert a.rejected.equals(b.rejected)
    assert a.payload.keys() == b.payload.keys()
    assert all(a.payload[role].equals(b.payload[role]) for role in a.payload)
    assert a.n_rows == b.n_rows
