"""Faults at every operation of a store that a crash can tell apart."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gpucluster.artifacts.store import Durable

T = TypeVar("T")

KILLS = ("killed before", "killed after", "torn, killed")
REFUSALS = ("ENOSPC", "EIO", "torn, ENOSPC")
ALL_KILLS = bool(os.environ.get("GPUCLUSTER_ALL_KILLS"))


class Faulty(Durable):
    """Do all as asked, but the n-th operation, a write to a file among them.

    Parameters
    ----------
    at : int
        Number of the operation, from 1; 0 is never reached.
    fault : str
        One of `KILLS` or `REFUSALS`; a torn write leaves half of its bytes.

    Attributes
    ----------
    operations : list of str
        Those that were asked for.
    """

    def __init__(self, at: int = 0, fault: str = "EIO") -> None:
        self.at = at
        self.fault = fault
        self.operations: list[str] = []

    def act(
        self, name: str, operation: Callable[[], T], half: Callable[[], object] = lambda: None
    ) -> T:
        """Do one operation; `half` is what a torn one does."""
        self.operations.append(name)
        if len(self.operations) != self.at:
            return operation()
        if self.fault == "killed after":
            operation()
        if self.fault.startswith("torn"):
            half()
        if self.fault in KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        number = errno.EIO if self.fault == "EIO" else errno.ENOSPC
        raise OSError(number, os.strerror(number))

    def open_temp(self, path: Path) -> io.FileIO:
        def open_torn() -> io.FileIO:
            file = io.FileIO(path, "x")
            write = file.write
            file.write = (  # type: ignore[method-assign]
                lambda data: self.act(
                    "write", lambda: write(data), lambda: write(bytes(data)[: len(data) // 2])
                )
            )
            return file

        return self.act("open_temp", open_torn)

    def make_folder(self, path: Path) -> None:
        self.act("make_folder", lambda: Durable.make_folder(self, path))

    def fsync_file(self, file: io.FileIO) -> None:
        self.act("fsync_file", lambda: Durable.fsync_file(self, file))

    def link(self, source: Path, target: Path) -> None:
        self.act("link", lambda: Durable.link(self, source, target))

    def replace(self, source: Path, target: Path) -> None:
        self.act("replace", lambda: Durable.replace(self, source, target))

    def unlink(self, path: Path) -> None:
        self.act("unlink", lambda: Durable.unlink(self, path))

    def fsync_dir(self, path: Path) -> None:
        self.act("fsync_dir", lambda: Durable.fsync_dir(self, path))


def due(operations: list[str], fault: str, *, every: bool = ALL_KILLS) -> list[int]:
    """Return the numbers of the operations that `fault` makes a difference to.

    Only writes can be torn. A flush changes nothing that the next process sees, so before it is
    before the operation that comes next, and so is after any other: of those, names are tried.
    With `every`, all are.
    """
    meant = {name for name in operations if not name.startswith("fsync")}
    if fault == "killed after":
        meant = {"link", "replace"}
    if every:
        meant = set(operations)
    if fault.startswith("torn"):
        meant = {"write"}
    return [n for n, name in enumerate(operations, 1) if name in meant]


def fork(work: Callable[[], object]) -> int:
    """Do `work` in a copy of this process; return its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: idle ones of Arrow
        pid = os.fork()
    if pid == 0:
        code = 99
        with contextlib.suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    return pid


def end_of(pid: int) -> int:
    """Wait for a process; return its exit code, or the number of its signal below zero."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_killed(work: Callable[[], object], after_s: float | None = None) -> bool:
    """Do `work` in a copy of this process, kill it after a while; return whether it was killed."""
    pid = fork(work)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)
    return end_of(pid) == -signal.SIGKILL


def temporary_files(root: Path) -> list[Path]:
    """Return what writers have left below `root`."""
    return list(root.rglob(".*.tmp"))
