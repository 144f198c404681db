"""What the engine says while it works, and how it is told to stop.

The engine never prints. It calls an `Observer` with frozen events and asks a
`CancelToken` between blocks; what becomes of them is the edge's business.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from gpucluster import errors
from gpucluster.errors import Cancelled, FallbackWarning, GpuclusterWarning


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What one stage did; the same record goes to the observer and the manifest.

    `seconds` is wall time, `peak_bytes` the largest resident memory of the process
    while the stage ran, beside matrices on disk without the pages of files; `storage` where
    matrices of all rows lay, `reused` whether a checkpoint answered for it.
    """

    name: str
    device: str
    backend: str
    executor: str
    reason: str
    seconds: float
    peak_bytes: int
    planned_bytes: int | None = None
    planned_seconds: float | None = None
    method: str = "exact"
    reused: bool = False
    storage: str = "memory"


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins."""

    stage: str


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of a stage are finished; `total` is None when unknown."""

    stage: str
    done: int
    total: int | None
    unit: str = "rows"


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended well."""

    record: StageRecord


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user should know: also in the manifest, with the same `code`.

    `category` names the class of the Python warning, in `gpucluster.errors`.
    """

    code: str
    message: str
    category: str = "GpuclusterWarning"


@dataclass(frozen=True, slots=True)
class RunOpened:
    """The run's directory is known from here on."""

    run_id: str
    path: str


@dataclass(frozen=True, slots=True)
class Compiling:
    """A kernel is being compiled: once in an installation where that is kept, else each time."""

    kernel: str
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stage pauses, because somebody else asks for it: a server that limits its callers."""

    stage: str
    seconds: float
    reason: str


Event = StageStarted | Progress | StageFinished | Warned | RunOpened | Compiling | Waiting


class Observer(Protocol):
    """Anything that can be called with an event; it must not raise."""

    def __call__(self, event: Event, /) -> None:
        """Take note of `event`."""


def ignore(event: Event, /) -> None:
    """Observe nothing."""


_HEARING: list[Observer] = []  # by the whole process, as compiled code is


@contextmanager
def hearing_compilations(observer: Observer) -> Iterator[None]:
    """Tell an observer of kernels that are compiled meanwhile, by whichever thread."""
    _HEARING.append(observer)
    try:
        yield
    finally:
        _HEARING.remove(observer)


def announce_compilation(kernel: str, *, is_kept: bool) -> None:
    """Tell whoever listens that a kernel is being compiled."""
    for observer in tuple(_HEARING):
        observer(Compiling(kernel, is_kept))


class CancelToken:
    """A flag that another thread, or a signal handler, raises to stop a run."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask for a stop; the work ends at its next block."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` when a stop was asked for."""
        if self._event.is_set():
            raise Cancelled("stopped as asked")


class Midway(Protocol):
    """Where a long stage keeps its state on the way, so that one that was stopped goes on there."""

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last one that the next is worth its cost."""

    def get(self) -> Mapping[str, Any] | None:
        """Return the arrays that were kept last, or None."""

    def put(self, arrays: Mapping[str, Any]) -> None:
        """Keep arrays, by name, in the place of earlier ones."""


class Reporter:
    """The view of one stage on observer and cancel token; stages get this and nothing else."""

    def __init__(
        self, stage: str = "", observer: Observer = ignore, cancel: CancelToken | None = None
    ) -> None:
        self.stage = stage
        self.observer = observer
        self.cancel = cancel or CancelToken()
        self.midway: Midway | None = None
        self.warnings: list[Warned] = []

    def progress(self, done: int, total: int | None, unit: str = "rows") -> None:
        """Report progress, and stop here when a stop was asked for."""
        self.cancel.raise_if_cancelled()
        self.observer(Progress(self.stage, done, total, unit))

    def warn(
        self, code: str, message: str, category: type[GpuclusterWarning] = GpuclusterWarning
    ) -> None:
        """Say it to the observer, to the manifest and as a Python warning; once."""
        self.repeat(Warned(code, message, category.__name__))

    def repeat(self, warned: Warned) -> None:
        """Say what was found out before: by a plan, or by a stage that is reused."""
        if warned in self.warnings:
            return
        self.warnings.append(warned)
        self.observer(warned)
        warnings.warn(warned.message, getattr(errors, warned.category), stacklevel=4)

    def fallback(self, code: str, message: str) -> None:
        """Announce that something other than what was asked for is being used."""
        self.warn(code, message, FallbackWarning)

    def for_stage(self, stage: str) -> Reporter:
        """Return the same reporter, speaking for another stage."""
        other = Reporter(stage, self.observer, self.cancel)
        other.warnings = self.warnings
        return other


class Muted(Reporter):
    """Collects warnings, and says none of them."""

    def repeat(self, warned: Warned) -> None:
        """Keep `warned` for whoever asks."""
        if warned not in self.warnings:
            self.warnings.append(warned)
