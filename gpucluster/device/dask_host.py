"""A Dask cluster on this machine, in a process of its own that ends with the one that started it.

``python -m gpucluster.device.dask_host`` reads one line of JSON, says one line of JSON with the
address of the scheduler, and runs until its standard input is closed, however that comes about.
In a process of its own, because a script that calls us need not guard its own code from the
processes that a cluster starts.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from importlib import import_module
from typing import Any

LOOPBACK = "127.0.0.1"
LOOK_S = 0.2  # between looks at the workers
CONFIG = {
    "distributed.scheduler.allowed-failures": 0,  # we count ourselves how many died on a call
    "distributed.scheduler.work-stealing": False,  # shards stay where they were
    "distributed.scheduler.active-memory-manager.start": False,
}


def main() -> None:
    """Serve until the standard input ends."""
    settings = json.loads(sys.stdin.readline())
    say = sys.stdout
    sys.stdout = sys.stderr
    import dask

    closed = threading.Event()
    with dask.config.set(CONFIG), _cluster(**settings) as cluster:
        say.write(json.dumps({"address": cluster.scheduler_address}) + "\n")
        say.flush()
        if not settings["gpu"]:
            supervisor = threading.Thread(
                target=_supervise, args=(cluster.scheduler_address, settings, closed)
            )
            supervisor.start()
        sys.stdin.read()
        closed.set()
        if not settings["gpu"]:
            supervisor.join()


def _cluster(n_workers: int | None, folder: str, *, gpu: bool, **_: Any) -> Any:
    """Start a scheduler, and with it a worker for each GPU where those are to compute."""
    common = {
        "host": LOOPBACK,
        "dashboard_address": f"{LOOPBACK}:0",
        "local_directory": folder,
        "silence_logs": logging.CRITICAL,
    }
    if gpu:
        return import_module("dask_cuda").LocalCUDACluster(
            n_workers=n_workers, memory_limit=None, **common
        )
    return import_module("distributed").LocalCluster(n_workers=0, **common)


def _supervise(address: str, settings: dict[str, Any], closed: threading.Event) -> None:
    """Keep as many workers as were asked for, whatever becomes of each, until it is closed.

    Dask's own supervisor gives up on a worker that dies while it starts.
    """
    command = [sys.executable, "-m", "dask", "worker", address, "--no-nanny"]
    command += ["--no-dashboard", "--dashboard-address", f"{LOOPBACK}:0"]
    command += ["--nthreads", str(settings["n_threads"]), "--host", LOOPBACK]
    # pages of files would count as memory of the worker, and are none
    command += ["--memory-limit", "0", "--local-directory", settings["folder"]]
    workers: list[subprocess.Popen[bytes]] = []
    while not closed.wait(LOOK_S):
        workers = [worker for worker in workers if worker.poll() is None]
        while len(workers) < settings["n_workers"]:
            workers.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
    for worker in workers:
        worker.kill()
        worker.wait()


if __name__ == "__main__":
    main()
