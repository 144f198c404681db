"""The executor dask: real workers on this machine, killed, lost, too old, and the same results."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

import gpucluster
from gpucluster.algorithms import KMeans
from gpucluster.cli import main
from gpucluster.device import executor as module
from gpucluster.device import fleet as fleet_module
from gpucluster.device import storage as storage_module
from gpucluster.device.executor import Executor
from gpucluster.device.fleet import Fleet
from gpucluster.device.select import decide
from gpucluster.device.storage import on_disk
from gpucluster.errors import (
    BackendUnavailableError,
    Cancelled,
    ConfigError,
    ExecutorError,
    StoreError,
)
from gpucluster.events import CancelToken, Progress, Reporter
from gpucluster.ops.shards import SHARDS, TILE_ROWS, Shard, Shards, shard_rows

N_KILLS = 20
KMEANS = {
    "algorithm": "kmeans",
    "algorithm_params": {"n_clusters": 12, "max_iter": 12},
    "preprocessing_steps": [{"method": "whitening"}],
    "device": "cpu",
    "previous": None,
}


@pytest.fixture(scope="module", name="X")
def matrix() -> Any:
    stream = np.random.default_rng(0)
    groups = stream.normal(size=(15, 24))[stream.integers(15, size=30_000)]
    return (2 * groups + stream.normal(size=groups.shape)).astype(np.float32)


@contextlib.contextmanager
def cluster(folder: Path, n_workers: int = 2) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a cluster that belongs to nobody's run."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gpucluster.device.dask_host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    settings = {"n_workers": n_workers, "n_threads": 1, "folder": str(folder), "gpu": False}
    try:
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        process.stdin.flush()
        yield json.loads(process.stdout.readline())["address"], process
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster(tmp_path_factory.mktemp("dask")) as (address, _):
        yield address


def leftovers(out: Path) -> list[str]:
    kept = ("run_", ".staged")
    return [path.name for path in out.iterdir() if not path.name.startswith(kept)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm_params": {"n_clusters": 5, "metric": "cosine"}, "normalize_features": True},
        {"algorithm_params": {"n_clusters": 9, "n_init": 1, "batch_size": 2000}},
        {"algorithm": "gaussian_mixture", "algorithm_params": {"n_components": 4}},
        {"hierarchical": True, "max_hierarchy_depth": 2, "min_split_size": 50},
        {"sample_size": 20_000, "sample_mode": "fit_then_assign"},
    ],
    ids=["kmeans", "cosine", "batches", "mixture", "hierarchy", "sample"],
)
def test_a_run_is_the_same_on_a_fleet(
    X: Any, scheduler: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = KMEANS | changes
    here = gpucluster.cluster(X, out=tmp_path / "here", **settings)
    there = gpucluster.cluster(
        X, out=tmp_path / "there", executor="dask", scheduler=scheduler, **settings
    )
    assert there.manifest.content_sha256 == here.manifest.content_sha256
    stages = {stage.name: stage for stage in there.manifest.stages}
    assert stages["prepare.0.whitening"].executor == "dask"
    assert stages["measure"].executor == "dask"
    assert stages["load"].executor == "local"
    assert {stage.storage for stage in stages.values()} <= {"disk", "memory"}
    assert leftovers(tmp_path / "there") == []


def test_a_cluster_here_is_started_and_ended_with_the_run(X: Any, tmp_path: Path) -> None:
    before = len(psutil.Process().children(recursive=True))
    data = tmp_path / "X.npy"
    np.save(data, X)
    command = ["run", str(data), "--algorithm", "kmeans", "--param", "n_clusters=7"]
    command += ["--out", str(tmp_path / "out"), "--executor", "dask", "--workers", "2", "--json"]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0, found.output
    [run] = (tmp_path / "out").glob("run_*")
    stages = {stage.name: stage.executor for stage in gpucluster.open_run(run).manifest.stages}
    assert stages["cluster"] == "dask"
    assert len(psutil.Process().children(recursive=True)) == before
    assert leftovers(tmp_path / "out") == []


def slowly(shard: Shard, labels: Any) -> Any:
    """Take a while, and remember how often."""
    time.sleep(0.02)
    shard.kept["calls"] = shard.kept.get("calls", 0) + 1
    return np.square(shard.X.astype(np.float64)).sum(axis=0)


def plus(one: Any, other: Any) -> Any:
    one += other
    return one


def test_twenty_workers_are_killed_and_nothing_else_changes(X: Any, tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    killed: list[int] = []
    stop = threading.Event()

    def kill(client: Any) -> None:
        while len(killed) < N_KILLS and not stop.wait(float(stream.uniform(0.05, 0.5))):
            living = sorted(client.run(os.getpid, on_error="ignore").values())
            if len(living) == 2:  # the last one may not be killed before the next is there
                killed.append(living[int(stream.integers(2))])
                os.kill(killed[-1], signal.SIGKILL)

    with Executor.of("dask", n_workers=2).fleet(tmp_path, decide("cpu")) as fleet:
        assert fleet is not None
        killer = threading.Thread(target=kill, args=[fleet._scheduler._client])
        killer.start()
        try:
            far = on_disk(X.shape, fleet.site)
            far[:] = X
            sums = Shards(X, "test").reduce(slowly, plus, None)
            labels = 0
            while len(killed) < N_KILLS or labels == 0:
                np.testing.assert_array_equal(Shards(far, "test").reduce(slowly, plus, None), sums)
                model = KMeans(**KMEANS["algorithm_params"])
                found = model.fit(far, device="cpu", reporter=Reporter("cluster"))
                expected = model.fit(X, device="cpu", reporter=Reporter("cluster"))
                np.testing.assert_array_equal(found.labels_, expected.labels_)
                labels += 1
        finally:
            stop.set()
            killer.join()
    assert len(killed) == N_KILLS, f"{labels} fits of k-means, seed 0"


def die(shard: Shard) -> int:
    """End the worker at one shard."""
    if shard.start == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return shard.start


def test_a_shard_that_kills_its_workers_is_named_after_three_retries(tmp_path: Path) -> None:
    with Executor.of("dask", n_workers=2).fleet(tmp_path, decide("cpu")) as fleet:
        assert fleet is not None
        X = on_disk((20_000, 8), fleet.site)
        with pytest.raises(ExecutorError, match=r"poison.*rows 0 to 8,?191.*[4-7] workers died"):
            list(Shards(X, "poison").map(die))
        assert len(list(Shards(X, "alive").map(_start))) == 20  # the fleet goes on


def _start(shard: Shard) -> int:
    return shard.start


def fail(shard: Shard) -> int:
    raise MemoryError(f"no room for the rows from {shard.start} on")


def test_an_error_of_the_work_is_that_of_the_call(scheduler: str, tmp_path: Path) -> None:
    with Executor.of("dask", scheduler).fleet(tmp_path, decide("cpu")) as fleet:
        assert fleet is not None
        X = on_disk((20_000, 8), fleet.site)
        with pytest.raises(MemoryError, match="no room for the rows from"):
            list(Shards(X, "test").map(fail))


def test_a_stop_is_heard_while_workers_work(scheduler: str, tmp_path: Path) -> None:
    cancel = CancelToken()
    with Executor.of("dask", scheduler).fleet(tmp_path, decide("cpu")) as fleet:
        assert fleet is not None
        X = on_disk((100_000, 8), fleet.site)
        threading.Timer(0.5, cancel.cancel).start()
        begun = time.monotonic()
        shards = Shards(X, "test", Reporter(cancel=cancel))
        with pytest.raises(Cancelled):
            list(itertools.chain.from_iterable(shards.map(slowly, None) for _ in range(1000)))
        assert time.monotonic() - begun < 10


def held() -> tuple[int, int]:
    """Return what this worker keeps of shards, and how many files it has open."""
    return len(fleet_module._KEPT), len(storage_module._MAPPED)


@pytest.mark.parametrize("is_known", [True, False], ids=["an error", "a kill"])
def test_workers_keep_nothing_of_a_run_that_failed(
    scheduler: str, tmp_path: Path, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client

    if not is_known:
        monkeypatch.setattr(Fleet, "close", lambda fleet: None)

    def run() -> None:
        with Executor.of("dask", scheduler).fleet(tmp_path, decide("cpu")) as fleet:
            assert fleet is not None
            shards = Shards(on_disk((20_000, 8), fleet.site), "test")
            list(shards.map(slowly, None))
            list(shards.map(fail))

    with pytest.raises(MemoryError) as error:  # whose frames refer to the shards
        run()
    monkeypatch.undo()
    with Executor.of("dask", scheduler).fleet(tmp_path, decide("cpu")) as fleet:
        assert fleet is not None
        shards = Shards(on_disk((20_000, 8), fleet.site), "test")
        list(shards.map(slowly, None))
        kept, mapped = zip(*fleet._scheduler._client.run(held).values(), strict=True)
        assert sum(kept) == len(shards._starts)
        assert max(mapped) == 1
        assert error.tb is not None
    with Client(scheduler, set_as_default=False) as client:
        assert set(client.run(held).values()) == {(0, 0)}


@pytest.mark.filterwarnings("ignore:kmeans stopped at max_iter")
def test_a_scheduler_that_is_lost_ends_the_run_which_goes_on_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.random.default_rng(1).normal(size=(30_000, 24)).astype(np.float32)  # never at rest
    monkeypatch.setattr("gpucluster.ledger.MIDWAY_S", 0.0)
    monkeypatch.setattr("gpucluster.ops.seeding.SEEDING_ROWS", 5000)
    settings = KMEANS | {"algorithm_params": {"n_clusters": 12, "max_iter": 8, "tol": 0}}
    here = gpucluster.cluster(X, out=tmp_path / "here", **settings)
    told: list[int] = []
    with cluster(tmp_path) as (address, process):

        def end_it(event: Any) -> None:
            if isinstance(event, Progress) and event.unit == "iterations" and event.done == 3:
                told.append(event.done)
                if len(told) > 10:  # after the starts, with all rows
                    process.kill()

        with pytest.raises(ExecutorError, match=f"{address} is gone"):
            gpucluster.cluster(
                X,
                out=tmp_path / "out",
                executor="dask",
                scheduler=address,
                observer=end_it,
                **settings,
            )
    assert len(told) > 10
    steps: list[int] = []

    def listen(event: Any) -> None:
        if isinstance(event, Progress) and event.unit == "iterations":
            steps.append(event.done)

    run = gpucluster.cluster(X, out=tmp_path / "out", observer=listen, **settings)
    assert run.manifest.content_sha256 == here.manifest.content_sha256
    assert steps[0] == 4  # where it was
    assert {stage.name: stage.reused for stage in run.manifest.stages}["prepare.0.whitening"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"executor": "ray"}, "executor: got 'ray', expected one of local, dask"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "which is for a Dask cluster"),
        ({"n_workers": 2}, "which is for a Dask cluster"),
        ({"executor": "dask", "n_workers": 0}, "n_workers: got 0, expected 1 or more"),
        ({"executor": "dask", "n_workers": True}, "n_workers: got True, expected 1 or more"),
        ({"executor": "dask", "scheduler": "127.0.0.1:8786"}, "expected an address such as"),
        ({"executor": "dask", "scheduler": 8786}, "expected an address such as"),
        (
            {"executor": "dask", "scheduler": "tcp://127.0.0.1:8786", "n_workers": 2},
            "has its own workers",
        ),
        ({"executor": "dask", "storage": "memory"}, "workers see only what lies on disk"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    X: Any, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        gpucluster.cluster(X, out=tmp_path / "out", **KMEANS, **settings)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_scheduler_that_is_not_there_is_said_at_once(
    X: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 1.0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        data = tmp_path / "X.npy"
        np.save(data, X)
        command = ["run", str(data), "--out", str(tmp_path / "out"), "--executor", "dask"]
        found = CliRunner().invoke(main, [*command, "--scheduler", address])
    assert found.exit_code == 3
    assert f"no Dask scheduler answers at {address}" in found.output
    assert "Traceback" not in found.output
    assert leftovers(tmp_path / "out") == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match="no folder can be made there"),
        Executor.of("dask").fleet(tmp_path / "file" / "out", decide("cpu")),
    ):
        raise AssertionError


def test_who_listens_and_says_nothing_is_no_scheduler(
    X: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(ExecutorError, match=f"no Dask scheduler answers at {address}"):
            gpucluster.cluster(
                X, out=tmp_path / "out", executor="dask", scheduler=address, **KMEANS
            )
        assert time.monotonic() - begun < 10
    assert leftovers(tmp_path / "out") == []


def test_another_machine_without_tls_is_refused(X: Any, tmp_path: Path) -> None:
    import dask

    settings = {"executor": "dask", "scheduler": "tcp://203.0.113.5:8786"}
    with pytest.raises(ExecutorError, match="tcp has no protection"):
        gpucluster.cluster(X, out=tmp_path / "out", **KMEANS, **settings)
    with dask.config.set({"distributed.comm.require-encryption": False}):
        module._require_safe("tcp://203.0.113.5:8786")  # somebody has decided that
    for address in ("tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1", "tls://a.b:1"):
        module._require_safe(address)


def test_the_ports_of_a_cluster_here_are_those_of_this_machine_alone(scheduler: str) -> None:
    own = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in own
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert scheduler.startswith("tcp://127.0.0.1:")
    assert listening == {"127.0.0.1"}


def test_workers_of_another_version_are_refused(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpucluster, "__version__", "99.0")
    with (
        pytest.raises(ExecutorError, match=r"has gpucluster 0\.\d.*, here it is 99\.0"),
        Executor.of("dask", scheduler).fleet(tmp_path, decide("cpu")),
    ):
        pass
    assert leftovers(tmp_path) == []


def test_a_missing_dask_names_the_extra(
    X: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BackendUnavailableError, match=r"gpucluster\[dask\]"):
        gpucluster.cluster(X, out=tmp_path / "out", executor="dask", **KMEANS)


def test_shards_of_a_run_are_cut_by_shape_alone() -> None:
    assert shard_rows(1_000_000_000, 768) * SHARDS >= 1_000_000_000
    assert shard_rows(1000, 4) == TILE_ROWS
