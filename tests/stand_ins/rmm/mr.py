"""Resources; see `rmm`."""

from __future__ import annotations

from typing import Any

from cuda.bindings.runtime import cudaMemPool_t
from cupy import stand_in

_current: Any = None


def format_bytes(value: int) -> str:
    """Write a size as RMM's messages do."""
    size, units = float(value), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size > 1024:
        size, unit = size / 1024, next(units)
    return f"{size:.6f} {unit}"


class CudaAsyncViewMemoryResource:
    def __init__(self, pool_handle: Any) -> None:
        if not isinstance(pool_handle, cudaMemPool_t):
            raise TypeError(f"expected a cudaMemPool_t, got {type(pool_handle).__name__}")


class LimitingResourceAdaptor:
    def __init__(self, upstream_mr: Any, allocation_limit: int) -> None:
        self._limit = allocation_limit

    def get_allocated_bytes(self) -> int:
        return stand_in.used_bytes()

    def allocate(self, nbytes: int, stream: Any = None) -> int:
        if stand_in.used_bytes() + nbytes > self._limit:
            raise MemoryError(
                "std::bad_alloc: out_of_memory: RMM failure at:limiting_resource_adaptor.cpp:57: "
                f"Exceeded memory limit (failed to allocate {format_bytes(nbytes)})"
            )
        return 0


def get_current_device_resource() -> Any:
    return _current


def set_current_device_resource(mr: Any) -> None:
    global _current  # noqa: PLW0603 - so it is in RMM
    _current = mr
