"""Rules about quality that fired, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OPERATORS = {"<": "is below", ">": "is above", "<=": "is not above", ">=": "is not below"}


def in_words(reason: Mapping[str, Any]) -> str:
    """Return one of the ``recluster_reasons`` of a manifest as people say it."""
    value, bound = map(_shown, (reason.get("value"), reason.get("threshold")))
    operator = str(reason.get("op"))
    base, then = reason.get("baseline_run_id"), reason.get("baseline")
    against = f", against {base}" if base else ""
    against += "" if then is None else f" ({_shown(then)})"
    return f"{reason.get('metric')} {value} {_OPERATORS.get(operator, operator)} {bound}{against}"


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
