"""The exit codes, and which error leads to which."""

from __future__ import annotations

import signal

import click

from gpucluster.errors import (
    ArtifactError,
    ClientError,
    ConfigError,
    DeviceError,
    ExecutorError,
    InputError,
    SourceError,
    StageCrashedError,
    StoreError,
)

BUG, USAGE, CANNOT, PARTIAL, INPUT, REMOTE, REFUSED = 1, 2, 3, 4, 5, 6, 7

MEANINGS = {
    0: "done",
    BUG: "a bug in gpucluster; a file with its trace is named",
    USAGE: "the command line or the definition is wrong",
    CANNOT: "it will not fit, or a device, a library or a cluster is missing",
    PARTIAL: "done, but clusters have no name, or not a new one: the model did not name them",
    INPUT: "an input or a run is missing, damaged or unsuitable",
    REMOTE: "a service refused, failed, or was not reached",
    REFUSED: "writing was refused: disk full, no permission, another process at work",
    128 + signal.SIGINT: "stopped by SIGINT (Ctrl-C)",
    128 + signal.SIGTERM: "stopped by SIGTERM",
}

_CODES: dict[type[BaseException], int] = {
    click.ClickException: USAGE,
    ConfigError: USAGE,
    DeviceError: CANNOT,
    ExecutorError: CANNOT,
    StageCrashedError: CANNOT,
    MemoryError: CANNOT,
    InputError: INPUT,
    SourceError: INPUT,
    ArtifactError: INPUT,
    ClientError: REMOTE,
    StoreError: REFUSED,
    click.Abort: 128 + signal.SIGINT,  # what click makes of a KeyboardInterrupt
}


class Stopped(BaseException):
    """A signal ended the command; like KeyboardInterrupt, nothing on the way catches it.

    Parameters
    ----------
    signum : int
        SIGINT or SIGTERM.
    hint : str, optional
        How to go on.
    at_once : bool
        Whether a thread is still at work, so that the interpreter cannot end in order.
    """

    code = "cancelled"
    retryable = True

    def __init__(self, signum: int, hint: str | None = None, *, at_once: bool = False) -> None:
        super().__init__(signum, hint)
        self.message = f"stopped by {signal.Signals(signum).name}"
        self.hint = hint
        self.signum = signum
        self.at_once = at_once


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that `error` ended."""
    if isinstance(error, Stopped):
        return 128 + error.signum
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), BUG)
