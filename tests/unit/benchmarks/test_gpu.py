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


def run(tmp_path, *options, path=""):
    """Run the script; return its result, and what it printed."""
    command = [sys.executable, SCRIPT, *options, "--results", tmp_path / "results"]
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "results").glob("*.json")
    return json.loads(file.read_text(encoding="utf-8")), done.stdout


def errors(result):
    return [(row["table"], row["subject"], row["error"]) for row in result["rows"] if row["error"]]


def gates(result):
    """Return the subjects that missed what does not depend on speed."""
    return [row["subject"] for row in result["rows"] if row["met"] is False]


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


@pytest.mark.slow
def test_all_of_it_runs_on_a_gpu_of_stand_ins(tmp_path):
    result, _ = run(tmp_path, "--rows-limit", "120", "--repeats", "1", path=STAND_INS)
    assert list(result["sections"]) == SECTIONS
    assert not errors(result)
    assert set(gates(result)) <= {"umap"}  # its layouts come from another library
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
    result, _ = run(tmp_path, "--cpu", "--only", "machine|report.*scikit", path=str(tmp_path))
    assert errors(result) == [("machine", "eigh, float64", "its process ended by SIGABRT")]
    subjects = [row["subject"] for row in result["rows"]]
    assert subjects.index("read") > subjects.index("eigh, float64")  # it went on behind it
    assert subjects[-1] == "beside scikit-learn"
    assert len(set(subjects)) == len(subjects)


def test_an_error_of_a_subject_is_one_of_its_row(tmp_path):
    code = "import numpy\ndef eigh(_): raise ValueError('boom')\nnumpy.linalg.eigh = eigh\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    result, said = run(tmp_path, "--cpu", "--only", "^machine", path=str(tmp_path))
    assert errors(result) == [("machine", "eigh, float64", "ValueError: boom")]
    assert "error: machine, 64 x 64, eigh, float64: ValueError: boom" in said


def test_what_there_is_no_time_for_is_said(tmp_path):
    result, _ = run(tmp_path, "--cpu", "--seconds", "0")
    assert list(result["sections"]) == SECTIONS
    assert {row["skipped"] for row in result["rows"]} == {"the time was over"}
    assert not errors(result)
