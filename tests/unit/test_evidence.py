"""What speaks for clusters: texts of each, documents once, and no more disk than there is."""

from __future__ import annotations

import errno
import os
import sqlite3
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster import Run
from gpucluster.errors import DiskFullError
from gpucluster.events import Reporter
from gpucluster.labeling.question.inputs import Sample
from gpucluster.labeling.settings import LabelingSettings
from gpucluster.naming import evidence
from gpucluster.naming.documents import Documents, _joined
from gpucluster.naming.evidence import ClusterEvidence, gather
from tests.helpers.topics import topic_run


def gathered(run: Run, **settings: Any) -> ClusterEvidence:
    return gather(
        run,
        LabelingSettings(**settings),
        source=None,
        text_column=None,
        is_tested=True,
        reporter=Reporter(),
    )


def test_no_document_is_shown_and_held_out(tmp_path: Path) -> None:
    run = topic_run(tmp_path, algorithm_params={"n_clusters": 24, "random_state": 1})
    found = gathered(run, model_name="gpt-4o", contrast=True)
    assert any(found.edge)
    assert any(found.held_out)
    for node in range(24):
        lists = [*found.shown[node], *found.edge[node], *found.held_out[node]]
        assert len(set(lists)) == len(lists)


def test_what_is_known_of_all_members_goes_before_documents_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = []
    find, read = evidence.candidates, evidence.read_documents

    def found(*args: Any, **more: Any) -> Any:
        chosen = find(*args, **more)
        alive.extend(weakref.ref(places) for places in (*chosen.near, *chosen.edge))
        return chosen

    def reading(*args: Any, **more: Any) -> Any:
        assert alive
        assert all(place() is None for place in alive)
        return read(*args, **more)

    monkeypatch.setattr(evidence, "candidates", found)
    monkeypatch.setattr(evidence, "read_documents", reading)
    assert any(gathered(topic_run(tmp_path), model_name="gpt-4o").shown)


def run_of(folder: Path, X: np.ndarray, texts: Sequence[str]) -> Run:
    """Return a run of two clusters."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.astype(np.float32).ravel()), X.shape[1])
    rows = {"id": [str(row) for row in range(len(X))], "text": texts, "embedding": vectors}
    pq.write_table(pa.table(rows), folder / "docs.parquet")
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 2}}
    return gpucluster.cluster(folder / "docs.parquet", settings, out=folder / "out", device="cpu")


@pytest.mark.parametrize("seed", range(8))
def test_copies_are_shown_once_whatever_their_values(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = np.repeat(1 + rng.random((4, 4)), [10, 10, 2, 2], axis=0)
    X = np.concatenate((X, -X))
    run = run_of(tmp_path, X, ["a text"] * len(X))
    for shown in gathered(run).shown:
        assert len({tuple(X[row]) for row in shown}) == len(shown) == 4


def test_every_cluster_has_texts_however_many_members_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evidence, "MOST_TEXTS", 1000)
    rng = np.random.default_rng(0)
    labels = np.concatenate(
        (np.repeat(np.arange(100), 6), np.full(20_000, 100), np.full(500, -1))
    ).astype(np.int32)
    rng.shuffle(labels)
    rows = rng.permutation(len(labels) + 50)[: len(labels)]
    nodes = evidence._counted(labels, rows, len(labels) + 50)
    numbers = np.bincount(nodes[nodes >= 0], minlength=101)
    assert numbers[:100].min() >= 5
    assert 900 < numbers[100] < 1100
    assert (nodes[rows[nodes[rows] >= 0]] == labels[nodes[rows] >= 0]).all()
    monkeypatch.setattr(evidence, "MOST_TEXTS", 100_000)
    assert (evidence._counted(labels, rows, len(labels) + 50)[rows] == labels).all()


def test_a_full_temporary_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = topic_run(tmp_path)

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(DiskFullError, match="no space is left") as error:
        gathered(run)
    assert "TMPDIR" in str(error.value.hint)


def test_a_full_disk_under_the_documents_is_said() -> None:
    documents = Documents()
    documents._db.execute("PRAGMA max_page_count = 3")
    with pytest.raises(DiskFullError) as error:
        documents.put(1, Sample({"text": "x" * 100_000}))
    assert isinstance(error.value.__cause__, sqlite3.OperationalError)


def test_texts_are_found_in_columns_lists_and_json() -> None:
    batch = pa.record_batch(
        {
            "title": ["one", None, "three"],
            "tags": [["a", "b"], [], None],
            "meta": [{"kind": "x"}, None, {"kind": "z"}],
            "json": ['{"body": ["first"]}', "no JSON", None],
        }
    )
    every = np.arange(3)
    for path, texts in {
        "title": ["one", None, "three"],
        "tags.1": ["b", None, None],
        "meta.kind": ["x", None, "z"],
        "json.body.0": ["first", None, None],
        "tags": ['["a", "b"]', None, None],
    }.items():
        assert _joined(batch, [path], every).to_pylist() == texts
    assert _joined(batch, ["title", "tags.1"], every).to_pylist() == ["one\nb", None, "three\n"]
    assert _joined(batch, ["nowhere"], every).to_pylist() == [None] * 3
    assert _joined(batch, ["tags.0"], np.array([0])).to_pylist() == ["a", None, None]
