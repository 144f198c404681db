"""The process that a run shares, and its files."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpucluster.device import scratch
from gpucluster.device import worker as module
from gpucluster.device.worker import Worker, hand_back, shared, with_memory
from gpucluster.errors import GpuclusterWarning, OutOfMemoryError
from gpucluster.events import Muted, Reporter


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder that stands for the one in memory."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(module, "IN_MEMORY", folder)
    return folder


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths that this process writes arrays to."""
    paths: list[str] = []
    save = np.save

    def noted(path: str, array: object) -> None:
        paths.append(str(path))
        save(path, array)

    monkeypatch.setattr(np, "save", noted)
    return paths


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_array_is_written_once_and_its_file_dies_with_it(memory: Path, saved: list[str]) -> None:
    X = np.ones((5, 3), np.float32)
    with Worker() as worker:
        path = worker.share(X)
        assert worker.share(X) == path
        assert worker.share(X.copy()) != path
        gc.collect()
        assert files(memory) == [Path(path)]  # that of the copy is gone
        assert len(saved) == 2
        np.testing.assert_array_equal(np.load(path), X)
        del X
        gc.collect()
        assert files(memory) == []
    assert list(memory.iterdir()) == []


@pytest.mark.parametrize("n_rows", [10, 200_000])
def test_what_the_process_has_written_is_not_written_again(saved: list[str], n_rows: int) -> None:
    with Worker() as worker:
        path = worker.place() + "output.npy"
        np.save(path, np.zeros((n_rows, 3), np.float32))
        saved.clear()
        X = worker.load(path)
        assert worker.share(X) == path
        assert saved == []
        assert type(X) is np.ndarray
        assert X.flags.writeable
    assert X.sum() == 0  # what is mapped outlives the file
    assert not Path(path).exists()


def test_files_lie_in_memory_only_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, memory: Path
) -> None:
    room = SimpleNamespace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: room)
    monkeypatch.setattr(module, "available_bytes", lambda device: 900)
    with Worker() as worker:
        assert Path(worker.place(450)).is_relative_to(memory)
        assert not Path(worker.place(451)).is_relative_to(memory)
        room.free = 200
        assert not Path(worker.place(450)).is_relative_to(memory)
    monkeypatch.setattr(module, "IN_MEMORY", memory / "missing")
    with Worker() as worker:
        assert not Path(worker.place()).is_relative_to(memory)


def test_files_of_a_killed_process_are_removed_by_the_next_and_those_of_a_living_one_are_not(
    memory: Path,
) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gpucluster.device import worker\n"
        f"worker.IN_MEMORY = Path({str(memory)!r})\n"
        "own = worker.Worker(); print(own.place(), flush=True); time.sleep(1000)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        folder = Path(other.stdout.readline()).parent
        long_ago = time.time() - 2 * scratch.ABANDONED_S
        os.utime(folder, (long_ago, long_ago))
        with Worker() as worker:
            worker.place()
        assert folder.exists()
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    os.utime(folder)
    with Worker() as worker:
        worker.place()
    assert folder.exists()  # too young to be sure
    os.utime(folder, (long_ago, long_ago))
    with Worker() as worker:
        worker.place()
    assert not folder.exists()


def test_the_same_file_is_the_same_array_until_it_is_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "X.npy")
    np.save(path, np.ones(3))
    X = shared(path)
    assert shared(path) is X
    assert not X.flags.writeable
    other = str(tmp_path / "Y.npy")
    np.save(other, np.ones(3))
    Path(path).unlink()
    shared(other)
    assert path not in module._ARRAYS
    Path(other).unlink()


def test_a_result_on_the_gpu_stays_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gpucluster.device.arrays import forget_resident, to_device

    result = SimpleNamespace(__cuda_array_interface__={})
    cupy = SimpleNamespace(asnumpy=lambda array: np.ones((4, 2), np.float32))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    path = str(tmp_path / "output.npy")
    hand_back(path, result)
    assert to_device(shared(path), "gpu") is result
    np.testing.assert_array_equal(np.load(path), np.ones((4, 2)))
    forget_resident()
    Path(path).unlink()


class Work:
    """It fails for want of memory as often as told."""

    def __init__(self, failures: int) -> None:
        self.failures, self.attempts = failures, 0

    def __call__(self) -> str:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise OutOfMemoryError("umap ran out of GPU memory: 3 GB needed, 2 GB free")
        return "done"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is done to the memory."""
    done: list[str] = []
    for name in ("open_pool", "forget_resident", "free_pools"):
        monkeypatch.setattr(module, name, lambda name=name: done.append(name))
    return done


def test_gpu_work_that_lacks_memory_gets_all_of_it_once(steps: list[str]) -> None:
    reporter, work = Muted("cluster"), Work(failures=1)
    assert with_memory(work, "gpu", reporter) == "done"
    assert steps == ["open_pool", "forget_resident", "free_pools"]
    (warned,) = reporter.warnings
    assert warned.code == "gpu_memory_freed"
    assert "3 GB needed" in warned.message

    work = Work(failures=2)
    with pytest.raises(OutOfMemoryError, match="3 GB needed"):
        with_memory(work, "gpu", Muted("cluster"))
    assert work.attempts == 2


def test_gpu_work_that_fits_and_work_on_the_cpu_are_done_as_they_are(steps: list[str]) -> None:
    assert with_memory(Work(failures=0), "gpu", Reporter("cluster")) == "done"
    assert steps == ["open_pool"]
    with pytest.raises(OutOfMemoryError):
        with_memory(Work(failures=1), "cpu", Reporter("cluster"))
    assert steps == ["open_pool"]


def test_warnings_of_the_process_are_those_of_the_stage_that_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One process serves two stages, and a third after it was killed."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    with Worker() as worker:
        worker._child._allow = ("child_targets",)
        pids = []
        for stage in ("prepare", "cluster"):
            reporter = Reporter(stage)
            with pytest.warns(GpuclusterWarning, match="the slow way"):
                assert worker.call("child_targets:work", reporter, n=1) == stage
            assert [warned.code for warned in reporter.warnings] == ["went_slow"]
            pids.append(worker.call("child_targets:pid", reporter))
        assert len(set(pids)) == 1
        os.kill(pids[0], signal.SIGKILL)
        worker._child._process.popen.wait()
        assert worker.call("child_targets:pid", reporter) not in pids
