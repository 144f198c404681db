"""The only device; see `cupy.cuda.runtime`."""

from __future__ import annotations

from typing import Any, Self

from cupy.cuda import runtime


class Device:
    id = 0
    compute_capability = "80"
    attributes = {"MultiProcessorCount": 108, "L2CacheSize": 40 << 20}  # noqa: RUF012 - CuPy's too

    def __init__(self, device: Any = None) -> None:
        if device not in {None, 0}:
            raise runtime.CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    @property
    def mem_info(self) -> tuple[int, int]:
        return runtime.memGetInfo()

    def use(self) -> Self:
        return self

    def synchronize(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def get_cublas_handle() -> int:
    return 1


def get_device_id() -> int:
    return 0
