"""Linear algebra, by LAPACK; see `cupy`."""

from __future__ import annotations

from typing import Any

from cupy._functions import function


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return function(f"cupy.linalg.{name}")
