"""``gpucluster history``: its tables, its JSON, its picture, its errors, and its page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpucluster.artifacts import LocalStore
from gpucluster.cli import main
from tests.helpers.runs import publish_small

ROOT = Path(__file__).resolve().parents[2]
BEGIN = datetime(2026, 8, 3, 4, 12, tzinfo=UTC)
FULL, JOINED = "run_0a1b2c3d4e5f6071", "run_1a2b3c4d5e6f7081"
HEAD = "when (UTC) run mode rows clusters noise silhouette cosine drift redo"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with a full run, one that joined it, and one of another kind."""
    monkeypatch.chdir(tmp_path)
    store = LocalStore(tmp_path / "runs")
    reasons = [
        {"metric": "silhouette_score", "value": 0.2, "op": "<", "threshold": 0.25},
        {"metric": "share_divergence", "value": 0.2, "op": ">", "threshold": 0.1},
    ]
    for reason, base in zip(reasons, (None, FULL), strict=True):
        reason["baseline_run_id"] = base
    named = {"definition": {"cluster_name": "topics \x1b[31m"}, "definition_sha256": "a" * 64}
    publish_small(
        store,
        **named,
        run_id=FULL,
        completed_at=BEGIN.astimezone(timezone(timedelta(hours=7))),
        metrics={"silhouette_score": 0.31, "mean_cosine_to_centroid": 0.7, "noise_ratio": 0.125},
    )
    publish_small(
        store,
        **named,
        run_id=JOINED,
        mode="assign",
        base_run_id=FULL,
        completed_at=BEGIN + timedelta(days=1),
        metrics={"silhouette_score": 0.2, "noise_ratio": None},
        drift={"share_divergence": 0.2},
        recluster_reasons=tuple(reasons),
        not_evaluated=("mean_cosine_to_centroid",),
        lineage={"previous_run_id": FULL, "survived": 5},
    )
    publish_small(store, run_id="run_b", completed_at=BEGIN + timedelta(days=2))
    return tmp_path


@pytest.fixture
def invoke(folder: Path) -> Callable[..., Result]:
    """Return a function that runs a command in this process."""
    runner = CliRunner()
    return lambda *args, **more: runner.invoke(main, [str(arg) for arg in args], **more)


def test_a_table_for_each_series(invoke: Callable[..., Result]) -> None:
    done = invoke("history", "runs")
    assert (done.exit_code, done.stderr) == (0, "")
    first, second = re.split(r"\n\n(?! )", done.stdout.rstrip("\n"))
    title, *lines = first.splitlines()
    assert title == "topics ?[31m: 2 runs of definition aaaaaaaaaaaa"
    assert lines[0].split() == HEAD.split()
    full = "2026-08-03 04:12 0a1b2c3d full 203 5 12.5 % 0.3100 0.7000 - no"
    joined = "2026-08-04 04:12 1a2b3c4d assign 203 5 - 0.2000 - 0.2000 yes"
    assert [" ".join(line.split()) for line in lines[1:3]] == [full, joined]
    assert lines[1].index("0.3100") == lines[2].index("0.2000")
    assert lines[3:] == [
        "",
        "  1a2b3c4d  silhouette_score 0.2000 is below 0.2500",
        "            share_divergence 0.2000 is above 0.1000, against 0a1b2c3d",
    ]
    lines = second.splitlines()
    assert lines[0] == "1 run of definition 000000000000"
    assert lines[1].split() == HEAD.split()
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_a_million_rows_fit(invoke: Callable[..., Result], folder: Path) -> None:
    counts = {"num_rows": 123_456_789, "num_points": 200, "num_rejected": 0}
    counts |= {"num_clusters": 123_456, "num_noise": 33}
    metrics = {"silhouette_score": -0.1234, "mean_cosine_to_centroid": 0.9, "noise_ratio": 1.0}
    more = {"mode": "assign", "base_run_id": "run_b", "drift": {"share_divergence": 0.1}}
    publish_small(
        LocalStore(folder / "runs"), run_id="run_c", counts=counts, metrics=metrics, **more
    )
    done = invoke("history", "runs", "--run", "run_c")
    assert "123,456,789" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_json(invoke: Callable[..., Result]) -> None:
    done = invoke("history", "runs", "--json", "--plot", "a.svg", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert set(answer) == {"folder", "series", "unreadable", "plot", "flow"}
    assert answer["plot"] == str(Path("a.svg").absolute())
    assert answer["folder"] == str(Path("runs").absolute())
    first, second = answer["series"]
    assert (first["series"], first["cluster_name"]) == ("a" * 64, "topics \x1b[31m")
    assert [run["run_id"] for run in first["runs"]] == [FULL, JOINED]
    assert [run["run_id"] for run in second["runs"]] == ["run_b"]
    run = first["runs"][1]
    assert (run["mode"], run["base_run_id"], run["should_recluster"]) == ("assign", FULL, True)
    assert (run["num_rows"], run["num_points"], run["num_clusters"]) == (203, 200, 5)
    assert run["metrics"] == {"silhouette_score": 0.2, "noise_ratio": None}
    assert run["drift"] == {"share_divergence": 0.2}
    assert run["lineage"] == {"previous_run_id": FULL, "survived": 5}
    assert run["not_evaluated"] == ["mean_cosine_to_centroid"]
    assert [reason["baseline_run_id"] for reason in run["recluster_reasons"]] == [None, FULL]
    assert Path(run["path"], "manifest.json").is_file()
    completed = [datetime.fromisoformat(run["completed_at"]) for run in first["runs"]]
    assert completed == [BEGIN, BEGIN + timedelta(days=1)]


def test_a_part_of_it(invoke: Callable[..., Result]) -> None:
    def shown(*args: str) -> list[str]:
        answer = json.loads(invoke("history", "runs", *args, "--json").stdout)
        return [run["run_id"] for series in answer["series"] for run in series["runs"]]

    assert shown("--last", "1") == [JOINED, "run_b"]
    assert shown("--cluster-name", "topics \x1b[31m") == [FULL, JOINED]
    assert shown("--run", "1a2b3c4d") == [FULL, JOINED]
    assert shown("--run", f"runs/{JOINED}/", "--last", "1") == [JOINED]


def test_the_last_run_keeps_the_name_of_its_base(invoke: Callable[..., Result]) -> None:
    done = invoke("history", "runs", "--run", JOINED, "--last", 1)
    assert "against 0a1b2c3d" in done.stdout


@pytest.mark.parametrize("name", ["a.png", "my picture.SVG"])
def test_the_picture(invoke: Callable[..., Result], name: str) -> None:
    done = invoke("history", "runs", "--plot", name)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == f"the plot lies in {Path(name).absolute()}\n"
    assert Path(name).read_bytes()[:5] in {b"\x89PNG\r", b"<?xml"}
    assert sorted(path.name for path in Path().iterdir()) == [name, "runs"]


def test_runs_that_cannot_be_read_are_listed(invoke: Callable[..., Result]) -> None:
    whole = invoke("history", "runs", "--run", "run_b").stdout
    Path("runs", JOINED, "manifest.json").write_text("{}")
    Path("runs", "run_unfinished").mkdir()
    done = invoke("history", "runs", "--run", "run_b")
    assert done.exit_code == 0
    assert done.stdout.startswith(whole)
    listed = done.stdout.removeprefix(whole).splitlines()
    assert listed[:2] == ["", "not readable"]
    assert listed[2].startswith(f"  {JOINED}: ")
    assert "is no manifest, or a damaged one" in " ".join(" ".join(listed).split())
    assert max(map(len, listed)) <= 100
    assert "unfinished" not in done.stdout
    (unreadable,) = json.loads(invoke("history", "runs", "--json").stdout)["unreadable"]
    assert Path(unreadable["path"]).name == JOINED


@pytest.mark.parametrize(
    ("args", "code", "name", "says"),
    [
        ("history", 2, "usage", "missing argument 'DIR'"),
        ("history none", 5, "run_not_found", "there is no such folder"),
        ("history .", 5, "run_not_found", "name the folder that holds runs"),
        ("history runs --plot a.gif", 2, "config_invalid", "ends in one of .png, .svg, .pdf"),
        ("history runs --flow a.png", 2, "config_invalid", "a flow is of one series"),
        ("history runs --plot none/a.png", 7, "store_error", "no such folder"),
        ("history runs --cluster-name topic", 5, "run_not_found", "known are: topics ?[31m"),
        ("history runs --run run_z", 5, "run_not_found", "no run 'run_z'"),
        ("history runs --run run_", 2, "config_invalid", "runs of 2 series"),
        ("history runs --run run_b --cluster-name x", 2, "usage", "both --cluster-name and --run"),
        ("history runs --last 0", 2, "usage", "--last"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    invoke: Callable[..., Result], args: str, code: int, name: str, says: str
) -> None:
    done = invoke(*shlex.split(args))
    assert (done.exit_code, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says.lower() in line.lower()
    as_json = invoke(*shlex.split(args), "--json")
    assert (as_json.exit_code, as_json.stderr) == (code, "")
    assert json.loads(as_json.stdout)["error"]["code"] == name


def test_a_picture_needs_matplotlib(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = invoke("history", "runs", "--plot", "a.png")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == (
        "error: a plot needs Matplotlib, which is missing. pip install 'gpucluster[plot]'\n"
    )
    assert invoke("history", "runs").exit_code == 0


def test_ids_that_begin_alike(invoke: Callable[..., Result], folder: Path) -> None:
    store = LocalStore(folder / "runs")
    when = BEGIN + timedelta(days=3)
    for run_id in ("b", f"{FULL}9"):
        publish_small(store, run_id=run_id, completed_at=when)
    shown = {
        line.split()[2] for line in invoke("history", "runs").stdout.splitlines() if ":12" in line
    }
    assert len(shown) >= 3


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "history.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def masked(text: str) -> list[str]:
    """Return lines without what another day or another processor would make differ."""
    without = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d|\b[0-9a-f]{8}([0-9a-f]{4})?\b", "-", text)
    return [re.sub(r"(\.\d\d)\d\d", r"\1", line).rstrip() for line in without.splitlines()]


def test_the_page_shows_what_happens(
    tmp_path: Path, sample_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(sample_path, tmp_path / "docs.parquet")
    monkeypatch.chdir(tmp_path)
    first, second = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(first, "history.md", "exec"), names)
    (shown,) = blocks("text")
    command, _, output = shown.partition("\n")
    done = CliRunner().invoke(main, shlex.split(command.removeprefix("$ gpucluster ")))
    assert done.exit_code == 0, done.stderr
    assert masked(done.stdout) == masked(output)
    assert Path("history.svg").is_file()
    exec(compile(second, "history.md", "exec"), names)
    assert Path("history.png").is_file()
    assert len(names["history"].to_pandas()) == 5
