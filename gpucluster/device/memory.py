"""Measure memory and cut work into row blocks that fit."""

from __future__ import annotations

import gc
import re
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gpucluster.device.cores import n_threads
from gpucluster.errors import InputError, OutOfMemoryError

if TYPE_CHECKING:
    from gpucluster.device.select import Device

LOOK_S = 0.02  # seconds between looks at the memory of this process
BLOCK_BYTES = 32 << 20  # working set of one block; larger gains nothing on a GEMM of this kind
COMPILER_BYTES = 64 << 20  # resident memory of numba and LLVM, once a kernel is loaded
RESERVED_BYTES = 900 << 20  # of addresses: arenas of malloc for threads, libraries that come later

# What a pool leaves of the GPU: kernels are loaded, and cuBLAS and cuSOLVER keep their handles and
# workspaces, outside of it. That grows with the libraries, not with the card.
SPARE_SHARE, MOST_SPARE_BYTES = 0.05, 1 << 30

# How CuPy, RMM, cuML and the CUDA libraries say it: they have no common class for it.
_GPU_IS_FULL = re.compile(
    r"Out of memory allocating|out_of_memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
    r"|CU\w+_STATUS_ALLOC_FAILED"
)
_NEEDED = re.compile(r"allocat(?:e|ing) ([\d,.]+) (bytes|B|KiB|MiB|GiB|TiB)\b")
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def rows_per_block(row_bytes: int, budget_bytes: int = BLOCK_BYTES) -> int:
    """Return how many rows of `row_bytes` fit into `budget_bytes`; at least one."""
    return max(1, budget_bytes // max(1, row_bytes))


def blocks_bytes(matrix_bytes: int, count: int | None = None) -> int:
    """Return what blocks of a matrix take that are in work at a time: `count`, or one a core."""
    return (count or n_threads()) * min(BLOCK_BYTES, matrix_bytes)


def available_bytes(device: Device = "cpu") -> int:
    """Return the bytes that may still be used on `device`.

    On the host this is the smallest of what the kernel calls available, what the control group of
    the process has left, file cache that the kernel would give up included, and what a limit of
    its address space (``ulimit -v``) leaves.
    On a GPU it is what the driver calls free and what the pool holds and does not use, within
    the limit of the pool.
    """
    if device == "gpu":
        import cupy

        pool = _OPEN[0] if _OPEN else _pool_of_cupy()
        free: int = cupy.cuda.runtime.memGetInfo()[0]
        return max(0, min(free + pool.idle(), pool.left()))
    found = _meminfo_available(), _cgroup_left(), address_space_left()
    candidates = [value for value in found if value is not None]
    if not candidates:  # neither Linux file exists (macOS): all memory is the best that is known
        import os

        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(candidates)


def address_space_left() -> int | None:
    """Return what of a limited address space can be filled; None without a limit.

    Files that are mapped count there too, and so does what allocators reserve and never use.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - _status("VmSize") - RESERVED_BYTES)


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


# Of a control group: its limit, what is used, and what of that the kernel would give up.
_CGROUP_2 = ("memory.max", "memory.current", "inactive_file")
_CGROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _cgroup_left(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return what the control groups of this process leave, the outer ones too."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        lines = []
    inside = {kinds: path.lstrip("/") for _, kinds, path in (line.split(":", 2) for line in lines)}
    left = []
    for base, path, names in (
        (root, inside.get("", ""), _CGROUP_2),
        (root / "memory", inside.get("memory", ""), _CGROUP_1),
    ):
        group = base / path
        while group.is_relative_to(base):  # in a container, the path is that outside of it
            left.append(_left_in(group, *names))
            group = group.parent
    return min((each for each in left if each is not None), default=None)


def _left_in(group: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        text = (group / limit).read_text(encoding="ascii").strip()
        used = int((group / usage).read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    if text == "max":
        return None
    counts = dict(line.split(maxsplit=1) for line in lines)
    return max(0, int(text) - max(0, used - int(counts.get(reclaimable, 0))))


def give_back() -> None:
    """Let the allocators of this process return to the system what was freed.

    They keep blocks for later, which would count as memory of whatever comes next. Linux with
    glibc knows a way; elsewhere only Arrow's pool is emptied.
    """
    if "pyarrow" in sys.modules:
        import pyarrow as pa

        pa.default_memory_pool().release_unused()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return the function of the C library, or None where it has none."""
    import ctypes

    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


class PeakMemory:
    """The largest resident memory of this process since `reset`; unit: bytes.

    Linux can forget the high-water mark (``/proc/self/clear_refs``), which gives each
    stage a peak of its own. Elsewhere the mark only rises, so a later stage reports
    the peak of the whole process so far.

    Pages of matrices on disk are resident as long as nothing else needs the memory, so beside
    them that mark says nothing. Then a thread looks every `LOOK_S` at what the process cannot
    give back.
    """

    def __init__(self) -> None:
        self._watch: _Watch | None = None

    def reset(self, *, with_files: bool = True) -> None:
        """Forget what was; `with_files` says whether pages of files count.

        The high-water mark is forgotten where the system allows it.
        """
        self._stop()
        if not with_files and _status("RssAnon"):
            self._watch = _Watch()
            self._watch.start()
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def read(self) -> int:
        """Return the most that there was, and end the watch."""
        watch = self._stop()
        if watch is not None:
            return watch.most
        high = _status("VmHWM")
        if high:
            return high
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def _stop(self) -> _Watch | None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.ending.set()
            watch.join()
        return watch


class _Watch(threading.Thread):
    """Looks at the memory that the process cannot give back."""

    def __init__(self) -> None:
        super().__init__(name="gpucluster-memory", daemon=True)
        self.ending = threading.Event()
        self.most = _status("RssAnon", "RssShmem")

    def run(self) -> None:
        """Look until it ends."""
        while not self.ending.wait(LOOK_S):
            self.most = max(self.most, _status("RssAnon", "RssShmem"))


def _status(*names: str) -> int:
    """Return the sum of values that Linux knows of this process; unit: bytes; else 0."""
    total = 0
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.partition(":")[0] in names:
                total += int(line.split()[1]) * 1024
    return total


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
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"{name}: the values are too extreme ({error})",
            hint="look for outliers, or use the l2_normalize step",
        ) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError):
            raise
        # a plain bad_alloc is the host's when Cython has made a MemoryError of it
        unclear = isinstance(error, RuntimeError) and "bad_alloc" in str(error)
        if _GPU_IS_FULL.search(str(error)) or unclear:
            raise _gpu_is_full(name, error) from error
        if isinstance(error, RuntimeError):
            raise
        raise OutOfMemoryError(
            f"{name} ran out of memory ({error})", hint="use sample_size, or fewer dimensions"
        ) from error


def require_bytes(name: str, needed_bytes: int) -> None:
    """Raise `OutOfMemoryError` where the GPU has not so much left, before it is tried.

    Parameters
    ----------
    name : str
        The algorithm or step, for messages.
    needed_bytes : int
    """
    if needed_bytes <= 0:  # it has not said, and the GPU is not asked
        return
    free = available_bytes("gpu")
    if needed_bytes <= free:
        return
    raise OutOfMemoryError(
        f"{name} needs about {needed_bytes / 1e9:.3g} GB of GPU memory, "
        f"{free / 1e9:.3g} GB are free",
        needed_bytes=needed_bytes,
        free_bytes=free,
        hint="use sample_size, fewer dimensions, or --device cpu",
    )


def _gpu_is_full(name: str, error: Exception) -> OutOfMemoryError:
    """Return the error with what is known of the memory."""
    found = _NEEDED.search(str(error))
    needed = None
    if found is not None:
        needed = int(float(found[1].replace(",", "")) * _UNITS.get(found[2], 1))
    free = total = None
    if "cupy" in sys.modules:  # else nobody can be asked
        import cupy

        try:
            free, total = available_bytes("gpu"), int(cupy.cuda.runtime.memGetInfo()[1])
        except Exception:  # noqa: BLE001 - of a device that fails, the first error counts
            free = total = None
    numbers = [
        f"{value / 1e9:.3g} GB {what}"
        for value, what in ((needed, "needed"), (free, "free"), (total, "in all"))
        if value is not None
    ]
    return OutOfMemoryError(
        f"{name} ran out of GPU memory: {', '.join([*numbers, str(error)])}",
        needed_bytes=needed,
        free_bytes=free,
        total_bytes=total,
        hint="use sample_size, fewer dimensions, or --device cpu",
    )


@dataclass(frozen=True, slots=True)
class _Pool:
    """Device memory that is held for later: what its limit leaves, what is idle, give that back."""

    left: Callable[[], int]
    idle: Callable[[], int]
    trim: Callable[[], None]


_OPEN: list[_Pool] = []  # the pool of this process, once it is open


def open_pool() -> None:
    """Let CuPy and cuML take their memory from one pool; once in a process, before any work.

    Each allocation of its own waits for the device and takes up to a millisecond. The pool is
    the driver's (``cudaMallocAsync``), through RMM: it maps pages, so what is free can always
    be had in one piece, and it gives back what is idle. `rmm.reinitialize` would make a pool of
    fixed pieces that does neither. Nothing is taken in advance, so other processes keep theirs;
    the limit is what is free now, less 5 %, at most 1 GiB, for what bypasses it.

    Where RMM is missing or the driver has no such pool, CuPy's own gets the limit.
    """
    if _OPEN:
        return
    import cupy

    runtime, device = cupy.cuda.runtime, cupy.cuda.Device().id
    free = int(runtime.memGetInfo()[0])
    limit = free - min(int(SPARE_SHARE * free), MOST_SPARE_BYTES)
    is_able = runtime.deviceGetAttribute(runtime.cudaDevAttrMemoryPoolsSupported, device)
    if find_spec("rmm") is None or not is_able:
        cupy.get_default_memory_pool().set_limit(size=limit)
        _OPEN.append(_pool_of_cupy(limit))
        return
    from cuda.bindings.runtime import cudaMemPool_t
    from rmm import mr
    from rmm.allocators.cupy import rmm_cupy_allocator

    handle = runtime.deviceGetDefaultMemPool(device)
    # by default it gives everything back whenever the device is waited for
    runtime.memPoolSetAttribute(handle, runtime.cudaMemPoolAttrReleaseThreshold, limit)
    pool = mr.CudaAsyncViewMemoryResource(cudaMemPool_t(handle))
    limited = mr.LimitingResourceAdaptor(pool, limit)
    mr.set_current_device_resource(limited)
    cupy.cuda.set_allocator(rmm_cupy_allocator)

    def idle() -> int:
        held = runtime.memPoolGetAttribute(handle, runtime.cudaMemPoolAttrReservedMemCurrent)
        used = runtime.memPoolGetAttribute(handle, runtime.cudaMemPoolAttrUsedMemCurrent)
        return int(held - used)

    def trim() -> None:
        cupy.cuda.Device().synchronize()  # what is being freed is free after that
        runtime.memPoolTrimTo(handle, 0)

    _OPEN.append(_Pool(lambda: int(limit - limited.get_allocated_bytes()), idle, trim))


def free_pools() -> None:
    """Give back to the device what this process holds and does not use."""
    gc.collect()  # a cycle, such as a traceback, may hold arrays
    for pool in _OPEN:
        pool.trim()


def _pool_of_cupy(limit: int = sys.maxsize) -> _Pool:
    import cupy

    pool = cupy.get_default_memory_pool()
    return _Pool(
        lambda: int(limit - pool.used_bytes()),
        lambda: int(pool.total_bytes() - pool.used_bytes()),
        pool.free_all_blocks,
    )
