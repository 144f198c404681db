"""How much is done at a time, and for whom."""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable

from gpucluster.service.refusals import TooManyError

MOST_KNOWN = 100_000  # callers that are told apart
BURST_S = 2.0  # a caller that was quiet may send as much as in so many seconds


class Rate:
    """A bucket of tokens for each caller: what is sent in a second on average, and in a burst.

    Parameters
    ----------
    per_s : float
        Requests in a second.
    burst : float, optional
        Requests at once. Omitted: those of `BURST_S`.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self, per_s: float, burst: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._burst = burst or max(1.0, per_s * BURST_S)
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count a request; `TooManyError` where the caller sent too many."""
        now = self._clock()
        left, since = self._left.get(caller, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_s)
        if left < 1:
            raise TooManyError("too many requests", after_s=(1 - left) / self._per_s)
        self._left[caller] = left - 1, now
        self._left.move_to_end(caller)
        if len(self._left) > MOST_KNOWN:
            self._left.popitem(last=False)


class InFlight:
    """Requests that are worked on at a time.

    Parameters
    ----------
    most : int
        More are refused.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.n = 0

    def __enter__(self) -> None:
        if self.n >= self._most:
            raise TooManyError(f"{self._most:,} requests are being worked on")
        self.n += 1

    def __exit__(self, *_: object) -> None:
        self.n -= 1


MAX_DEPTH = 32  # of JSON
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def is_too_deep(body: bytes) -> bool:
    """Whether lists and objects of a JSON text lie deeper in each other than `MAX_DEPTH`."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _BRACKET.finditer(_TEXT.sub(b"", body)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def is_unicode(body: bytes) -> bool:
    """Whether all texts of a JSON text are Unicode: an escape may be half of a pair."""
    if not _SURROGATE.search(body):
        return True
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    except (ValueError, RecursionError):  # no JSON: whoever parses it says so
        return True
    return True
