"""Run one command to its end and say what it took: wall, CPU, memory, and who else was at work.

Peak memory has two traps on Linux. What a child reports is at least what the process that
started it had, so this process stays small. And a process can forget its own high-water mark,
as gpucluster does to give each stage a peak of its own, so the mark is also read from outside
while the process runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02
OTHERS_LIMIT = 0.15  # share of the machine; above it a time is not to be trusted
STOPPED = "stopped after "


@dataclass(frozen=True)
class Usage:
    """What a process took, its own children included.

    Attributes
    ----------
    seconds : float
        Wall, from the start of the process to its end.
    cpu_seconds : float
        User and system time.
    peak_mb : float
        Resident memory of the largest process, in 1e6 bytes.
    others : float
        Share of the machine's CPU that went to other processes.
    error : str or None
        Why there is no answer.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    others: float
    error: str | None


def run(command: list[str], *, env: Mapping[str, str | None], log: Path, limit_s: float) -> Usage:
    """Run `command`; `env` changes the environment, None removes a variable."""
    wanted = {**os.environ, **env}
    environment = {name: value for name, value in wanted.items() if value is not None}
    busy_before, total_before = _machine_ticks()
    begun = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watcher = _Watcher(process.pid, limit_s)
        watcher.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            watcher.ended.set()
            watcher.join()
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    busy, total = _machine_ticks()
    cpu_seconds = used.ru_utime + used.ru_stime
    own_ticks = cpu_seconds * os.sysconf("SC_CLK_TCK")
    error = None
    if process.returncode:
        stopped = f"{STOPPED}{limit_s:.0f} s"
        error = stopped if watcher.stopped else _last_line(log, process.returncode)
    return Usage(
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        peak_mb=max(used.ru_maxrss * 1024, watcher.peak_bytes) / 1e6,
        others=max(0.0, (busy - busy_before - own_ticks) / max(1, total - total_before)),
        error=error,
    )


def was_stopped(error: str | None) -> bool:
    """Whether the `error` of a `Usage` says that the time was over."""
    return error is not None and error.startswith(STOPPED)


class _Watcher(threading.Thread):
    """Follows the high-water mark of a process, and stops it after its time."""

    def __init__(self, pid: int, limit_s: float) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.deadline = time.monotonic() + limit_s
        self.ended = threading.Event()
        self.peak_bytes = 0
        self.stopped = False

    def run(self) -> None:
        """Watch until the process ends or its time is over."""
        while not self.ended.wait(POLL_S):
            try:
                lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
            except OSError:  # it has just ended
                return
            marks = [int(text.split()[1]) for text in lines if text.startswith("VmHWM:")]
            self.peak_bytes = max([self.peak_bytes, *(mark * 1024 for mark in marks)])
            if time.monotonic() > self.deadline:
                self.stopped = True
                os.killpg(self.pid, signal.SIGKILL)
                return


def _machine_ticks() -> tuple[int, int]:
    """Return the ticks that all cores have worked, and all there were."""
    first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    user, nice, system, idle, iowait, *rest = map(int, first.split()[1:9])
    busy = user + nice + system + sum(rest)
    return busy, busy + idle + iowait


def _last_line(log: Path, code: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"exit code {code}: {lines[-1] if lines else 'nothing was said'}"
