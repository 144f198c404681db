"""Algorithms, by hdbscan and scikit-learn; see `cuml`."""

from __future__ import annotations

import warnings
from typing import Any, Self

import hdbscan
import numpy as np
import sklearn.cluster

from cuml import Estimator


class HDBSCAN(Estimator):
    """``min_samples`` leaves the row itself out, as in the hdbscan package."""

    def fit(self, X: Any, y: Any = None) -> Self:
        same = (
            *("min_cluster_size", "min_samples", "cluster_selection_epsilon", "alpha"),
            *("max_cluster_size", "cluster_selection_method", "allow_single_cluster"),
        )
        settings = {name: self.settings[name] for name in same}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = hdbscan.HDBSCAN(**settings).fit(self.rows(X).astype(np.float64))
        self.labels_ = self.given(found.labels_, np.int32)
        self.probabilities_ = self.given(found.probabilities_, np.float32)
        return self


class DBSCAN(Estimator):
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        out_dtype: str = "int32",
    ) -> Self:
        settings = {name: self.settings[name] for name in ("eps", "min_samples", "metric")}
        model = sklearn.cluster.DBSCAN(**settings).fit(self.rows(X), sample_weight=sample_weight)
        self.labels_ = self.given(model.labels_, np.int32)
        self.core_sample_indices_ = self.given(model.core_sample_indices_, np.int32)
        return self


class AgglomerativeClustering(Estimator):
    def fit(self, X: Any, y: Any = None) -> Self:
        if self.settings["linkage"] != "single":
            raise NotImplementedError("Only single linkage clustering is supported currently")
        model = sklearn.cluster.AgglomerativeClustering(
            self.settings["n_clusters"], metric=self.settings["metric"], linkage="single"
        ).fit(self.rows(X))
        self.labels_ = self.given(model.labels_, np.int32)
        return self
