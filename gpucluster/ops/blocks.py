"""Row blocks over all cores, with results that do not depend on how many there are.

The cut into blocks depends on the data alone, and partial results come back in the
order of the blocks. Each worker thread gives its BLAS one core, so that the cores
share rows instead of fighting over one product.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

from gpucluster.events import Reporter

T = TypeVar("T")


def n_threads() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def row_blocks(n_rows: int, block_rows: int) -> Iterator[slice]:
    """Yield the consecutive slices of at most `block_rows` rows that cover `n_rows`."""
    for start in range(0, n_rows, block_rows):
        yield slice(start, min(start + block_rows, n_rows))


def map_blocks(
    work: Callable[[slice], T], n_rows: int, block_rows: int, reporter: Reporter | None = None
) -> Iterator[T]:
    """Yield ``work(block)`` for each row block, in order, computed on all cores.

    `work` must be thread-safe and release the GIL where the time goes (numpy, BLAS and
    compiled kernels do). A cancelled reporter stops it between blocks.
    """
    blocks = deque(row_blocks(n_rows, block_rows))
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads()) as pool:
        # two blocks a core in flight: results never pile up behind a slow consumer
        running = deque((b, pool.submit(work, b)) for b in _take(blocks, 2 * n_threads()))
        try:
            while running:
                block, future = running.popleft()
                result = future.result()
                running.extend((b, pool.submit(work, b)) for b in _take(blocks, 1))
                yield result
                if reporter is not None:
                    reporter.progress(block.stop, n_rows)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _take(blocks: deque[slice], count: int) -> list[slice]:
    return [blocks.popleft() for _ in range(min(count, len(blocks)))]
