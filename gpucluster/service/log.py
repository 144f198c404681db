"""Where the lines of a server's log go, and their form."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from gpucluster.logs import logger

LogFormat: TypeAlias = Literal["text", "json"]


class BrokenOff(Exception):  # noqa: N818 - it says what happened, as FileExistsError does
    """An answer ends in its midst, and the log says why already."""


@contextmanager
def logged(form: LogFormat, level: int = logging.INFO) -> Iterator[None]:
    """Write to stderr what is logged meanwhile: our own lines, and warnings of libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(_is_news)
    root, before = logging.getLogger(), logger.level
    root.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
        root.removeHandler(handler)


class TextLines(logging.Formatter):
    """Lines for people: time, level, where from, what, and fields as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, and its traceback below."""
        fields = getattr(record, "fields", {})
        said = [record.getMessage(), *(f"{k}={v}" for k, v in fields.items() if v is not None)]
        line = f"{_time(record)} {record.levelname} {record.name}: {' '.join(said)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object in a line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        said = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether it is not what the web server says of a `BrokenOff`."""
    return not (record.exc_info and isinstance(record.exc_info[1], BrokenOff))


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
