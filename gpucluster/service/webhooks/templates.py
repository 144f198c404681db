"""Placeholders: ``{{event_type}}`` in a text stands for a field of the event.

A text that is nothing but one placeholder becomes the value itself, whatever its type; in others
the value is written out. There is no other syntax, so a template can compute nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from gpucluster.errors import ConfigError

MAX_TEMPLATE: Final = 10_000  # characters of its JSON
_FIELDS: Final = (
    *("event_id", "event_type", "occurred_at", "namespace_id"),
    *("subject", "subject.type", "subject.id", "metadata"),
)
_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z0-9_.-]+)\s*\}\}")


def check_template(template: Any, *, path: str) -> None:
    """Refuse a template with placeholders that no event fills.

    Parameters
    ----------
    template : JSON value
    path : str
        Of the field that holds it, for the message.

    Raises
    ------
    ConfigError
        One is unknown, or the template is too long, or holds a number that JSON does not have.
    """
    try:
        text = json.dumps(template, ensure_ascii=False, allow_nan=False)
        filled(template, {})
    except RecursionError:
        raise ConfigError("lists in lists in lists, and so on, too deep", path=path) from None
    except ValueError:
        raise ConfigError("a number is not finite", path=path) from None
    if len(text) > MAX_TEMPLATE:
        raise ConfigError(f"{len(text):,} characters, expected at most {MAX_TEMPLATE:,}", path=path)
    for name in _PLACEHOLDER.findall(text):
        if name not in _FIELDS and not name.startswith("metadata."):
            hint = f"Known are {', '.join(_FIELDS)}, and metadata. with a name after it"
            raise ConfigError(f"no event has the field {name[:100]}", path=path, hint=hint)


def filled(template: Any, event: Mapping[str, Any]) -> Any:
    """Return a template with the fields of an event in it; null for one that this event lacks."""
    match template:
        case str():
            whole = _PLACEHOLDER.fullmatch(template)
            if whole:
                return _field(event, whole[1])
            return _PLACEHOLDER.sub(lambda found: _text(_field(event, found[1])), template)
        case dict():
            return {key: filled(value, event) for key, value in template.items()}
        case list():
            return [filled(value, event) for value in template]
        case _:
            return template


def _field(event: Mapping[str, Any], name: str) -> Any:
    value: Any = event
    for step in name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
