"""A program of the user's own in the place of a model."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from gpucluster.errors import ConfigError
from gpucluster.labeling.model.failures import CallError, redacted
from gpucluster.labeling.model.protocol import Question, Reply
from gpucluster.notation import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMMAND: Final = "GPUCLUSTER_LABEL_COMMAND"
MAX_REPLY_BYTES: Final = 1_000_000


def command() -> tuple[str, ...]:
    """Return the program and its arguments.

    They come from the environment alone: no definition can name a program to be run.

    Returns
    -------
    tuple of str

    Raises
    ------
    ConfigError
        The variable is not set, or there is no such program.
    """
    path = "llm_labeling.provider"
    try:
        words = tuple(shlex.split(os.environ.get(COMMAND, "")))
    except ValueError as error:
        raise ConfigError(f"cannot read {COMMAND}: {error}", path=path) from None
    if not words:
        raise ConfigError(
            "the provider command runs a program of yours, and none is named",
            path=path,
            hint=f"set {COMMAND} to the program and its arguments",
        )
    if shutil.which(words[0]) is None:
        raise ConfigError(
            f"{COMMAND} names {shown(words[0], 60)}, which is no program that can be run here",
            path=path,
        )
    return words


class Program:
    """Reads a question as JSON on its standard input, and writes the reply on its output.

    Parameters
    ----------
    argv : sequence of str
        It is run without a shell, once for each question.
    timeout_s : float
    """

    def __init__(self, argv: Sequence[str], timeout_s: float) -> None:
        self._argv = tuple(argv)
        self._timeout_s = timeout_s

    def ask(self, question: Question) -> Reply:
        """Run the program with a question.

        Raises
        ------
        CallError
            It failed, took too long, or wrote what is no text.
        """
        body = {
            "messages": list(question.messages),
            "schema": question.schema,
            "max_tokens": question.max_tokens,
        }
        out = self._run(json.dumps(body).encode())
        if len(out) > MAX_REPLY_BYTES:
            message = f"the program wrote more than {MAX_REPLY_BYTES:,} bytes"
            raise CallError(message, "malformed", is_billed=True)
        try:
            return Reply(out.decode().strip(), "stop", None, None)
        except UnicodeDecodeError:
            message = "the program wrote what is not UTF-8"
            raise CallError(message, "malformed", is_billed=True) from None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Refuse: programs embed nothing."""
        raise CallError("the provider command embeds nothing", "rejected")

    def close(self) -> None:
        """Do nothing: no program is left running."""

    def _run(self, given: bytes) -> bytes:
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that its children end with it
            )
        except OSError as error:
            raise CallError(f"cannot run {self._argv[0]}: {error.strerror}", "not_found") from None
        with process:
            try:
                out, err = process.communicate(given, self._timeout_s)
            except subprocess.TimeoutExpired:
                _kill(process)
                message = f"the program did not end within {self._timeout_s:g} s"
                raise CallError(message, "timeout") from None
            except BaseException:
                _kill(process)
                raise
        if process.returncode:
            last = err.decode(errors="replace").strip().rpartition("\n")[2]
            message = f"the program ended with code {process.returncode}: {redacted(last)}"
            raise CallError(shown(message, 300), "unavailable")
        return out


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a program that still runs, with its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
