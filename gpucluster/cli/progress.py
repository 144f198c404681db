"""The observers of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from gpucluster.cli.render import amount, duration, gigabytes
from gpucluster.cli.voice import Voice
from gpucluster.events import (
    Compiling,
    Event,
    Progress,
    RunOpened,
    StageFinished,
    StageRecord,
    StageStarted,
    Waiting,
    Warned,
)

SPOKEN_EVERY_S = 10.0
COMPILING = "compiling, once in this installation"
COMPILING_AGAIN = "compiling; set NUMBA_CACHE_DIR to a writable folder to do so once"


class Watcher(Protocol):
    """An observer of a run that hears of time and of the end."""

    def __call__(self, event: Event, /) -> None:
        """Show an event; from any thread."""

    def tick(self) -> None:
        """Show that time passes."""

    def close(self) -> None:
        """Show no more."""


def watcher(voice: Voice) -> Watcher:
    """Return the observer that fits where stderr goes."""
    if not voice.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Bars(voice)
    return Lines(voice)


@dataclass
class _Stage:
    """How far the stage that runs has come."""

    name: str
    begun: float
    done: int = 0
    total: int | None = None
    unit: str = ""

    def pace(self) -> str:
        """Return amounts, rate and expected rest, as far as they are known."""
        elapsed = max(time.monotonic() - self.begun, 1e-6)
        said = []
        if self.total:
            said.append(f"{amount(self.done)} of {amount(self.total)} {self.unit}")
        elif self.done:
            said.append(f"{amount(self.done)} {self.unit}")
        if self.done and self.done != self.total:
            said.append(f"{amount(self.done / elapsed)} {self.unit}/s")
        if self.done and self.total and self.done < self.total:
            said.append(f"{duration(elapsed * (self.total - self.done) / self.done)} left")
        return ", ".join(said)


class Lines:
    """A line when a stage begins, one when it ends, and one each 10 seconds between."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._lock = threading.Lock()
        self._stage: _Stage | None = None
        self._spoken = 0.0
        self._has_compiled = False

    def __call__(self, event: Event, /) -> None:
        """Say what happened."""
        with self._lock:
            match event:
                case StageStarted(stage=name):
                    self._spoken = time.monotonic()
                    self._stage = _Stage(name, self._spoken)
                    self._voice.say(f"{name} ...")
                case Progress() if self._stage is not None:
                    stage = self._stage
                    stage.done, stage.total, stage.unit = event.done, event.total, event.unit
                case StageFinished(record=record):
                    self._stage = None
                    self._voice.say(_finished(record, verbose=self._voice.verbose))
                case Warned(message=message):
                    self._voice.warn(message)
                case RunOpened(path=path):
                    self._voice.say(f"the run lies in {path}")
                case Waiting(seconds=seconds, reason=reason):
                    self._voice.say(_pause(seconds, reason))
                case Compiling(is_kept=is_kept) if not self._has_compiled:
                    self._has_compiled = True
                    self._voice.say(f"{COMPILING if is_kept else COMPILING_AGAIN} ...")

    def tick(self) -> None:
        """Say how far a long stage has come."""
        with self._lock:
            now = time.monotonic()
            if self._stage is not None and now - self._spoken >= SPOKEN_EVERY_S:
                self._spoken = now
                elapsed, pace = duration(now - self._stage.begun), self._stage.pace()
                self._voice.say(f"{self._stage.name}: {elapsed}{pace and f', {pace}'}")

    def close(self) -> None:
        """Do nothing: each line stands by itself."""


class Bars:
    """A bar for each stage, drawn by rich; the only thing that needs it."""

    def __init__(self, voice: Voice) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Display

        self._voice = voice
        self._stage: _Stage | None = None
        self._task: Any = None
        self._display = Display(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True, no_color=not voice.color),
        )
        self._display.start()

    def __call__(self, event: Event, /) -> None:
        """Draw what happened; rich locks for itself."""
        match event:
            case StageStarted(stage=name):
                self._stage = _Stage(name, time.monotonic())
                self._task = self._display.add_task(name, total=None, note="")
            case Progress() if self._stage is not None:
                stage = self._stage
                stage.done, stage.total, stage.unit = event.done, event.total, event.unit
                # what may follow when all is counted is not: the bar pulses again
                total = None if event.done == event.total else event.total
                self._display.update(
                    self._task, completed=event.done, total=total, note=stage.pace()
                )
            case StageFinished(record=record):
                note = _where(record) if self._voice.verbose or record.reused else ""
                self._display.update(self._task, completed=1, total=1, note=note)
                self._display.stop_task(self._task)
                self._stage = None
            case Warned(message=message):
                self._voice.warn(message)
            case RunOpened(path=path):
                self._voice.say(f"the run lies in {path}")
            case Waiting(seconds=seconds, reason=reason):
                self._voice.say(_pause(seconds, reason))
            case Compiling(is_kept=is_kept) if self._stage is not None:
                self._display.update(self._task, note=COMPILING if is_kept else COMPILING_AGAIN)

    def tick(self) -> None:
        """Do nothing: rich redraws by itself."""

    def close(self) -> None:
        """Leave the bars as they are."""
        self._display.stop()


def _pause(seconds: float, reason: str) -> str:
    return f"waiting {seconds:.1f} s: {reason}"


def _finished(record: StageRecord, *, verbose: bool) -> str:
    where = f", {_where(record)}" if verbose or record.reused else ""
    return f"{record.name}: done in {duration(record.seconds)}{where}"


def _where(record: StageRecord) -> str:
    """Say where a stage ran and why, or that it did not have to."""
    if record.reused:
        return "finished before, reused"
    return (
        f"{record.backend} on {record.device} ({record.executor}, {record.method}), "
        f"{gigabytes(record.peak_bytes)}: {record.reason}"
    )
