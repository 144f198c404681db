"""What is told about a source before anything runs."""

from __future__ import annotations

import numpy as np
import pytest

from gpucluster.sources import Columns, inspect
from gpucluster.sources.inspection import SAMPLE_ROWS
from tests.helpers.vectors import N_FEATURES, N_ROWS, names, table, vectors, write_parquet


def test_everything_is_told(tmp_path):
    X = vectors(dtype="float64")
    X[3, 2], X[8, 5], X[9] = np.nan, np.inf, 0
    X[10] = X[11] = X[12]
    ids = names()
    ids[5] = ids[6]
    path = write_parquet(tmp_path / "x.parquet", table(X, ids, text=names(), n=range(N_ROWS)))
    found = inspect(path, truth_column="n")
    assert found.info.format == "parquet"
    assert (found.info.n_rows, found.info.n_features, found.info.dtype) == (60, 8, "float64")
    assert found.info.columns == Columns("id", "embedding", "text", "n")
    assert found.info.fields == {
        "id": "string",
        "embedding": "fixed_size_list<element: double>[8]",
        "text": "string",
        "n": "int64",
    }
    assert found.info.candidates == {"id": ("id",), "vector": ("embedding",), "text": ("text",)}
    assert found.gigabytes == 60 * 8 * 8 / 1e9
    assert found.sampled_rows == 60
    assert found.bad_rows == {"null": 0, "nan": 1, "inf": 1, "zero_norm": 1}
    assert (found.duplicate_vectors, found.duplicate_ids) == (2, 1)
    clean = np.delete(X, [3, 8, 9], axis=0)
    assert found.mean_norm == pytest.approx(np.linalg.norm(clean, axis=1).mean(), rel=1e-6)
    assert found.command == ("gpucluster", "run", str(path), "--truth-column", "n")


def test_a_large_source_is_only_sampled(tmp_path):
    n_rows = SAMPLE_ROWS + 5_000
    X = np.ones((n_rows, 2), "f4")
    X[SAMPLE_ROWS:] = np.nan
    path = write_parquet(tmp_path / "x.parquet", table(X, range(n_rows)), row_group_size=3_000)
    found = inspect(path)
    assert (found.info.n_rows, found.sampled_rows) == (n_rows, SAMPLE_ROWS)
    assert sum(found.bad_rows.values()) == 0
    assert found.duplicate_vectors == SAMPLE_ROWS - 1


def test_samples_are_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("gpucluster.sources.inspection.HEAD_BYTES", 7 * N_FEATURES * 4)
    assert inspect(vectors()).sampled_rows == 7


def test_data_in_memory_have_no_command():
    found = inspect(vectors())
    assert (found.command, found.duplicate_ids, found.info.paths) == ((), 0, ())


def test_several_paths(tmp_path):
    paths = [
        write_parquet(
            tmp_path / f"{part}.parquet", table(vectors(), [f"{part}-{n}" for n in names()])
        )
        for part in range(2)
    ]
    found = inspect(paths)
    assert found.info.n_rows == 2 * N_ROWS
    assert found.command == ("gpucluster", "run", *map(str, paths))


def test_only_bad_rows():
    found = inspect(np.zeros((5, 3)))
    assert (found.mean_norm, found.duplicate_vectors) == (None, 0)
    assert found.bad_rows["zero_norm"] == 5


def test_no_rows():
    found = inspect(np.zeros((0, 3)))
    assert (found.sampled_rows, found.mean_norm) == (0, None)
