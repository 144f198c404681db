"""When a failed call is made again, and when no longer.

All threads share one `Patience`, so that what one of them learns of the server holds for all: a
rate limit slows everybody, and a server that fails always is left alone after seconds.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, TypeVar

from gpucluster.events import CancelToken
from gpucluster.labeling.model.failures import CallError

T = TypeVar("T")

ATTEMPTS: Final = 8  # of one call, beside those that met a rate limit
MOST_ATTEMPTS: Final = 100  # of one call, whatever they met
BACKOFF_S: Final = 0.5  # doubled with each attempt
MAX_BACKOFF_S: Final = 20.0
MAX_RETRY_AFTER_S: Final = 120.0
MAX_STRAIGHT: Final = 10  # failures of any calls, without an answer between them
LIMITED_S: Final = 0.1  # of a pause of all after a rate limit; doubled with each until an answer
COOL_DOWN_S: Final = 2.0  # doubled with each probe that fails
MAX_PROBES: Final = 3
RATE_LIMIT_S: Final = 120.0  # of nothing but rate limits
_POLL_S = 0.1


class GaveUp(Exception):  # noqa: N818 - an outcome that callers plan for
    """A call was not answered; the message says why."""


class Stopped(GaveUp):
    """No call will be answered: a failure is fatal, the server fails always, or `stop` said so."""


class Patience:
    """Makes calls, from any number of threads, and makes them again while that may help.

    Parameters
    ----------
    cancel : CancelToken, optional
        Ends every wait at once.
    on_wait : callable, optional
        Gets the seconds and the reason of each pause of all threads; from any thread.
    attempts : int
        Most attempts of one call.
    rate_limit_s : float
        How long rate limits may be all that any call gets.
    seed : int
        Of the jitter.
    clock, sleep : callable
        Of seconds that only grow.

    Attributes
    ----------
    calls : int
        Attempts that were made.
    retries : int
        Those of them that repeated one.
    waited_s : float
        Seconds that calls have waited, of all threads together.
    """

    def __init__(
        self,
        *,
        cancel: CancelToken | None = None,
        on_wait: Callable[[float, str], object] | None = None,
        attempts: int = ATTEMPTS,
        rate_limit_s: float = RATE_LIMIT_S,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._cancel = cancel or CancelToken()
        self._on_wait = on_wait
        self._attempts, self._rate_limit_s = attempts, rate_limit_s
        self._random = random.Random(seed)  # noqa: S311 - jitter is no secret
        self._clock, self._sleep = clock, sleep
        self._changed = threading.Condition()
        self._on_way = 0
        # how many calls may be on their way: all, until a server has said that it is too many
        self._window: float | None = None
        self._not_before = 0.0
        self._straight = 0  # failures since the last answer
        self._probes = 0  # failed ones since the last answer
        self._is_open, self._is_probing = False, False
        self._limited_since: float | None = None  # the first rate limit since the last answer
        self._limits = 0  # pauses because of one since then
        self._stopped: str | None = None
        self.calls = 0
        self.retries = 0
        self.waited_s = 0.0

    def call(
        self, attempt: Callable[[], T], within: AbstractContextManager[object] | None = None
    ) -> T:
        """Return what `attempt` returns, which is tried again while that may help.

        Parameters
        ----------
        attempt : callable
            Raises `CallError`; any other exception passes through.
        within : context manager, optional
            Entered for each attempt, before it waits for its turn.

        Returns
        -------
        object

        Raises
        ------
        GaveUp
            It failed too often, or this call cannot succeed.
        Stopped
            No call can succeed.
        Cancelled
            Somebody asked to stop.
        """
        failed = 0  # a rate limit is no failure of this call
        for tried in itertools.count(1):
            with within or nullcontext(), self._turn(tried) as is_probe:
                try:
                    result = attempt()
                except CallError as error:
                    failure = error
                    self._note(failure, is_probe=is_probe)
                else:
                    self._note(None, is_probe=is_probe)
                    return result
            if self._stopped is not None:
                raise Stopped(self._stopped) from failure
            failed += failure.kind != "rate_limited"
            if not failure.retryable or failed >= self._attempts or tried >= MOST_ATTEMPTS:
                raise GaveUp(str(failure)) from failure
            self._wait(self._clock() + self._backoff(failure, tried))
        raise AssertionError("the loop ends by itself")

    def stop(self, why: str) -> None:
        """Let no call begin any more and end all waits: with `Stopped`, which says why.

        Parameters
        ----------
        why : str
            One line. A reason that was there before stays.
        """
        with self._changed:
            self._stopped = self._stopped or why
            self._changed.notify_all()

    @contextmanager
    def _turn(self, tried: int) -> Iterator[bool]:
        """Wait until an attempt may be made; say whether it is a probe of a failing server."""
        is_probe = self._enter(tried)
        try:
            yield is_probe
        finally:
            with self._changed:
                self._on_way -= 1
                self._is_probing = self._is_probing and not is_probe
                self._changed.notify_all()

    def _enter(self, tried: int) -> bool:
        while True:
            with self._changed:
                self._check()
                not_before = self._not_before
                if not_before <= self._clock():
                    if not self._is_full():
                        self._on_way += 1
                        self.calls += 1
                        self.retries += tried > 1
                        self._is_probing = self._is_open
                        return self._is_open
                    since = self._clock()
                    self._changed.wait(_POLL_S)
                    self.waited_s += self._clock() - since
                    continue
            self._wait(not_before)

    def _is_full(self) -> bool:
        if self._is_open:
            return self._is_probing
        return self._window is not None and self._on_way >= max(1.0, self._window)

    def _check(self) -> None:
        self._cancel.raise_if_cancelled()
        if self._stopped is not None:
            raise Stopped(self._stopped)

    def _wait(self, until: float) -> None:
        """Wait, unless somebody cancels, or no call can succeed any more."""
        since = self._clock()
        try:
            while (left := until - self._clock()) > 0:
                self._check()
                self._sleep(min(left, _POLL_S))
            self._check()
        finally:
            with self._changed:
                self.waited_s += self._clock() - since

    def _backoff(self, failure: CallError, tried: int) -> float:
        """Return how long one call waits, beside the pauses of all."""
        longest = BACKOFF_S
        if failure.retry_after_s is None:
            longest = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (tried - 1))
        with self._changed:
            return self._random.uniform(0.0, longest)

    def _note(self, failure: CallError | None, *, is_probe: bool) -> None:
        """Learn from the outcome of an attempt."""
        with self._changed:
            pause = self._learn(failure, is_probe=is_probe)
            until = self._clock() + pause
            is_new = pause > 0 and self._not_before <= self._clock()
            self._not_before = max(self._not_before, until)
        if is_new and failure is not None and self._on_wait is not None:
            self._on_wait(pause, failure.message)

    def _learn(self, failure: CallError | None, *, is_probe: bool) -> float:
        """Return how long all calls pause after an attempt."""
        if failure is None or failure.kind in {"rejected", "refused"}:
            self._straight, self._probes, self._is_open = 0, 0, False
            self._limited_since, self._limits = None, 0
            if self._window is not None:
                self._window += 1 / max(1.0, self._window)
            return 0.0
        if failure.fatal:
            self._stopped = self._stopped or str(failure)
            return 0.0
        asked = min(failure.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
        if failure.kind == "rate_limited":
            pause = self._limit(failure, asked, is_probe=is_probe)
            return pause if self._stopped is None else 0.0
        self._straight += 1
        if is_probe:
            self._probes += 1
            if self._probes >= MAX_PROBES:
                self._stopped = self._stopped or f"the server keeps failing: {failure}"
                return 0.0
        elif self._is_open or self._straight < MAX_STRAIGHT:
            return asked
        self._is_open = True
        return max(asked, COOL_DOWN_S * 2.0**self._probes)

    def _limit(self, failure: CallError, asked: float, *, is_probe: bool) -> float:
        """Let fewer calls be on their way, and none when nothing else has come for long.

        Returns how long all pause: as the server asks, or longer with each time.
        """
        now = self._clock()
        if self._limited_since is None:
            self._limited_since = now
        # what else is on its way may be a long answer
        if now - self._limited_since >= self._rate_limit_s and self._on_way == 1:
            why = f"the server has answered nothing for {self._rate_limit_s:g} s: {failure}"
            self._stopped = self._stopped or why
        if is_probe:  # it speaks again
            self._straight, self._is_open = 0, False
        if self._not_before > now:  # once, however many were refused
            return asked
        self._window = max(1.0, (self._on_way if self._window is None else self._window) / 2)
        self._limits += 1
        return asked or min(MAX_BACKOFF_S, LIMITED_S * 2.0 ** (self._limits - 1))
