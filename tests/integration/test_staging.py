"""Samples are staged once for each state of their files, and are what loading would give."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster.artifacts import Run
from gpucluster.device import scratch
from gpucluster.errors import DiskFullError, GpuclusterWarning, StoreError
from gpucluster.events import StageStarted
from gpucluster.sources import staging

STAGED = ".staged"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows with ids, a truth, a text, and two that cannot be clustered."""
    stream = np.random.default_rng(0)
    truth = stream.integers(6, size=3000)
    X = (stream.normal(size=(6, 10))[truth] * 3 + stream.normal(size=(3000, 10))).astype("f4")
    X[7], X[8] = np.nan, 0
    columns = {
        "id": [f"d{i}" for i in range(3000)],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 10),
        "truth": [f"t{i}" for i in truth],
        "kind": ["odd" if i % 2 else "even" for i in range(3000)],
    }
    pq.write_table(pa.table(columns), tmp_path / "docs.parquet")
    return tmp_path / "docs.parquet"


def cluster(data: Path, out: str, n_clusters: int = 4, **settings: Any) -> Run:
    return gpucluster.cluster(
        data,
        out=data.parent / out,
        algorithm="kmeans",
        algorithm_params={"n_clusters": n_clusters, "n_init": 1},
        device="cpu",
        previous=None,
        truth_column="truth",
        **settings,
    )


def loaded(run: Run) -> bool:
    return not next(stage for stage in run.manifest.stages if stage.name == "load").reused


def kept(data: Path) -> list[str]:
    return sorted(path.name for path in (data.parent / "out" / STAGED).iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalize_features": False, "preprocessing_steps": [{"method": "whitening"}]},
        {"sample_size": 1000, "sample_mode": "fit_then_assign"},
        {"filters": {"AND": [{"field": "kind", "operator": "eq", "value": "odd"}]}},
        {"hierarchical": True, "min_split_size": 50},
    ],
    ids=["plain", "whitening", "sample", "filter", "hierarchy"],
)
def test_what_was_staged_is_what_is_loaded(data: Path, settings: dict[str, Any]) -> None:
    first = cluster(data, "out", 3, storage="disk", **settings)
    assert loaded(first)
    again = cluster(data, "out", storage="disk", **settings)
    assert not loaded(again)
    here = cluster(data, "here", **settings)
    assert again.manifest.content_sha256 == here.manifest.content_sha256
    assert again.run_id == here.run_id
    assert again.rejected.equals(here.rejected)
    assert again.external_metrics == here.external_metrics
    assert len(kept(data)) == 1
    assert not (data.parent / "here" / STAGED).exists()


def test_another_state_or_another_question_is_loaded(data: Path) -> None:
    assert loaded(cluster(data, "out", storage="disk"))
    names = kept(data)
    assert loaded(cluster(data, "out", storage="disk", normalize_features=False))
    assert kept(data) != names  # one of each input stays
    os.utime(data, ns=(1, time.time_ns()))
    assert loaded(cluster(data, "out", 5, storage="disk", normalize_features=False))
    assert not loaded(cluster(data, "out", 6, storage="disk", normalize_features=False))
    assert loaded(cluster(data, "out", 6, storage="disk", normalize_features=False, fresh=True))
    assert len(kept(data)) == 1


@pytest.mark.parametrize("name", ["vectors.f32", "samples.arrow", "rejected.arrow", "staged.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_what_is_damaged_is_loaded_again(data: Path, name: str, how: str) -> None:
    cluster(data, "out", storage="disk")
    [folder] = (data.parent / "out" / STAGED).iterdir()
    content = bytearray((folder / name).read_bytes())
    if how == "gone":
        (folder / name).unlink()
    else:
        content[len(content) // 2] ^= 8
        (folder / name).write_bytes(content if how == "flip" else content[: len(content) // 2])
    again = cluster(data, "out", 5, storage="disk")
    assert loaded(again)
    assert not loaded(cluster(data, "out", 6, storage="disk"))  # it is whole again
    assert again.manifest.content_sha256 == cluster(data, "here", 5).manifest.content_sha256


def test_what_is_not_of_files_is_not_staged(data: Path) -> None:
    X = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    settings = {"device": "cpu", "storage": "disk", "algorithm": "kmeans"}
    gpucluster.cluster(X, out=data.parent / "out", **settings)
    assert not (data.parent / "out" / STAGED).exists()


def test_a_run_goes_on_where_nothing_can_be_staged(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(staging, "_write", full)
    with pytest.warns(GpuclusterWarning, match="not staged.*space"):
        run = cluster(data, "out", storage="disk")
    monkeypatch.undo()
    assert [warned.code for warned in run.manifest.warnings] == ["not_staged"]
    assert kept(data) == []
    again = cluster(data, "out", 5, storage="disk")
    assert loaded(again)
    assert again.labels_.tolist() == cluster(data, "here", 5).labels_.tolist()


def test_a_folder_that_cannot_be_written_is_a_refusal(data: Path) -> None:
    (data.parent / "out").write_text("a file")
    with pytest.raises(StoreError, match="no folder can be made there"):
        cluster(data, "out", storage="disk")


def test_a_run_that_was_stopped_leaves_nothing_half(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(event: Any) -> None:
        if isinstance(event, StageStarted) and event.stage == "cluster":
            raise DiskFullError("no room")

    with pytest.raises(DiskFullError):
        cluster(data, "out", storage="disk", observer=full)
    assert len(kept(data)) == 1  # the samples were whole by then
    assert not loaded(cluster(data, "out", storage="disk"))
    left = data.parent / "out" / STAGED / ".new-killed"
    left.mkdir()
    (left / "gpucluster-x").write_bytes(b"half")
    monkeypatch.setattr(scratch, "ABANDONED_S", -1.0)
    assert loaded(cluster(data, "out", storage="disk", normalize_features=False))
    assert len(kept(data)) == 1
