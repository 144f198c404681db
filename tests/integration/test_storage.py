"""The same run, whether its matrices lie in memory or on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpucluster
from gpucluster.device import cores, storage
from gpucluster.errors import NotConvergedWarning, WillNotFitError

LAYOUT = {"method": "umap", "n_components": 5, "random_state": 1}
CASES: dict[str, dict[str, Any]] = {
    "whitened kmeans": {"algorithm": "kmeans", "preprocessing_steps": [{"method": "whitening"}]},
    "spherical kmeans": {"algorithm": "kmeans", "algorithm_params": {"metric": "cosine"}},
    "of any length": {"algorithm": "kmeans", "normalize_features": False},
    "mixture": {
        "algorithm": "gaussian_mixture",
        "preprocessing_steps": [{"method": "pca", "n_components": 8}],
    },
    "dbscan": {"algorithm": "dbscan", "algorithm_params": {"eps": 0.4}},
    "hdbscan in a layout": {"algorithm": "hdbscan", "preprocessing_steps": [LAYOUT]},
    "optics": {"algorithm": "optics"},
    "agglomerative": {"algorithm": "agglomerative", "algorithm_params": {"n_clusters": 4}},
    "spectral": {"algorithm": "spectral", "algorithm_params": {"n_clusters": 4}},
    "mean shift": {"algorithm": "mean_shift", "algorithm_params": {"bandwidth": 0.6}},
    "hierarchy": {"algorithm": "kmeans", "hierarchical": True, "min_split_size": 60},
    "display": {"algorithm": "kmeans", "dimension_reduction": {"method": "pca"}},
    "sample": {"algorithm": "kmeans", "sample_size": 300, "sample_mode": "fit_then_assign"},
}


def points() -> Any:
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(4, 24)) * 3 + 1
    return (centers[rng.integers(0, 4, 600)] + rng.normal(size=(600, 24))).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_the_result_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(storage, "SMALL_BYTES", 0)
    X, found = points(), {}
    for where in ("memory", "disk"):
        out = tmp_path / where
        run = gpucluster.cluster(X, **CASES[case], out=out, device="cpu", storage=where)
        assert {stage.storage for stage in run.manifest.stages} == {where}
        assert [each.name for each in out.iterdir()] == [run.run_id]
        found[where] = run
    assert found["memory"].run_id == found["disk"].run_id
    assert found["memory"].manifest.content_sha256 == found["disk"].manifest.content_sha256


def test_several_features_lie_on_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    monkeypatch.setattr(storage, "SMALL_BYTES", 0)
    rows = points()
    table = pa.table(
        {name: pa.FixedSizeListArray.from_arrays(rows.ravel(), 24) for name in ("text", "image")}
    )
    uris = [f"mixpeek://extractor@v1/{name}" for name in table.column_names]
    sums = {
        gpucluster.cluster(
            table,
            algorithm="kmeans",
            feature_uris=uris,
            multi_feature_strategy="independent",
            out=tmp_path / where,
            device="cpu",
            storage=where,
        ).manifest.content_sha256
        for where in ("memory", "disk")
    }
    assert len(sums) == 1


def test_too_little_memory_sends_matrices_to_disk(tmp_path: Path) -> None:
    X = np.zeros((200_000, 768), np.float32)
    settings: dict[str, Any] = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 100}}
    free = gpucluster.plan(X, settings, device="cpu", memory_limit="100GB")
    tight = gpucluster.plan(X, settings, device="cpu", memory_limit="1GB", out=tmp_path)
    assert free.peak_bytes > 1_050_000_000
    assert free.storage == ("memory" if free.room.memory_bytes > free.peak_bytes else "disk")
    assert tight.storage == "disk"
    assert tight.peak_bytes < 1_000_000_000
    assert tight.disk_bytes >= X.nbytes
    assert tight.folder == tmp_path
    tight.require_room()
    assert tight.to_dict()["storage"] == "disk"


def test_many_cores_are_not_all_used_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(64)))
    X = np.random.default_rng(0).normal(size=(30_000, 512)).astype(np.float32)
    job: dict[str, Any] = {
        "definition": {
            "algorithm": "kmeans",
            "algorithm_params": {"n_clusters": 5, "n_init": 1, "max_iter": 2},
        },
        "device": "cpu",
    }
    with cores.at_most(2):
        few = gpucluster.plan(X, **job, storage="disk", out=tmp_path)
    limit = few.peak_bytes + (100 << 20)
    assert gpucluster.plan(X, **job, out=tmp_path, storage="disk").peak_bytes > 2 * limit
    short = gpucluster.plan(X, **job, out=tmp_path, memory_limit=limit)
    assert (short.storage, short.n_threads) == ("disk", 4)
    with pytest.warns(NotConvergedWarning):
        run = gpucluster.cluster(X, **job, out=tmp_path / "a", memory_limit=limit)
    assert cores.n_threads() == 64
    with cores.at_most(2), pytest.warns(NotConvergedWarning):
        other = gpucluster.cluster(X, **job, out=tmp_path / "b")
    assert run.manifest.content_sha256 == other.manifest.content_sha256


def test_what_fits_nowhere_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = points()
    with pytest.raises(WillNotFitError, match=r"needs about .*, 1.0 MB are allowed.*sample-size"):
        gpucluster.cluster(X, out=tmp_path / "a", memory_limit="1MB", device="cpu")
    with pytest.raises(WillNotFitError, match=r"or --storage auto"):
        gpucluster.cluster(
            X, out=tmp_path / "a", memory_limit="1MB", storage="memory", device="cpu"
        )
    usage = storage.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WillNotFitError, match=r"matrices need about .* of the disk of"):
        gpucluster.cluster(X, out=tmp_path / "a", storage="disk", device="cpu")
    assert not (tmp_path / "a").exists()
