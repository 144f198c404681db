"""Measure memory and cut work into row blocks that fit."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gpucluster.errors import InputError, OutOfMemoryError

if TYPE_CHECKING:
    from gpucluster.device.select import Device

BLOCK_BYTES = 32 << 20  # working set of one block; larger gains nothing on a GEMM of this kind


def rows_per_block(row_bytes: int, budget_bytes: int = BLOCK_BYTES) -> int:
    """Return how many rows of `row_bytes` fit into `budget_bytes`; at least one."""
    return max(1, budget_bytes // max(1, row_bytes))


def available_bytes(device: Device = "cpu") -> int:
    """Return the bytes that may still be used on `device`.

    On the host this is the smaller of what the kernel calls available and what the
    control group of the process has left, file cache that the kernel would give up included.
    """
    if device == "gpu":
        import cupy

        return int(cupy.cuda.runtime.memGetInfo()[0])
    candidates = [value for value in (_meminfo_available(), _cgroup_left()) if value is not None]
    if not candidates:  # neither Linux file exists (macOS): all memory is the best that is known
        import os

        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(candidates)


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_left(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    for limit, usage, stat, reclaimable in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            text = (root / limit).read_text(encoding="ascii").strip()
            used = int((root / usage).read_text(encoding="ascii"))
            lines = (root / stat).read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        if text != "max":
            counts = dict(line.split(maxsplit=1) for line in lines)
            return max(0, int(text) - max(0, used - int(counts.get(reclaimable, 0))))
    return None


class PeakMemory:
    """The largest resident memory of this process since `reset`; unit: bytes.

    Linux can forget the high-water mark (``/proc/self/clear_refs``), which gives each
    stage a peak of its own. Elsewhere the mark only rises, so a later stage reports
    the peak of the whole process so far.
    """

    def reset(self) -> None:
        """Forget the high-water mark where the system allows it."""
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return

    def read(self) -> int:
        """Return the high-water mark."""
        try:
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn a library's running out of memory, or of digits, into our errors.

    Parameters
    ----------
    name : str
        The algorithm or step, for messages.

    Raises
    ------
    OutOfMemoryError
        Host or GPU memory ran out.
    InputError
        A decomposition did not converge: the values are extreme.
    """
    import numpy as np

    try:
        yield
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{name} ran out of memory ({error})", hint="use sample_size, or fewer dimensions"
        ) from error
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"{name}: the values are too extreme ({error})",
            hint="look for outliers, or use the l2_normalize step",
        ) from error
    except RuntimeError as error:
        # CuPy, RMM and cuML have no common class for it, but all say so
        if "out_of_memory" in str(error) or "bad_alloc" in str(error):
            raise OutOfMemoryError(
                f"{name} ran out of GPU memory ({error})",
                hint="use sample_size, fewer dimensions, or --device cpu",
            ) from error
        raise
