"""How a command speaks: data on stdout, talk on stderr. Nothing else in the package prints."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import click

from gpucluster.cli.exits import BUG, Stopped, exit_code
from gpucluster.errors import GpuclusterError, GpuclusterWarning, StoreError
from gpucluster.report.numbers import one_line

# every command reads GPUCLUSTER_DEVICE, none reads GPUCLUSTER_RUN_DEVICE
SETTINGS = {"auto_envvar_prefix": "GPUCLUSTER", "max_content_width": 100}


class Voice:
    """The manner of speaking that the options of a command ask for.

    Parameters
    ----------
    as_json : bool
        The answer is one JSON object instead of text.
    quiet : bool
        Nothing on stderr but errors.
    verbose : bool
        Where each stage ran, and why.
    color : bool
        Whether progress may have colours.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        color: bool = True,
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self.color = color
        self._warned: set[str] = set()

    def answer(self, record: Mapping[str, Any], text: Callable[[], str] | None = None) -> None:
        """Write the result of the command: `text` where there is one and JSON was not asked for."""
        _write(sys.stdout, _json(record) if self.as_json or text is None else text())

    def say(self, text: str) -> None:
        """Write a line for people."""
        if not self.quiet:
            _write(sys.stderr, one_line(text))

    def warn(self, text: str) -> None:
        """Write a warning, once."""
        if text not in self._warned:
            self._warned.add(text)
            self.say(f"warning: {text}")

    @contextmanager
    def hearing_warnings(self) -> Iterator[None]:
        """Say the Python warnings of gpucluster, and drop those of the libraries."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", GpuclusterWarning)
            warnings.showwarning = lambda message, *_, **__: self.warn(str(message))
            yield


def speaking(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options about its output, and call it with a `Voice` made of them."""

    @functools.wraps(function)
    def command(*, as_json: bool, quiet: bool, verbose: bool, no_color: bool, **given: Any) -> None:
        color = not (no_color or os.environ.get("NO_COLOR"))
        voice = Voice(as_json=as_json, quiet=quiet, verbose=verbose, color=color)
        with voice.hearing_warnings():
            function(voice, **given)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


# The first and the last are read off the command line by `report`, so that they hold for errors
# in the other options too; the environment does not set them.
_OPTIONS = (
    click.option(
        "--json", "as_json", is_flag=True, allow_from_autoenv=False, help="Answer in JSON."
    ),
    click.option("--quiet", "-q", is_flag=True, help="Nothing on stderr but errors."),
    click.option("--verbose", "-v", is_flag=True, help="Where each stage ran, and why."),
    click.option("--no-color", is_flag=True, help="No colours; NO_COLOR does the same."),
    click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        allow_from_autoenv=False,
        help="Show the traceback of an error.",
    ),
)


def report(error: BaseException, argv: list[str]) -> int:
    """Say why a command ended, in one line or as JSON, and return its exit code."""
    record = error_record(error)
    code = exit_code(error)
    if code == BUG:
        record["hint"] = f"this is a bug, please report it with {_trace_file(error, argv)}"
    if "--json" in argv:
        _write(sys.stdout, _json({"error": record}))
    else:
        stop = "" if record["message"].endswith("?") else "."
        hint = f"{stop} {record['hint']}" if record["hint"] else ""
        _write(sys.stderr, f"error: {record['message']}{hint}")
    if "--debug" in argv:
        _write(sys.stderr, "".join(traceback.format_exception(error)))
    return code


def leave(error: BaseException, code: int) -> None:
    """End the process where a thread that is still at work would not let it end."""
    if isinstance(error, Stopped) and error.at_once:
        os._exit(code)


def error_record(error: BaseException) -> dict[str, Any]:
    """Return code, message, hint and whether trying again may help."""
    code, hint, retryable = "internal", None, False
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, GpuclusterError | Stopped):
        code, message, hint, retryable = error.code, error.message, error.hint, error.retryable
    elif isinstance(error, click.ClickException):
        code, message = "usage", error.format_message().rstrip(".")
        message = message[:1].lower() + message[1:]
        context = getattr(error, "ctx", None)
        hint = f"see {context.command_path} --help" if context else None
    elif isinstance(error, MemoryError):
        code, message, retryable = "out_of_memory", f"out of memory ({error})", True
        hint = "try --sample-size"
    elif isinstance(error, click.Abort):
        code, message, retryable = "cancelled", "stopped by SIGINT", True
    return {
        "code": code,
        "message": one_line(message),
        "hint": hint and one_line(hint),
        "retryable": retryable,
    }


def _trace_file(error: BaseException, argv: list[str]) -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="gpucluster-trace-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        from gpucluster import __version__

        file.write(f"gpucluster {__version__}, Python {sys.version}\n{argv}\n\n")
        file.writelines(traceback.format_exception(error))
    return file.name


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, allow_nan=False)


def _write(stream: TextIO, text: str) -> None:
    """Write a line; a reader that has seen enough is no error, and talk that fails is none."""
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
    except OSError as error:
        # what is still in the buffer would fail again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise StoreError(f"cannot write to {stream.name}: {error.strerror}") from error
