"""SIGINT and SIGTERM end a run in order, and the command that is printed goes on with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpucluster import open_run
from gpucluster.cli.exits import Stopped
from gpucluster.cli.interrupt import DOUBLED_S, interruptible
from gpucluster.events import CancelToken

PROGRAM = (sys.executable, "-m", "gpucluster")
LONG = ("--algorithm", "kmeans", "--param", "n_clusters=40", "--param", "n_init=12")

# Work that does not look at the cancel token, as native code does not.
DEAF = """
import sys, time
from gpucluster.algorithms import KMeans
fit = KMeans._fit_cpu
def deaf(*args):
    print("deaf ...", file=sys.stderr, flush=True)
    time.sleep({seconds})
    return fit(*args)
KMeans._fit_cpu = deaf
from gpucluster.cli import main
main()
"""


@contextmanager
def started(command: tuple[str, ...], stage: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command and wait until it is in a stage."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for line in process.stderr:
                if line.startswith(f"{stage} ..."):
                    break
            yield process
        finally:
            process.kill()


def run_folder(out: Path) -> Path:
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    return folder


def assert_nothing_is_torn(folder: Path) -> None:
    assert not (folder / "manifest.json").exists()
    assert list(folder.rglob("*.tmp")) == []
    for file in folder.rglob("*.json"):
        json.loads(file.read_text())


@pytest.fixture(scope="module")
def uninterrupted(sample_path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the results of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("uninterrupted")
    command = (*PROGRAM, "run", str(sample_path), *LONG, "--steps", "pca", "--out", str(out))
    subprocess.run(command, capture_output=True, check=True)
    return open_run(run_folder(out)).manifest.content_sha256


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_the_printed_command_resumes(
    signum: int, sample_path: Path, tmp_path: Path, uninterrupted: str
) -> None:
    out = tmp_path / "a folder"
    options = ("--steps", "pca", "--out", str(out))
    with started((*PROGRAM, "run", str(sample_path), *LONG, *options), "cluster") as process:
        process.send_signal(signum)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert stdout == ""
    heard, last = stderr.splitlines()[-2:]
    assert heard == "stopping after the work at hand; a second signal stops at once"
    said, _, command = last.partition(" resume with: ")
    assert said == f"error: stopped by {signal.Signals(signum).name}."
    folder = run_folder(out)
    assert_nothing_is_torn(folder)

    resumed = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "finished before, reused" in resumed.stderr
    found = open_run(folder, verify=True)
    assert found.manifest.content_sha256 == uninterrupted


def test_the_second_signal_does_not_wait(sample_path: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-c", DEAF.format(seconds=60), "run", str(sample_path), *LONG)
    with started((*command, "--steps", "pca", "--out", str(tmp_path / "out")), "deaf") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(DOUBLED_S + 0.5)
        assert process.poll() is None
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == 143
    assert "error: stopped by SIGTERM. resume with: " in stderr
    assert_nothing_is_torn(run_folder(tmp_path / "out"))


def test_a_doubled_signal_is_one(sample_path: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-c", DEAF.format(seconds=3), "run", str(sample_path), *LONG)
    with started((*command, "--out", str(tmp_path / "out"), "--json"), "deaf") as process:
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        time.sleep(DOUBLED_S / 10)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    assert time.monotonic() - begun > 2
    assert process.returncode == 143
    assert stderr.count("stopping after the work at hand") == 1
    error = json.loads(stdout)["error"]
    assert (error["code"], error["retryable"]) == ("cancelled", True)
    assert "resume with: " in error["hint"]


def test_a_fresh_run_promises_no_resume(sample_path: Path, tmp_path: Path) -> None:
    command = (*PROGRAM, "run", str(sample_path), *LONG, "--out", str(tmp_path), "--fresh")
    with started(command, "cluster") as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "a fresh run keeps nothing; start it again with: " in stderr


def test_work_that_ends_all_the_same_has_its_result() -> None:
    def work(cancel: CancelToken) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        while not cancel.cancelled:
            time.sleep(0.01)
        return 5

    said: list[str] = []
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert interruptible(work, hint="", say=said.append, tick=lambda: None) == 5
    assert len(said) == 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_while_nothing_was_begun(signum: int) -> None:
    code = (
        "import os, signal\nfrom gpucluster import api\nfrom gpucluster.cli import main\n"
        # whoever started the tests in the background has SIGINT ignored in all its children
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"api.open_run = lambda *_, **__: os.kill(os.getpid(), {signum:d})\nmain(['show', 'run_a'])"
    )
    command = (sys.executable, "-c", code)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (128 + signum, "")
    assert done.stderr.strip() == f"error: stopped by {signal.Signals(signum).name}"


def test_errors_of_the_work_come_through() -> None:
    def work(_: CancelToken) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interruptible(work, hint="", say=print, tick=lambda: None)


def test_a_stop_names_its_signal() -> None:
    def work(cancel: CancelToken) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            cancel.raise_if_cancelled()
            time.sleep(0.01)

    with pytest.raises(Stopped, match="go on") as stopped:
        interruptible(work, hint="go on", say=lambda _: None, tick=lambda: None)
    assert (stopped.value.signum, stopped.value.at_once) == (signal.SIGTERM, False)
