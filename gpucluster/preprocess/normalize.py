"""Steps that move and scale rows: unit length, zero mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from gpucluster.device.select import Device
from gpucluster.events import Reporter
from gpucluster.preprocess.base import Fitted, Step
from gpucluster.types import Matrix


class L2Normalize(Step):
    """Scale each row to unit length."""

    has_gpu_path: ClassVar[bool] = False

    method: Literal["l2_normalize"] = "l2_normalize"

    def n_out(self, n_features: int) -> int:
        """Return `n_features`."""
        return n_features

    def fit(self, X: Matrix, device: Device, reporter: Reporter) -> Fitted:
        """Learn nothing."""
        return Fitted({}, "numpy")

    def apply(self, X: Matrix, arrays: Mapping[str, Any]) -> Matrix:
        """Return `X` with unit rows; zero rows stay zero."""
        from gpucluster.ops.normalize import unit_rows

        unit: Matrix = unit_rows(X)
        return unit


class Center(Step):
    """Subtract the mean of all rows."""

    applied: ClassVar[tuple[str, ...]] = ("mean",)
    has_gpu_path: ClassVar[bool] = False

    method: Literal["center"] = "center"

    def n_out(self, n_features: int) -> int:
        """Return `n_features`."""
        return n_features

    def fit(self, X: Matrix, device: Device, reporter: Reporter) -> Fitted:
        """Learn the mean, in float64."""
        import numpy as np

        return Fitted({"mean": X.mean(axis=0, dtype=np.float64)}, "numpy")

    def apply(self, X: Matrix, arrays: Mapping[str, Any]) -> Matrix:
        """Return `X` minus the mean."""
        centred: Matrix = X - arrays["mean"].astype("float32")
        return centred
