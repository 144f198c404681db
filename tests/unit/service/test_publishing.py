"""Columns of runs come and go, while documents come and go as well."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest

import gpucluster
from gpucluster.artifacts import open_store
from gpucluster.artifacts.store import LocalStore
from gpucluster.errors import ConfigError
from gpucluster.events import CancelToken
from gpucluster.places import place
from gpucluster.service.collections.compacting import compact, sweep
from gpucluster.service.collections.data import read_data, write_data
from gpucluster.service.collections.publishing import (
    check_targets,
    publish,
    undo,
)
from gpucluster.service.collections.removing import remove
from gpucluster.service.collections.versions import Enrichment, Overtaken, Versions
from gpucluster.service.jobs.enriching import enrich
from gpucluster.sources.collection import open_feature
from tests.helpers.documents import DIM, FOLDER, NOW, TEXT, add, documents, everything, ids, start


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "root")


@pytest.fixture
def versions(store):
    versions = start(store)
    add(store, versions, documents(0, 1, 2, own="x"))
    add(store, versions, documents(3, 4))
    return versions


def enriched(store, versions, run_id, columns=("cluster_id",), drop=()):
    """Write a file for each file of the latest version, as an enrichment does."""
    version = versions.latest()
    replaced = {}
    for file in version.files:
        batches = [
            _with_columns(batch, run_id, columns, {*drop, *columns})
            for batch in read_data(versions, file, version.schema.names)
        ]
        replaced[file.name] = write_data(
            store, FOLDER, batches[0].schema, batches, version.id_column
        )
    return version, replaced


def _with_columns(batch, run_id, columns, gone):
    kept = batch.select([name for name in batch.schema.names if name not in gone])
    new = {name: pa.array([f"{run_id}-{name}"] * batch.num_rows) for name in columns}
    arrays = [*kept.columns, *new.values()]
    return pa.record_batch(arrays, [*kept.schema.names, *new])


def run(store, versions, run_id, columns=("cluster_id",), drop=()):
    version, replaced = enriched(store, versions, run_id, columns, drop)
    return publish(versions, replaced, columns=columns, run_id=run_id, expected=version, now=NOW)


def values(versions, name="cluster_id"):
    table = everything(versions)
    if name not in table.column_names:
        return None
    return dict(zip(table["document_id"].to_pylist(), table[name].to_pylist(), strict=True))


def test_columns_are_published_and_undone(store, versions):
    before = versions.latest()
    version = run(store, versions, "run_a", ("cluster_id", "label"))
    assert [each.run_id for each in version.enrichments] == ["run_a"]
    assert set(values(versions).values()) == {"run_a-cluster_id"}
    assert version.schema.names == [*before.schema.names, "cluster_id", "label"]
    assert open_feature(str(versions.path(version.number)), TEXT).info.n_rows == 5
    undone = undo(store, versions, run_id="run_a", now=NOW)
    assert undone.files == before.files
    assert undone.schema.equals(before.schema)
    assert undone.enrichments == ()
    with pytest.raises(LookupError):
        undo(store, versions, run_id="run_a", now=NOW)


def test_what_was_added_meanwhile_stays(store, versions):
    version, replaced = enriched(store, versions, "run_a")
    add(store, versions, documents(5, late=True))
    publish(versions, replaced, columns=["cluster_id"], run_id="run_a", expected=version, now=NOW)
    assert values(versions) == {
        **{f"doc-{n}": "run_a-cluster_id" for n in range(5)}, "doc-5": None
    }  # fmt: skip
    add(store, versions, documents(6))
    undo(store, versions, run_id="run_a", now=NOW)
    assert values(versions) is None
    assert ids(versions) == [f"doc-{n}" for n in range(7)]
    assert "late" in versions.latest().schema.names


def test_what_was_removed_meanwhile_does_not_come_back(store, versions):
    version, replaced = enriched(store, versions, "run_a")
    remove(store, versions, now=NOW, ids=pa.array(["doc-1"]))
    with pytest.raises(Overtaken):
        publish(
            versions, replaced, columns=["cluster_id"], run_id="run_a", expected=version, now=NOW
        )
    run(store, versions, "run_a")
    remove(store, versions, now=NOW, ids=pa.array(["doc-3"]))
    undo(store, versions, run_id="run_a", now=NOW)
    assert values(versions) is None
    assert sorted(ids(versions)) == ["doc-0", "doc-2", "doc-4"]


def test_a_later_run_replaces_and_gives_back(store, versions):
    run(store, versions, "run_a", ("cluster_id", "label"))
    version = run(store, versions, "run_b", ("cluster_id",), drop=("label",))
    assert [each.run_id for each in version.enrichments] == ["run_b"]
    assert values(versions, "label") is None
    undone = undo(store, versions, run_id="run_b", now=NOW)
    assert set(values(versions, "label").values()) == {"run_a-label"}
    assert [(e.run_id, e.columns) for e in undone.enrichments] == [
        ("run_a", ("cluster_id", "label"))
    ]


def test_a_run_beneath_another_is_undone(store, versions):
    run(store, versions, "run_a", ("first",))
    run(store, versions, "run_b", ("second",))
    undone = undo(store, versions, run_id="run_a", now=NOW)
    assert values(versions, "first") is None
    assert set(values(versions, "second").values()) == {"run_b-second"}
    assert [each.run_id for each in undone.enrichments] == ["run_b"]
    undone = undo(store, versions, run_id="run_b", now=NOW)
    assert values(versions, "second") is None


def test_columns_of_others_are_not_replaced(store, versions):
    version = run(store, versions, "run_a")
    check_targets(version, ["cluster_id", "new"], overwrite=False)
    with pytest.raises(ConfigError, match="'own' that no run has written"):
        check_targets(version, ["own"], overwrite=False)
    check_targets(version, ["own"], overwrite=True)
    version = replace(version, text_column="own")
    for name in ("document_id", "text_embedding", "own"):
        with pytest.raises(ConfigError, match="is read by"):
            check_targets(version, [name], overwrite=True)


def test_other_files_are_refused(store, versions):
    version, replaced = enriched(store, versions, "run_a")
    replaced.popitem()
    with pytest.raises(ConfigError, match="not those of version 3"):
        publish(
            versions, replaced, columns=["cluster_id"], run_id="run_a", expected=version, now=NOW
        )


def test_small_files_are_put_together_and_leftovers_go(store, versions):
    run(store, versions, "run_a")
    table = everything(versions)
    version = compact(store, versions, now=NOW)
    assert len(version.files) == 1
    assert everything(versions).select(table.column_names).equals(table)
    assert compact(store, versions, now=NOW).number == version.number
    _, replaced = enriched(store, versions, "run_b")  # which nobody publishes
    assert sweep(store, versions) == []
    (left,) = replaced.values()
    half = store.root / versions.folder / "versions/.00000003.collection.json.1-ab.tmp"
    half.write_bytes(b"half")
    assert sweep(store, versions) == []
    assert half.exists()  # its writer may be at work
    assert sweep(store, versions, timedelta(seconds=-5)) == [left.name.removeprefix("../data/")]
    assert not half.exists()
    for number in versions.numbers():
        everything(versions, versions.read(number))
    undo(store, versions, run_id="run_a", now=NOW)
    assert values(versions) is None
    assert ids(versions) == [f"doc-{n}" for n in range(5)]


def test_what_is_added_while_files_are_put_together_stays(store, versions, monkeypatch):
    from gpucluster.service.collections import compacting

    def slowly(*arguments):
        add(store, versions, documents(9))
        return write_data(*arguments)

    monkeypatch.setattr(compacting, "write_data", slowly)
    compact(store, versions, now=NOW)
    assert ids(versions) == [*(f"doc-{n}" for n in range(5)), "doc-9"]


def clustered(tmp_path, versions):
    """Return what a job gets that enriches a collection by a run of it."""
    manifest = str(versions.path(versions.latest().number))
    made = gpucluster.cluster(
        manifest, out=tmp_path / "runs", algorithm="kmeans", algorithm_params={"n_clusters": 2},
        device="cpu", feature_uris=[TEXT],
    )  # fmt: skip
    return {
        "ns": "default", "run": str(made.path), "sources": ["col_a"], "target": None,
        "fields": ["cluster_id"], "mappings": None, "replaces": [made.run_id],
        "overwrite": False, "batch_rows": None, "parallelism": 1,
    }  # fmt: skip


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_what_a_job_enriches_is_published_and_undone(tmp_path, request, where):
    root = tmp_path / "root"
    if where == "bucket":
        root = place(request.getfixturevalue("bucket") + "/root")
    store = open_store(root)
    versions = start(store)
    add(store, versions, documents(*range(20)))
    add(store, versions, documents(*range(20, 30), title="x"))
    version = versions.latest()
    args = {**clustered(tmp_path, versions), "root": str(root)}
    for _ in range(2):  # the second time as after a server that died before it wrote the end down
        done = enrich(args, lambda _: None, CancelToken())
        assert set(values(versions).values()) == {"cl_0", "cl_1"}
    assert ids(versions) == ids(versions, version)
    undone = undo(store, versions, run_id=done["run_id"], now=NOW)
    assert values(versions) is None
    assert undone.files == version.files


def test_columns_that_a_collection_began_with_are_taken_away(store):
    batch = pa.RecordBatch.from_pylist(documents(0, 1, cluster_id="cl_0"))
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(batch["text_embedding"].flatten(), pa.float32()), DIM
    )
    batch = batch.set_column(1, "text_embedding", vectors)
    file = write_data(store, FOLDER, batch.schema, [batch], "document_id")
    began = Enrichment(run_id="run_a", columns=("cluster_id",), version=1, created_at=NOW)
    versions = start(store, files=(file,), schema=batch.schema, enrichments=(began,))
    undone = undo(store, versions, run_id="run_a", now=NOW)
    assert (undone.number, undone.enrichments) == (2, ())
    assert values(versions) is None
    assert ids(versions) == ["doc-0", "doc-1"]


def test_all_that_a_run_has_written_is_taken_away(store, versions):
    before = versions.latest()
    run(store, versions, "run_a", ("first",))
    run(store, versions, "run_a", ("second",), drop=("first",))
    undone = undo(store, versions, run_id="run_a", now=NOW)
    assert (undone.files, undone.enrichments) == (before.files, ())
    run(store, versions, "run_a", ("first",))
    run(store, versions, "run_b", ("other",))
    run(store, versions, "run_a", ("second",))
    undone = undo(store, versions, run_id="run_a", now=NOW)
    assert [each.run_id for each in undone.enrichments] == ["run_b"]
    assert (values(versions, "first"), values(versions, "second")) == (None, None)
    assert set(values(versions, "other").values()) == {"run_b-other"}


def test_a_run_that_comes_twice_is_undone_once(store, versions):
    before = versions.latest()
    run(store, versions, "run_a", ("cluster_id", "label"))
    add(store, versions, documents(5))
    version = run(store, versions, "run_a", ("cluster_id", "keywords"), drop=("label",))
    assert [each.columns for each in version.enrichments] == [("cluster_id", "keywords")]
    undone = undo(store, versions, run_id="run_a", now=NOW)
    assert values(versions) is None
    assert values(versions, "keywords") is None
    assert undone.enrichments == ()
    assert undone.files[: len(before.files)] == before.files
    assert ids(versions) == [f"doc-{n}" for n in range(6)]


def test_enriched_files_are_not_swept_before_they_are_published(store, versions):
    """They are named after the file that they were made of, which may be years old."""
    old = "0123456789ab" + "c" * 16
    store.put(f"{FOLDER}/data/{old}-0123456789ab.parquet", lambda file: file.write(b"new"))
    store.put(f"{FOLDER}/data/{old}.parquet", lambda file: file.write(b"a leftover"))
    assert sweep(store, versions) == [f"{old}.parquet"]
    assert f"{old}-0123456789ab.parquet" in store.list(f"{FOLDER}/data")


def test_documents_that_came_to_copies_are_not_lost(tmp_path, store, versions):
    args = {**clustered(tmp_path, versions), "root": str(store.root), "target": "col_b"}

    def copy():
        return enrich(args, lambda _: None, CancelToken())["collections"][0]["version"]

    copies = Versions(store, FOLDER.replace("col_a", "col_b"))
    assert [copy(), copy()] == [1, 2]
    compact(store, copies, now=NOW)
    assert copy() == 4
    add(store, copies, documents(77))
    with pytest.raises(ConfigError, match="documents or columns other than those of col_a"):
        copy()
    assert "doc-77" in ids(copies)
