"""Who schedules the work: this process alone, or a Dask cluster."""

from __future__ import annotations

import ipaddress
import json
import os
import queue
import re
import secrets
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self, get_args

from gpucluster.device.cores import n_threads
from gpucluster.device.fleet import Fleet
from gpucluster.device.scratch import scratch_folder
from gpucluster.device.select import Decision, Device, probe_gpu
from gpucluster.errors import (
    BackendUnavailableError,
    ConfigError,
    ExecutorError,
)
from gpucluster.notation import describe
from gpucluster.types import ExecutorName, StorageRequest

CONNECT_S = 10.0
START_S = 120.0
THREADS = 8  # of a worker here, where nobody says how many workers there are to be
PREFIX = ".gpucluster-"  # of the folder that workers share, in that of the runs
ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}")
LOCALHOST = "localhost"


@dataclass(frozen=True, slots=True)
class Executor:
    """What is asked for.

    Attributes
    ----------
    name : {"local", "dask"}
    scheduler : str or None
        Address of a Dask scheduler; None: a cluster on this machine, for as long as the run takes.
    n_workers : int or None
        Of the cluster on this machine.
    """

    name: ExecutorName = "local"
    scheduler: str | None = None
    n_workers: int | None = None

    @classmethod
    def of(
        cls,
        name: ExecutorName = "local",
        scheduler: str | None = None,
        n_workers: int | None = None,
    ) -> Self:
        """Check what is asked for.

        Raises
        ------
        ConfigError
            It is none of the executors, or they have no such setting.
        """
        if name not in get_args(ExecutorName):
            raise ConfigError(
                f"got {describe(name)}, expected one of {', '.join(get_args(ExecutorName))}",
                path="executor",
                got=name,
            )
        given = {"scheduler": scheduler, "n_workers": n_workers}
        for setting, value in given.items():
            if value is not None and name == "local":
                raise ConfigError(
                    f"got {describe(value)}, which is for a Dask cluster",
                    path=setting,
                    got=value,
                    hint="set executor to dask",
                )
        if n_workers is not None and (
            isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 1
        ):
            raise ConfigError(
                f"got {describe(n_workers)}, expected 1 or more", path="n_workers", got=n_workers
            )
        if scheduler is not None:
            if n_workers is not None:
                raise ConfigError(
                    "a cluster that is there has its own workers",
                    path="n_workers",
                    got=n_workers,
                    hint="leave it out, or leave out the scheduler",
                )
            _check_address(scheduler)
        return cls(name, scheduler, n_workers)

    def storage(self, requested: StorageRequest) -> StorageRequest:
        """Return where matrices of all rows lie: on disk, where workers have to see them.

        Raises
        ------
        ConfigError
            They are to lie in memory.
        """
        if self.name == "local":
            return requested
        if requested == "memory":
            raise ConfigError(
                "got memory, but workers see only what lies on disk",
                path="storage",
                got=requested,
                hint="leave it out",
            )
        return "disk"

    @contextmanager
    def fleet(self, folder: Path, decision: Decision) -> Iterator[Fleet | None]:
        """Connect to the workers for a run in `folder`; None where there are none.

        Raises
        ------
        BackendUnavailableError
            Dask is not installed.
        ExecutorError
            The scheduler cannot be reached, or its workers are not usable.
        StoreError
            No folder for the workers can be made in `folder`.
        """
        if self.name == "local":
            yield None
            return
        try:
            import distributed  # noqa: F401 - whether it is there
        except ImportError as error:
            raise BackendUnavailableError(
                "the executor dask needs Dask, which is missing",
                hint="pip install 'gpucluster[dask]'",
            ) from error
        with ExitStack() as stack:
            shared = stack.enter_context(scratch_folder(folder.absolute(), PREFIX))
            address = self.scheduler
            if address is None:
                address = stack.enter_context(_started(self.n_workers, shared, decision))
            else:
                _require_safe(address)
            client = _connected(address)
            stack.callback(client.close)
            _require_workers(client, address)
            probe = shared / "probe"
            probe.write_text(secrets.token_hex(16))
            admit = partial(_admit, client, probe)
            fleet = Fleet(client, shared, _device_of(client, decision), admit)
            admit(sorted(client.nthreads()))
            try:
                yield fleet
            finally:
                with suppress(ExecutorError):  # the scheduler is gone, and so is what it had
                    fleet.close()


def _check_address(scheduler: str) -> None:
    if not isinstance(scheduler, str) or not ADDRESS.fullmatch(scheduler):
        raise ConfigError(
            f"got {describe(scheduler)}, expected an address such as tcp://127.0.0.1:8786",
            path="scheduler",
            got=scheduler,
        )


def _require_safe(address: str) -> None:
    """Refuse to send work in the clear to another machine.

    Whoever reaches a Dask port runs code there, and whoever listens reads the vectors.
    """
    import dask

    scheme, rest = address.split("://")
    host = rest.rsplit(":", 1)[0].strip("[]")
    if scheme == "tls" or host == LOCALHOST or _is_loopback(host):
        return
    if dask.config.get("distributed.comm.require-encryption") is False:
        return  # somebody has decided that
    raise ExecutorError(
        f"{address} is another machine, and tcp has no protection: whoever reaches its port runs "
        "code there",
        hint="use tls:// with the certificates of Dask's distributed.comm.tls, or say that the "
        "network is trusted: DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=False",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _started(n_workers: int | None, folder: Path, decision: Decision) -> Iterator[str]:
    """Start a cluster on this machine for as long as this takes; yield its address."""
    gpu = decision.device == "gpu"  # then Dask-CUDA counts them, where nobody says how many
    n_workers = n_workers or (None if gpu else max(1, n_threads() // THREADS))
    settings = {
        "n_workers": n_workers,
        "n_threads": max(1, n_threads() // (n_workers or 1)),
        "folder": str(folder),
        "gpu": gpu,
    }
    log = folder / "dask.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(  # its own session: Ctrl-C is for this process, which then ends that one
            [sys.executable, "-m", "gpucluster.device.dask_host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdin is not None  # noqa: S101 - they are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
            heard, _, _ = select.select([process.stdout], [], [], START_S)
            line = process.stdout.readline() if heard else b""
            if not line:
                said = log.read_text(errors="replace").strip().splitlines()
                raise ExecutorError(
                    f"no Dask cluster could be started here: {said[-1] if said else 'no word why'}"
                )
            yield json.loads(line)["address"]
        finally:
            process.stdin.close()  # which ends it
            try:
                process.wait(timeout=CONNECT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its workers are of its group


def _connected(address: str) -> Any:
    """Return a client of a scheduler.

    Made in a thread, because Dask waits without end for an answer to its first word.
    """
    import distributed

    made: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        client: Any = distributed.Client
        try:
            made.put(client(address, timeout=CONNECT_S, set_as_default=False))
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            made.put(error)

    threading.Thread(target=connect, name="gpucluster-connect", daemon=True).start()
    try:
        found = made.get(timeout=2 * CONNECT_S)
    except queue.Empty:
        found = TimeoutError("who listens there says nothing")
    if isinstance(found, Exception):
        raise ExecutorError(
            f"no Dask scheduler answers at {address} ({_first_line(found)})",
            hint="is it running, and is that its address?",
        ) from found
    return found


def _require_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError as error:
        raise ExecutorError(
            f"the scheduler {address} has no workers", hint="start some: dask worker " + address
        ) from error


def _admit(client: Any, probe: Path, workers: list[str]) -> None:
    """Raise unless workers are of this version, and see the folder that `probe` is in."""
    mine = _told(str(probe))
    found = client.run(_told, str(probe), workers=workers, on_error="return")
    for worker, told in found.items():
        if isinstance(told, OSError):
            continue  # it has died meanwhile
        if isinstance(told, Exception):
            raise ExecutorError(
                f"the worker {worker} cannot work for us: {_first_line(told)}",
                hint="install the gpucluster of this process where the workers run",
            )
        for what, got in told.items():
            if got == mine[what]:
                continue
            if what == "folder":
                raise ExecutorError(
                    f"the worker {worker} does not see {probe.parent.parent}",
                    hint="name a folder that all workers share under this path: with --out, or "
                    "with TMPDIR where that is a bucket",
                )
            raise ExecutorError(
                f"the worker {worker} has {what} {got}, here it is {mine[what]}",
                hint="results of one run must come from one version",
            )


def _device_of(client: Any, decision: Decision) -> Device:
    """Return what all workers have.

    Raises
    ------
    ExecutorError
        One lacks the GPU that was asked for.
    """
    if decision.device == "cpu":
        return "cpu"
    obstacles = client.run(probe_gpu)
    for worker, obstacle in obstacles.items():
        if obstacle is not None and decision.requested == "gpu":
            raise ExecutorError(
                f"the worker {worker} has no GPU: {obstacle}",
                hint="use --device auto, where the cores of workers do what their GPUs cannot",
            )
    return "cpu" if any(obstacles.values()) else "gpu"


def _told(probe: str) -> dict[str, str]:
    """Return what workers and this process must have in common."""
    import platform

    import numpy as np

    try:
        folder = Path(probe).read_text()
    except OSError:
        folder = ""
    return {
        "gpucluster": import_module("gpucluster").__version__,  # which this layer does not import
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "numpy": np.__version__,
        "folder": folder,
    }


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
