"""The memory of the device that is not there: how large it is, and what lies in it.

Every array that owns its values counts, in steps of 512 bytes, until it is collected. As a pool
does, what was freed is held back from `memGetInfo` until the pool is trimmed, and used again
before an allocation fails. What a function needs within a call does not count.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir

import numpy as np

total_bytes = 4 << 30  # a test may set these two
has_memory_pools = True
linalg_raises = False  # set by `cupyx.errstate`
STEP_BYTES = 512
KERNELS = Path(gettempdir()) / "gpucluster-stand-in-kernels"  # compiled ones

limit_bytes = 0  # of CuPy's pool; 0 is none
allocator: Callable[[int], object] | None = None  # asked before CuPy's pool
_blocks: dict[int, tuple[int, int, weakref.ref[np.ndarray]]] = {}
_held_bytes = 0


class OutOfMemoryError(MemoryError):
    """The device is full; the message is CuPy's."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited})."
        )


def used_bytes() -> int:
    """Return what arrays take now."""
    return sum(size for _, size, _ in list(_blocks.values()))


def held_bytes() -> int:
    """Return what the pool keeps from others: arrays, and freed memory."""
    return max(_held_bytes, used_bytes())


def trim() -> None:
    """Give freed memory back."""
    global _held_bytes  # noqa: PLW0603 - the device is one
    _held_bytes = used_bytes()


def allocate(host: np.ndarray) -> None:
    """Count the memory that `host` lives in, if it is new."""
    global _held_bytes  # noqa: PLW0603
    while isinstance(host.base, np.ndarray):
        host = host.base
    key = id(host)
    if key in _blocks or host.nbytes == 0:
        return
    size = -(-host.nbytes // STEP_BYTES) * STEP_BYTES
    used = used_bytes()
    if allocator is not None:
        allocator(size)
    elif used + size > (limit_bytes or total_bytes):
        raise OutOfMemoryError(size, used, limit_bytes)
    if used + size > total_bytes:
        raise OutOfMemoryError(size, used)
    gone = weakref.ref(host, lambda _: _blocks.pop(key, None))
    _blocks[key] = host.ctypes.data, size, gone
    _held_bytes = max(_held_bytes, used + size)


def require_allocated(pointer: int, n_bytes: int) -> None:
    """Raise where a GPU would fault: the bytes do not lie within one allocation."""
    for start, _, owner in list(_blocks.values()):
        host = owner()
        if host is not None and start <= pointer and pointer + n_bytes <= start + host.nbytes:
            return
    raise RuntimeError(f"illegal memory access: {n_bytes} bytes at {pointer:#x}")
