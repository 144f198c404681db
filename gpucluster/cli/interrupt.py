"""Work that SIGINT and SIGTERM stop in order."""

from __future__ import annotations

import queue
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from gpucluster.cli.exits import Stopped
from gpucluster.errors import Cancelled
from gpucluster.events import CancelToken

T = TypeVar("T")

TICK_S = 1.0
DOUBLED_S = 0.5  # the same signal so soon is the same wish: timeout(1) sends it twice


def interruptible(
    work: Callable[[CancelToken], T],
    *,
    hint: str,
    say: Callable[[str], None],
    tick: Callable[[], None],
) -> T:
    """Do `work` in a thread, so that this one hears signals while native code runs.

    The first signal raises the cancel token: the work stops at its next block. The second
    one does not wait for that.

    Parameters
    ----------
    work : callable
        Gets the token, and raises `Cancelled` some time after it was raised.
    hint : str
        How to go on afterwards.
    say : callable
        Tells people that the first signal was heard.
    tick : callable
        Called every `TICK_S` seconds.

    Returns
    -------
    T
        What `work` returned.

    Raises
    ------
    Stopped
        A signal ended it.
    """
    token = CancelToken()
    future: Future[T] = Future()
    news: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # a signal, or None: finished

    def body() -> None:
        try:
            future.set_result(work(token))
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            future.set_exception(error)
        news.put(None)

    first, since = 0, 0.0
    with _signals_to(news.put):
        threading.Thread(target=body, daemon=True).start()
        while True:
            try:
                signum = news.get(timeout=TICK_S)
            except queue.Empty:
                tick()
                continue
            if signum is None:
                break
            if not token.cancelled:
                token.cancel()
                first, since = signum, time.monotonic()
                say("stopping after the work at hand; a second signal stops at once")
            elif time.monotonic() - since > DOUBLED_S:
                raise Stopped(signum, hint, at_once=True)
        try:
            return future.result()
        except Cancelled as error:
            raise Stopped(first, hint) from error


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Make SIGTERM end the command in order wherever it is, as SIGINT does by itself."""

    def stop(signum: int, _: object) -> None:
        raise Stopped(signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def typed_command() -> str:
    """Return the command line of this process, as it can be typed again."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return shlex.join([sys.executable, "-m", "gpucluster", *sys.argv[1:]])
    is_on_path = shutil.which(program.name) == str(program)
    return shlex.join([program.name if is_on_path else str(program), *sys.argv[1:]])


@contextmanager
def _signals_to(heard: Callable[[int], None]) -> Iterator[None]:
    """Pass SIGINT and SIGTERM to `heard`."""
    before = {
        signum: signal.signal(signum, lambda number, _: heard(number))
        for signum in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
