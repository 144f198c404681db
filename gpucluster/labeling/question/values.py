"""Values of a document: found by their paths, and written as JSON can hold them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from pydantic import JsonValue

MAX_JSON_TEXT: Final = 1_000_000  # characters of a text that is looked into
MAX_DEPTH: Final = 32

_INDEX = re.compile(r"[0-9]{1,9}")


def follow(value: Any, steps: Sequence[str]) -> Any:
    """Return what lies at the end of a path; None where it leads nowhere."""
    if not steps:
        return value
    if isinstance(value, str):
        value = _parsed(value)
    elif _is_map(value):
        value = dict(value)
    if isinstance(value, Mapping):
        # a name that has dots itself comes first
        for cut in range(len(steps), 0, -1):
            name = ".".join(steps[:cut])
            if name in value:
                found = follow(value[name], steps[cut:])
                if found is not None:
                    return found
        return None
    if isinstance(value, list | tuple) and _INDEX.fullmatch(steps[0]):
        index = int(steps[0])
        return follow(value[index], steps[1:]) if index < len(value) else None
    return None


def _parsed(text: str) -> Any:
    """Return what a text of JSON holds; None of any other text."""
    if len(text) > MAX_JSON_TEXT or not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_map(value: Any) -> bool:
    """Whether a value is what Arrow makes of a map: a list of pairs."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
    )


def as_json(value: Any, limit: int | None, depth: int = 0) -> JsonValue:
    """Return a value as JSON can hold it, its texts cut; None where JSON cannot."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | date | time | timedelta | Decimal | UUID):
        text = value.isoformat() if isinstance(value, date | time) else str(value)
        return as_text(text, limit)
    if _is_map(value):
        value = dict(value)
    if isinstance(value, Mapping) and depth < MAX_DEPTH:
        return {as_text(str(name)): as_json(item, limit, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple) and depth < MAX_DEPTH:
        return [as_json(item, limit, depth + 1) for item in value]
    return None


def as_text(text: str, limit: int | None = None) -> str:
    """Return a text that can be sent: cut, and without halves of surrogate pairs."""
    return text[:limit].encode(errors="replace").decode()
