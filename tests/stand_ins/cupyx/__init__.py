"""A stand-in for what the package uses of CuPy's extras; see `cupy` beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cupy import _snapshot, stand_in


@contextmanager
def errstate(**how: str | None) -> Iterator[None]:
    """Let decompositions that fail raise; of the rest nothing is known here."""
    _snapshot.check("cupyx.errstate", (), how)
    before, stand_in.linalg_raises = stand_in.linalg_raises, how.get("linalg") == "raise"
    try:
        yield
    finally:
        stand_in.linalg_raises = before


def empty_pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """Return memory of the host."""
    return np.empty(shape, dtype, order)


def zeros_pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """Return memory of the host, of zeros."""
    return np.zeros(shape, dtype, order)
