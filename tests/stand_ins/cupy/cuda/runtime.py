"""What CUDA's runtime says of the device of `cupy.stand_in`: compute capability 8.0, CUDA 13.0."""

from __future__ import annotations

from typing import Any

from cupy import _snapshot, stand_in

PROPERTIES = {
    "name": b"stand-in",  # bytes, as in CuPy
    "major": 8,
    "minor": 0,
    "multiProcessorCount": 108,
    "l2CacheSize": 40 << 20,
    "sharedMemPerBlock": 48 << 10,
    "warpSize": 32,
    "maxThreadsPerBlock": 1024,
}


class CUDARuntimeError(RuntimeError):
    pass


def memGetInfo() -> tuple[int, int]:  # noqa: N802
    return stand_in.total_bytes - stand_in.held_bytes(), stand_in.total_bytes


def getDeviceCount() -> int:  # noqa: N802
    return 1


def getDevice() -> int:  # noqa: N802
    return 0


def getDeviceProperties(device: int) -> dict[str, Any]:  # noqa: N802
    return PROPERTIES | {"totalGlobalMem": stand_in.total_bytes}


def deviceGetAttribute(attrib: int, device: int) -> int:  # noqa: N802
    known = {75: 8, 76: 0, 16: 108, 10: 32, 38: 40 << 20, 115: int(stand_in.has_memory_pools)}
    return known[attrib]


def driverGetVersion() -> int:  # noqa: N802
    return 13000


def runtimeGetVersion() -> int:  # noqa: N802
    return 13000


def deviceSynchronize() -> None:  # noqa: N802
    pass


def deviceGetDefaultMemPool(device: int) -> int:  # noqa: N802
    return 1


def memPoolGetAttribute(pool: int, attr: int) -> int:  # noqa: N802
    used = __getattr__("cudaMemPoolAttrUsedMemCurrent")
    return stand_in.used_bytes() if attr == used else stand_in.held_bytes()


def memPoolSetAttribute(pool: int, attr: int, value: int) -> None:  # noqa: N802
    pass


def memPoolTrimTo(pool: int, minBytesToKeep: int) -> None:  # noqa: N802
    stand_in.trim()


def __getattr__(name: str) -> int:
    return _snapshot.constant(f"cupy.cuda.runtime.{name}")
