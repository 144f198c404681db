"""One job in a process of its own: what to do comes in as JSON, what happens goes out as JSON.

The first line of the input is the job. A line ``cancel`` stops it, and so does the end of the
input: whoever gave the job is gone, and it will be begun again by somebody else.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from gpucluster.errors import Cancelled, GpuclusterError, RunLockedError
from gpucluster.events import CancelToken, Event, Progress, RunOpened, StageStarted, Waiting, Warned
from gpucluster.service.refusals import Refusal

if TYPE_CHECKING:
    from gpucluster.service.jobs.verbs import Verb

ORPHAN_S = 20.0  # for an orderly end, once nobody listens any more
LOCKED_S = 180.0  # for one whose server was taken for dead: it ends, or its lease does
LOOK_S = 0.25  # between two words about progress


def main() -> int:
    """Do the job that the input holds."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no message
    job = json.loads(sys.stdin.readline())
    cancel = CancelToken()
    threading.Thread(target=_listen, args=(sys.stdin, cancel), daemon=True).start()
    warnings.simplefilter("ignore")  # they are events too
    say = _Speaker(out)
    say(outcome=_outcome(job, say, cancel))
    return 0


class _Speaker:
    """An observer that writes what happens, one JSON object in a line.

    Of progress it writes the latest, four times a second.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._progress: dict[str, Any] | None = None
        threading.Thread(target=self._say_progress, daemon=True).start()

    def __call__(self, event: Event | None = None, /, **message: Any) -> None:
        if isinstance(event, Progress):
            self._progress = {
                "stage": event.stage,
                "done": event.done,
                "total": event.total,
                "unit": event.unit,
            }
        elif isinstance(event, StageStarted):
            self._progress = {"stage": event.stage, "done": 0, "total": None}
        elif isinstance(event, RunOpened):
            message = {"path": event.path}
        elif isinstance(event, Warned):
            message = {"warning": event.message}
        elif isinstance(event, Waiting):
            message = {"waiting": {"seconds": event.seconds, "reason": event.reason}}
        if message:
            self._write(message)

    def _say_progress(self) -> None:
        while True:
            time.sleep(LOOK_S)
            progress, self._progress = self._progress, None
            if progress is not None:
                self._write({"progress": progress})

    def _write(self, message: dict[str, Any]) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._out.write(json.dumps(message) + "\n")


def _listen(lines: TextIO, cancel: CancelToken) -> None:
    """Wait for a wish to stop."""
    is_gone = "cancel" not in lines.readline()
    cancel.cancel()
    if is_gone:
        time.sleep(ORPHAN_S)
        os._exit(1)


def _done(verb: Verb, args: Mapping[str, Any], say: _Speaker, cancel: CancelToken) -> Any:
    """Do it, once a process that was given it before has let go of the run."""
    until = time.monotonic() + LOCKED_S
    while True:
        try:
            return verb(args, say, cancel)
        except RunLockedError:
            if time.monotonic() > until:
                raise
        cancel.raise_if_cancelled()
        time.sleep(LOOK_S)


def _outcome(job: Mapping[str, Any], say: _Speaker, cancel: CancelToken) -> dict[str, Any]:
    from gpucluster.service.jobs.verbs import VERBS

    try:
        return {"ok": True, "result": _done(VERBS[job["verb"]], job["args"], say, cancel)}
    except Cancelled:
        return {"ok": False, "canceled": True}
    except (GpuclusterError, Refusal) as error:
        told = {"type": type(error).__name__, "code": error.code, "message": str(error)}
        return {"ok": False, "error": told}
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        import traceback

        traceback.print_exc()
        told = {"type": "InternalError", "code": "internal", "message": f"a bug: {error!r}"}
        return {"ok": False, "error": told}


if __name__ == "__main__":
    sys.exit(main())
