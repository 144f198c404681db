"""Row blocks over all cores, with results that do not depend on how many there are.

The cut into blocks depends on the data alone, and partial results come back in the
order of the blocks. Each worker thread gives its BLAS one core, so that the cores
share rows instead of fighting over one product.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import OpenBLASController, ThreadpoolController

from gpucluster.device.cores import n_threads
from gpucluster.events import Reporter

T = TypeVar("T")


class _OneBlasThread:
    """A limit of the whole process: the first to enter sets it, the last to leave lifts it.

    Overlapping `threadpool_limits` would each restore what they found, and the last one
    to leave may have found the limit of another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: Any = None
        self._controller: Any = None
        self._modules = 0

    def reset(self) -> None:
        """Forget who was inside: the threads of a parent do not exist in its child."""
        limit, self._limit, self._users = self._limit, None, 0
        self._lock = threading.Lock()
        if limit is not None:
            _take_blas_control()
            limit.restore_original_limits()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                _take_blas_control()
                self._limit = self._libraries().limit(limits=1, user_api="blas")
            self._users += 1

    def _libraries(self) -> Any:
        """Return the loaded libraries. Looking for them takes milliseconds; modules bring them."""
        if self._controller is None or self._modules != len(sys.modules):
            self._controller, self._modules = ThreadpoolController(), len(sys.modules)
        return self._controller

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._limit is not None:
                _take_blas_control()
                self._limit.restore_original_limits()
                _take_blas_control()


def _take_blas_control() -> None:
    """Let this thread set limits: threadpoolctl 3.8 ignores all but the first that did."""
    clear = getattr(OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


one_blas_thread = _OneBlasThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=one_blas_thread.reset)
_here = threading.local()


@contextmanager
def alone() -> Iterator[None]:
    """Do blocks one after the other in this thread, which shares the cores with others like it."""
    before = is_in_block()
    _here.is_worker = True
    try:
        with one_blas_thread:
            yield
    finally:
        _here.is_worker = before


def is_in_block() -> bool:
    """Whether this thread is at a block of somebody's rows: others are at other blocks."""
    return bool(getattr(_here, "is_worker", False))


def row_blocks(n_rows: int, block_rows: int) -> Iterator[slice]:
    """Yield the consecutive slices of at most `block_rows` rows that cover `n_rows`."""
    for start in range(0, n_rows, block_rows):
        yield slice(start, min(start + block_rows, n_rows))


def map_blocks(
    work: Callable[[slice], T],
    n_rows: int,
    block_rows: int,
    reporter: Reporter | None = None,
    *,
    in_flight: int | None = None,
) -> Iterator[T]:
    """Yield ``work(block)`` for each row block, in order, computed on all cores.

    `work` must be thread-safe and release the GIL where the time goes (numpy, BLAS and
    compiled kernels do). A cancelled reporter stops it between blocks. At most `in_flight`
    results exist before they are taken; two for each core if omitted. Within `work` blocks are
    done one after the other; a thread of its own that calls this may wait forever.
    """
    blocks = deque(row_blocks(n_rows, block_rows))
    in_flight = in_flight or 2 * n_threads()
    with one_blas_thread:
        if len(blocks) == 1 or is_in_block():
            for block in blocks:
                yield work(block)
                if reporter is not None:
                    reporter.progress(block.stop, n_rows)
            return
        # a bounded number in flight: results never pile up behind a slow consumer
        pool = _workers(os.getpid(), n_threads())
        running = deque((b, pool.submit(work, b)) for b in _take(blocks, in_flight))
        try:
            while running:
                block, future = running.popleft()
                result = future.result()
                running.extend((b, pool.submit(work, b)) for b in _take(blocks, 1))
                yield result
                if reporter is not None:
                    reporter.progress(block.stop, n_rows)
        finally:
            for _, future in running:
                future.cancel()
            wait([future for _, future in running])


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, of which another thread makes the next while one is used.

    Whoever stops early waits for the one that is being made.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "gpucluster-read") as reader:
        coming = reader.submit(next, iterator, end)
        try:
            while (item := coming.result()) is not end:
                coming = reader.submit(next, iterator, end)
                yield item  # type: ignore[misc]  # not the end
        finally:
            del coming  # its error knows this frame, and would keep alive what the caller holds


@cache
def _workers(_process: int, count: int) -> ThreadPoolExecutor:
    """Return threads that stay: starting some for each call would take longer than many calls.

    A child of a fork has none of its parent's.
    """
    return ThreadPoolExecutor(count, "gpucluster", initializer=_begin)


def _begin() -> None:
    """Mark a worker: blocks within a block are done where they are, or workers wait for workers."""
    _here.is_worker = True


def _take(blocks: deque[slice], count: int) -> list[slice]:
    return [blocks.popleft() for _ in range(min(count, len(blocks)))]
