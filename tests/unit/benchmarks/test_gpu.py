"""The benchmark of the GPU runs without one: on numpy, and on the stand-ins of CuPy and cuML."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpucluster.device.kernels import KERNELS

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
STAND_INS = os.pathsep.join([str(ROOT / "tests" / "stand_ins"), str(ROOT)])
SECTIONS = [
    *("machine", "parity", "certified", "kernels", "assign", "lloyd", "whitening", "report"),
    "pipeline",
]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def run(tmp_path, *options, path="", codes=(0,)):
    """Run the script; return its result, and what it printed."""
    command = [sys.executable, SCRIPT, *options, "--results", tmp_path / "results"]
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in codes, done.stderr
    (file,) = (tmp_path / "results").glob("*.json")
    return json.loads(file.read_text(encoding="utf-8")), done.stdout


def errors(result):
    return [(row["table"], row["subject"], row["error"]) for row in result["rows"] if row["error"]]


def gates(result):
    """Return the subjects that missed what does not depend on speed."""
    return [row["subject"] for row in result["rows"] if row["fails"]]


def rows_of(result, section):
    return [row for row in result["rows"] if row["table"] == section]


@pytest.mark.slow
def test_all_of_it_runs_on_the_host(tmp_path):
    result, said = run(tmp_path, "--cpu")
    assert list(result["sections"]) == SECTIONS
    assert not errors(result)
    assert not gates(result)
    assert result["running"] is None
    assert result["gpu"] is None
    assert result["machine"]["cpu"]
    rows = result["rows"]
    assert all(sum(bool(row[kind]) for kind in ("values", "absent", "skipped")) for row in rows)
    assert {row["table"] for row in rows if row["values"]} == set(SECTIONS)
    absent = {row["subject"]: row["absent"] for row in rows if row["absent"]}
    assert absent["flash-kmeans float16"] == "only on a GPU"
    assert "absent: flash-kmeans float16: only on a GPU" in said
    assert str(ROOT) not in json.dumps(result)
    # where both sides are the same code, nothing was compared
    parity = rows_of(result, "parity")
    alone = {row["subject"] for row in parity if row["values"].get("ways") == "one path"}
    compared = {"kmeans, labels", "whitening", "nearest neighbours", "measure"}
    assert {row["subject"] for row in parity} - alone == compared
    assert {row["subject"] for row in parity if row["met"] is None} == alone
    assert "one path, so nothing is compared: kmeans; " in said
    # small as it is, no case is measured twice
    assert len({row["case"] for row in rows_of(result, "assign")}) == 7
    assert len({row["case"] for row in rows_of(result, "certified")}) == 6 + 1
    assert not any(" ms <= " in goal for row in rows for goal in row["judged"])


@pytest.mark.slow
def test_all_of_it_runs_on_a_gpu_of_stand_ins(tmp_path):
    # layouts come from another library: of so few rows they may miss a gate
    layouts = {"umap", "ratios: the chain's over ours"}
    result, _ = run(tmp_path, "--rows-limit", "120", "--repeats", "1", path=STAND_INS, codes=(0, 1))
    assert list(result["sections"]) == SECTIONS
    assert not errors(result)
    assert set(gates(result)) <= layouts
    (ratios,) = (row for row in result["rows"] if row["subject"] == "ratios: the chain's over ours")
    assert ratios["judged"].keys() == {"G7: ami_less <= 0.005", "G7: ari_less <= 0.005"}
    assert "G7: seconds >= 2.5 (not judged here)" in ratios["target"]  # the rows are fewer
    assert result["gpu"]["name"] == "stand-in"
    measured = {
        (row["table"], row["case"]) for row in result["rows"] if "gb_per_s" in row["values"]
    }
    assert {("kernels", spec.name) for spec in KERNELS} <= measured
    chained = next(row for row in result["rows"] if row["subject"] == "chained cuML")
    assert chained["values"]["umap_s"] > 0


def test_a_subject_that_ends_its_process_ends_no_more(tmp_path):
    code = "import os, numpy; numpy.linalg.eigh = lambda *_: os.abort()\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    result, _ = run(
        tmp_path, "--cpu", "--only", "machine|report.*scikit", path=str(tmp_path), codes=(1,)
    )
    assert errors(result) == [("machine", "eigh, float64", "its process ended by SIGABRT")]
    subjects = [row["subject"] for row in result["rows"]]
    assert subjects.index("read") > subjects.index("eigh, float64")  # it went on behind it
    assert subjects[-1] == "beside scikit-learn"
    assert len(set(subjects)) == len(subjects)


def test_an_error_of_a_subject_is_one_of_its_row(tmp_path):
    code = "import numpy\ndef eigh(_): raise ValueError('boom')\nnumpy.linalg.eigh = eigh\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    result, said = run(tmp_path, "--cpu", "--only", "^machine", path=str(tmp_path), codes=(1,))
    assert errors(result) == [("machine", "eigh, float64", "ValueError: boom")]
    assert "error: machine, 64 x 64, eigh, float64: ValueError: boom" in said


def test_what_there_is_no_time_for_is_said(tmp_path):
    result, _ = run(tmp_path, "--cpu", "--seconds", "0")
    assert list(result["sections"]) == SECTIONS
    assert {row["skipped"] for row in result["rows"]} == {"the time was over"}
    assert not errors(result)


def test_one_subject_can_be_asked_for(tmp_path):
    result, said = run(tmp_path, "--cpu", "--only", "whitening.*all of it")
    (row,) = result["rows"]
    assert row["subject"] == "gpucluster, all of it"
    assert row["values"]["ms"] > 0
    # what is not judged is not met
    assert row["met"] is True
    assert row["target"].startswith("G3: ms <= ")
    assert row["target"].split("; ")[0].endswith(" (not judged here)")
    assert "met: whitening, 2,000 x 64 (of 10,000,000), gpucluster, all of it: G3: off" in said
    assert ": G3: ms" not in said.partition("no GPU: ")[2]


@pytest.mark.slow
def test_a_goal_that_is_missed_is_the_exit_code(tmp_path):
    code = (
        "import sklearn.metrics\n"
        "sklearn.metrics.silhouette_samples = lambda X, labels, metric: labels * 0.0\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    result, said = run(tmp_path, "--cpu", "--only", "scikit", path=str(tmp_path), codes=(1,))
    assert gates(result) == ["beside scikit-learn"]
    assert not errors(result)
    assert "MISSED: report, 2,000 x 64, k=50 (of 20,000), beside scikit-learn: G8: worst" in said


def test_the_help_says_what_the_exit_code_is():
    command = [sys.executable, SCRIPT, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "exit code is 1" in done.stdout
