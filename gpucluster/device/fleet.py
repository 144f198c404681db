"""Other processes that work on the shards of a matrix: those of a Dask cluster, here or elsewhere.

Dask starts tasks, moves their results and starts them again where a worker has died. What goes to
a task is small: rows and other large arrays lie in files of a folder that all of them see. What a
shard keeps between two calls stays with the worker that has it, so a shard is worked on where it
was before, as long as that worker lives.
"""

from __future__ import annotations

import copy
import itertools
import queue
import secrets
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gpucluster.device.storage import Lent, Place, lent, on_disk
from gpucluster.errors import ExecutorError
from gpucluster.events import Reporter

Future: TypeAlias = Any  # of distributed, which is imported where it is used
LOOK_S = 0.2  # between looks at the token that stops the work
NO_WORKER_S = 60.0  # one that died has another started in its place
AHEAD = 2  # tasks that a worker has for each of its threads
INLINE_BYTES = 1 << 16  # of an array that goes along with a task


class Fleet:
    """The workers of a Dask cluster, and the folder that they share with this process.

    Parameters
    ----------
    client : distributed.Client
    folder : Path
        All workers see it under this path.
    """

    def __init__(self, client: Any, folder: Path) -> None:
        self._client = client
        self.place = Place(folder, self)
        self._numbers = itertools.count()
        self._shared: dict[int, tuple[weakref.ref[Any], Any]] = {}  # by id: an array, its copy
        self.n_calls = 0

    @property
    def n_threads(self) -> int:
        """Threads of all workers, of those that are there at the moment."""
        return sum(self._client.nthreads().values())

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        homes: list[str],
        reporter: Reporter,
    ) -> Iterator[tuple[int, Future]]:
        """Call a function with each of some tuples, and yield which of them is done, and as what.

        Parameters
        ----------
        name : str
            What the calls are named after, where one fails.
        function : callable
            Of a module that the workers have.
        calls : sequence of tuple
            Small; arrays as `lend` returns them.
        homes : list of str
            The worker that is to do each; corrected where that has died.
        reporter : Reporter
            Asked for cancellation.

        Raises
        ------
        ExecutorError
            Three workers died on the same call, or the scheduler is gone.
        """
        self.n_calls += 1
        turn = next(self._numbers)
        done: queue.SimpleQueue[tuple[int, Future]] = queue.SimpleQueue()
        waiting: dict[str, deque[int]] = {}
        running: dict[int, Future] = {}

        def submit(address: str, room: int) -> None:
            for number in [
                waiting[address].popleft() for _ in range(min(room, len(waiting[address])))
            ]:
                future = self._client.submit(
                    function,
                    *calls[number],
                    key=f"{name}-{turn}-{number}-{secrets.token_hex(4)}",
                    workers=[address],
                    allow_other_workers=True,
                    pure=False,
                )
                running[number] = future
                future.add_done_callback(lambda found, number=number: done.put((number, found)))

        try:
            threads = self._settle(homes)
            for number, home in enumerate(homes):
                waiting.setdefault(home, deque()).append(number)
            for address in waiting:
                submit(address, AHEAD * threads[address])
            since = time.monotonic()
            while running:
                reporter.cancel.raise_if_cancelled()
                try:
                    number, future = done.get(timeout=LOOK_S)
                except queue.Empty:
                    self._look(since)
                    continue
                since = time.monotonic()
                del running[number]
                self._check(future, name, number)
                submit(homes[number], 1)
                yield number, future
        finally:
            for future in running.values():
                future.cancel()

    def join(self, name: str, add: Callable[[Any, Any], Any], futures: Sequence[Future]) -> Future:
        """Add up results where they are; return that of all, which nobody has waited for."""
        return self._client.submit(
            _added,
            add,
            list(futures),
            key=f"{name}-{next(self._numbers)}-sum-{secrets.token_hex(4)}",
        )

    def result(self, future: Future, name: str, reporter: Reporter) -> Any:
        """Wait for a result, and return it."""
        event, since = threading.Event(), time.monotonic()
        future.add_done_callback(lambda _: event.set())
        while not event.wait(LOOK_S):
            reporter.cancel.raise_if_cancelled()
            self._look(since)
        self._check(future, name, None)
        return future.result()

    def lend(self, value: Any) -> Any:
        """Return what goes to a task instead of an array: where it lies, or itself if it is small.

        A copy is made once, in the shared folder, and lives as long as the array.
        """
        if not isinstance(value, np.ndarray) or value.nbytes <= INLINE_BYTES:
            return value
        known = lent(value)
        if known is not None:
            return known
        key = id(value)
        entry = self._shared.get(key)
        if entry is not None and entry[0]() is value:
            return lent(entry[1])
        copy = on_disk(value.shape, self.place, value.dtype)
        np.copyto(copy, value)
        self._shared[key] = weakref.ref(value, lambda _: self._shared.pop(key, None)), copy
        return lent(copy)

    def forget(self, token: str) -> None:
        """Let the workers forget what shards of a token keep; those that are gone have."""
        self._client.run(_forget, token, wait=False, on_error="ignore")

    def _settle(self, homes: list[str]) -> dict[str, int]:
        """Give shards without a living home to those that have fewest; return threads by worker."""
        threads = dict(self._client.nthreads())
        since = time.monotonic()
        while not threads:
            time.sleep(LOOK_S)
            self._look(since)
            threads = dict(self._client.nthreads())
        counts = Counter(dict.fromkeys(threads, 0))
        counts.update(home for home in homes if home in threads)
        most = -(-len(homes) // len(threads))
        for number, home in enumerate(homes):
            if home in threads:
                continue
            # neighbours together, so that sums of neighbours are added where they are
            before = homes[number - 1] if number else ""
            if counts.get(before, most) >= most:
                before = min(threads, key=lambda address: (counts[address], address))
            homes[number] = before
            counts[before] += 1
        return threads

    def _look(self, since: float) -> None:
        """Raise where there is nobody any more to wait for, as nothing came since a moment."""
        if self._client.status not in {"running", "connecting"}:
            raise self._gone()
        if time.monotonic() - since > NO_WORKER_S and not self._client.nthreads():
            raise ExecutorError(
                f"the Dask scheduler {self._client.scheduler.address} has no workers any more",
                hint="start some, then run again: finished stages are kept",
            )

    def _gone(self) -> ExecutorError:
        return ExecutorError(
            f"the Dask scheduler {self._client.scheduler.address} is gone",
            hint="start it, then run again: finished stages are kept",
        )

    def _check(self, future: Future, name: str, number: int | None) -> None:
        """Raise what a task has raised, and say so where it never came to an end."""
        from distributed import KilledWorker

        if future.status == "finished":
            return
        if future.status != "error":  # cancelled or lost: its scheduler is
            raise self._gone()
        error = future.exception()
        if isinstance(error, KilledWorker):
            shard = name if number is None else f"{name}, shard {number}"
            raise ExecutorError(
                f"{shard}: {error.allowed_failures + 1} workers died on it",
                hint="do they have memory enough? The logs of the workers say why they died",
            ) from error
        raise error


def _added(add: Callable[[Any, Any], Any], found: list[Any]) -> Any:
    total = copy.deepcopy(found[0])  # `add` writes to it, and it may be asked for again
    for each in found[1:]:
        total = add(total, each)
    return total


# What follows runs on the workers.

_KEPT: dict[tuple[str, int], dict[str, Any]] = {}  # by token and number of a shard


def kept(token: str, number: int) -> dict[str, Any]:
    """Return what a shard keeps here; nothing, if it was not here before."""
    return _KEPT.setdefault((token, number), {})


def _forget(token: str) -> None:
    for key in [key for key in tuple(_KEPT) if key[0] == token]:
        _KEPT.pop(key, None)


def opened(value: Any) -> Any:
    """Return what was lent, or a value as it is."""
    return value.opened() if isinstance(value, Lent) else value
