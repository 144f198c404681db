"""Names of clusters on disk: replaced whole, or those of before still hold."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gpucluster.artifacts import labels
from gpucluster.artifacts.labels import (
    LABELS,
    finished_labeling,
    read_labeling,
    read_named,
    write_labels,
)
from gpucluster.artifacts.run import Run
from gpucluster.artifacts.store import LocalStore
from gpucluster.errors import CorruptArtifactError, SchemaTooNewError, StoreError
from tests.helpers.runs import N_CLUSTERS, publish_small


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    found = LocalStore(tmp_path)
    publish_small(found)
    return found


def write(store: LocalStore, word: str, labeling_id: str = "lab_a") -> labels.Labeling:
    """Name the clusters of the run ``word 0``, ``word 1`` ..."""
    now = datetime.now(UTC)
    record = {
        "labeling_id": labeling_id,
        "run_id": "run_a",
        "created_at": now,
        "completed_at": now,
        "gpucluster_version": "0.1.0",
        "settings": {},
        "settings_sha256": "0" * 64,
        "provider": "keywords",
        "model_name": None,
        "counts": {},
    }
    ids = Run.open(store.root / "run_a").fitted_centroids["cluster_id"].to_pylist()
    rows = [
        dict.fromkeys(LABELS.names)
        | {"cluster_id": name, "cluster_index": i, "label": f"{word} {i}", "label_source": "llm"}
        for i, name in enumerate(ids)
    ]
    return write_labels(store, record, pa.Table.from_pylist(rows, LABELS))


def first_label(store: LocalStore) -> str:
    label: str = Run.open(store.root / "run_a").centroids["label"][0].as_py()
    return label


class FullStore(LocalStore):
    """A store that has no room for a record."""

    def put(self, key: str, *args: Any, **options: Any) -> Any:
        if key.endswith("labels.json"):
            raise StoreError("no space")
        return super().put(key, *args, **options)


def test_an_attempt_that_fails_at_its_record_leaves_the_names_of_before(store: LocalStore) -> None:
    write(store, "old")
    with pytest.raises(StoreError):
        write(FullStore(store.root), "new")
    assert first_label(store) == "old 0"
    write(store, "new")
    assert first_label(store) == "new 0"
    tables = [name for name in store.list("run_a/labels") if name.endswith(".parquet")]
    assert len(tables) == 1


def test_the_same_names_are_written_again(store: LocalStore) -> None:
    assert write(store, "old").table == write(store, "old").table
    assert first_label(store) == "old 0"


@pytest.mark.parametrize("name", ["table", "record"])
def test_what_is_damaged_is_not_finished(store: LocalStore, name: str) -> None:
    folder = store.root / "run_a"
    assert finished_labeling(folder) is None
    found = write(store, "old")
    assert finished_labeling(folder) == found
    path = folder / "labels" / (found.table if name == "table" else "labels.json")
    path.write_bytes(path.read_bytes()[:-9])
    assert finished_labeling(folder) is None
    with pytest.raises(CorruptArtifactError):
        Run.open(folder, verify=True)
    write(store, "old")
    assert finished_labeling(folder) is not None
    Run.open(folder, verify=True)


def test_names_of_a_newer_version_are_not_passed_over(store: LocalStore) -> None:
    write(store, "old")
    path = store.root / "run_a" / "labels" / "labels.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(SchemaTooNewError):
        finished_labeling(store.root / "run_a")


def test_a_run_keeps_the_names_that_it_has_read(store: LocalStore) -> None:
    old = write(store, "old")
    run = Run.open(store.root / "run_a")
    assert run.labeling == old
    write(store, "new", "lab_b")
    assert run.centroids["label"].to_pylist() == [f"old {i}" for i in range(N_CLUSTERS)]
    assert first_label(store) == "new 0"


def test_names_that_are_replaced_while_they_are_read(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(store, "old")
    new = write(store, "new", "lab_b")
    found = iter([old, new])
    monkeypatch.setattr(labels, "read_labeling", lambda run: next(found))
    labeling, table = read_named(store.root / "run_a") or pytest.fail("no names")
    assert (labeling, table["label"][0].as_py()) == (new, "new 0")
    assert read_labeling(store.root / "run_a") == new
