"""A stand-in for what the package uses of CuPy's extras; see `cupy` beside it."""

from __future__ import annotations

from typing import Any

import numpy as np


def empty_pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """Return memory of the host."""
    return np.empty(shape, dtype, order)


def zeros_pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """Return memory of the host, of zeros."""
    return np.zeros(shape, dtype, order)
