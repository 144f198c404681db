"""What the numbers were measured on: prints one JSON record.

A process of its own, so that the harness itself never loads a numerical library.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("gpucluster", "numpy", "scipy", "scikit-learn", "pyarrow", "numba", "umap-learn"),
    *("pynndescent", "hdbscan", "fast-hdbscan", "evoc", "faiss-cpu", "usearch", "superkmeans"),
)
UNSET = "unset"
PREFIXES = ("OPENBLAS_", "OMP_", "MKL_", "NUMBA_", "GPUCLUSTER_")


def record() -> dict[str, Any]:
    """Return the machine, the libraries and the code."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "blas": blas(),
        "commit": _commit(),
        "load_average": os.getloadavg()[0],
        "environment": {
            name: "a folder" if Path(value).is_absolute() else value
            for name, value in os.environ.items()
            if name.startswith(PREFIXES) and name != "GPUCLUSTER_DATA"
        },
    }


def blas() -> list[str]:
    """Return the BLAS libraries of this process, with the kernels that each one chose."""
    import numpy  # noqa: F401, ICN001 - for its BLAS
    from threadpoolctl import threadpool_info

    return [
        f"{info['internal_api']} {info['version']} {info.get('architecture', '?')}, "
        f"{info['num_threads']} threads ({Path(info['filepath']).parent.name})"
        for info in threadpool_info()
        if info["user_api"] == "blas"
    ]


def core_type() -> str:
    """Return the kernels that numpy's OpenBLAS chooses by itself, as older versions name them."""
    ask = (
        "import numpy, threadpoolctl as t; "
        "print(next(i['architecture'] for i in t.threadpool_info() if i['user_api'] == 'blas'))"
    )
    free = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run(
        [sys.executable, "-c", ask], env=free, capture_output=True, text=True, check=True
    )
    chosen = done.stdout.strip()
    return {"SapphireRapids": "SkylakeX", "Cooperlake": "SkylakeX"}.get(chosen, chosen)


def faiss_core_types() -> dict[str, float]:
    """Return the seconds of faiss with the kernels that its OpenBLAS may use here, best first.

    The OpenBLAS of its wheel is older than numpy's, and on some processors chooses kernels
    that are five times slower than the best that it has. ``unset`` is its own choice.
    """
    ask = (
        "import faiss, numpy as np, time\n"
        "X = np.random.default_rng(0).standard_normal((8192, 384), np.float32)\n"
        "def once():\n"
        "    begun = time.perf_counter()\n"
        "    faiss.knn(X[:4096], X, 16)\n"
        "    faiss.Kmeans(384, 100, niter=5, max_points_per_centroid=len(X)).train(X)\n"
        "    return time.perf_counter() - begun\n"
        "print(min(once() for _ in range(5)))"
    )
    free = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    found = {}
    for name in dict.fromkeys((UNSET, core_type(), "SkylakeX", "Haswell", "Zen")):
        env = free if name == UNSET else {**free, "OPENBLAS_CORETYPE": name}
        command = [sys.executable, "-c", ask]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode == 0:  # kernels that the processor cannot run end the process
            found[name] = float(done.stdout)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _field(path: str, name: str) -> str:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "?")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the gpucluster that is measured, marked when files differ from it.

    Results are no part of it: a run that goes on is still one of the same code.
    """
    import gpucluster

    git = ["git", "-C", str(Path(gpucluster.__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    status = [*git, "status", "--porcelain", ":(top)", ":(top,exclude)benchmarks/results"]
    changed = subprocess.run(status, capture_output=True, text=True, check=False)
    return head.stdout.strip() + (" with changes" if changed.stdout else "")


if __name__ == "__main__":
    print(json.dumps(record()))
