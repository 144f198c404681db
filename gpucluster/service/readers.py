"""Threads that read documents and members: few, and gone while nothing is read.

What one read takes is bounded, but an allocator keeps what was freed for the thread that freed it.
Forty threads that read in turn keep forty times as much as one, until they end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from gpucluster.device.memory import give_back
from gpucluster.service.refusals import UnavailableError

T = TypeVar("T")

MOST_WAITING: Final = 100  # reads that wait, for each that is worked on
READ_S: Final = 0.1  # about what one takes, to say when to come again
REST_S: Final = 1.0  # without a read, after which the threads end
_END: Final = object()


class Readers:
    """The threads of one server; for its event loop alone.

    Parameters
    ----------
    most : int
        Reads at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: ThreadPoolExecutor | None = None
        self._n_now = 0
        self._n_begun = 0

    async def run(self, read: Callable[[], T]) -> T:
        """Read in turn; ``UnavailableError`` where too many wait already."""
        n_waiting = self._n_now - self._most
        if n_waiting >= self._most * MOST_WAITING:
            after_s = n_waiting * READ_S / self._most
            raise UnavailableError(
                f"{n_waiting:,} reads of documents wait already", after_s=after_s
            )
        return await self._in_turn(read)

    async def each(self, items: Iterator[T]) -> AsyncIterator[T]:
        """Yield items, each read in turn: who takes them slowly holds up nobody."""
        while (item := await self._in_turn(lambda: next(items, _END))) is not _END:
            yield item  # type: ignore[misc]

    async def _in_turn(self, read: Callable[[], T]) -> T:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._most, "reader")
        loop = asyncio.get_running_loop()
        self._n_now += 1
        self._n_begun += 1
        try:
            return await loop.run_in_executor(self._threads, read)
        finally:
            self._n_now -= 1
            if not self._n_now:
                loop.call_later(REST_S, self._rest, self._n_begun)

    def _rest(self, n_begun: int) -> None:
        """Let the threads end, and give back what they kept, unless something was read since."""
        if n_begun == self._n_begun and not self._n_now and self._threads is not None:
            threads, self._threads = self._threads, None
            threading.Thread(target=_end, args=(threads,), name="reader-end", daemon=True).start()


def _end(threads: ThreadPoolExecutor) -> None:
    threads.shutdown()
    give_back()
