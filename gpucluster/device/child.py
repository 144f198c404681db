"""A supervised process for what may crash or hang, so that it never takes its caller along.

Native libraries end a process in ways that Python cannot catch: a C++ ``terminate``, a
segmentation fault, a call that never returns. `Child` runs importable functions in a
process of its own, one at a time, and turns each of these ends into an exception.

Parent and child exchange lines of JSON (see `gpucluster.device.supervised`) over a socket
pair, never over standard output, where native libraries print. Bulk data goes through files.

`multiprocessing` is not used: its spawned processes import the user's ``__main__`` again.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Self

from gpucluster import errors
from gpucluster.device.supervised import JSON, Message
from gpucluster.errors import GpuclusterError, GpuclusterWarning, InternalError, StageCrashedError
from gpucluster.events import Progress, Reporter

TICK_S = 0.05  # how late a raised cancel token is noticed
GRACE_S = 5.0  # how long an idle process may take to end by itself
TAIL_BYTES = 8192  # how much of the last output is kept

# The child resolves imports exactly as its parent does. -P keeps the working directory from
# shadowing the standard library until the parent's path is in place.
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    "from gpucluster.device.supervised import serve; serve(int(sys.argv[1]))"
)


class Child:
    """Run functions in a process that may die.

    The process starts with the first call, serves all later ones, and is started anew after
    it died. Use a `Child` from one thread, as a context manager.

    Parameters
    ----------
    stage : str
        Whose work it is; named in errors and progress.
    timeout_s : float, optional
        How long one call may take, the start of the process included; no limit when None.
    reporter : Reporter, optional
        Gets the progress and the warnings of the functions. Its cancel token kills the process.
    allow : tuple of str
        Packages beside `gpucluster` whose functions may be called.
    """

    def __init__(
        self,
        stage: str,
        *,
        timeout_s: float | None = None,
        reporter: Reporter | None = None,
        allow: tuple[str, ...] = (),
    ) -> None:
        self._stage = stage
        self._timeout_s = timeout_s
        self._reporter = reporter or Reporter(stage)
        self._allow = ("gpucluster", *allow)
        self._process: _Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def work_for(self, reporter: Reporter) -> None:
        """Let later calls be those of another stage, which is told of them."""
        self._stage, self._reporter = reporter.stage, reporter

    def call(self, target: str, /, **kwargs: JSON) -> JSON:
        """Call ``package.module:function`` with `kwargs` and return what it returns.

        A function with a parameter `reporter` gets one that speaks to the reporter of this
        `Child`. Arguments and result are JSON values.

        Parameters
        ----------
        target : str
            A function of `gpucluster`, as ``module:name``, in the module that defines it.
        **kwargs : JSON values
            Its arguments.

        Returns
        -------
        JSON value

        Raises
        ------
        GpuclusterError
            The function raised it: the same class, message, hint and attributes.
        StageCrashedError
            The function raised anything else, the process died, or the time was up.
        Cancelled
            The cancel token was raised; the process is gone.
        """
        module, _, name = target.partition(":")
        if not (name.isidentifier() and module.split(".")[0] in self._allow):
            raise InternalError(f"stage {self._stage}: {target!r} may not be called in a child")
        request = json.dumps({"target": target, "kwargs": kwargs, "stage": self._stage})
        if self._process is None or self._process.popen.poll() is not None:
            self._discard()
            self._process = _Process()
        try:
            reply = self._exchange(self._process, request.encode() + b"\n")
        except BaseException:  # whatever ends the wait, no call may go on unattended
            self._discard()
            raise
        if "error" in reply:
            raise _revive(reply["error"], self._stage, target)
        return reply["result"]

    def close(self) -> None:
        """End the process; a process that does not end by itself is killed."""
        if self._process is not None:
            self._process.dismiss()
        self._discard()

    def _discard(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _exchange(self, process: _Process, request: bytes) -> Message:
        """Send `request`, pass on what the child reports, and return its answer."""
        deadline = float("inf") if self._timeout_s is None else time.monotonic() + self._timeout_s
        unsent, received = memoryview(request), bytearray()
        process.forget()
        with selectors.DefaultSelector() as selector:
            selector.register(process.wire, selectors.EVENT_READ | selectors.EVENT_WRITE)
            selector.register(process.output, selectors.EVENT_READ)
            while True:
                self._reporter.cancel.raise_if_cancelled()
                if time.monotonic() > deadline:
                    raise self._crash(process, f"gave no answer within {self._timeout_s:g} s")
                ready = selector.select(TICK_S)
                if not ready and process.popen.poll() is not None:
                    # dead without an end of file: a process that it forked still holds the wire
                    raise self._crash(process, process.obituary())
                for key, events in ready:
                    if key.fileobj is process.output:
                        if not process.drain():
                            selector.unregister(process.output)
                        continue
                    try:
                        if events & selectors.EVENT_WRITE:
                            unsent = unsent[process.wire.send(unsent) :]
                            if not unsent:
                                selector.modify(process.wire, selectors.EVENT_READ)
                        data = process.wire.recv(1 << 20) if events & selectors.EVENT_READ else None
                    except ConnectionError:
                        data = b""
                    if data == b"":
                        raise self._crash(process, process.obituary())
                    received += data or b""
                    *lines, received = received.split(b"\n")
                    for line in lines:
                        if (answer := self._receive(json.loads(line))) is not None:
                            return answer

    def _receive(self, message: Message) -> Message | None:
        """Pass a report on to the reporter; return the message when it is the answer."""
        if "progress" in message:
            self._reporter.observer(Progress(**message["progress"]))
        elif "warning" in message:
            code, text, category = message["warning"]
            self._reporter.warn(code, text, getattr(errors, category, GpuclusterWarning))
        else:
            return message
        return None

    def _crash(self, process: _Process, what: str) -> StageCrashedError:
        process.kill()
        tail = process.tail.decode(errors="replace").strip()
        said = f"; its last words: {tail.splitlines()[-1].strip()[-200:]!r}" if tail else ""
        error = StageCrashedError(
            f"stage {self._stage}: the process that ran it {what}{said}",
            stage=self._stage,
            hint="retry with fewer rows, or on the CPU",
        )
        if tail:
            error.add_note(f"The last output of the process:\n{tail}")
        return error


class _Process:
    """One interpreter, the wire to it, and the end of what it printed."""

    def __init__(self) -> None:
        self.tail = bytearray()
        self.wire, theirs = socket.socketpair()
        fd = theirs.fileno()
        command = [sys.executable, "-P", "-c", _BOOT, str(fd), json.dumps(list(map(str, sys.path)))]
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(self.wire.close)
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(fd,),
                start_new_session=True,  # a group of its own: killed as one, out of reach of Ctrl-C
            )
            undo.pop_all()
        assert self.popen.stdout is not None  # noqa: S101 - it is a pipe
        self.output = self.popen.stdout
        self.wire.settimeout(0)
        os.set_blocking(self.output.fileno(), False)

    def drain(self) -> bool:
        """Read what was printed, keep its end, and return whether more may come."""
        while True:
            try:
                data = os.read(self.output.fileno(), 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.tail = (self.tail + data)[-TAIL_BYTES:]

    def forget(self) -> None:
        """Drop what earlier calls printed."""
        self.drain()
        self.tail.clear()

    def obituary(self) -> str:
        """Wait for the end of a process that hung up, and say what it was."""
        try:
            code = self.popen.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return "closed the connection"
        if code >= 0:
            return f"exited with code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:  # a real-time signal
            name = f"signal {-code}"
        if name == "SIGKILL":
            name += " (the system does this when memory runs out)"
        return f"was killed by {name}"

    def dismiss(self) -> None:
        """Let an idle process end by itself."""
        self.wire.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(GRACE_S)

    def kill(self) -> None:
        """Kill the process and those it started, and let go of everything."""
        if self.output.closed:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all gone, or on macOS dead
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self.drain()
        self.output.close()
        self.wire.close()


def _revive(error: Mapping[str, JSON], stage: str, target: str) -> GpuclusterError:
    """Rebuild the exception that the child described."""
    cls = getattr(errors, error["class"] or "", None)
    if isinstance(cls, type) and issubclass(cls, GpuclusterError):
        # Constructors differ, and some compose the message: the attributes say it all.
        revived: GpuclusterError = cls.__new__(cls)
        GpuclusterError.__init__(revived, error["message"])
        vars(revived).update(error["attributes"])
    else:
        revived = StageCrashedError(f"stage {stage}: {target} raised {error['text']}", stage=stage)
    revived.add_note(f"In the process of stage {stage}:\n{error['traceback']}")
    return revived
