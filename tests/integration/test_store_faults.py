"""Publishing fails, or its process is killed, at every operation that a crash can tell apart.

The n-th operation of an otherwise untouched attempt goes wrong, for n = 1, 2, 3 ... until an
attempt ends without having met its fault.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gpucluster.artifacts import schema
from gpucluster.artifacts.checkpoints import Checkpoints
from gpucluster.artifacts.manifest import Manifest
from gpucluster.artifacts.run import Run
from gpucluster.artifacts.store import Durable, LocalStore
from gpucluster.errors import DiskFullError, RunLockedError, RunNotFoundError, StoreError
from tests.helpers.faults import KILLS, REFUSALS, Faulty, end_of, fork, temporary_files
from tests.helpers.runs import LABELS, manifest, publish_small, publish_whole, tables

KEY = "c" * 64


def attempt(root: Path, durable: Durable | None = None) -> Manifest:
    """Keep a stage and publish a run."""
    store = LocalStore(root, durable)
    with store.lease("run_a"):
        Checkpoints(store, "run_a").put("fit", KEY, {"labels": LABELS}, {"n_iter": 3})
        return publish_whole(store, manifest(), tables())


def failure_of(work: Callable[[], object]) -> StoreError | None:
    try:
        work()
    except StoreError as error:
        return error
    return None


def assert_nothing_is_torn(root: Path, reference: Run) -> bool:
    """A reader sees the whole run or none; return whether it sees it."""
    checkpoint = Checkpoints(LocalStore(root), "run_a").get("fit", KEY)
    if checkpoint is not None:
        np.testing.assert_array_equal(checkpoint.arrays["labels"], LABELS)
        assert checkpoint.info == {"n_iter": 3}
    assert Run.open(root / "run_z", verify=True).manifest.run_id == "run_z"
    try:
        run = Run.open(root / "run_a", verify=True)
    except RunNotFoundError:
        return False
    assert run.manifest.content_sha256 == reference.manifest.content_sha256
    assert run.members.equals(reference.members)
    assert run.centroids.equals(reference.centroids)
    return True


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("reference")
    attempt(root)
    return Run.open(root / "run_a", verify=True)


@pytest.mark.parametrize("fault", KILLS + REFUSALS)
def test_a_fault_at_every_operation(tmp_path, reference, fault):
    seen = []
    for n in itertools.count(1):
        root = tmp_path / str(n)
        publish_small(LocalStore(root), run_id="run_z")
        work = functools.partial(attempt, root, Faulty(n, fault))
        if "killed" in fault:
            ended = end_of(fork(work))
            if ended == 0:
                break
            assert ended == -signal.SIGKILL
            assert len(temporary_files(root)) <= 1
        else:
            error = failure_of(work)
            if error is None:
                break
            assert isinstance(error, DiskFullError) == (fault != "EIO")
            assert str(root) in str(error)
            assert temporary_files(root) == []
        seen.append(assert_nothing_is_torn(root, reference))
        assert attempt(root).content_sha256 == reference.manifest.content_sha256
        assert assert_nothing_is_torn(root, reference)
        assert temporary_files(root) == []
        assert not (root / "run_a" / ".lock").exists()
    # Two folders and seven files; only the last operations find the run already there.
    assert len(seen) > 40
    assert seen == sorted(seen)
    assert 1 <= sum(seen) <= 4


@pytest.fixture
def small_disk(tmp_path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """Mount a file system of one page, and return it with a way to let it grow."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> subprocess.CompletedProcess[str]:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    try:
        done = mount("size=4k")
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no tmpfs may be mounted: {done.stderr.strip()}")
    try:
        yield folder, lambda n_bytes: mount(f"remount,size={n_bytes}").check_returncode()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk, reference):
    root, grow = small_disk
    n_full = 0
    while (error := failure_of(lambda: attempt(root))) is not None:
        n_full += 1
        assert isinstance(error, DiskFullError)
        assert "No space left on device" in str(error)
        assert temporary_files(root) == []
        with pytest.raises(RunNotFoundError):
            Run.open(root / "run_a")
        grow((n_full + 1) * 4096)
    assert n_full > 5
    run = Run.open(root / "run_a", verify=True)
    assert run.manifest.content_sha256 == reference.manifest.content_sha256


def test_no_library_hides_that_the_disk_is_full(small_disk):
    root, grow = small_disk
    grow(1 << 20)
    store = LocalStore(root)
    array = np.random.default_rng(0).random(1 << 20)
    table = pa.table({"x": array})
    with pytest.raises(DiskFullError, match="bytes free"):
        Checkpoints(store, "run_a").put("fit", KEY, {"x": array}, {})
    with pytest.raises(DiskFullError, match="bytes free"):
        store.put("x.parquet", lambda file: schema.write_parquet(table, {}, file))
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_many_processes_publish_one_run(tmp_path, reference):
    def publish_patiently() -> None:
        while True:
            with contextlib.suppress(RunLockedError):
                attempt(tmp_path)
                return

    pids = [fork(publish_patiently) for _ in range(8)]
    assert [end_of(pid) for pid in pids] == [0] * 8
    run = Run.open(tmp_path / "run_a", verify=True)
    assert run.manifest.content_sha256 == reference.manifest.content_sha256
    assert temporary_files(tmp_path) == []
