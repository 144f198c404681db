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
    *("pynndescent", "hdbscan", "fast-hdbscan", "evoc", "faiss-cpu"),
)
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
            name: value
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


def _field(path: str, name: str) -> str:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "?")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of this checkout, marked when files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    changed = subprocess.run(
        [*git, "status", "--porcelain"], capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + (" with changes" if changed.stdout else "")


if __name__ == "__main__":
    print(json.dumps(record()))
