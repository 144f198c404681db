"""One device, whose streams and events are always done; see `cupy`."""

from __future__ import annotations

import time
from typing import Any, Self

from cupy import stand_in
from cupy.cuda import cublas as cublas
from cupy.cuda import device as device
from cupy.cuda import memory as memory
from cupy.cuda import runtime as runtime
from cupy.cuda.device import Device as Device
from cupy.cuda.memory import MemoryPool as MemoryPool


class Event:
    done = True

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self.at: float | None = None

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    if start_event.at is None or end_event.at is None:
        raise runtime.CUDARuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")
    return 1e3 * (end_event.at - start_event.at)


class Stream:
    null: Stream
    ptr = 0
    done = True

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: int | None = None,
    ) -> None:
        pass

    def use(self) -> Self:
        return self

    def synchronize(self) -> None:
        pass

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


Stream.null = Stream()


def get_current_stream() -> Stream:
    return Stream.null


def is_available() -> bool:
    return True


def set_allocator(allocator: Any = None) -> None:
    stand_in.allocator = allocator


def alloc_pinned_memory(size: int) -> memoryview:
    return memoryview(bytearray(size))
