"""``gpucluster enrich``, and runs whose definition says that documents are enriched after them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from gpucluster.cli import main
from tests.helpers.topics import documents

KMEANS = ("--algorithm", "kmeans", "--param", "n_clusters=6", "--device", "cpu", "--quiet")


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs a command beside documents, their manifest and a definition."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(documents(120), "docs.parquet")
    feature = {"mixpeek://text@v1/embedding": {"column": "embedding", "dim": 12}}
    body = {"collection_id": "docs", "files": ["docs.parquet"], "features": feature}
    Path("docs.collection.json").write_text(json.dumps(body))
    runner = CliRunner()
    return lambda *args: runner.invoke(main, list(args))


def current() -> str:
    """Return the file that the collection consists of."""
    (file,) = json.loads(Path("docs.collection.json").read_text())["files"]
    return str(file)


def test_run_label_enrich_filter(invoke: Callable[..., Result]) -> None:
    assert invoke("run", "docs.parquet", "--text-column", "text", *KMEANS).exit_code == 0
    early = invoke("enrich", "gpucluster-out", "--out", "enriched")
    assert early.exit_code == 2
    assert "has no label. name its clusters with gpucluster label" in early.stderr
    assert invoke("label", "gpucluster-out", "--quiet").exit_code == 0
    done = invoke("enrich", "gpucluster-out", "--map", "label=name", "--field", "cluster_id",
                  "--out", "enriched", "--parallelism", "2")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "enrich: done in" in done.stderr
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (said["documents"], said["enriched"]) == ("120", "120, 0 of them noise")
    topics = duckdb.sql("select topic, name, count(*) from 'enriched/*.parquet' group by all")
    found = topics.fetchall()
    assert len(found) == 6  # each topic is a cluster, and has one name
    assert sum(row[2] for row in found) == 120


def test_in_place_and_undone_as_json(invoke: Callable[..., Result]) -> None:
    invoke("run", "docs.collection.json", *KMEANS)
    before = Path("docs.collection.json").read_bytes()
    args = ("enrich", "gpucluster-out", "docs.collection.json", "--field", "cluster_id")
    done = invoke(*args, "--json", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["processed"], answer["enriched"], answer["failed"]) == (120, 120, 0)
    assert answer["columns"] == ["cluster_id"]
    assert "cluster_id" in pq.read_schema(current()).names
    assert Path(answer["before"]).read_bytes() == before
    undone = invoke("enrich", "docs.collection.json", "--undo", "--json")
    assert json.loads(undone.stdout)["undone"] == answer["run_id"]
    assert Path("docs.collection.json").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("gpucluster-out", "docs.parquet"), "name with out the folder"),
        (("gpucluster-out", "--map", "label", "--out", "o"), "--map label: expected NAME=COLUMN"),
        (("gpucluster-out", "docs.parquet", "--undo"), "--undo takes the manifest"),
        (("docs.parquet", "--undo"), "expected the manifest of a collection"),
        (("gpucluster-out", "--field", "lable", "--out", "o"), "did you mean label"),
    ],
)
def test_what_is_wrong(invoke: Callable[..., Result], args: tuple[str, ...], message: str) -> None:
    done = invoke("enrich", *args)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_run_enriches_its_collection(invoke: Callable[..., Result]) -> None:
    Path("topics.yaml").write_text(
        "collection_ids: [docs.collection.json]\n"
        "algorithm: kmeans\n"
        "algorithm_params: {n_clusters: 6}\n"
        "vector_config: {enrich_source: true}\n"
        "llm_labeling: {provider: keywords}\n"
    )
    done = invoke("run", "topics.yaml", "--device", "cpu", "--text-column", "text", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["num_clusters"] == 6
    assert "120 of 120 documents are enriched" in done.stderr
    table = pq.read_table(current())
    assert not table["label"].null_count
    first = Path("docs.collection.json").read_bytes()
    again = invoke("run", "topics.yaml", "--device", "cpu", "--text-column", "text", "--json")
    assert json.loads(again.stdout)["run_id"] == json.loads(done.stdout)["run_id"]
    assert Path("docs.collection.json").read_bytes() == first


def test_a_run_says_before_any_work_that_it_cannot(invoke: Callable[..., Result]) -> None:
    Path("topics.yaml").write_text("enrich_source_collection: true\n")
    done = invoke("run", "docs.parquet", "--config", "topics.yaml")
    assert done.exit_code == 2
    assert "docs.parquet is no manifest of a collection" in done.stderr
    assert not Path("gpucluster-out").exists()
