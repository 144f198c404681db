from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gpucluster.artifacts import schema
from gpucluster.artifacts.checkpoints import Checkpoints
from gpucluster.artifacts.run import Run
from gpucluster.artifacts.store import LocalStore
from gpucluster.errors import (
    ArtifactError,
    CorruptArtifactError,
    InternalError,
    RunNotFoundError,
    StoreError,
)
from tests.helpers.runs import (
    LABELS,
    N_CLUSTERS,
    manifest,
    model,
    publish_small,
    publish_whole,
    tables,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("published")
    publish_small(LocalStore(root))
    return root / "run_a"


@pytest.fixture
def folder(published, tmp_path) -> Path:
    return shutil.copytree(published, tmp_path / "run_a")


def test_the_files_of_a_run(published):
    assert {str(path.relative_to(published)) for path in published.rglob("*")} == {
        "manifest.json",
        "members.parquet",
        "centroids.parquet",
        "rejected.parquet",
        "model",
        "model/0-whitening",
        "model/0-whitening/settings.json",
        "model/0-whitening/matrix.npy",
    }


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("name", ["", "manifest.json"])
def test_a_run_is_what_was_published(published, name, verify):
    run = Run.open(str(published / name), verify=verify)
    expected = tables()
    assert run.run_id == "run_a"
    assert run.path == published
    assert run.num_clusters == N_CLUSTERS
    assert run.metrics == {"silhouette_score": 0.25, "noise_ratio": None}
    assert run.external_metrics is None
    assert run.members.equals(expected["members"])
    assert run.centroids.equals(expected["centroids"])
    assert run.rejected.equals(expected["rejected"])
    step = run.model["0-whitening"]
    assert step["settings"] == {"method": "whitening"}
    np.testing.assert_array_equal(
        step["arrays"]["matrix"], model()["0-whitening"]["arrays"]["matrix"]
    )
    assert run.members is run.members
    assert len(run.to_pandas()) == len(LABELS)
    assert repr(run) == (
        f"Run('run_a': 5 clusters of 200 points, {(LABELS < 0).sum()} noise, in {str(published)!r})"
    )


def test_labels_are_in_the_order_of_the_input(published):
    labels = Run.open(published).labels_
    np.testing.assert_array_equal(labels, LABELS)
    assert labels.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        labels[0] = 0


def test_opening_a_run_is_cheap(published):
    code = (
        "import sys; from gpucluster.artifacts.run import Run\n"
        f"print(Run.open({str(published)!r}))\n"
        "print({'pyarrow', 'numpy', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_large_members_are_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "ROW_GROUP_ROWS", 16)
    monkeypatch.setattr(schema, "FILE_BYTES", 4000)
    publish_small(LocalStore(tmp_path))
    run = Run.open(tmp_path / "run_a", verify=True)
    names = [name for name in run.manifest.files if name.startswith("members")]
    assert len(names) > 3
    assert names[0] == "members-00000.parquet"
    assert run.members.equals(tables()["members"])
    np.testing.assert_array_equal(run.labels_, LABELS)


def test_publishing_twice_changes_nothing(published, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = publish_small(LocalStore(folder.parent), reproducible="statistical")
    assert again == Run.open(published).manifest
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_manifest_that_appears_while_publishing_stays(published, folder):
    class Late(LocalStore):
        def exists(self, key: str) -> bool:
            return False

    before = (folder / "manifest.json").stat().st_ino
    assert publish_small(Late(folder.parent)) == Run.open(published).manifest
    assert (folder / "manifest.json").stat().st_ino == before


def test_equal_runs_have_equal_files(published, tmp_path):
    assert publish_small(LocalStore(tmp_path)).files == Run.open(published).manifest.files


def test_another_run_under_the_same_id_is_refused(folder):
    with pytest.raises(StoreError, match="run_a is already published, of another"):
        publish_small(LocalStore(folder.parent), data_sha256="9" * 64)
    Run.open(folder, verify=True)


def test_members_that_contradict_the_counts_are_refused(tmp_path):
    wrong = tables() | {"members": schema.MEMBERS.empty_table()}
    with pytest.raises(InternalError, match="0 members, but 200 points"):
        publish_whole(LocalStore(tmp_path), manifest(), wrong)
    assert not (tmp_path / "run_a" / "manifest.json").exists()


def test_where_there_is_no_run(tmp_path, folder):
    with pytest.raises(RunNotFoundError, match="there is no such folder"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(RunNotFoundError, match="it holds 1 runs, the last is run_a"):
        Run.open(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunNotFoundError, match=r"it has no manifest\.json$"):
        Run.open(tmp_path / "empty")
    Checkpoints(LocalStore(tmp_path), "run_b").put("fit", "k" * 64, {}, {})
    with pytest.raises(RunNotFoundError, match="run_b is unfinished.* it resumes"):
        Run.open(tmp_path / "run_b")


@pytest.mark.parametrize(
    "name", ["members.parquet", "centroids.parquet", "model/0-whitening/matrix.npy"]
)
def test_missing_and_cut_files_show_at_once(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(CorruptArtifactError, match=f"{name} has {len(data) - 1} bytes"):
        Run.open(folder)
    (folder / name).unlink()
    with pytest.raises(CorruptArtifactError, match=f"{name} is missing"):
        Run.open(folder)


def read_all(run: Run) -> tuple:
    step = run.model["0-whitening"]
    return (
        run.members,
        run.centroids,
        run.rejected,
        step["settings"],
        step["arrays"]["matrix"].tobytes(),
    )


@pytest.mark.parametrize(
    "name",
    [
        "members.parquet",
        "centroids.parquet",
        "rejected.parquet",
        "model/0-whitening/matrix.npy",
        "model/0-whitening/settings.json",
    ],
)
def test_no_flipped_bit_is_read_in_silence(folder, name):
    path = folder / name
    good, whole = read_all(Run.open(folder)), path.read_bytes()
    rng = np.random.default_rng(3)
    n_seen = 0
    for position in rng.integers(0, len(whole), 300).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CorruptArtifactError, match="is damaged: its sha256"):
            Run.open(folder, verify=True)
        try:
            read = read_all(Run.open(folder))
        except CorruptArtifactError:
            n_seen += 1
            continue
        # What the checksums of the pages leave out carries no value: statistics, hints.
        assert read == good
    assert n_seen > 100


def test_a_file_that_is_whole_but_unreadable_is_not_called_damaged(folder, monkeypatch):
    run = Run.open(folder)

    def no_memory(*args, **kwargs):
        raise pa.ArrowMemoryError("malloc of size 7 failed")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read", no_memory)
    with pytest.raises(ArtifactError, match="malloc of size 7") as caught:
        _ = run.members
    assert not isinstance(caught.value, CorruptArtifactError)
