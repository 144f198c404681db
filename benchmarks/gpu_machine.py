"""What the device of `gpu.py` can do: what it is, and the rates that floors are made of."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gpu_peers
import numpy as np

if TYPE_CHECKING:
    from gpu_place import Place
    from gpu_record import Session, Values

ASKED = (
    *("name", "driver_version", "memory.total", "memory.used", "compute_cap", "power.limit"),
    *("clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem", "temperature.gpu"),
    *("pcie.link.gen.current", "pcie.link.width.current", "persistence_mode", "mig.mode.current"),
)
COPY, HALF, FULL, TF32 = "copy on the device", "float16 product", "float32 product", "TF32 product"
PINNED, PAGEABLE = "upload, pinned", "upload, pageable"


def host_facts() -> dict[str, Any]:
    """Return the record of `machine.py`, by a process of its own."""
    command = [sys.executable, Path(__file__).with_name("machine.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def gpu_facts(place: Place) -> dict[str, Any]:
    """Return what driver and CuPy say of the GPU, and the versions of the libraries."""
    cuda = place.xp.cuda
    said = cuda.runtime.getDeviceProperties(cuda.runtime.getDevice())
    name = said["name"]
    free, total = cuda.runtime.memGetInfo()
    return {
        "name": name.decode() if isinstance(name, bytes) else str(name),
        "compute_capability": f"{said['major']}.{said['minor']}",
        "memory_bytes": int(total),
        "free_bytes": int(free),
        "l2_bytes": int(said.get("l2CacheSize", 0)),
        "multiprocessors": int(said.get("multiProcessorCount", 0)),
        "cuda_driver": int(cuda.runtime.driverGetVersion()),
        "cuda_runtime": int(cuda.runtime.runtimeGetVersion()),
        "cupy": place.xp.__version__,
        "driver_says": _driver(),
        "packages": gpu_peers.versions(),
        "modules": gpu_peers.found(),
    }


def _driver() -> dict[str, str]:
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except subprocess.SubprocessError:
        return {}
    return dict(zip(ASKED, done.stdout.splitlines()[0].split(", "), strict=False))


def rate(session: Session, subject: str, value: str) -> float | None:
    """Return a rate that this section measured, if it did."""
    rows = session.result["rows"]
    found = (r["values"] for r in rows if r["table"] == "machine" and r["subject"] == subject)
    return max((v[value] for v in found if value in v), default=None)


def copy_rate(session: Session) -> float | None:
    """Return the measured bandwidth, GB/s read and written."""
    return rate(session, COPY, "gb_per_s")


def of_copy(session: Session, n_bytes: float, ms: float) -> Values:
    """Return a bandwidth, and its share of that of a copy."""
    found = n_bytes / ms / 1e6
    copied = copy_rate(session)
    return {"gb_per_s": found, "of_copy": found / copied if copied else None}


def of_half(session: Session, flop: float, ms: float) -> Values:
    """Return flop a second, and how much longer it took than a product in float16 alone."""
    found = flop / ms / 1e9
    peak = rate(session, HALF, "tflop_per_s")
    return {"tflop_per_s": found, "of_floor": peak / found if peak else None}


def machine(session: Session, place: Place) -> None:
    """Measure the rates."""
    xp = place.xp
    n_bytes = min(2 << 30, 4096 * place.limits.rows)
    size = 8192 if place.limits.rows > 100_000 else 256
    case = f"{n_bytes / 2**20:.0f} MiB"
    session.measure(case, COPY, lambda: _copied(place, n_bytes))
    if place.on_gpu:
        session.measure(case, PINNED, lambda: _uploaded(place, n_bytes, pinned=True))
        session.measure(case, PAGEABLE, lambda: _uploaded(place, n_bytes, pinned=False))
    else:
        for subject in (PINNED, PAGEABLE):
            session.leave_out(case, subject, "only on a GPU")
    cube = f"{size} x {size} x {size}"

    def timed(work: Any) -> Values:
        taken = place.time(work)
        return {"tflop_per_s": 2 * size**3 / taken["ms"] / 1e9, **taken}

    def full() -> Values:
        left, right = place.normal(size, size, 1), place.normal(size, size, 2)
        return timed(lambda: left @ right)

    def half() -> Values:
        from gpucluster.ops.half import half_product

        left, right = (place.normal(size, size, seed).astype(np.float16) for seed in (1, 2))
        return timed(lambda: half_product(left, right))

    def tf32() -> Values:
        torch = gpu_peers.need_cuda(place)
        left, right = (torch.from_dlpack(place.normal(size, size, seed)) for seed in (1, 2))
        torch.backends.cuda.matmul.allow_tf32 = True
        return timed(lambda: left @ right)

    session.measure(cube, FULL, full)
    session.measure(cube, HALF, half)
    session.measure(cube, TF32, tf32)
    for n_features in sorted({min(each, place.limits.features) for each in (768, 1408)}):

        def eigen(n_features: int = n_features) -> Values:
            X = place.normal(2 * n_features, n_features, 3).astype(np.float64)
            square = X.T @ X
            return place.time(lambda: xp.linalg.eigh(square))

        session.measure(f"{n_features} x {n_features}", "eigh, float64", eigen)
    session.leave_out("L2", "read", "takes a kernel that the package does not have")


def _copied(place: Place, n_bytes: int) -> Values:
    source = place.xp.ones(n_bytes // 4, np.float32)
    target = place.xp.zeros_like(source)

    def work() -> None:
        target[...] = source

    taken = place.time(work)
    return {"gb_per_s": 2 * source.nbytes / taken["ms"] / 1e6, **taken}


def _uploaded(place: Place, n_bytes: int, *, pinned: bool) -> Values:
    xp, n_values = place.xp, n_bytes // 4
    target = xp.zeros(n_values, np.float32)
    source = np.empty(n_values, np.float32)
    if pinned:
        source = np.frombuffer(xp.cuda.alloc_pinned_memory(n_bytes), np.float32, n_values)
    source[:] = 1
    taken = place.time(lambda: target.set(source))
    return {"gb_per_s": source.nbytes / taken["wall_ms"] / 1e6, **taken}
