"""What is asked of Dask, and what it means when there is no answer, or another."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, TypeAlias

from gpucluster.errors import ExecutorError

LOOK_S = 0.2  # between looks at who is there
NO_WORKER_S = 60.0  # in which another one is started in the place of the last that died
RETRIES = 3  # of a call on which workers died
MOST_LOSSES = 10  # of all workers, in one pass over the rows

Future: TypeAlias = Any  # of distributed, which is imported where it is used


class Scheduler:
    """The scheduler of a cluster.

    Parameters
    ----------
    client : distributed.Client

    Notes
    -----
    All methods raise `ExecutorError` when it is gone.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def is_there(self) -> bool:
        """Whether it can be asked."""
        return self._client.status in {"running", "connecting"}

    def threads(self) -> dict[str, int]:
        """Return the threads of each worker, by its address."""
        with self._asking():
            return dict(self._client.nthreads())

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> Future:
        """Have a function called, by Dask's ``Client.submit``."""
        with self._asking():
            return self._client.submit(function, *args, **options)

    def tell(self, function: Callable[..., Any], *args: Any) -> None:
        """Have a function called on each worker, whatever comes of it."""
        with self._asking():
            self._client.run(function, *args, on_error="ignore")

    def result(self, future: Future, timeout_s: float) -> Any:
        """Return the result of a call.

        Raises
        ------
        Late
            It did not come so soon.
        Lost
            It was lost after the call, and so was who should have repeated it.
        """
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        try:
            with self._asking(CommClosedError):  # another OSError is what the work has raised
                return future.result(timeout=timeout_s)
        except KilledWorker as error:
            raise Lost([], int(error.allowed_failures) + 1) from error
        except ExecutorError as error:
            if isinstance(error.__cause__, TimeoutError) and self.is_there:
                raise Late from error
            raise

    def gone(self) -> ExecutorError:
        """Return the error that it is gone."""
        return ExecutorError(
            f"the Dask scheduler {self._client.scheduler.address} is gone",
            hint="start it, then run again: finished stages are kept",
        )

    def without_workers(self) -> ExecutorError:
        """Return the error that nobody works for it."""
        return ExecutorError(
            f"the Dask scheduler {self._client.scheduler.address} has no workers any more",
            hint="start some, then run again: finished stages are kept",
        )

    @contextmanager
    def _asking(self, kind: type[OSError] = OSError) -> Iterator[None]:
        """Say that it is gone where it does not answer; an error of the `kind` says that too."""
        if not self.is_there:
            raise self.gone()
        try:
            yield
        except (kind, CancelledError, TimeoutError) as error:
            raise self.gone() from error


class Late(Exception):  # noqa: N818 - no error yet
    """A result has not come in time."""


class Lost(Exception):  # noqa: N818 - no error yet: the work may be begun again
    """All workers have died, or those who had a result.

    Parameters
    ----------
    names : list of str
        The calls that were under way.
    n_workers : int
        How many have died.
    """

    def __init__(self, names: list[str], n_workers: int) -> None:
        super().__init__(names, n_workers)
        self.names, self.n_workers = names, n_workers


class Losses:
    """What died, and on what: calls may be begun again, but not for ever."""

    def __init__(self) -> None:
        self._deaths: Counter[str] = Counter()
        self.count = 0

    def add(self, lost: Lost) -> None:
        """Take note of a loss.

        Raises
        ------
        ExecutorError
            It was one too many, for one call or for all.
        """
        self.count += 1
        self._deaths.update(dict.fromkeys(lost.names, lost.n_workers))
        for name, deaths in self._deaths.most_common(1):
            require_few(name, deaths)
        if self.count > MOST_LOSSES:
            raise ExecutorError(
                f"workers died with their results, {self.count} times in one pass over the rows"
            )


class Watch:
    """Sees whether there still is somebody to wait for.

    Parameters
    ----------
    scheduler : Scheduler
    workers : dict of str to int
        Those that are there.
    """

    def __init__(self, scheduler: Scheduler, workers: Mapping[str, int]) -> None:
        self._scheduler, self._seen = scheduler, set(workers)

    def look(self, names: list[str]) -> None:
        """Raise where nobody is left who could bring results of some calls."""
        living = set(self._scheduler.threads())
        if not self._seen & living:
            raise Lost(names, len(self._seen))
        self._seen = living

    def check(self, future: Future) -> int:
        """Return how many workers have died on a call, or 0; raise what it has raised."""
        from distributed import KilledWorker

        if future.status == "finished":
            return 0
        if future.status != "error":  # cancelled or lost: its scheduler is
            raise self._scheduler.gone()
        error = future.exception()
        if isinstance(error, KilledWorker):
            return int(error.allowed_failures) + 1
        raise error


def wait_for_workers(scheduler: Scheduler) -> dict[str, int]:
    """Return the threads of each worker, as soon as there is one."""
    begun = time.monotonic()
    while not (threads := scheduler.threads()):
        if time.monotonic() - begun > NO_WORKER_S:
            raise scheduler.without_workers()
        time.sleep(LOOK_S)
    return threads


def require_few(name: str, n_workers: int) -> None:
    """Raise where more workers died on a call than it is begun again for."""
    if n_workers > RETRIES:
        raise ExecutorError(
            f"{name}: {n_workers} workers died on it",
            hint="do they have memory enough? The logs of the workers say why they died",
        )
