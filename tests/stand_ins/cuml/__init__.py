"""A stand-in for cuML: its keywords and what it gives, by umap-learn, hdbscan and scikit-learn.

Keywords are those of the snapshot of RAPIDS in `tests/contract`. It shows that calls are taken
and results fit what follows; it does not show cuML's labels and layouts, which differ, nor its
limits, its memory, its failures or its speed.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import cupy
import numpy as np

__version__ = "26.10.00"
_FILE = Path(__file__).parents[2] / "contract" / "rapids_26_10_signatures.json"
_SIGNATURES = json.loads(_FILE.read_text(encoding="utf-8"))


class Estimator:
    """What the models share: settings, and arrays where they are wanted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        text = _SIGNATURES[f"{type(self).__module__}.{type(self).__name__}"]
        scope: dict[str, Any] = {}
        exec(f"def function{text}: ...", scope)
        bound = inspect.signature(scope["function"]).bind(self, *args, **kwargs)
        bound.apply_defaults()
        self.settings = dict(bound.arguments)
        del self.settings["self"]

    def rows(self, X: Any) -> np.ndarray:
        """Return rows on the host; they are float32 or float64, on either side."""
        if X.dtype not in (np.float32, np.float64) or X.ndim != 2:
            raise TypeError(f"Expected input to be of type in [float32, float64], got {X.dtype}")
        self._on_device = isinstance(X, cupy.ndarray)
        return X.get() if self._on_device else X

    def given(self, found: Any, dtype: Any) -> Any:
        """Return a result as `output_type` says, or else where the input was."""
        wanted = self.settings["output_type"] or ("cupy" if self._on_device else "numpy")
        found = np.asarray(found, dtype)
        return found if wanted == "numpy" else cupy.asarray(found)
