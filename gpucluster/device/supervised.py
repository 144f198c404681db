"""The other side of `gpucluster.device.child`: what runs in the supervised process.

It answers one request after the other. A request is one line of JSON,
``{"target", "kwargs", "stage"}``; the answer is any number of ``progress`` and ``warning``
lines and one ``result`` or ``error``.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import json
import os
import queue
import re
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeAlias

from gpucluster import errors
from gpucluster.errors import GpuclusterError, GpuclusterWarning, InternalError
from gpucluster.events import Event, Progress, Reporter

JSON: TypeAlias = Any  # None, bool, int, float, str, and lists and string-keyed dicts of these
Message: TypeAlias = dict[str, JSON]


def serve(fd: int) -> None:
    """Answer the requests that arrive on `fd` until the parent hangs up.

    Parameters
    ----------
    fd : int
        The child's end of the socket pair.
    """
    _die_with_parent()
    wire = socket.socket(fileno=fd)
    wire.set_inheritable(False)  # or a grandchild keeps the wire open after our death
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    idle = threading.Event()
    idle.set()
    threading.Thread(target=_listen, args=(wire, requests, idle), daemon=True).start()
    sending = threading.Lock()

    def send(message: Message) -> None:
        line = json.dumps(message).encode() + b"\n"
        with sending:
            wire.sendall(line)

    while (request := requests.get()) is not None:
        # The boundary of the process: every way out of a function, SystemExit too, is an answer.
        try:
            send({"result": _answer(json.loads(request), send)})
        except BaseException as error:  # noqa: BLE001
            send({"error": _describe(error)})
        idle.set()


def _listen(
    wire: socket.socket, requests: queue.SimpleQueue[bytes | None], idle: threading.Event
) -> None:
    """Queue requests; when the parent is gone, stop everything."""
    with contextlib.suppress(OSError), wire.makefile("rb") as lines:
        for line in lines:
            idle.clear()
            requests.put(line)
    if not idle.is_set():  # nobody waits for the answer, and it may never come
        os.killpg(os.getpid(), signal.SIGKILL)
    requests.put(None)


def _answer(request: Message, send: Callable[[Message], None]) -> JSON:
    module, _, name = request["target"].partition(":")
    function = getattr(import_module(module), name)
    if getattr(function, "__module__", None) != module:
        raise InternalError(f"{request['target']} is not defined there")
    kwargs = request["kwargs"]
    if "reporter" in inspect.signature(function).parameters:
        kwargs["reporter"] = _Remote(request["stage"], send)
    return function(**kwargs)


def _describe(error: BaseException) -> Message:
    """Return all of an exception that can travel."""
    known = (c for c in type(error).__mro__ if c.__module__ == errors.__name__)
    attributes = vars(error) if isinstance(error, GpuclusterError) else {}
    return {
        "class": next((c.__name__ for c in known), None),
        "message": str(getattr(error, "message", error)),
        "attributes": {k: _plain(v) for k, v in attributes.items() if not k.startswith("_")},
        "text": re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:500],
        "traceback": "".join(traceback.format_exception(error)),
    }


def _plain(value: object) -> JSON:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return repr(value)
    return value


class _Remote(Reporter):
    """A reporter whose observer lives in the parent process."""

    def __init__(self, stage: str, send: Callable[[Message], None]) -> None:
        super().__init__(stage, self._forward)
        self._send = send

    def _forward(self, event: Event, /) -> None:
        if isinstance(event, Progress):
            total = None if event.total is None else int(event.total)
            fields = {"stage": event.stage, "done": int(event.done), "total": total}
            self._send({"progress": fields | {"unit": event.unit}})

    def warn(
        self, code: str, message: str, category: type[GpuclusterWarning] = GpuclusterWarning
    ) -> None:
        """Leave the saying to the parent's reporter."""
        self._send({"warning": [code, message, category.__name__]})

    def for_stage(self, stage: str) -> Reporter:
        """Return the same reporter, speaking for another stage."""
        return _Remote(stage, self._send)


def _die_with_parent() -> None:
    """Ask Linux for our end with the parent's (its thread's, in fact).

    A native call that holds the interpreter lock lets no other thread hear of the parent's end.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
