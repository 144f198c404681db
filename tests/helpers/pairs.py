"""Two servers as processes that share a catalog and a root, and are killed again and again."""

from __future__ import annotations

import random
import secrets
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx2
import psutil

from tests.helpers.serving import HEADERS, Killable

if TYPE_CHECKING:
    import pytest

MARK = "GPUCLUSTER_TEST_PAIR"  # in the environment of the servers, and of all that they start
SECONDS = 60
BUSY_S = 5.0  # for which a kill waits for a run to be worked on


class Pair:
    """Two servers, of which at least one lives at any time but short ones.

    Parameters
    ----------
    root : Path
    patch : pytest.MonkeyPatch
        Marks what they start.
    *options : str
        Of both.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, *options: str) -> None:
        self._mark = secrets.token_hex(8)
        patch.setenv(MARK, self._mark)
        logs = [root.parent / f"{name}.log" for name in "ab"]
        self._servers = [Killable(root, *options, log=log) for log in logs]
        self._urls: dict[int, str] = {}
        self._logs = logs
        self._client = httpx2.Client(headers=HEADERS, timeout=SECONDS)

    def __enter__(self) -> Self:
        """Start both at once."""
        threads = [threading.Thread(target=self._start, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert len(self._urls) == 2, self.said()
        return self

    def __exit__(self, *_: object) -> None:
        """End what a test that failed has left."""
        for server in self._servers:
            server.kill()
        self._client.close()

    def ask(self, chance: random.Random, method: str, path: str, **how: Any) -> httpx2.Response:
        """Ask whichever lives, and again until one answers, since answers may be lost."""
        until, seen = time.monotonic() + SECONDS, "nothing"
        while time.monotonic() < until:
            urls = list(self._urls.values())
            try:
                answer = self._client.request(method, chance.choice(urls) + path, **how)
            except (httpx2.TransportError, IndexError) as error:  # killed, or both are
                seen = repr(error)
            else:
                if answer.status_code < 500:
                    return answer
                seen = answer.text
            time.sleep(0.05)
        raise AssertionError(f"{method} {path}: {seen}\n{self.said()}")

    def kill(self, n: int, chance: random.Random, *, at_work: bool) -> None:
        """Kill one, while it works on a run where that is wished, and start it again."""
        server = self._servers[n]
        assert server.process is not None
        until = time.monotonic() + BUSY_S * at_work
        while not psutil.Process(server.process.pid).children() and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 1))
        del self._urls[n]
        server.stop(signal.SIGKILL)
        time.sleep(chance.uniform(0, 0.3))
        self._start(n)

    def stop(self) -> list[int]:
        """End both in order, and return their exit codes."""
        self._urls.clear()
        return [server.stop() for server in self._servers]

    def left(self) -> list[psutil.Process]:
        """Return all processes that either has started and that still live."""
        found = psutil.process_iter(["environ", "status"])
        return [each for each in found if (each.info["environ"] or {}).get(MARK) == self._mark]

    def said(self) -> str:
        """Return the end of what both have logged."""
        return "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in self._logs)

    def _start(self, n: int) -> None:
        self._urls[n] = str(self._servers[n].start().base_url).rstrip("/")


def wait_for(
    is_so: Callable[[], Any], seen: Callable[[], object], seconds: float = SECONDS
) -> None:
    """Wait until something is so; fail with what was seen."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, seen()
        time.sleep(0.1)
