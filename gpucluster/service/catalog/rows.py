"""Records as rows: keys that are checked, texts that any database keeps, times as numbers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gpucluster.errors import ConfigError
from gpucluster.service.catalog.folding import fold
from gpucluster.service.catalog.port import Record

MAX_KEY_BYTES = 500  # PostgreSQL's index rows hold 2,704 bytes, and up to four keys
MAX_DEPTH = 100  # of nesting; SQLite reads 1,000 levels
INSTEAD = "\ufffd"  # of what cannot be kept
KEYS = ("ns", "kind", "id", "name", "status", "parent")
COLUMNS = (*KEYS, "text", "due_at", "created_at", "updated_at", "version")  # of the table, in order
SEPARATOR = "\x1f"  # between what is searched

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOST = re.compile("[\0\ud800-\udfff]")
_SUSPECT = re.compile(r"\\u0000|\d{309}")  # in JSON: what only a closer look can tell


def is_storable(text: str) -> bool:
    """Return whether all databases keep a text as it is."""
    return _LOST.search(text) is None


def micros(time: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_micros(number: int) -> datetime:
    """Return the time that `micros` wrote."""
    return _EPOCH + timedelta(microseconds=number)


def to_row(record: Record) -> dict[str, Any]:
    """Return the values of a record's columns, and what searches look in."""
    for name in KEYS:
        _check_key(name, getattr(record, name))
    text = _LOST.sub(INSTEAD, record.text)
    searched = SEPARATOR.join(fold(part) for part in (record.id, record.name or "", text))
    return {
        **{name: getattr(record, name) for name in KEYS},
        "text": text,
        "due_at": None if record.due_at is None else micros(record.due_at),
        "searched": searched,
        "body": encode(record.body),
    }


def from_row(row: Sequence[Any]) -> Record:
    """Return the record of a row: its `COLUMNS`, and the body."""
    values = dict(zip(COLUMNS, row, strict=False))
    for name in ("due_at", "created_at", "updated_at"):
        if values[name] is not None:
            values[name] = from_micros(values[name])
    return Record(**values, body=json.loads(row[len(COLUMNS)]))


def encode(body: Mapping[str, Any]) -> str:
    r"""Return a body as JSON.

    Null characters and halves of pairs of surrogates, which no database keeps, become U+FFFD.
    Quotes are written ``\u0022``: inside a key, some versions of SQLite take ``\"`` for its end.
    """
    text = _dump(body)
    may_be_deep = text.count("{") + text.count("[") > MAX_DEPTH
    if may_be_deep or _SUSPECT.search(text) or not is_storable(text):
        text = _dump(_cleaned(body, MAX_DEPTH))
    return _requoted(text)


def label(key: str) -> str:
    """Return how a key stands between its quotes in what `encode` writes."""
    return _requoted(_dump(key))[1:-1]


def encode_texts(texts: Sequence[str]) -> str:
    """Return texts as a JSON array."""
    return _dump(list(texts))


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:  # NaN and infinity, or no end of nesting
        raise ConfigError(f"a record cannot hold this: {error}") from error


def _requoted(text: str) -> str:
    if '\\"' not in text:
        return text
    return re.sub(r"\\.", lambda found: r"\u0022" if found[0] == r"\"" else found[0], text)


def _cleaned(value: Any, depth: int) -> Any:
    """Return a value as it can be kept, and refuse it where it cannot."""
    if isinstance(value, str):
        return _LOST.sub(INSTEAD, value)
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ConfigError("a record cannot hold a number that is no double")
    if not isinstance(value, Mapping | list | tuple):
        return value
    if depth == 0:
        raise ConfigError(f"a record cannot hold what is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        pairs = ((_cleaned(key, 0), _cleaned(each, depth - 1)) for key, each in value.items())
        return dict(pairs)
    return [_cleaned(each, depth - 1) for each in value]


def _check_key(name: str, key: str | None) -> None:
    if key is None:
        return
    if not is_storable(key):
        raise ConfigError("a character that cannot be kept", path=name, got=key)
    if len(key.encode()) > MAX_KEY_BYTES:
        raise ConfigError(
            f"{len(key.encode()):,} bytes, expected at most {MAX_KEY_BYTES}", path=name, got=key
        )
