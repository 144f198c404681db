"""Documents get what a run knows, whatever their format, order and number of files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster.artifacts import open_store
from gpucluster.enrichment.settings import read_mappings
from gpucluster.errors import (
    ConfigError,
    DtypeError,
    InputError,
    RunNotFoundError,
    SchemaMismatchError,
    SourceNotFoundError,
    StoreError,
)
from gpucluster.events import Progress, Reporter, StageFinished, StageStarted
from gpucluster.labeling.fake_server import FakeServer
from gpucluster.sources import open_feature
from gpucluster.sources.documents import open_documents
from gpucluster.writeback import publishing
from gpucluster.writeback.files import Manner, check_columns, enrich_files
from gpucluster.writeback.knowing import what_is_known
from tests.helpers.topics import by, documents, topic_run

URI = "mixpeek://text@v1/embedding"
ALL = (
    *("cluster_id", "label", "summary", "keywords", "distance_to_centroid"),
    *("cosine_similarity_to_centroid", "cluster_path", "stable_id", "member_count", "x", "y"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with documents and a named run of them; nobody writes to it."""
    folder = tmp_path_factory.mktemp("made")
    run = topic_run(folder, dimension_reduction={"method": "pca"})
    run.label()
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gpucluster.Run:
    """Return the run of a copy of that folder, where the test is at work."""
    shutil.copytree(made, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    [path] = Path("out").glob("run_*")
    return gpucluster.open_run(path)


def collection(files: list[str], name: str = "docs.collection.json", **more: Any) -> Path:
    feature = {"column": "embedding", "dim": 12}
    body = {"collection_id": "docs", "files": files, "features": {URI: feature}, **more}
    Path(name).write_text(json.dumps(body, indent=1))
    return Path(name)


def read(manifest: Path) -> pa.Table:
    """Read the documents of a collection, as whoever reads by the manifest does."""
    paths = open_feature(str(manifest)).info.paths
    return pa.concat_tables([pq.read_table(path) for path in paths], promote_options="permissive")


def expected(run: gpucluster.Run, ids: list[str], name: str) -> list[Any]:
    """Look a field up by hand."""
    own = {row["document_id"]: row for row in run.members.to_pylist()}
    clusters = {row["cluster_id"]: row for row in run.centroids.to_pylist()}
    clusters["-1"] = {"cluster_id": "-1"}
    source = {"member_count": "num_members"}.get(name, name)
    found = []
    for each in ids:
        member = own.get(each, {})
        cluster = clusters.get(member.get("cluster_id"), {})
        of_member = name in member and name != "cluster_id"
        found.append(member.get(name) if of_member else cluster.get(source))
    return found


def test_every_field_is_what_the_run_says(run: gpucluster.Run) -> None:
    done = run.enrich("docs.parquet", fields=ALL, out="enriched")
    table = pq.read_table("enriched/docs.parquet")
    before = pq.read_table("docs.parquet")
    assert table.select(before.column_names).equals(before)
    assert table.column_names == [*before.column_names, *ALL]
    for name in ALL:
        assert table[name].to_pylist() == expected(run, table["document_id"].to_pylist(), name)
    assert (done.processed, done.enriched, done.failed, done.num_unknown) == (240, 240, 0, 0)
    assert done.batches == 1
    assert done.columns == ALL
    record = json.loads(pq.read_metadata("enriched/docs.parquet").metadata[b"gpucluster.enriched"])
    assert (record["run_id"], tuple(record["columns"])) == (run.run_id, ALL)
    assert record["enriched_at"] == done.enriched_at
    json.dumps(done.to_json())


def test_documents_in_any_order_and_of_any_day(run: gpucluster.Run) -> None:
    shuffled = pq.read_table("docs.parquet").take(np.random.default_rng(0).permutation(240))
    new = documents(50, seed=9)
    mixed = pa.concat_tables([shuffled.slice(0, 100), new, shuffled.slice(100)])
    Path("more").mkdir()
    for part, start in enumerate((0, 130, 260)):
        pq.write_table(mixed.slice(start, 130), f"more/part-{part}.parquet", row_group_size=40)
    asked = {"fields": ["cluster_id", "label", "x"], "batch_rows": 17, "parallelism": 2}
    done = run.enrich("more", out="enriched", **asked)
    table = pa.concat_tables([pq.read_table(f"enriched/{file.name}") for file in done.files])
    assert table.select(mixed.column_names).equals(mixed)
    for name in ("cluster_id", "label", "x"):
        assert table[name].to_pylist() == expected(run, mixed["document_id"].to_pylist(), name)
    assert (done.processed, done.enriched, done.num_unknown) == (290, 240, 50)
    assert [file.rows for file in done.files] == [130, 130, 30]
    assert done.batches > 290 // 17


def test_noise_and_rejected_rows(run: gpucluster.Run) -> None:
    table = documents(60, seed=4)
    X = table["embedding"].combine_chunks().flatten().to_numpy().copy()
    X[:12] = np.nan
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X), 12)
    pq.write_table(table.set_column(5, "embedding", vectors), "new.parquet")
    joined = run.assign("new.parquet", threshold=0.95)
    n_noise = joined.manifest.counts.num_noise
    assert 0 < n_noise < 59
    assert joined.manifest.counts.num_rejected == 1
    done = joined.enrich(fields=["cluster_id", "label", "cluster_path"], out="enriched")
    found = pq.read_table("enriched/new.parquet")
    assert found["cluster_id"].to_pylist()[0] is None
    noise = found.filter(pc.equal(found["cluster_id"], "-1"))
    assert noise.num_rows == done.num_noise == n_noise
    assert noise["label"].null_count == n_noise
    assert (done.enriched, done.num_unknown) == (59, 1)
    # names come from the run whose clusters were joined
    assert set(found["label"].drop_null().to_pylist()) <= set(run.centroids["label"].to_pylist())


def test_an_assignment_knows_what_it_has_left_out(run: gpucluster.Run) -> None:
    both = pa.concat_tables([documents(30, seed=3), pq.read_table("docs.parquet")])
    pq.write_table(both, "both.parquet")
    joined = run.assign("both.parquet")
    assert joined.manifest.counts.num_known == 240
    done = joined.enrich("both.parquet", fields=["cluster_id"], out="enriched")
    assert (done.processed, done.enriched) == (270, 270)
    found = pq.read_table("enriched/both.parquet")["cluster_id"].to_pylist()
    assert found[30:] == expected(run, both["document_id"].to_pylist()[30:], "cluster_id")
    assert found[:30] == expected(joined, both["document_id"].to_pylist()[:30], "cluster_id")


def test_rows_count_where_there_are_no_ids(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    table = documents(90).drop_columns(["document_id"])
    Path("parts").mkdir()
    for part in range(3):
        pq.write_table(table.slice(30 * part, 30), f"parts/{part}.parquet")
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 6}}
    run = gpucluster.cluster("parts", settings, device="cpu")
    done = run.enrich(fields=["cluster_id"], out="enriched", parallelism=3, batch_rows=7)
    found = [pq.read_table(f"enriched/{file.name}")["cluster_id"] for file in done.files]
    names = run.centroids["cluster_id"].to_pylist()
    ids = [value for column in found for value in column.to_pylist()]
    assert ids == [names[label] for label in run.labels_]
    with pytest.raises(InputError, match="by their rows, 90 of them, got 30"):
        run.enrich("parts/0.parquet", fields=["cluster_id"], out="one")
    # the same content at another place in the order is another file
    manifest = collection(["parts/0.parquet", "parts/1.parquet", "parts/2.parquet"])
    run.enrich(manifest, fields=["cluster_id"])
    assert read(manifest)["cluster_id"].to_pylist() == ids


@pytest.mark.parametrize("kind", ["arrow", "feather", "jsonl", "jsonl.gz"])
def test_other_formats_become_parquet(run: gpucluster.Run, kind: str) -> None:
    import gzip

    table = pq.read_table("docs.parquet")
    path = Path(f"docs.{kind}")
    if "jsonl" in kind:
        rows = table.to_pylist()
        for row in rows[:100]:  # a field that begins late, and one that widens
            row.pop("topic")
        for number, row in enumerate(rows):
            row["price"] = number if number < 5000 else number + 0.5
        text = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    elif kind == "arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=64)
    else:
        feather.write_feather(table, path)
    done = run.enrich(str(path), fields=["cluster_id"], out="enriched", batch_rows=50)
    assert [file.name for file in done.files] == ["docs.parquet"]
    found = pq.read_table("enriched/docs.parquet")
    ids = found["document_id"].to_pylist()
    assert ids == table["document_id"].to_pylist()
    assert found["cluster_id"].to_pylist() == expected(run, ids, "cluster_id")
    assert found["metadata"].to_pylist() == table["metadata"].to_pylist()
    if "jsonl" not in kind:
        assert found.select(table.column_names).equals(table)


def test_a_collection_changes_over_and_back(run: gpucluster.Run) -> None:
    Path("docs").mkdir()
    shutil.move("docs.parquet", "docs/a.parquet")
    pq.write_table(documents(20, seed=5), "docs/b.parquet")
    manifest = collection(["docs/*.parquet"], id_column="document_id")
    original, plain = manifest.read_bytes(), read(manifest)
    done = run.enrich(manifest)
    assert (done.processed, done.enriched, done.num_unknown) == (260, 240, 20)
    enriched = read(manifest)
    assert enriched.select(plain.column_names).equals(plain)
    assert enriched["cluster_id"].null_count == 20
    assert done.before.read_bytes() == original
    assert Path("docs/a.parquet").exists()

    states = {path: path.stat().st_mtime_ns for path in Path("docs.enriched").iterdir()}
    again = run.enrich(manifest)
    assert (again.enriched_at, again.enriched) == (done.enriched_at, done.enriched)
    assert [f.sha256 for f in again.files] == [f.sha256 for f in done.files]
    assert {path: path.stat().st_mtime_ns for path in Path("docs.enriched").iterdir()} == states

    assert gpucluster.undo_enrichment(manifest) == run.run_id
    assert manifest.read_bytes() == original
    assert read(manifest).equals(plain)
    with pytest.raises(ConfigError, match="no run has enriched it"):
        gpucluster.undo_enrichment(manifest)
    redone = run.enrich(manifest)
    assert all(file.reused for file in redone.files)
    assert read(manifest).equals(enriched)


def test_another_run_replaces_the_columns_of_the_first(run: gpucluster.Run) -> None:
    manifest = collection(["docs.parquet"])
    run.enrich(manifest, fields=["cluster_id", "label", "x"])
    enriched = manifest.read_bytes()
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3}}
    other = gpucluster.cluster(manifest, settings, out="out", device="cpu")
    other.enrich(manifest, fields=["cluster_id"])
    table = read(manifest)
    assert not {"label", "x"} & set(table.column_names)
    ids = table["document_id"].to_pylist()
    assert table["cluster_id"].to_pylist() == expected(other, ids, "cluster_id")
    gpucluster.undo_enrichment(manifest)
    assert manifest.read_bytes() == enriched
    gpucluster.undo_enrichment(manifest)
    assert "enrichment" not in json.loads(manifest.read_text())


def test_clusters_do_not_change_with_enrichment(run: gpucluster.Run) -> None:
    manifest = collection(["docs.parquet"])
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3}}
    first = gpucluster.cluster(manifest, settings, out="out", device="cpu")
    first.enrich(manifest, fields=["cluster_id"])
    asked = settings | {"enrich_source_collection": True}
    assert gpucluster.cluster(manifest, asked, out="out", device="cpu").run_id == first.run_id


def test_the_latest_names_are_written(run: gpucluster.Run) -> None:
    manifest = collection(["docs.parquet"])
    run.enrich(manifest, fields=["label"])
    before = read(manifest)["label"].to_pylist()
    with FakeServer() as server:
        renamed = gpucluster.label(run.path, by(server), data="docs.parquet")
    renamed.enrich(manifest, fields=["label"])
    after = read(manifest)["label"].to_pylist()
    assert set(after) == set(renamed.centroids["label"].to_pylist()) != set(before)
    shutil.rmtree(run.path / "labels")
    with pytest.raises(ConfigError, match=r"has no label\. name its clusters with gpucluster lab"):
        gpucluster.open_run(run.path).enrich(manifest, fields=["label"])
    assert read(manifest)["label"].to_pylist() == after


def test_columns_of_others_are_kept(run: gpucluster.Run) -> None:
    table = pq.read_table("docs.parquet").append_column("label", pa.array(["mine"] * 240))
    pq.write_table(table, "docs.parquet")
    with pytest.raises(ConfigError, match="has a column label that gpucluster has not written"):
        run.enrich("docs.parquet", out="enriched")
    assert not Path("enriched").exists()
    topics = [{"source_field": "cluster_label", "target_field": "topic_name"}]
    run.enrich("docs.parquet", field_mappings=topics, out="enriched")
    assert pq.read_table("enriched/docs.parquet")["label"].to_pylist() == ["mine"] * 240
    run.enrich("docs.parquet", out="replaced", overwrite=True)
    assert "mine" not in pq.read_table("replaced/docs.parquet")["label"].to_pylist()
    for column in ("document_id", "embedding"):
        mapping = {"source_field": "cluster_id", "target_field": column}
        with pytest.raises(ConfigError, match="what the documents are read by"):
            run.enrich(collection(["docs.parquet"]), field_mappings=[mapping], overwrite=True)


def test_a_folder_is_written_once_more_by_its_own(run: gpucluster.Run) -> None:
    asked: dict[str, Any] = {"fields": ["cluster_id"], "out": "enriched"}
    first = run.enrich("docs.parquet", **asked)
    again = run.enrich("docs.parquet", **asked)
    assert again.files[0].reused
    assert again.enriched_at == first.enriched_at
    run.enrich("docs.parquet", fields=["x"], out="enriched")  # another enrichment of the same
    names = pq.read_schema("enriched/docs.parquet").names
    assert ("x" in names, "cluster_id" in names) == (True, False)
    pq.write_table(documents(5), "other.parquet")
    with pytest.raises(ConfigError, match=r"holds docs\.parquet, which is none of these"):
        run.enrich("other.parquet", **asked)
    Path("foreign").mkdir()
    pq.write_table(documents(5), "foreign/docs.parquet")
    with pytest.raises(ConfigError, match="which gpucluster has not written"):
        run.enrich("docs.parquet", fields=["cluster_id"], out="foreign")
    with pytest.raises(ConfigError, match="which gpucluster has not written"):
        run.enrich("docs.parquet", fields=["cluster_id"], out=".")


def test_a_collection_in_a_folder_of_its_own(run: gpucluster.Run) -> None:
    manifest = collection(["docs.parquet"])
    original = manifest.read_bytes()
    done = run.enrich(manifest, fields=["cluster_id"], out="enriched")
    assert manifest.read_bytes() == original
    assert done.before is None
    assert "cluster_id" in read(Path("enriched/docs.collection.json")).column_names
    assert json.loads(Path("enriched/enrichment.json").read_text())["run_id"] == run.run_id


def test_a_yaml_manifest(run: gpucluster.Run) -> None:
    text = (
        f"# ours\ncollection_id: docs\nfiles: ['*.parquet']\nfeatures: {{'{URI}': {{dim: 12}}}}\n"
    )
    manifest = Path("docs.collection.yaml")
    manifest.write_text(text)
    run.enrich(manifest, fields=["cluster_id"])
    assert "cluster_id" in read(manifest).column_names
    gpucluster.undo_enrichment(manifest)
    assert manifest.read_text() == text


def test_enriched_files_are_not_read_as_documents(run: gpucluster.Run) -> None:
    Path("c").mkdir()
    shutil.move("docs.parquet", "c/docs.parquet")
    for pattern in ("**/*.parquet", "."):
        manifest = collection([pattern], "c/docs.collection.json")
        before = read(manifest)
        run.enrich(manifest, fields=["cluster_id"])
        gpucluster.undo_enrichment(manifest)
        assert read(manifest).num_rows == before.num_rows == 240


def test_a_manifest_that_changes_meanwhile(run: gpucluster.Run, monkeypatch: Any) -> None:
    manifest = collection(["docs.parquet"])
    write = publishing.enrich_files

    def and_somebody_else(*args: Any, **kwargs: Any) -> Any:
        done = write(*args, **kwargs)
        collection(["docs.parquet"], truth_column="topic")
        return done

    monkeypatch.setattr(publishing, "enrich_files", and_somebody_else)
    with pytest.raises(StoreError, match="was changed meanwhile"):
        run.enrich(manifest, fields=["cluster_id"])
    assert json.loads(manifest.read_text())["truth_column"] == "topic"


def test_what_is_wrong_is_said_before_anything_is_written(run: gpucluster.Run) -> None:
    np.save("docs.npy", np.ones((3, 12), np.float32))
    pq.write_table(documents(5).drop_columns(["document_id"]), "noids.parquet")
    twice = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["document_id", "t", "t"])
    pq.write_table(twice, "twice.parquet")
    Path("empty.jsonl").write_text('{"document_id": "a", "payload": {}}\n')
    Path("mixed.jsonl").write_text('{"document_id": "a", "p": 1}\n{"document_id": "b", "p": []}\n')
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ConfigError, "plain files cannot be changed in one step", {"data": "docs.parquet"}),
        (ConfigError, "plain files cannot be changed in one step", {}),
        (ConfigError, "did you mean keywords", {"fields": ["keyword"]}),
        (ConfigError, "has no z", {"fields": ["z"], "out": "o", "data": "docs.parquet"}),
        (ConfigError, "has no metadata.mood", {"fields": ["metadata.mood"], "out": "o"}),
        (ConfigError, "parallelism: got 0", {"parallelism": 0, "out": "o"}),
        (ConfigError, "batch_rows: got True", {"batch_rows": True, "out": "o"}),
        (ConfigError, "expected files of documents", {"data": [documents(3)], "out": "o"}),
        (DtypeError, "hold vectors and no other columns", {"data": "docs.npy", "out": "o"}),
        (SourceNotFoundError, "no such file", {"data": "gone.parquet", "out": "o"}),
        (
            SchemaMismatchError,
            "several columns are called 't'",
            {"data": "twice.parquet", "out": "o"},
        ),
        (SchemaMismatchError, "cannot be stored as Parquet", {"data": "empty.jsonl", "out": "o"}),
        (SchemaMismatchError, "are of several types", {"data": "mixed.jsonl", "out": "o"}),
        (SchemaMismatchError, "no column holds ids", {"data": "noids.parquet", "out": "o"}),
        (SchemaMismatchError, "document_idd", {"id_column": "document_idd", "out": "o"}),
    ]
    for error, message, options in cases:
        with pytest.raises(error, match=message):
            run.enrich(**options)
    assert not Path("o").exists()
    with pytest.raises(RunNotFoundError):
        gpucluster.enrich("nowhere", "docs.parquet", out="o")
    with pytest.raises(ConfigError, match="expected the manifest of a collection"):
        gpucluster.undo_enrichment("docs.parquet")
    in_memory = gpucluster.cluster(
        documents(60), algorithm="kmeans", algorithm_params={"n_clusters": 3}, device="cpu"
    )
    with pytest.raises(SourceNotFoundError, match="were in memory"):
        in_memory.enrich(fields=["cluster_id"], out="o")


def test_progress_is_told(run: gpucluster.Run) -> None:
    events: list[Any] = []
    run.enrich("docs.parquet", out="o", batch_rows=100, observer=events.append)
    assert [type(e) for e in events if not isinstance(e, Progress)] == [StageStarted, StageFinished]
    done = [e for e in events if isinstance(e, Progress)]
    assert [(e.stage, e.done, e.total) for e in done] == [
        ("enrich", 100, 240),
        ("enrich", 200, 240),
        ("enrich", 240, 240),
    ]


def test_damage_after_the_footer_is_found(run: gpucluster.Run) -> None:
    """Pages that rot are refused, on the way in and on the way out."""
    from gpucluster.errors import CorruptInputError

    run.enrich("docs.parquet", fields=["cluster_id"], out="enriched")
    path = Path("enriched/docs.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    with pytest.raises(CorruptInputError):
        run.enrich(str(path), fields=["cluster_id"], out="again")
    assert not Path("again/enrichment.json").exists()


def test_columns_of_another_run_may_stay(run: gpucluster.Run) -> None:
    """Whoever publishes by himself may keep what several runs have written side by side."""
    store, manner = open_store(Path.cwd()), Manner()

    def written(name: str, target: str, kept: tuple[str, ...]) -> Path:
        known = what_is_known(
            run, read_mappings(None, [{"source_field": "x", "target_field": target}])
        )
        file = open_documents(name, needs_ids=known.has_ids)
        check_columns(known, [file], manner)
        work = known, [file], store, "v", manner
        (done,) = enrich_files(*work, kept=kept, reporter=Reporter("enrich"))
        content = Path("v", done.name).read_bytes()
        assert (done.bytes, done.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        return Path("v", done.name)

    first = written("docs.parquet", "a", ())
    both = written(str(first), "b", ("a",))
    assert pq.read_schema(both).names[-2:] == ["a", "b"]
    one = written(str(both), "b", ())
    assert "a" not in pq.read_schema(one).names
    two = written(str(both), "b", ("a",))  # of the same file and run, but another one
    assert pq.read_schema(two).names[-2:] == ["a", "b"]
    again = written(str(both), "a", ("b",))  # still ours, so it is replaced without a word
    assert pq.read_schema(again).names[-2:] == ["b", "a"]
