"""Reports of runs of every kind, and what is missing in them."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import gpucluster
from gpucluster import reported
from gpucluster.artifacts import LocalStore
from gpucluster.cli import main
from gpucluster.errors import (
    ConfigError,
    DtypeError,
    FallbackWarning,
    SchemaMismatchError,
    SourceError,
)
from gpucluster.events import Reporter
from gpucluster.labeling.fake_server import FakeServer
from gpucluster.plots.rows import parts_of as parts_of_run
from gpucluster.report import gathering, notebook
from gpucluster.report.page import make_page, packed
from gpucluster.reported import report
from gpucluster.sources.columnar import ColumnarSource
from gpucluster.types import MAX_MAP_POINTS
from tests.helpers.clouds import decode, parts_of
from tests.helpers.hostile import TEXTS
from tests.helpers.runs import publish_small
from tests.helpers.topics import by, documents, topic_run


def read(file):
    contents, blocks = parts_of(file.read_bytes())
    own = {name: json.loads(block) for name, block in blocks.items() if name != "points"}
    return contents, own["clusters"], own["documents"], blocks.get("points")


def without_texts(run, file):
    """Report a run whose texts are gone, which is said."""
    with pytest.warns(FallbackWarning, match="there are no texts"):
        return read(run.report(file))


def test_it_holds_what_the_run_holds(world):
    contents, clusters, told, points = read(world.file)
    members = world.run.members.sort_by("cluster_index").to_pylist()
    assert len(clusters) == world.run.num_clusters
    cloud = decode(contents["map"], points)
    assert cloud.labels.tolist() == [each["cluster_index"] for each in members]
    place = dict(zip(told["ids"], np.cumsum(told["steps"]).tolist(), strict=True))
    texts = dict(zip(told["ids"], told["texts"], strict=True))
    source = {row["document_id"]: row for row in pq.read_table(world.data).to_pylist()}
    truth = [contents["map"]["classes"][code] for code in cloud.truth]
    axes = np.array([[each[axis] for axis in "xyz"] for each in members])
    steps = np.ptp(axes, axis=0) / [65535, 65535, 254]
    for each in members:
        at, row = place[each["document_id"]], source[each["document_id"]]
        away = np.abs(cloud.coordinates[at] - [each[axis] for axis in "xyz"])
        assert (away <= steps / 2 + 1e-6).all()
        assert cloud.labels[at] == each["cluster_index"]
        assert truth[at] == row["topic"]
        assert texts[each["document_id"]] == row["text"]


def test_nothing_of_a_payload_but_id_text_and_truth(world):
    contents, clusters, told, _ = read(world.file)
    everything = json.dumps([contents, clusters, told])
    assert "medoid_document_id" not in clusters[0]  # the page shows none
    assert "a.example" not in everything
    assert "metadata" not in json.dumps(told)


def test_no_key_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
    with FakeServer() as server:
        run = topic_run(tmp_path).label(**by(server))
    contents, blocks = parts_of(run.report(tmp_path / "r.html").read_bytes())
    assert run.labeling.counts["num_llm"] == run.num_clusters
    assert b"canary" not in json.dumps(contents).encode() + b"".join(blocks.values())


def test_without_texts(tab, world):
    file = world.run.report(world.folder / "quiet.html", texts=False)
    contents, _, told, _ = read(file)
    assert told["texts"] is None
    assert contents["documents"]["num_texts"] == 0
    assert contents["map"]["has_truth"]
    assert "case 1" not in json.dumps([contents, told])
    assert "texts were left out" in tab.show(file).inner_text("main")


def test_nothing_is_read_where_nothing_is_shown(world, tmp_path, monkeypatch):
    read_columns = []
    columns = ColumnarSource.columns

    def spied(self, names):
        read_columns.extend(names)
        return columns(self, names)

    monkeypatch.setattr(ColumnarSource, "columns", spied)
    world.bare.report(tmp_path / "quiet.html", texts=False)
    assert read_columns == []
    world.bare.report(tmp_path / "told.html")
    assert sorted(read_columns) == ["document_id", "text"]


def test_clusters_without_names_are_told_by_the_words_of_their_documents(tab, world, tmp_path):
    file = world.bare.report(tmp_path / "words.html")
    text = tab.show(file).inner_text(".clusters")
    _, clusters, _, _ = read(file)
    topics = pq.read_table(world.data)["topic"].to_numpy(zero_copy_only=False)
    for number, cluster in enumerate(clusters):
        names, sizes = np.unique(topics[world.bare.labels_ == number], return_counts=True)
        words = " ".join(cluster["keywords"]).split()
        assert set(names[sizes.argmax()].split()) & set(words)
        assert cluster["keywords"][0] in text
    assert "were not named" in tab.inner_text("main")
    quiet = world.bare.report(tmp_path / "quiet.html", texts=False)
    assert "were not named" not in tab.show(quiet).inner_text("main")
    shutil.copytree(world.folder / "bare", tmp_path / "bare")
    named = gpucluster.open_run(tmp_path / "bare" / world.bare.run_id).label(data=world.data)
    told = named.report(tmp_path / "named.html")
    assert "were not named" not in tab.show(told).inner_text("main")


def test_rows_that_joined_have_no_map(tab, world):
    file = world.joined.report(world.folder / "joined.html")
    page = tab.show(file)
    text = page.inner_text("main")
    assert page.query_selector("canvas") is None
    assert "Documents that join clusters get no coordinates" in text
    assert "Beside the fit" in text
    assert f"gpucluster assign {world.data} --run {world.run.run_id}" in text
    assert page.inner_text("tfoot td:nth-child(3)") == "\u2013"  # nothing was planned
    page.click(".opener")
    assert "case" in page.inner_text(".examples")


def test_documents_that_were_classified(world, tmp_path):
    taxonomy = world.bare.promote("topics", out=tmp_path)
    contents, *_ = read(taxonomy.apply(world.data, out=tmp_path).report(tmp_path / "r.html"))
    words = f"--taxonomy {taxonomy.taxonomy_id} --version 1 --threshold auto"
    assert contents["command"] == f"gpucluster classify {world.data} {words}"
    with pytest.raises(ConfigError, match="a taxonomy, no run"):
        report(next(tmp_path.rglob("tax_*/**/manifest.json")).parent, tmp_path / "t.html")


def test_without_coordinates_and_names(tab, world):
    page = tab.show(world.bare.report(world.folder / "bare.html"))
    assert "dimension_reduction" in page.inner_text(".picture")
    page.click(".opener")
    assert "d0-" in page.inner_text(".examples")
    page.click(".pick")
    assert "cl_" in page.inner_text(".chosen-cluster")


def test_a_source_that_is_gone_or_another_one(world, tmp_path):
    data = tmp_path / "docs.parquet"
    shutil.copy(world.data, data)
    run = gpucluster.cluster(
        data, algorithm="kmeans", algorithm_params={"n_clusters": 6}, out=tmp_path / "out"
    )
    fewer = documents(240).slice(0, 200)  # whose ids are those of the first rows
    for other in (documents(240, seed=1), fewer):
        pq.write_table(other, data)
        contents, _, told, _ = without_texts(run, tmp_path / "changed.html")
        assert told["texts"] is None
        assert "does not hold the documents" in contents["documents"]["reason"]
    text = documents(240)
    pq.write_table(text.set_column(5, "embedding", text["text"]), data)
    contents, _, told, _ = without_texts(run, tmp_path / "changed.html")
    assert told["texts"] is None
    assert "'embedding' is string, no vectors" in contents["documents"]["reason"]
    with pytest.raises(DtypeError, match="no vectors"):
        run.report(tmp_path / "x.html", data=data)
    data.unlink()
    contents, _, told, _ = without_texts(run, tmp_path / "gone.html")
    assert told["texts"] is None
    assert len(told["ids"]) == 240
    assert "no such file" in contents["documents"]["reason"].lower()
    contents, _, told, _ = read(run.report(tmp_path / "found.html", data=world.data))
    assert contents["documents"]["num_texts"] == 240
    with pytest.raises(SchemaMismatchError, match="nowhere"):
        run.report(tmp_path / "x.html", data=world.data, text_column="nowhere")
    pq.write_table(documents(240, seed=2), tmp_path / "other.parquet")
    with pytest.raises(SourceError, match="does not hold the documents"):
        run.report(tmp_path / "x.html", data=tmp_path / "other.parquet")
    assert not (tmp_path / "x.html").exists()


def test_rows_without_ids_are_known_by_their_number(tmp_path):
    data = tmp_path / "docs.parquet"
    pq.write_table(documents(60).drop_columns("document_id"), data)
    run = gpucluster.cluster(
        data, algorithm="kmeans", algorithm_params={"n_clusters": 3}, out=tmp_path / "out"
    )
    file = tmp_path / "report.html"
    contents, _, told, _ = read(run.report(file))
    lines = pq.read_table(data)["text"].to_pylist()
    assert dict(zip(told["ids"], told["texts"], strict=True)) == {
        str(row): line for row, line in enumerate(lines)
    }
    pq.write_table(documents(61).drop_columns("document_id"), data)
    contents, _, told, _ = without_texts(run, file)
    assert told["texts"] is None
    assert "does not hold the documents" in contents["documents"]["reason"]


def test_long_texts_are_cut_and_classes_are_no_texts(tmp_path):
    table = documents(30)
    lines = [f"{row}:\n\t many \u2003 {'words ' * 100}" for row in range(30)]
    table = table.set_column(1, "text", [lines])
    run = gpucluster.cluster(
        table, algorithm="kmeans", algorithm_params={"n_clusters": 3}, out=tmp_path / "out"
    )
    file = tmp_path / "report.html"
    _, _, told, _ = read(run.report(file, data=table))
    texts = sorted(told["texts"], key=lambda text: int(text.split(":")[0]))
    for row, text in enumerate(texts):
        assert text.startswith(f"{row}: many words words")
        assert len(text) <= 280
        assert text.endswith("\u2026")
        assert len(text) > 270
    pq.write_table(table, tmp_path / "docs.parquet")
    run = gpucluster.cluster(
        tmp_path / "docs.parquet",
        algorithm="kmeans",
        algorithm_params={"n_clusters": 3},
        truth_column="text",
        out=tmp_path / "out",
    )
    contents, _, told, _ = read(run.report(file))
    assert told["texts"] is None
    assert sorted(contents["map"]["classes"]) == sorted(lines)


def test_documents_fill_a_page_up_to_its_bytes(world, monkeypatch):
    monkeypatch.setattr(gathering, "LEAST_BYTES", 1_600)
    run = world.run
    page = gathering.make(
        run,
        gathering.read_members(run, 1_000),
        gathering.Manner(gathering.REPORT, 1_000, file_bytes=1),
        open_parts=lambda: parts_of_run(run, None),
        is_named=False,
        reporter=Reporter(),
    )
    (block,) = re.findall(rb'id="documents">([^<]*)<', page)
    assert 1_200 < len(block) <= 1_600
    contents, blocks = parts_of(page)
    told = json.loads(blocks["documents"])
    assert contents["documents"]["count"] == len(told["ids"]) < 220
    shown = told["examples"]
    assert set(shown["clusters"]) == set(range(6))  # examples come first
    assert len(shown["documents"]) == 6 * 5


@pytest.mark.parametrize("kind", ["noise", "hierarchy", "attribute", "memory"])
def test_every_kind_of_run(tab, tmp_path, kind):
    table = documents(120)
    settings = {
        "noise": {"algorithm": "dbscan", "algorithm_params": {"eps": 1e-6, "min_samples": 5}},
        "hierarchy": {
            "algorithm": "kmeans",
            "algorithm_params": {"n_clusters": 2},
            "hierarchical": True,
            "min_split_size": 20,
            "dimension_reduction": {"method": "pca"},
        },
        "attribute": {"cluster_type": "attribute", "attribute_config": {"attributes": ["topic"]}},
        "memory": {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3}},
    }[kind]
    data = table
    if kind != "memory":
        data = tmp_path / "docs.parquet"
        pq.write_table(table, data)
    run = gpucluster.cluster(data, settings, out=tmp_path / "out", device="cpu")
    page = tab.show(run.report(tmp_path / "report.html"))
    text = page.inner_text("main")
    assert run.run_id in text
    if kind == "noise":
        assert "There is no cluster" in text
    if kind == "hierarchy":
        assert run.centroids.num_rows > 2
        assert page.is_visible("th:has-text('Level')")
        page.click(".opener[data-examples='0']")  # of those below it, in turn
        shown = [each.inner_text() for each in page.query_selector_all(".examples code")]
        shown += [each.inner_text() for each in page.query_selector_all(".examples small")]
        places = {each["document_id"]: each["cluster_id"] for each in run.members.to_pylist()}
        assert len({places[document] for document in shown}) > 2
        assert "NEAR THE CENTROID, AND NEAR THOSE OF" in page.inner_text(".examples").upper()
        first = run.centroids.to_pylist()[0]
        assert first["child_cluster_ids"]
        lines = [each.inner_text() for each in page.query_selector_all(".examples li")]
        assert first["medoid_document_id"] in lines[0]
        assert len(lines) == len(set(lines)) == 5
    if kind == "memory":
        assert "the data of the run were in memory" in text


def test_collections_of_which_one_has_texts(tmp_path, monkeypatch):
    X = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(X[:20].ravel(), 8)
    texts = [f"text {i}" for i in range(20)]
    pq.write_table(pa.table({"vector": vectors, "text": texts}), tmp_path / "a.parquet")
    np.save(tmp_path / "b.npy", X[20:])
    settings = {
        "collection_ids": ["a.parquet", "b.npy"],
        "algorithm": "kmeans",
        "algorithm_params": {"n_clusters": 3},
    }
    (tmp_path / "definition.json").write_text(json.dumps(settings))
    out, file = str(tmp_path / "out"), tmp_path / "report.html"
    asked = ["run", str(tmp_path / "definition.json"), "--out", out, "--report", str(file)]
    assert CliRunner().invoke(main, asked).exit_code == 0
    contents, _, told, _ = read(file)
    assert contents["documents"]["reason"] is None
    assert dict(zip(told["ids"], told["texts"], strict=True)) == {
        str(row): f"text {row}" if row < 20 else None for row in range(40)
    }
    (tmp_path / "definition.json").write_text(json.dumps(contents["definition"]))
    monkeypatch.chdir(tmp_path)
    words = shlex.split(contents["command"])
    again = CliRunner().invoke(main, [*words[1:], "--out", "out", "--json"])
    assert json.loads(again.stdout)["run_id"] == contents["run_id"]


def test_similarities_that_hardly_differ(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    alone = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 60}}
    contents, *_ = read(
        gpucluster.cluster(X, alone, out=tmp_path / "out").report(tmp_path / "report.html")
    )
    found = contents["similarity"]
    assert sum(found["counts"]) == 60
    assert 0.999 < found["low"] <= found["high"] <= 1.001
    equal = gpucluster.cluster(
        np.repeat(np.eye(2, 8, dtype=np.float32), 5, axis=0),
        algorithm="kmeans",
        algorithm_params={"n_clusters": 2},
        out=tmp_path / "equal",
    )
    contents, *_ = read(equal.report(tmp_path / "equal.html"))
    assert contents["similarity"] == {"counts": [10], "low": 1.0, "high": 1.0}


def test_documents_beside_a_sample_have_no_place_on_the_map(tab, tmp_path):
    pq.write_table(documents(120), tmp_path / "docs.parquet")
    run = gpucluster.cluster(
        tmp_path / "docs.parquet",
        algorithm="kmeans",
        algorithm_params={"n_clusters": 3},
        sample_size=50,
        sample_mode="fit_then_assign",
        dimension_reduction={"method": "pca"},
        out=tmp_path / "out",
    )
    file = run.report(tmp_path / "report.html")
    contents, _, _, points = read(file)
    cloud = decode(contents["map"], points)
    fitted = run.members.filter(pc.equal(run.members["assigned_by"], "fit"))
    assert sorted(cloud.labels.tolist()) == sorted(fitted["cluster_index"].to_pylist())
    assert np.isfinite(cloud.coordinates).all()
    words = "50 documents. 70 more joined clusters after the fit, and have no place here."
    assert words in tab.show(file).inner_text(".picture")


def test_fewer_points_than_documents(tab, world):
    file = world.run.report(world.folder / "fewer.html", max_points=100)
    contents, _, _, points = read(file)
    assert len(decode(contents["map"], points).labels) == 100
    assert "100 of 220 documents: drawn so that" in tab.show(file).inner_text(".picture")


def test_ten_thousand_clusters(tab, world, tmp_path):
    contents, blocks = parts_of(world.file.read_bytes())
    first = json.loads(blocks["clusters"])[0]
    many = [first | {"cluster_id": f"cl_{i}", "label": f"group {i}"} for i in range(10_000)]
    blocks["clusters"] = json.dumps(many).encode()
    page = make_page("report.js", "many", contents, {n: packed(b) for n, b in blocks.items()})
    (tmp_path / "many.html").write_bytes(page)
    shown = tab.show(tmp_path / "many.html")
    assert len(shown.query_selector_all(".clusters tbody tr")) < 100
    shown.fill(".clusters input", "group 7777")
    assert shown.inner_text(".clusters [role=status]") == "1 of 10,000"


def test_names_of_files_are_checked_before_any_work(world, tmp_path):
    for name, says in (
        ("report.parquet", "ends in .html"),
        ("report", "ends in .html"),
        ("s3://bucket/report.html", "expected a file on a disk"),
        ("~nobody-of-this-name/report.html", "whose user is not known here"),
    ):
        with pytest.raises(ConfigError, match=says):
            world.run.report(name)
    with pytest.raises(ConfigError, match="max_points"):
        world.run.report(tmp_path / "x.html", max_points=0)
    with pytest.raises(ConfigError, match="texts: got 'no', expected True or False"):
        world.run.report(tmp_path / "x.html", texts="no")
    with pytest.raises(ConfigError, match="text_column: got 3, expected a name"):
        world.run.report(tmp_path / "x.html", text_column=3)


def test_in_a_notebook(tab, world, tmp_path):
    shown = world.run.map(max_points=50)._repr_html_()
    assert shown.count("<") == 2  # the frame, and nothing of the page
    assert 'sandbox="allow-scripts allow-downloads"' in shown
    contents, _ = parts_of(html.unescape(shown).encode())
    assert set(contents) == {"map", "documents", "has_own_words"}  # what is not shown is not there
    (tmp_path / "notebook.html").write_text(f"<!doctype html><title>n</title>{shown}")
    tab.goto((tmp_path / "notebook.html").as_uri())
    frame = tab.frame_locator("iframe")
    frame.locator("canvas[data-drawn='50']").wait_for()
    with tab.expect_download() as download:
        frame.locator("text=Save").click()
    assert download.value.suggested_filename == "map.png"
    table = world.run._repr_html_()
    assert world.run.run_id in table
    assert "<script" not in table


def test_a_map_in_a_notebook_holds_less_than_a_report(world, monkeypatch):
    assert reported.MAP_POINTS < MAX_MAP_POINTS
    assert reported.MAP_BYTES < gathering.FILE_BYTES
    monkeypatch.setattr(reported, "MAP_POINTS", 40)
    monkeypatch.setattr(reported, "MAP_BYTES", 1)
    monkeypatch.setattr(gathering, "LEAST_BYTES", 1_000)
    contents, blocks = parts_of(world.run.map().page)
    assert contents["map"]["length"] == 40
    assert len(json.loads(blocks["documents"])["ids"]) < 60  # of 66 examples and points


def test_a_table_in_a_notebook_has_the_largest_clusters_of_the_first_level(tmp_path):
    publish_small(LocalStore(tmp_path))
    run = gpucluster.open_run(tmp_path / "run_a")
    columns = run.centroids.to_pydict()
    columns["num_members"] = [3, 50, 7, 1_000, 9]
    columns["label"] = ["x" * 200, None, None, "<b>", None]
    columns["keywords"] = [[], ["red", "blue"], [], [], []]
    columns["hierarchy_level"] = [0, 0, 0, 0, 1]
    run.__dict__["centroids"] = pa.table(columns)
    run.__dict__["manifest"] = run.manifest.model_copy(
        update={"counts": run.manifest.counts.model_copy(update={"num_clusters": 4})}
    )
    shown = notebook.summary(run)
    rows = re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td><td>", shown)
    assert rows == [
        ("cl_3", "&lt;b&gt;", "1,000"),
        ("cl_1", "red, blue", "50"),
        ("cl_2", "-", "7"),
        ("cl_0", "x" * 80, "3"),
    ]


def test_a_table_in_a_notebook_is_inert(tmp_path):
    store = LocalStore(tmp_path)
    publish_small(store)
    run = gpucluster.open_run(tmp_path / "run_a")
    run.__dict__["centroids"] = run.centroids.set_column(
        run.centroids.column_names.index("label"), "label", pa.array(TEXTS[:5])
    )
    shown = run._repr_html_()
    assert html.escape(TEXTS[0]) in shown
    assert not any(text in shown for text in TEXTS[:5])


def test_the_command(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUCLUSTER_OUT", "elsewhere")  # of runs

    def call(*args):
        return CliRunner().invoke(main, [str(arg) for arg in args])

    done = call("report", world.run.path, "--json", "--no-texts")
    record = json.loads(done.stdout)
    file = tmp_path / f"report-{world.run.run_id}.html"
    assert record == {"report": str(file), "bytes": file.stat().st_size}
    assert "report.map" in done.stderr
    assert call("report", world.run.path, "-o", "report.pdf").exit_code == 2
    assert call("report", tmp_path, "-q").exit_code == 5
    kmeans = ("--algorithm", "kmeans", "--param", "n_clusters=3", "--out", "out")
    refused = call("run", world.data, *kmeans, "--report", "report.pdf")
    assert refused.exit_code == 2
    refused = call("run", world.data, *kmeans, "--report", "none/report.html")
    assert refused.exit_code != 0
    assert "there is no such folder" in refused.stderr
    assert not (tmp_path / "out").exists()
    done = call("run", world.data, *kmeans, "--report", "r.html")
    assert done.exit_code == 0, done.stderr
    assert "the report lies in" in done.stderr
    assert (tmp_path / "r.html").exists()
    world.run.verify()  # nothing of the run was touched
