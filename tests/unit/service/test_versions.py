"""Versions of a collection follow each other, whatever happens to those who write them."""

from __future__ import annotations

import functools
import itertools
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gpucluster
from gpucluster.artifacts import open_store
from gpucluster.artifacts.store import LocalStore
from gpucluster.errors import CorruptArtifactError, DuplicateIdsError, StoreError
from gpucluster.places import place
from gpucluster.service.collections.versions import Overtaken, Versions
from gpucluster.sources.collection import open_feature
from tests.helpers.documents import (
    FOLDER,
    NOW,
    TEXT,
    add,
    documents,
    everything,
    ids,
    start,
)
from tests.helpers.faults import KILLS, REFUSALS, Faulty, end_of, fork

KMEANS = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3}, "device": "cpu"}


@pytest.fixture(params=["disk", "bucket"])
def store(request, tmp_path):
    if request.param == "disk":
        return open_store(tmp_path / "root")
    return open_store(place(request.getfixturevalue("bucket") + "/some/root"))


def test_the_engine_reads_a_version(store):
    versions = start(store)
    add(store, versions, documents(*range(40)))
    add(store, versions, documents(*range(40, 60), title="new"))
    source = open_feature(str(versions.path(3)), TEXT)
    assert source.info.n_rows == 60
    assert source.ids().to_pylist() == [f"doc-{n}" for n in range(60)]
    (batch,) = open_feature(str(versions.path(2)), TEXT).batches()
    np.testing.assert_array_equal(batch.vectors[:, 0], np.arange(40, dtype=np.float32))
    titles = [v for b in source.columns(["title"]) for v in b.to_pydict().get("title", [None] * 40)]
    assert titles == [None] * 40 + ["new"] * 20


def test_a_version_is_clustered_by_its_path(tmp_path):
    store = LocalStore(tmp_path / "root")
    versions = start(store)
    add(store, versions, documents(*range(40)))
    run = gpucluster.cluster(
        str(versions.path(2)), out=tmp_path / "runs", feature_uris=[TEXT], **KMEANS
    )
    assert run.members.num_rows == 40
    assert run.manifest.source["collections"][0]["collection_id"] == "col_a"


def test_a_collection_without_documents_is_opened(tmp_path):
    versions = start(LocalStore(tmp_path))
    info = open_feature(str(versions.path(1)), TEXT).info
    assert (info.n_rows, info.n_features) == (0, 4)


def test_versions_stay_as_they_are(store):
    versions = start(store)
    before = versions.latest()
    add(store, versions, documents(1))
    add(store, versions, documents(2))
    assert versions.numbers() == [1, 2, 3]
    assert versions.read(1) == before
    assert ids(versions, versions.read(2)) == ["doc-1"]
    assert versions.latest().parent == 2
    assert versions.has(3)
    assert not versions.has(4)
    with pytest.raises(LookupError):
        versions.read(4)


def test_whoever_comes_second_is_told_so(store):
    versions = start(store)
    latest = versions.latest()
    versions.commit(latest.next("delete", NOW))
    with pytest.raises(Overtaken):
        versions.commit(latest.next("delete", NOW))
    with pytest.raises(Overtaken):
        add(store, versions, documents(1), pinned=1)
    assert versions.numbers() == [1, 2]
    assert len(store.list(f"{FOLDER}/data")) == 1  # what was overtaken has left nothing
    add(store, versions, documents(1), pinned=2)


def test_no_collection_is_an_answer(tmp_path):
    versions = Versions(LocalStore(tmp_path), FOLDER)
    assert versions.latest() is None
    with pytest.raises(LookupError):
        versions.revise(lambda latest: None)


@pytest.mark.parametrize("n_rounds", [3])
def test_of_eight_who_append_at_once_nobody_loses_a_document(store, n_rounds):
    versions = start(store)
    ready = threading.Barrier(8)

    def append_some(who):
        ready.wait()
        for turn in range(n_rounds):
            number = who * n_rounds + turn
            add(store, versions, documents(number, number + 1000))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(append_some, range(8)))
    assert versions.numbers() == list(range(1, 8 * n_rounds + 2))
    found = ids(versions)
    assert sorted(found) == sorted(
        f"doc-{n + more}" for n in range(8 * n_rounds) for more in (0, 1000)
    )
    for number in versions.numbers():  # each has what the one before had, and two more
        assert ids(versions, versions.read(number)) == found[: 2 * (number - 1)]


def test_of_eight_who_append_the_same_id_one_wins(tmp_path):
    store = LocalStore(tmp_path)
    versions = start(store)
    ready = threading.Barrier(8)

    def append_one(who):
        ready.wait()
        try:
            return add(store, versions, documents(7, who=who)).added
        except DuplicateIdsError:
            return 0

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(append_one, range(8))) == 1
    assert ids(versions) == ["doc-7"]
    assert len(store.list(f"{FOLDER}/data")) == 2


@pytest.mark.parametrize("change", ["append", "replace"])
@pytest.mark.parametrize("fault", KILLS + REFUSALS)
def test_a_fault_at_every_operation(tmp_path, fault, change):
    """Readers see the old version or the new one, and the same request again ends in the new."""
    numbers = (3, 4) if change == "append" else (2, 4)
    settings = {"on_duplicate": "replace", "key": "once"}
    seen = []
    for n in itertools.count(1):
        root = tmp_path / str(n)
        versions = start(LocalStore(root))
        add(LocalStore(root), versions, documents(1, 2))
        old = everything(versions)
        faulty = LocalStore(root, Faulty(n, fault))
        work = functools.partial(
            add, faulty, Versions(faulty, FOLDER), documents(*numbers, new=True), **settings
        )
        if "killed" in fault:
            ended = end_of(fork(work))
            if ended == 0:
                break
            assert ended == -signal.SIGKILL
        else:
            try:
                work()
            except StoreError:
                pass
            else:
                break
        latest = versions.latest()
        is_new = latest.number == 3
        if not is_new:
            assert everything(versions).equals(old)
        seen.append(is_new)
        add(LocalStore(root), versions, documents(*numbers, new=True), **settings)
        assert versions.latest().number == 3
        assert sorted(ids(versions)) == [f"doc-{n}" for n in sorted({1, 2, *numbers})]
    assert len(seen) >= (5 if fault.startswith("torn") else 8)
    assert seen == sorted(seen)


def test_a_version_that_was_damaged_is_refused(tmp_path):
    versions = start(LocalStore(tmp_path))
    path = versions.path(1)
    body = json.loads(path.read_text())
    for damage in (path.read_text()[:-20], json.dumps({**body, "meta": {}}), "[]"):
        path.write_text(damage)
        with pytest.raises(CorruptArtifactError, match="00000001.collection.json is damaged"):
            versions.latest()
