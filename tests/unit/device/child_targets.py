"""What the tests of the supervised process call in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from gpucluster import errors
from gpucluster.events import Reporter


def echo(value: object) -> object:
    os.write(1, b"native libraries print to standard output\n")
    return value


def pid() -> int:
    return os.getpid()


def path() -> list[str]:
    return sys.path


def kill_me(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])


def abort() -> None:
    os.write(2, b"terminate called after throwing an instance of 'thrust::system_error'\n")
    os.abort()


def segfault() -> None:
    ctypes.string_at(0)


def exit_hard(code: int) -> None:
    os._exit(code)


def exit_soft() -> None:
    sys.exit("bye")


def hang(note: str | None = None) -> None:
    if note:
        Path(note).write_text(str(os.getpid()))
    time.sleep(1000)


def hang_in_native_code(note: str) -> None:
    Path(note).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the interpreter lock: no other thread runs


def hang_with_a_grandchild(note: str) -> None:
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(note).write_text(str(grandchild.pid))
    time.sleep(1000)


def die_and_leave_a_fork() -> None:
    if os.fork() == 0:
        time.sleep(1000)  # holds copies of the wire and of standard output
    os.abort()


def flood(n_bytes: int) -> int:
    os.write(2, b"x" * n_bytes)
    return n_bytes


def flood_and_abort(n_bytes: int) -> None:
    os.write(2, b"x" * n_bytes + b"\nthe last line\n")
    os.abort()


def hang_up() -> None:
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            socket.socket(fileno=int(fd.name)).shutdown(socket.SHUT_WR)
    time.sleep(1000)


def no_json() -> object:
    return object()


def fail(name: str, kwargs: dict[str, object]) -> None:
    raise getattr(errors, name)("it went wrong", hint="do better", **kwargs)


class ForeignError(errors.InputError):
    """A subclass that only this module knows."""


def fail_foreign() -> None:
    raise ForeignError("theirs", hint="ask them")


def fail_otherwise() -> None:
    raise ZeroDivisionError("several\n  lines")


def work(n: int, reporter: Reporter) -> str:
    for done in range(1, n + 1):
        reporter.progress(done, n, "blocks")
    other = reporter.for_stage("other")
    other.progress(1, None)
    other.fallback("went_slow", "the slow way is taken")
    return reporter.stage


def report_forever(reporter: Reporter) -> None:
    for n in range(1_000_000_000):
        reporter.progress(n, None)
