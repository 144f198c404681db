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
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpucluster.device.dask_client import (
    LOOK_S,
    Future,
    Late,
    Scheduler,
    Watch,
    require_few,
    wait_for_workers,
)
from gpucluster.device.select import Device
from gpucluster.device.storage import Lent, Site, lent, on_disk, release, site_of
from gpucluster.events import Reporter

MOST_PATIENCE_S = 60.0  # for a result, before somebody looks whether it still can come
AHEAD = 2  # tasks that a worker has for each of its threads
INLINE_BYTES = 1 << 13  # of an array that goes along with a task


class Fleet:
    """The workers of a Dask cluster, and the folder that they share with this process.

    Parameters
    ----------
    client : distributed.Client
    folder : Path
        All workers see it under this path.
    device : {"cpu", "gpu"}, default "cpu"
        What each worker has.
    admit : callable, optional
        Gets the addresses of workers that are new, and raises `ExecutorError` where one of them
        is of no use.
    """

    def __init__(
        self,
        client: Any,
        folder: Path,
        device: Device = "cpu",
        admit: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        self._scheduler, self._admit = Scheduler(client), admit
        self._admitted: set[str] = set()
        self.site, self.device = Site(folder, self), device
        self._numbers = itertools.count()
        self._shared: dict[int, tuple[weakref.ref[Any], Any]] = {}  # by id: an array, its copy
        self._forgotten: deque[str] = deque()
        self.n_calls = 0

    @property
    def n_threads(self) -> int:
        """Threads of all workers, of those that are there at the moment."""
        return sum(self._scheduler.threads().values())

    def call(
        self,
        function: Callable[..., Any],
        calls: Mapping[int, tuple[str, tuple[Any, ...]]],
        homes: list[str],
        reporter: Reporter,
        *,
        one_by_one: bool = False,
    ) -> Iterator[tuple[int, Future]]:
        """Call a function with some arguments after others; yield which is done, and as what.

        Parameters
        ----------
        function : callable
            Of a module that the workers have.
        calls : dict of int to tuple
            By number: what a call is named, where it fails, and its arguments; these are small,
            arrays as `lend` returns them.
        homes : list of str
            By number: the worker that is to do it; corrected where that has died.
        reporter : Reporter
            Asked for cancellation.
        one_by_one : bool, default False
            Whether a call only begins when the one before is done.

        Raises
        ------
        Lost
            All workers have died. Dask has others do what one that died was doing, but where there
            was none, it forgets to ask those that come.
        ExecutorError
            Worker after worker died on the same call, or the scheduler is gone.
        """
        self.n_calls += 1
        self._flush()
        turn = next(self._numbers)
        done: queue.SimpleQueue[tuple[int, Future]] = queue.SimpleQueue()
        waiting: dict[str, deque[int]] = {}
        running: dict[int, Future] = {}
        deaths: Counter[int] = Counter()
        # On which workers died again: each is done alone, last. Only there it is known to be the
        # call on which a worker dies, and not one beside it.
        suspects: deque[int] = deque()
        alone: int | None = None

        def submit(number: int, address: str) -> None:
            future = running[number] = self._scheduler.submit(
                function,
                *calls[number][1],
                key=f"{function.__name__}-{turn}-{number}-{secrets.token_hex(4)}",
                workers=[address],
                allow_other_workers=True,
                pure=False,
            )
            future.add_done_callback(lambda found: done.put((number, found)))

        threads = self._settle(homes)
        for number in calls:
            waiting.setdefault("" if one_by_one else homes[number], deque()).append(number)
        watch = Watch(self._scheduler, threads)
        try:
            for address, numbers in waiting.items():
                room = 1 if one_by_one else AHEAD * threads[address]
                for _ in range(min(room, len(numbers))):
                    submit(numbers.popleft(), address)
            while running:
                reporter.cancel.raise_if_cancelled()
                try:
                    number, future = done.get(timeout=LOOK_S)
                except queue.Empty:
                    watch.look([calls[number][0] for number in running])
                    continue
                del running[number]
                address = "" if one_by_one else homes[number]
                died = watch.check(future)
                if died:
                    deaths[number] += died
                    if one_by_one or number == alone:
                        require_few(calls[number][0], deaths[number])
                    again = waiting[address] if deaths[number] == died else suspects
                    again.append(number)
                if waiting[address]:
                    submit(waiting[address].popleft(), address)
                elif suspects and not running:
                    alone = suspects.popleft()
                    submit(alone, homes[alone])
                if not died:
                    yield number, future
        finally:
            for future in running.values():
                future.cancel()

    def join(self, name: str, add: Callable[[Any, Any], Any], futures: Sequence[Future]) -> Future:
        """Add up results where they are; return that of all, which nobody has waited for."""
        return self._scheduler.submit(
            _added,
            add,
            list(futures),
            key=f"{name}-{next(self._numbers)}-{secrets.token_hex(4)}",
        )

    def result(self, future: Future, reporter: Reporter) -> Any:
        """Wait for a result, and return it; raises what `call` does."""
        watch, patience = Watch(self._scheduler, self._scheduler.threads()), LOOK_S
        while True:
            reporter.cancel.raise_if_cancelled()
            try:
                return self._scheduler.result(future, patience)
            except Late:
                watch.look([])
                patience = min(2 * patience, MOST_PATIENCE_S)  # it may be on its way, and large

    def lend(self, value: Any) -> Any:
        """Return what goes to a task instead of an array: where it lies, or itself if it is small.

        A copy is made once, in the shared folder, and lives as long as the array: that is not to
        be written any more.
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
        beside = on_disk(value.shape, self.site, value.dtype)
        np.copyto(beside, value)
        self._shared[key] = weakref.ref(value, lambda _: self._shared.pop(key, None)), beside
        return lent(beside)

    def token(self) -> str:
        """Return a name for what shards keep, by which workers see whether the run is over."""
        return str(self.site.folder / secrets.token_hex(8))

    def forget(self, token: str) -> None:
        """Let the workers forget what shards of a token keep, with the next call.

        Not at once: this is called as shards are collected, by whichever thread that happens in.
        """
        self._forgotten.append(token)

    def close(self) -> None:
        """Let the workers forget everything, also of shards that an error still refers to."""
        self._scheduler.tell(_leave, str(self.site.folder))

    def _flush(self) -> None:
        tokens = [self._forgotten.popleft() for _ in range(len(self._forgotten))]
        if tokens:
            self._scheduler.tell(_forget, tokens)

    def _settle(self, homes: list[str]) -> dict[str, int]:
        """Give shards without a living home to those that have fewest; return threads by worker."""
        threads = wait_for_workers(self._scheduler)
        if new := sorted(set(threads) - self._admitted):
            self._admit(new)
            self._admitted.update(new)
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


def _added(add: Callable[[Any, Any], Any], found: list[Any]) -> Any:
    total = copy.deepcopy(found[0])  # `add` writes to it, and it may be asked for again
    for each in found[1:]:
        total = add(total, each)
    return total


# What follows runs on the workers.

_KEPT: dict[tuple[str, int], dict[str, Any]] = {}  # by token and number of a shard


def kept(token: str, number: int) -> dict[str, Any]:
    """Return what a shard keeps here; nothing, if it was not here before."""
    if (token, number) not in _KEPT:
        folders = {str(Path(other).parent) for other, _ in tuple(_KEPT)}
        for folder in folders:  # of runs that were killed, and had no time to say so
            if not Path(folder).exists():
                _leave(folder)
    return _KEPT.setdefault((token, number), {})


def _leave(folder: str) -> None:
    """Forget what was kept for the run of a folder, and let its files go."""
    _forget([token for token, _ in tuple(_KEPT) if str(Path(token).parent) == folder])
    release(folder)


def _forget(tokens: list[str]) -> None:
    for key in [key for key in tuple(_KEPT) if key[0] in tokens]:
        _KEPT.pop(key, None)


def fleet_of(X: Any) -> Fleet | None:
    """Return who works on the rows of a matrix beside this process, or None."""
    site = site_of(X)
    return site.fleet if site is not None and isinstance(site.fleet, Fleet) else None


def opened(value: Any) -> Any:
    """Return what was lent, or a value as it is."""
    return value.opened() if isinstance(value, Lent) else value
