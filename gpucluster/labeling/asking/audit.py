"""A line for each question that was sent, and for what came back: the evidence behind names."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TextIO

from gpucluster.errors import StoreError
from gpucluster.labeling.model.failures import unsigned


class Audit:
    """A file of JSON lines that only grows; from any thread.

    No signature of a URL is in it: it is given questions as they are before addresses are signed,
    and what documents bring along themselves is struck out.

    Parameters
    ----------
    path : Path
        Opened for appending, so that an interrupted labelling goes on where it stopped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("a", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error

    def write(self, event: str, **facts: Any) -> None:
        """Add a line: ``at``, ``event`` and `facts`."""
        line: Mapping[str, Any] = {"at": datetime.now(UTC).isoformat(), "event": event, **facts}
        # of the whole line: a signature has no character that JSON escapes
        text = unsigned(json.dumps(line, ensure_ascii=False))
        try:
            with self._lock:
                self._file.write(text + "\n")
                self._file.flush()
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()
