"""A stand-in for CuPy where there is no GPU: numpy behind CuPy's names, types and refusals.

It shows whether the Python around kernels and libraries holds: that a name exists in the real
CuPy and takes these keywords, that arrays of host and device are not mixed, that shapes, dtypes
and layouts fit, that memory is counted and read after it was written. Kernels run on the
emulator of `tests/kernels`.

It shows nothing of what a GPU does by itself: no races, no asynchrony (every call has ended when
it returns), no order of atomic additions, no rounding of tensor cores or of CUDA's libraries, no
speed. A name that it lacks although CuPy has it raises NotImplementedError.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cupy import _snapshot
from cupy import cuda as cuda
from cupy import linalg as linalg
from cupy import stand_in as stand_in
from cupy._array import ndarray as ndarray
from cupy._functions import function
from cupy._functions import ufunc as ufunc
from cupy._raw import RawModule as RawModule
from cupy.cuda import memory

__version__ = _snapshot.VERSION
newaxis = None


def is_available() -> bool:
    """Say that there is a device."""
    return True


def get_array_module(*args: Any) -> Any:
    """Return this module where there is an array of the device."""
    import cupy

    return cupy if any(isinstance(each, ndarray) for each in args) else np


def get_default_memory_pool() -> memory.MemoryPool:
    """Return the pool of the device."""
    return memory.MemoryPool()


def get_default_pinned_memory_pool() -> memory.MemoryPool:
    """Return a pool that holds nothing worth counting."""
    return memory.MemoryPool()


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return function(f"cupy.{name}")
