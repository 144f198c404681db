"""UMAP, by umap-learn; see `cuml`."""

from __future__ import annotations

import warnings
from typing import Any

import cupy
import numpy as np

from cuml import Estimator


class UMAP(Estimator):
    def fit_transform(self, X: Any, y: Any = None, *, knn_graph: Any = None) -> Any:
        if knn_graph is not None:
            raise NotImplementedError("the stand-in takes precomputed_knn")
        same = (
            *("n_components", "n_neighbors", "min_dist", "metric", "n_epochs", "random_state"),
            "init",
        )
        settings = {name: self.settings[name] for name in same}
        known = self.settings.get("precomputed_knn")
        if known is not None:
            rows, distances = (
                each.get() if isinstance(each, cupy.ndarray) else each for each in known
            )
            if rows.shape != (len(X), settings["n_neighbors"]) or distances.shape != rows.shape:
                raise ValueError(f"precomputed_knn: {rows.shape}, {distances.shape}")
            settings["precomputed_knn"] = rows, distances, None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it misses, and of fewer threads for a seed
            import umap

            found = umap.UMAP(**settings).fit_transform(self.rows(X))
        return self.given(found, np.float32)
