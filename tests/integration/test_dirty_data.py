"""Twelve defects, every algorithm: a documented outcome, and never a NaN in what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import gpucluster
from gpucluster.algorithms import catalogue
from gpucluster.errors import (
    BadRowsError,
    ConfigError,
    DuplicateIdsError,
    ShapeError,
    TooFewSamplesError,
)

pytestmark = pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")

ALGORITHMS = {
    "kmeans": {"n_clusters": 3, "n_init": 1},
    "dbscan": {"eps": 0.3},
    "hdbscan": {"min_cluster_size": 8},
    "agglomerative": {"n_clusters": 3},
    "spectral": {"n_clusters": 3, "affinity": "nearest_neighbors"},
    "gaussian_mixture": {"n_components": 3, "covariance_type": "diag"},
    "mean_shift": {"bandwidth": 0.5},
    "optics": {"cluster_method": "dbscan", "eps": 0.3},
}


def test_every_algorithm_is_here() -> None:
    assert set(ALGORITHMS) == set(catalogue())


def rows(n_rows: int = 300, n_features: int = 8) -> np.ndarray:
    stream = np.random.default_rng(0)
    centers = np.eye(3, n_features) * 4
    return (centers[np.arange(n_rows) % 3] + stream.normal(size=(n_rows, n_features)) * 0.3).astype(
        np.float32
    )


def with_value(value: float) -> np.ndarray:
    X = rows()
    X[7, 2] = value
    return X


def beyond_float32() -> np.ndarray:
    X = rows().astype(np.float64)
    X[7, 2] = 1e300
    return X


def with_zero_row() -> np.ndarray:
    X = rows()
    X[7] = 0
    return X


def null_vector() -> pa.Table:
    vectors = rows().tolist()
    vectors[7] = None
    return table(vectors)


def table(vectors: list, ids: list[str] | None = None) -> pa.Table:
    ids = ids or [f"d{row}" for row in range(len(vectors))]
    return pa.table({"id": ids, "embedding": pa.array(vectors, pa.list_(pa.float32()))})


def ragged() -> pa.Table:
    vectors = rows().tolist()
    vectors[9] = vectors[9][:-1]
    return table(vectors)


# what is wrong -> the data, and the reason or the error that it ends in
DEFECTS = {
    "nan": (lambda: with_value(np.nan), "nan"),
    "infinite": (lambda: with_value(np.inf), "inf"),
    "zero row": (with_zero_row, "zero_norm"),
    "null vector": (null_vector, "null"),
    "ragged": (ragged, ShapeError),
    "duplicate ids": (lambda: table(rows().tolist(), ["a"] * 300), DuplicateIdsError),
    "duplicate vectors": (lambda: np.repeat(rows(30), 10, axis=0), None),
    "all rows equal": (lambda: np.ones((40, 8), np.float32), None),
    "constant column": (lambda: np.concatenate([rows(), np.ones((300, 1), "f4")], axis=1), None),
    "mostly bad": (lambda: np.where(np.arange(300)[:, None] % 2, rows(), np.nan), BadRowsError),
    "one row": (lambda: rows(1), TooFewSamplesError),
    "huge values": (lambda: rows() * np.float32(1e30), None),
    "beyond float32": (beyond_float32, "inf"),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("defect", DEFECTS)
def test_defect(defect: str, algorithm: str, tmp_path: Path) -> None:
    make, outcome = DEFECTS[defect]
    fields = {"algorithm": algorithm, "algorithm_params": ALGORITHMS[algorithm]}
    if isinstance(outcome, type):
        with pytest.raises(outcome) as caught:
            gpucluster.cluster(make(), out=tmp_path / "out", **fields)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        return
    run = gpucluster.cluster(make(), out=tmp_path / "out", **fields)
    reasons = run.rejected["reason"].to_pylist()
    assert reasons == ([] if outcome is None else [outcome])
    for name in ("members", "centroids"):
        for column in getattr(run, name).itercolumns():
            if pa.types.is_fixed_size_list(column.type):
                column = pc.list_flatten(column)  # noqa: PLW2901
            if pa.types.is_floating(column.type):
                assert not pc.any(pc.is_nan(column)).as_py()
    assert all(v is None or np.isfinite(v) for v in run.metrics.values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("scale", [1e-17, 1e30])
def test_scale_changes_nothing(scale: float, algorithm: str, tmp_path: Path) -> None:
    fields = {"algorithm": algorithm, "algorithm_params": ALGORITHMS[algorithm]}
    plain = gpucluster.cluster(rows(), out=tmp_path / "plain", **fields)
    scaled = gpucluster.cluster(rows() * np.float32(scale), out=tmp_path / "scaled", **fields)
    assert plain.members["cluster_id"].equals(scaled.members["cluster_id"])
    assert len(plain.centroids) == 3
    assert plain.metrics["silhouette_score_reduced"] is None  # no other space
    for name, value in plain.metrics.items():
        expected = value if value is None else pytest.approx(value, rel=1e-4)
        assert scaled.metrics[name] == expected, name


def test_fewer_rows_than_clusters_names_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"n_clusters: got 50, but there are 20 rows"):
        gpucluster.cluster(
            rows(20), algorithm="kmeans", algorithm_params={"n_clusters": 50}, out=tmp_path / "o"
        )
