"""What of this machine matters to gpucluster."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from gpucluster import __version__
from gpucluster.cli.render import gigabytes
from gpucluster.device.memory import available_bytes
from gpucluster.device.select import INSTALL_GPU, decide, gpu_facts, probe_gpu

LITTLE_MEMORY_BYTES = 2_000_000_000
LITTLE_DISK_BYTES = 2_000_000_000
BASELINE_CORES = {"Prescott", "Katmai", "Coppermine", "Northwood", "Banias", "generic"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: not `ok` where work is impossible; `fix` says what helps."""

    name: str
    value: str
    ok: bool = True
    fix: str | None = None


def examine() -> list[Check]:
    """Look at versions, processor, memory, disk and GPU."""
    return [
        Check("gpucluster", __version__),
        Check("python", platform.python_version()),
        *_libraries(),
        *_processor(),
        *_room(),
        *_rates(),
        *_gpu(),
    ]


def _libraries() -> Iterator[Check]:
    """Yield what the package itself says it needs."""
    try:
        needed = requires("gpucluster") or []
    except PackageNotFoundError:
        yield Check(
            "installation",
            "gpucluster runs from its sources, its dependencies are not known",
            fix="pip install -e . in its folder",
        )
        return
    for requirement in needed:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        if "extra ==" in requirement:
            continue
        try:
            yield Check(name, version(name))
        except PackageNotFoundError:
            yield Check(name, "missing", ok=False, fix=f"pip install {name!r}")


def _processor() -> Iterator[Check]:
    usable, present = len(os.sched_getaffinity(0)), os.cpu_count()
    yield Check("cores", f"{usable} of {present} may be used")
    if find_spec("numpy") is None or find_spec("threadpoolctl") is None:
        return
    import numpy as np  # noqa: F401 - loads its BLAS
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if library["user_api"] != "blas":
            continue
        core = library.get("architecture")
        slow = core in BASELINE_CORES
        yield Check(
            "blas",
            f"{library['internal_api']} {library['version']}, core type {core}, "
            f"{library['num_threads']} threads",
            fix="set OPENBLAS_CORETYPE to the processor's, such as Haswell" if slow else None,
        )


def _room() -> Iterator[Check]:
    memory, disk = available_bytes("cpu"), shutil.disk_usage(Path.cwd()).free
    little = memory < LITTLE_MEMORY_BYTES
    yield Check(
        "memory",
        f"{gigabytes(memory)} free",
        fix="close programs, or use --sample-size" if little else None,
    )
    little = disk < LITTLE_DISK_BYTES
    yield Check(
        "disk",
        f"{gigabytes(disk)} free in {Path.cwd()}",
        fix="make room, or write elsewhere with --out" if little else None,
    )


def _rates() -> Iterator[Check]:
    """Yield how fast this machine is, where that was measured."""
    if find_spec("numpy") is None:
        return
    from gpucluster.device.rates import known_rates

    rates = known_rates()
    if rates.measured_at is None:
        yield Check(
            "rates",
            "not measured: predicted times are those of another machine",
            fix="gpucluster doctor --calibrate",
        )
        return
    yield Check(
        "rates",
        f"{rates.product_flop / 1e9:,.0f} GFLOP/s in products, "
        f"{rates.copied_bytes / 1e9:,.1f} GB/s in memory, "
        f"{rates.disk_read_bytes / 1e9:,.2f} and {rates.disk_written_bytes / 1e9:,.2f} GB/s "
        f"from and to the disk, measured {rates.measured_at}",
    )


def _gpu() -> Iterator[Check]:
    """Yield driver, devices and libraries of the GPU, and what auto would choose."""
    facts = list(gpu_facts())
    cards = any(name == "gpu" for name, _ in facts)
    if not cards:
        yield Check("gpu", "none: nvidia-smi finds no driver" if probe_gpu() else "usable")
    for name, value in facts:
        fix = INSTALL_GPU if cards and value is None and name != "rmm" else None
        yield Check(name, value or "not installed", fix=fix)
    auto = decide("auto")
    yield Check("device auto", f"{auto.device}: {auto.reason}")
