"""What the documentation shows runs, as it stands, on the shipped sample."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pydantic import TypeAdapter

import gpucluster
from gpucluster.cli import main
from gpucluster.cli.serve import serve
from gpucluster.dialects import read_body
from gpucluster.labeling.asking.pruning import LIMIT, LIMIT_MB, RESUMABLE_S
from gpucluster.labeling.fake_server import FakeServer
from gpucluster.service.catalog.port import utc_now
from gpucluster.service.outbound.signing import new_secret, signed
from gpucluster.service.triggers.schedule import check_schedule
from gpucluster.service.webhooks.events import new_event
from gpucluster.sources.collection import read_manifest
from gpucluster.wire.collections import CreateCollectionRequest
from gpucluster.wire.triggers import (
    CreateTriggerRequest,
    TriggerExecutionHistoryItem,
    read_schedule,
)
from gpucluster.wire.webhooks import WebhookInput
from tests.helpers.serving import TOKEN, Killable, serving

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN_NAME = "run_1f0c..."  # how the documentation writes the name of a run


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, sample_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the documents that the examples speak of."""
    shutil.copy(sample_path, tmp_path / "docs.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_name(folder: Path) -> str:
    run = gpucluster.cluster(
        "docs.parquet", algorithm="kmeans", algorithm_params={"n_clusters": 5, "n_init": 1}
    )
    return run.run_id


def test_readme_python(folder: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    X = pq.read_table("docs.parquet")["embedding"].combine_chunks().flatten()
    X = X.to_numpy(zero_copy_only=False).reshape(-1, 384)[:400].astype("float32")
    lines = [line for line in code.splitlines() if "ertopic" not in line.lower()]  # tested apart
    exec(compile("\n".join(lines), "README.md", "exec"), {"X": X})
    assert list(folder.glob("gpucluster-out/run_*/manifest.json"))


def test_readme_definition(folder: Path) -> None:
    (text,) = blocks(ROOT / "README.md", "yaml")
    Path("topics.yaml").write_text(text)
    command = text.splitlines()[0].removeprefix("# topics.yaml: gpucluster ").split()
    assert command[0] == "run"
    command[0] = "plan"  # reads and checks all of it, without five seconds of layout
    subprocess.run([sys.executable, "-m", "gpucluster", *command], check=True, capture_output=True)


def test_run_page_python(run_name: str) -> None:
    (code,) = blocks(ROOT / "docs/run.md", "python")
    names: dict[str, object] = {}
    exec(compile(code.replace(RUN_NAME, run_name), "run.md", "exec"), names)
    assert names["run"].num_clusters == 5


def test_report_page(run_name: str) -> None:
    page = ROOT / "docs/report.md"
    (commands,), (code,) = blocks(page, "bash"), blocks(page, "python")
    for line in commands.splitlines():
        short = "docs.parquet --algorithm kmeans --param n_clusters=3"
        done = CliRunner().invoke(main, line.replace("docs.parquet", short).split()[1:])
        assert done.exit_code == 0, done.stderr
    names: dict[str, object] = {}
    exec(compile(code.replace(RUN_NAME, run_name), "report.md", "exec"), names)
    assert names["path"].stat().st_size < 2_000_000
    assert names["view"]._repr_html_().startswith("<iframe")


def test_run_page_sql(run_name: str) -> None:
    (code,) = blocks(ROOT / "docs/run.md", "sql")
    statements = [part for part in code.replace(RUN_NAME, run_name).split(";") if part.strip()]
    results = [duckdb.sql(statement).fetchall() for statement in statements]
    assert len(results) == 2
    assert len(results[0]) == 5
    assert sum(row[1] for row in results[0]) == 3000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_nothing_is_left_open(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    assert "@@" not in text
    assert re.findall(r"^[A-Z]{4,}$", text, re.MULTILINE) == []  # a word to be replaced


@pytest.mark.parametrize("module", ["gpucluster.api", "gpucluster.estimator", "gpucluster"])
def test_examples_in_docstrings(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0
    assert results.attempted > 0


def test_inputs_page(folder: Path) -> None:
    page = ROOT / "docs/inputs.md"
    (filters,) = blocks(page, "yaml")
    Path("topics.yaml").write_text(filters)
    assert gpucluster.ClusterDefinition.parse(read_body("topics.yaml")).filters is not None
    (manifest,) = blocks(page, "json")
    path = Path("products.collection.json")
    path.write_text(manifest)
    by_people = set(read_manifest(path).model_dump()) - {"enrichment"}
    assert set(json.loads(manifest)) == by_people


@pytest.fixture
def months(folder: Path) -> Path:
    """The documents of January, and those of February with a few of January among them."""
    docs = pq.read_table("docs.parquet")
    pq.write_table(docs.slice(0, 2_000), "january.parquet")
    pq.write_table(docs.slice(1_900), "february.parquet")
    return folder


def test_plots_page(folder: Path) -> None:
    page = ROOT / "docs/plots.md"
    for line in "".join(blocks(page, "bash")).splitlines():
        done = CliRunner().invoke(main, line.split()[1:])
        assert done.exit_code == 0, done.output
    (code,) = blocks(page, "python")
    exec(compile(code, "plots.md", "exec"), {})
    assert {".svg", ".pdf", ".png"} <= {path.suffix for path in folder.iterdir()}
    (command,) = [text for text in blocks(page, "text") if text.startswith("embedding-atlas")]
    assert set(command.split()[3::2]) <= set(pq.read_schema("map.parquet").names)


def test_living_page_commands(months: Path) -> None:
    (commands,) = blocks(ROOT / "docs/living.md", "bash")
    for line in commands.splitlines():
        program, *args = line.split()
        assert program == "gpucluster"
        command = [sys.executable, "-m", "gpucluster", *args]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "assign" in done.stdout  # the history has all three


def test_living_page_python(months: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(ROOT / "docs/living.md", "python")
    names: dict[str, object] = {}
    exec(compile(code, "living.md", "exec"), names)
    assert names["later"].manifest.lineage["previous_run_id"] == names["run"].run_id
    assert names["moved"].manifest.mode == "update"
    said = capsys.readouterr().out
    assert ("redo:" in said) == bool(names["joined"].metrics["should_recluster"])


def test_taxonomy_page_commands(months: Path) -> None:
    (commands,) = blocks(ROOT / "docs/taxonomy.md", "bash")
    for line in commands.splitlines():
        program, *args = line.split()
        assert program == "gpucluster"
        command = [sys.executable, "-m", "gpucluster", *args]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert re.search(r"joined +the clusters of tax_\w+-v1", done.stdout)
    (name,) = (path.name for path in Path("topics").glob("tax_*"))
    assert gpucluster.open_taxonomy(f"topics/{name}").nodes["stability"].null_count == 0


def test_taxonomy_page_python(months: Path) -> None:
    (code,) = blocks(ROOT / "docs/taxonomy.md", "python")
    names: dict[str, object] = {}
    exec(compile(code, "taxonomy.md", "exec"), names)
    assert len(names["same"].nodes) == 3
    assert set(names["node_of"].values()) <= set(names["labels"])
    assert len(names["node_of"]) == 1_100


def test_labeling_page(folder: Path) -> None:
    page = ROOT / "docs/labeling.md"
    offline, by_server = blocks(page, "bash")
    for line in offline.splitlines():
        command = [sys.executable, "-m", *line.split()]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "by keywords" in done.stdout
    (definition,) = blocks(page, "yaml")
    Path("topics.yaml").write_text(definition)
    settings = gpucluster.ClusterDefinition.parse(read_body("topics.yaml")).llm_labeling
    assert settings.labels_by == "openai"
    _, ask = by_server.splitlines()
    with FakeServer() as server:
        command = [
            sys.executable,
            "-m",
            *ask.replace("http://localhost:8080/v1", server.base_url).split(),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "by the model" in done.stdout


def test_labeling_page_knows_the_limit_of_replies() -> None:
    text = (ROOT / "docs/labeling.md").read_text()
    assert f"{LIMIT_MB} MB of replies are kept in a file; `{LIMIT}` sets another" in text
    assert f"within {RESUMABLE_S / 86_400:.0f} days of its last attempt" in text


def test_labeling_page_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpucluster.cluster(
        "docs.parquet", algorithm="kmeans", algorithm_params={"n_clusters": 5}, out="topics"
    )

    class Model:
        """Embeds by letters."""

        def encode(self, texts: list[str]) -> list[list[int]]:
            return [[text.count(letter) for letter in "abcdefghij"] for text in texts]

    (code,) = blocks(ROOT / "docs/labeling.md", "python")
    exec(compile(code, "labeling.md", "exec"), {"gpucluster": gpucluster, "model": Model()})
    assert "label_confidence" in capsys.readouterr().out


def test_enrichment_page(folder: Path) -> None:
    page = ROOT / "docs/enrichment.md"
    to_a_folder, in_place = blocks(page, "bash")
    feature = {"column": "embedding", "dim": 384}
    body = {
        "collection_id": "docs",
        "files": ["docs.parquet"],
        "features": {"mixpeek://text@v1/embedding": feature},
    }
    manifest = Path("docs.collection.json")
    manifest.write_text(json.dumps(body))
    before = manifest.read_bytes()
    for line in (*to_a_folder.splitlines(), *in_place.splitlines()):
        command = [sys.executable, "-m", *line.split()]
        subprocess.run(command, check=True, capture_output=True, text=True)
        if "docs.collection.json --field" in line:
            assert manifest.read_bytes() != before
    assert manifest.read_bytes() == before
    (code,) = blocks(page, "sql")
    by_topic, texts = (duckdb.sql(part).fetchall() for part in code.split(";") if part.strip())
    assert sum(row[1] for row in by_topic) == 3000
    assert texts
    (definition,) = blocks(page, "yaml")
    Path("topics.yaml").write_text(definition)
    command = [sys.executable, "-m", "gpucluster", "run", "topics.yaml", "--text-column", "text"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (file,) = json.loads(manifest.read_text())["files"]
    assert duckdb.sql(f"select count(distinct topic) from '{file}'").fetchall()[0][0] > 1


def test_dask_page(folder: Path) -> None:
    page = ROOT / "docs" / "dask.md"
    (command,) = blocks(page, "console")
    name, *arguments = command.split()
    assert name == "gpucluster"
    subprocess.run([sys.executable, "-m", "gpucluster", *arguments], check=True)
    (code,) = blocks(page, "python")
    exec(compile(code, "dask.md", "exec"), {})


def test_webhooks_page() -> None:
    page = ROOT / "docs" / "webhooks.md"
    (command,), (event,), (code,) = (blocks(page, kind) for kind in ("bash", "json", "python"))
    body = command.split("-d '", 1)[1].rstrip().removesuffix("'")
    assert WebhookInput.model_validate_json(body).webhook_name == "runs"
    now, secret = utc_now(), new_secret()
    ours = new_event("default", "cluster.created", "cluster", "clust_1", {"run_id": "run_1"}, now)
    assert json.loads(event).keys() == ours.keys()
    message = json.dumps(ours).encode()
    kept = [{"secret": secret, "until": None}]
    names: dict[str, object] = {"SECRET": secret}
    exec(compile(code, "webhooks.md", "exec"), names)
    headers = signed(kept, ours["event_id"], now, message)
    read = names["receive"](headers, message)
    assert read == (ours["event_id"], "cluster.created", {"run_id": "run_1"})


def test_service_page(tmp_path: Path) -> None:
    """The calls of the page, by curl, against a server that was started as the page says."""
    start, calls = blocks(ROOT / "docs" / "service.md", "bash")
    assert '--root data --import-roots "$PWD/examples"' in start
    server = Killable(tmp_path / "data", "--import-roots", str(ROOT / "examples"))
    client = server.start()
    names = {"URL": str(client.base_url).rstrip("/"), "TOKEN": TOKEN}
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", calls],
            cwd=ROOT,
            env={**os.environ, **names},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status":"COMPLETED"' in done.stdout
    assert '"facets":{"topic":{"values":[{"value":"' in done.stdout


def test_operating_page(tmp_path: Path) -> None:
    """The unit starts a server, which the probes and calls of the page find well."""
    page = ROOT / "docs" / "operating.md"
    (unit,), (image,) = blocks(page, "ini"), blocks(page, "dockerfile")
    (calls,), (line,), _ = (blocks(page, kind) for kind in ("bash", "json", "yaml"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    given = re.findall(r"^(\w+)=(.+)$", unit, re.M)
    places = {"8765": port, "/var/lib/gpucluster": str(tmp_path / "root")}
    for there, here in places.items():
        given = [(name, text.replace(there, here)) for name, text in given]
    unit_of = dict(given)
    installed, *arguments = shlex.split(unit_of["ExecStart"])
    assert installed == "/opt/gpucluster/bin/gpucluster"
    name, _, value = unit_of["Environment"].partition("=")
    environment = {**os.environ, name: value, "GPUCLUSTER_SERVE_ADMIN_TOKEN": TOKEN}
    probe = json.loads(re.search(r"HEALTHCHECK .* CMD (\[.*\])$", image, re.M)[1])
    names = {"URL": f"http://127.0.0.1:{port}", "TOKEN": TOKEN}
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "gpucluster", *arguments]
        server = subprocess.Popen(command, env=environment, stderr=log)
    try:
        subprocess.run(shlex.split(unit_of["ExecStartPost"]), check=True)
        subprocess.run([sys.executable, *(p.replace("8765", port) for p in probe[1:])], check=True)
        shown = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", calls],
            env={**os.environ, **names},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    finally:
        server.terminate()
        assert server.wait(60) == int(unit_of["SuccessExitStatus"])
    counted = re.findall(r"`(gpucluster_\w+)`", page.read_text())
    ours = [name for name in counted if not name.endswith(("_", "_seconds"))]
    assert len(ours) > 12
    told = set(re.findall(r"^# TYPE (\w+)", shown, re.M))
    assert {name for name in ours if name not in told} == set()
    logged = [text for text in (tmp_path / "log").read_text().splitlines() if "/v1/tokens" in text]
    assert json.loads(logged[0]).keys() == json.loads(line).keys()
    started = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", image, re.M)[1])
    assert serve.make_context("serve", started[2:]).params["host"] == "0.0.0.0"


def test_collections_page(tmp_path: Path) -> None:
    page = ROOT / "docs" / "collections.md"
    ((commands,), (source,)) = (blocks(page, kind) for kind in ("bash", "json"))
    calls = re.findall(r'-X POST "\$URL(\S+)" .*? -d \'(.*?)\'$', commands, re.DOTALL | re.M)
    with serving(tmp_path / "root", max_jobs=0) as (client, _):
        answers = [client.post(path, json=json.loads(body)) for path, body in calls]
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert [each["document_id"] for each in answers[-1].json()["results"]] == ["sku-1"]
    assert CreateCollectionRequest.model_validate_json(source).source is not None


def test_triggers_page() -> None:
    page = ROOT / "docs" / "triggers.md"
    (command,), (schedules, conditions, entry) = blocks(page, "bash"), blocks(page, "json")
    create: TypeAdapter[object] = TypeAdapter(CreateTriggerRequest)
    create.validate_json(command.split("-d '", 1)[1].rstrip().removesuffix("'"))
    for line in schedules.splitlines():
        given = json.loads(line)
        check_schedule(read_schedule(given["trigger_type"], given["schedule_config"]))
    for line in conditions.splitlines():
        read_schedule("conditional", json.loads(line))
    assert json.loads(entry).keys() == TriggerExecutionHistoryItem.model_fields.keys()


def test_client_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(blocks(ROOT / "docs/client.md", "python"))
    with serving(folder / "service") as (http, _):
        code = code.replace("http://127.0.0.1:8765", str(http.base_url)).replace("gpc_...", TOKEN)
        exec(compile(code, "client.md", "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith("5 ")
    assert said.endswith("COMPLETED\n['topics']\n")
