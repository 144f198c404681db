"""DBSCAN: clusters are what density connects at one radius."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gpucluster.algorithms.base import Algorithm, Raw
from gpucluster.device.select import Device
from gpucluster.events import Reporter
from gpucluster.types import NOISE, Cost, Matrix

TREE_DIMENSIONS = 16  # above it a k-d tree looks at everything anyway, and BLAS is faster
CUML_MAX_ROWS = 4_194_240  # NVIDIA/cuml#7676


class DBSCAN(Algorithm):
    """Connect rows that lie within `eps` of each other where it is dense; the rest is noise.

    Rows on a border belong to their nearest core, so that labels do not depend on the
    order of the rows (the paper leaves it to the order).

    Notes
    -----
    `min_samples` counts the row itself, as in the paper, in scikit-learn and in cuML.

    References
    ----------
    Ester, Kriegel, Sander, Xu 1996, *A density-based algorithm for discovering clusters in
    large spatial databases with noise*. Schubert et al. 2017, doi:10.1145/3068335.
    """

    name: ClassVar[str] = "dbscan"
    library_bytes: ClassVar[int] = 150 << 20

    eps: Annotated[float, Field(gt=0)] = Field(
        default=0.5, description="Radius, in the unit of the metric; inclusive."
    )
    min_samples: Annotated[int, Field(ge=1)] = Field(
        default=5, description="Rows within eps that make a core, the row itself counted."
    )
    metric: Literal["euclidean", "l2", "cosine", "minkowski"] = Field(
        default="euclidean", description="Distance; cosine is 1 - cosine similarity."
    )
    p: Annotated[float, Field(ge=1)] = Field(
        default=2, description="Power of the minkowski metric; 2 is euclidean."
    )
    leaf_size: Annotated[int, Field(ge=1)] = Field(
        default=30, description="Leaf size of the tree search; changes speed, never the result."
    )
    algorithm: Literal["auto", "ball_tree", "kd_tree", "brute"] = Field(
        default="auto", description="How neighbours are searched; never changes the result."
    )

    def radius(self) -> float:
        """Return `eps` as a Euclidean distance; on unit rows for cosine, ``sqrt(2 eps)``."""
        return float(np.sqrt(2 * self.eps)) if self.metric == "cosine" else self.eps

    def _searches_tree(self, n_features: int) -> bool:
        if self.metric == "minkowski" and self.p != 2:
            return True
        if self.algorithm == "auto":
            return n_features <= TREE_DIMENSIONS
        return self.algorithm != "brute"

    def cost(self, n_samples: int, n_features: int, device: Device) -> Cost:
        """Return bytes beside `X`, and seconds at the rates in docs/algorithms/dbscan.md.

        The tree search stores every neighbourhood, whose size depends on `eps`: a
        hundred rows each is assumed.
        """
        if device == "gpu":
            return Cost(n_samples * (4 * n_features + 64), None)
        if self._searches_tree(n_features):
            seconds = 4e-6 * n_samples * math.log2(n_samples + 2)
            return Cost(n_samples * (100 * 8 + 16 * n_features), seconds)
        return Cost(24 * n_samples, 4.0 * n_samples**2 * n_features / 120e9)

    def _fit_cpu(self, X: Matrix, reporter: Reporter) -> Raw:
        from gpucluster.ops.connectivity import radius_components

        X = self._metric_space(X)
        if self._searches_tree(X.shape[1]):
            return self._fit_tree(X)
        labels, n_core = radius_components(X, self.radius(), self.min_samples, reporter)
        return Raw(labels, backend="numba", info={"n_core": n_core})

    def _fit_tree(self, X: Matrix) -> Raw:
        from scipy.spatial import KDTree
        from sklearn.cluster import DBSCAN as SklearnDBSCAN

        power = self.p if self.metric == "minkowski" else 2.0
        model = SklearnDBSCAN(
            eps=self.radius(),
            min_samples=self.min_samples,
            metric="minkowski",
            p=power,
            leaf_size=self.leaf_size,
            algorithm="kd_tree" if self.algorithm == "auto" else self.algorithm,
            n_jobs=-1,
        ).fit(X)
        labels: Any = model.labels_.copy()
        core = model.core_sample_indices_
        border = np.setdiff1d(np.flatnonzero(labels != NOISE), core)
        if len(border):
            _, nearest = KDTree(X[core]).query(X[border], p=power)
            labels[border] = labels[core[nearest]]
        return Raw(labels, backend="sklearn", info={"n_core": len(core)})

    def _fit_gpu(self, X: Matrix, reporter: Reporter) -> Raw:
        if len(X) > CUML_MAX_ROWS or (self.metric == "minkowski" and self.p != 2):
            reporter.fallback(
                "dbscan_on_cpu",
                f"cuML's DBSCAN takes up to {CUML_MAX_ROWS} rows and the euclidean metric: "
                "the CPU path runs",
            )
            return self._fit_cpu(X, reporter)
        from cuml.cluster import DBSCAN as CumlDBSCAN

        model = CumlDBSCAN(
            eps=self.radius(),
            min_samples=self.min_samples,
            metric="euclidean",
            output_type="numpy",
        ).fit(self._metric_space(X))
        n_core = len(model.core_sample_indices_)
        return Raw(model.labels_, backend="cuml", info={"n_core": n_core})

    def _metric_space(self, X: Matrix) -> Matrix:
        from gpucluster.ops.normalize import unit_rows

        return unit_rows(X) if self.metric == "cosine" else X
