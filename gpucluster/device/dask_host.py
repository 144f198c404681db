"""A Dask cluster on this machine, in a process of its own that ends with the one that started it.

``python -m gpucluster.device.dask_host`` reads one line of JSON, says one line of JSON with the
address of the scheduler, and runs until its standard input is closed, however that comes about.
In a process of its own, because a script that calls us need not guard its own code from the
processes that a cluster starts.
"""

from __future__ import annotations

import json
import logging
import sys
from importlib import import_module
from typing import Any

LOOPBACK = "127.0.0.1"
# Pages of files count as memory of a worker, and are none; shards stay where they were. The rest
# is what would go on after this process, or open a port.
CONFIG = {
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 65536,
}


def main() -> None:
    """Serve until the standard input ends."""
    settings = json.loads(sys.stdin.readline())
    say = sys.stdout
    sys.stdout = sys.stderr
    import dask

    with dask.config.set(CONFIG), _cluster(**settings) as cluster:
        say.write(json.dumps({"address": cluster.scheduler_address}) + "\n")
        say.flush()
        sys.stdin.read()


def _cluster(n_workers: int, n_threads: int, folder: str, *, gpu: bool) -> Any:
    """Start workers, with a GPU each where those are to compute."""
    common = {
        "n_workers": n_workers,
        "threads_per_worker": 1 if gpu else n_threads,
        "host": LOOPBACK,
        "dashboard_address": None,
        "local_directory": folder,
        "silence_logs": logging.CRITICAL,
    }
    if gpu:
        return import_module("dask_cuda").LocalCUDACluster(**common)
    return import_module("distributed").LocalCluster(processes=True, memory_limit=None, **common)


if __name__ == "__main__":
    main()
