"""The table of the peers in README.md is the one of the committed results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import gpucluster.api
from gpucluster.cli import main
from gpucluster.definition import ClusterDefinition
from gpucluster.errors import ConfigError

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def python(*words):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS.parent), str(BENCHMARKS)])}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def peers(results, *words):
    return python(BENCHMARKS / "peers.py", "--results", results, *words)


def in_readme(readme, result, *, write):
    code = (
        "import json, pathlib, sys, peers_table as t\n"
        "readme, result, write = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]\n"
        "sys.exit(t.in_readme(readme, result, write=write == 'True'))"
    )
    return python("-c", code, readme, json.dumps(result), write).returncode


def row(table, case, subject, error=None, *, disturbed=False, n_runs=3, **values):
    return {
        "table": table,
        "case": case,
        "subject": subject,
        "values": values,
        "error": error,
        "disturbed": disturbed,
        "limit_s": 60,
        "runs": [{}] * n_runs,
    }


@pytest.fixture
def result():
    return {
        "started_at": "2026-01-31T00:00:00+00:00",
        "repeats": 3,
        "machine": {
            "cpu": "abacus",
            "cores": 2,
            "memory_bytes": 8e9,
            "python": "3.11.7",
            "libraries": {"numpy": "2.4.6"},
        },
        "faiss_core_types": {"Zen": 1.0, "unset": 5.0},
        "rows": [
            row("sets", "digits", "ours", ami=0.9, seconds=2.0, warm_s=1.0, disturbed=True),
            row("sets", "digits", "theirs", "exit code 1: boom"),
            row("growth", "tail_5k", "ours", warm_s=1.0, n_runs=1),
            row("growth", "tail_5k", "theirs", "stopped after 60 s"),
            row("growth", "tail_20k", "theirs", "not tried: 5,000 rows: stopped after 60 s"),
        ],
    }


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- peers:start -->\n<!-- peers:end -->\nafter\n")
    return path


def test_readme_is_current():
    done = python(BENCHMARKS / "peers.py", "--check")
    assert done.returncode == 0, done.stderr


def test_without_a_result_nothing_is_shown(readme):
    assert in_readme(readme, None, write=False) == 0


def test_the_tables_are_written_between_their_marks(readme, result):
    assert in_readme(readme, result, write=False) == 1
    assert in_readme(readme, result, write=True) == 0
    assert in_readme(readme, result, write=False) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- peers:start -->\n")
    assert text.endswith("<!-- peers:end -->\nafter\n")


def test_what_has_no_time_says_why(readme, result):
    in_readme(readme, result, write=True)
    text = readme.read_text()
    assert (
        "| digits, 1,797 x 64, 10 classes | ours | - | - | 0.900 | - | - | 2.0! | 1.00! |" in text
    )
    assert "- digits, theirs: exit code 1: boom." in text
    assert "| theirs | over 60 |" in text
    assert "not tried: 5,000 rows" in text
    assert text.count("1 of 3 runs: ours (tail_5k).") == 1


def test_a_readme_without_marks_is_an_error(tmp_path, result):
    path = tmp_path / "README.md"
    path.write_text("no marks\n")
    assert in_readme(path, result, write=True) == 1


def test_an_unknown_set_is_refused(tmp_path):
    assert "unknown case mars" in peers(tmp_path, "--sets", "mars").stderr


def test_recall_forgives_what_is_equally_near():
    code = (
        "import graphs, numpy as np\n"
        "graphs.N_NEIGHBORS = 1\n"
        "X = np.array([[1, 0], [0.6, 0.8], [0.6, -0.8], [-1, 0]], np.float32)\n"
        "rows = np.array([[0, 2], [1, 0], [2, 3], [3, -1]])\n"
        "print(graphs.recall(X, rows, np.array([0, 2]), np.array([0.8, 0.8])))"
    )
    done = python("-c", code)
    assert float(done.stdout) == 0.5, done.stderr


def test_a_run_without_options_is_the_call_without_arguments(monkeypatch, sample_path, tmp_path):
    """The first one is timed cold, the other one warm."""
    asked = {}

    def cluster(data, definition, **options):
        asked.update(options, definition=definition)
        raise ConfigError("that is enough")

    monkeypatch.setattr(gpucluster.api, "cluster", cluster)
    CliRunner().invoke(main, ["run", str(sample_path), "--out", str(tmp_path)])
    del asked["out"], asked["observer"], asked["cancel"]
    assert asked.pop("definition") == ClusterDefinition.parse(None)
    assert asked.pop("device") == asked.pop("storage") == "auto"
    assert asked.pop("fresh") is False
    assert asked.pop("executor") == "local"
    assert asked.pop("previous") == "auto"
    assert set(asked.values()) == {None}


@pytest.mark.slow
def test_ours_is_measured_and_a_result_goes_on(tmp_path):
    options = ("--sets", "digits", "--tables", "sets", "--only", "^gpucluster", "--repeats", "1")
    done = peers(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("peers-*.json")
    (ours,) = json.loads(file.read_text())["rows"]
    assert ours["error"] is None
    assert ours["values"]["ami"] > 0.8
    assert 0 < ours["values"]["warm_s"] < ours["values"]["seconds"] + 60
    assert str(tmp_path) not in file.read_text()
    options = (*options[:-4], "--only", "^nobody", "--repeats", "1")
    assert peers(tmp_path, *options, "--resume").returncode == 0
    assert json.loads(file.read_text())["rows"] == [ours]
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, "repeats": 3}))
    assert peers(tmp_path, *options, "--resume").returncode == 0
    assert json.loads(file.read_text())["repeats"] == 3
    file.write_text(json.dumps(written))
    refused = peers(tmp_path, *options[:-1], "2", "--resume")
    assert refused.returncode != 0
    assert "cannot go on: another number of repeats" in refused.stderr
