"""A run that dies anywhere leaves nothing torn, and doing it again ends as if it had not died."""

from __future__ import annotations

import errno
import functools
import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gpucluster
from gpucluster import pipeline
from gpucluster.artifacts import LocalStore, Run
from gpucluster.artifacts.store import Durable
from gpucluster.errors import DiskFullError, RunNotFoundError
from gpucluster.events import Event, StageFinished

RANDOM_KILLS = int(os.environ.get("GPUCLUSTER_RANDOM_KILLS", "50"))
SEED = 20_250

X = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
DEFINITION = {
    "algorithm": "kmeans",
    "algorithm_params": {"n_clusters": 5, "n_init": 1},
    "preprocessing_steps": [{"method": "whitening"}, {"method": "l2_normalize"}],
}

OPERATIONS = ("make_folder", "open_temp", "fsync_file", "link", "replace", "unlink", "fsync_dir")


class Faulty(Durable):
    """Counts durable operations, and acts before or after the n-th."""

    def __init__(self, n: int | None, act: Callable[[], None], *, after: bool = False) -> None:
        self.count, self._n, self._act, self._after = 0, n, act, after

    def __getattribute__(self, name: str) -> object:
        method = super().__getattribute__(name)
        if name not in OPERATIONS:
            return method

        @functools.wraps(method)
        def operation(*args: object) -> object:
            self.count += 1
            due = self.count == self._n
            if due and not self._after:
                self._act()
            result = method(*args)
            if due and self._after:
                self._act()
            return result

        return operation


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cluster(out: Path, durable: Durable | None = None, **kwargs: object) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        if durable is not None:
            patch.setattr(pipeline, "open_store", lambda root: LocalStore(root, durable))
        return gpucluster.cluster(X, DEFINITION, out=out, device="cpu", **kwargs)


def in_a_process_that_dies(work: Callable[[], object], after_s: float | None = None) -> bool:
    """Run `work` in a fork; return whether it was killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, 3.12
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, int]:
    """The run that nothing disturbed, and how many durable operations it took."""
    counter = Faulty(None, die)
    return cluster(tmp_path_factory.mktemp("reference"), counter), counter.count


def check_and_resume(out: Path, reference: Run) -> dict[str, bool]:
    """Nothing torn is visible; the rerun equals the reference. Return what it reused."""
    published = False
    for folder in out.glob("run_*"):
        try:
            Run.open(folder, verify=True)
            published = True
        except RunNotFoundError:
            continue
    seen: list[Event] = []
    run = cluster(out, observer=seen.append)
    assert run.manifest.content_sha256 == reference.manifest.content_sha256
    Run.open(run.path, verify=True)
    # the twin name of a manifest whose writer died right after publishing may stay
    assert len(list(out.rglob(".*.tmp"))) <= published
    return {e.record.name: e.record.reused for e in seen if isinstance(e, StageFinished)}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_durable_operation(
    after: bool, reference: tuple[Run, int], tmp_path: Path
) -> None:
    run, n_operations = reference
    assert n_operations > 30
    lost = 0
    for n in range(1, n_operations + 1):
        out = tmp_path / str(n)
        killed = in_a_process_that_dies(
            functools.partial(cluster, out, Faulty(n, die, after=after))
        )
        assert killed, f"operation {n} was not reached"
        finished = {path.parent.name.rsplit("-", 1)[0] for path in out.rglob("done.json")}
        reused = check_and_resume(out, run)
        lost += sum(not reused.get(stage, True) for stage in finished)
    assert lost == 0, "a finished stage was computed again"


def test_killed_at_random_moments(reference: tuple[Run, int], tmp_path: Path) -> None:
    begun = time.monotonic()
    cluster(tmp_path / "timing")
    whole_s = time.monotonic() - begun
    stream = random.Random(SEED)
    killed = 0
    for n in range(RANDOM_KILLS):
        out = tmp_path / str(n // 3)  # hit three times before it may finish
        work = functools.partial(cluster, out)
        killed += in_a_process_that_dies(work, after_s=stream.uniform(0, whole_s))
        if n % 3 == 2:
            check_and_resume(out, reference[0])
    assert killed > RANDOM_KILLS // 3, f"seed {SEED}: too few of the kills hit a live process"


def test_disk_full_at_every_durable_operation(reference: tuple[Run, int], tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run, n_operations = reference
    refused = []
    for n in range(1, n_operations + 1):
        out = tmp_path / str(n)
        try:
            cluster(out, Faulty(n, full))
        except DiskFullError as error:
            refused.append(str(error))
        check_and_resume(out, run)
    assert len(refused) > n_operations * 0.8
    assert not any("\n" in message for message in refused)
