"""What the real CuPy offers: its names, and how its functions may be called."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parents[2] / "contract" / "cupy_14_signatures.json"
_SNAPSHOT = json.loads(_FILE.read_text(encoding="utf-8"))
VERSION: str = _SNAPSHOT["version"]
NAMES: dict[str, Any] = _SNAPSHOT["names"]
UFUNCS = frozenset(_SNAPSHOT["ufuncs"])


def require(name: str) -> Any:
    """Return what is noted of a name: its signature, its value, or None."""
    if name not in NAMES:
        raise AttributeError(f"CuPy {VERSION} has no {name}")
    return NAMES[name]


def constant(name: str) -> int:
    """Return the value of a constant of CUDA's libraries."""
    value = require(name)
    if value is None or isinstance(value, str):
        raise NotImplementedError(f"the stand-in has no {name}")
    return value


@cache
def _signature(name: str) -> inspect.Signature | None:
    text = require(name)
    if not isinstance(text, str):
        return None
    scope: dict[str, Any] = {}
    exec(f"def function{text}: ...", scope)
    return inspect.signature(scope["function"])


def check(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise TypeError where the real function would not take these arguments."""
    found = _signature(name)
    try:
        if found is not None:
            found.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
