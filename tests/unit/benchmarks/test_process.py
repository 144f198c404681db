"""What the benchmarks say of a process is true of it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[3] / "benchmarks" / "process.py"
HOLD = "b = bytearray(300_000_000); b[::4096] = b'x' * len(b[::4096]); time.sleep(0.3); del b"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(scope="module")
def process():
    spec = spec_from_file_location("process", FILE)
    module = module_from_spec(spec)
    sys.modules["process"] = module  # dataclasses look their module up
    yield (spec.loader.exec_module(module), module)[1]
    del sys.modules["process"]


def run(process, tmp_path, code, limit_s=30.0, env=None):
    command = [sys.executable, "-c", f"import os, sys, time\n{code}"]
    return process.run(command, env=env or {}, log=tmp_path / "log", limit_s=limit_s)


def peak_mb(tmp_path, code):
    """Measure from a small process: a child is charged with what its starter had."""
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import process\n"
        "command = [sys.executable, '-c', 'import os, sys, time\\n' + sys.argv[2]]\n"
        "log = pathlib.Path(sys.argv[3], 'log')\n"
        "print(process.run(command, env={}, log=log, limit_s=30.0).peak_mb)\n"
    )
    command = [sys.executable, "-c", script, str(FILE.parent), code, str(tmp_path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_peak_memory(tmp_path):
    assert 300 < peak_mb(tmp_path, HOLD) < 400


def test_peak_memory_survives_a_process_that_forgets_it(tmp_path):
    forget = "open('/proc/self/clear_refs', 'w').write('5')"
    assert 300 < peak_mb(tmp_path, f"{HOLD}\n{forget}") < 400


def test_cpu_time_is_not_wall_time(process, tmp_path):
    used = run(process, tmp_path, "time.sleep(0.5)")
    assert used.seconds >= 0.5
    assert used.cpu_seconds < 0.4
    assert used.error is None


def test_a_failure_says_why(process, tmp_path):
    assert "boom" in run(process, tmp_path, "raise SystemExit('boom')").error


def test_a_process_is_stopped_after_its_time(process, tmp_path):
    used = run(process, tmp_path, "time.sleep(60)", limit_s=0.3)
    assert used.error == "stopped after 0 s"
    assert used.seconds < 10


def test_none_removes_a_variable(process, tmp_path, monkeypatch):
    monkeypatch.setenv("PLANET", "earth")
    code = "sys.exit('PLANET' in os.environ)"
    assert run(process, tmp_path, code).error is not None
    assert run(process, tmp_path, code, env={"PLANET": None}).error is None
