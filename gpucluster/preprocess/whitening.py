"""Soft-ZCA whitening: decorrelate dimensions without turning noise into signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from gpucluster.device.select import Device
from gpucluster.errors import QualityWarning
from gpucluster.events import Reporter
from gpucluster.ops.moments import spectral_cost
from gpucluster.preprocess.base import Fitted, Step
from gpucluster.types import Cost, Matrix

if TYPE_CHECKING:
    from gpucluster.ops.moments import Moments

MILD_SHARE = 0.1  # below this share of the mean eigenvalue, whitening amplifies noise
ROWS_PER_FEATURE = 50  # below this, the small eigenvalues are mostly sampling error


class Whitening(Step):
    r"""Whiten rows by :math:`W = U (\Lambda + \epsilon I)^{-1/2} U^T` around their mean.

    The last rotation returns to the input axes (ZCA), so the output stays as close to
    the input as a decorrelated one can be. Variance along an eigenvector of eigenvalue
    ``v`` becomes ``v / (v + epsilon)``.

    References
    ----------
    Diera, Galke, Scherp 2024, *Isotropy Matters: Soft-ZCA Whitening of Embeddings for
    Semantic Code Search*, arXiv:2411.17538.
    """

    applied: ClassVar[tuple[str, ...]] = ("mean", "matrix")
    output_on_gpu: ClassVar[bool] = True

    method: Literal["whitening"] = "whitening"
    regularization: Annotated[float, Field(ge=0, le=1e12)] | None = Field(
        default=None,
        description="Added to every eigenvalue. Omitted: 1.0, relative to their mean.",
    )
    regularization_mode: Literal["absolute", "relative"] = Field(
        default="absolute",
        description="Whether `regularization` is a variance, or a share of the mean eigenvalue. "
        "absolute needs a `regularization`.",
    )
    force: bool = Field(
        default=False,
        description="Do not warn of almost full whitening (below 10 % of the mean eigenvalue), "
        "and allow pca after it. Whitening itself stays the same.",
    )

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        """Accept ``"relative:<r>"``; an omitted strength is relative 1.0."""
        if not isinstance(data, dict):
            return data
        strength = data.get("regularization")
        if strength is None:
            strength = "relative:1.0"
        if not (isinstance(strength, str) and strength.startswith("relative:")):
            return data
        if data.get("regularization_mode", "relative") == "absolute":
            raise ValueError(
                "regularization_mode absolute needs a number as regularization, "
                f"got {data.get('regularization')}"
            )
        share = strength.removeprefix("relative:")
        return {"regularization_mode": "relative", **data, "regularization": share}

    def n_out(self, n_features: int) -> int:
        """Return `n_features`."""
        return n_features

    def epsilon(self, mean_eigenvalue: float) -> float:
        """Return the constant that is added to the eigenvalues."""
        assert self.regularization is not None  # noqa: S101 - `_expand` has filled it
        scale = mean_eigenvalue if self.regularization_mode == "relative" else 1.0
        return self.regularization * scale

    def cost(self, n_samples: int, n_features: int, device: Device = "cpu") -> Cost:
        """Return the cost of a covariance, its eigenvectors, and a product with them."""
        return spectral_cost(n_samples, n_features)

    def fit(self, X: Matrix, device: Device, reporter: Reporter) -> Fitted:
        """Learn mean and whitening matrix; float64 from the covariance on."""
        import numpy as np

        from gpucluster.device.arrays import namespace, to_host
        from gpucluster.ops.blocks import one_blas_thread

        measured = self._measured(X, device, reporter)
        values, vectors = measured.eigen()
        epsilon = self.epsilon(float(values.mean()))
        self._judge(measured, float(values.mean()), epsilon, reporter)
        # a direction without any variance has nothing to scale, also when epsilon is 0
        gains = np.where(values + epsilon > 0, values + epsilon, np.inf) ** -0.5
        with one_blas_thread:  # the last bits of a product depend on how many share it
            matrix = (vectors * namespace(vectors).asarray(gains)) @ vectors.T
        return Fitted(
            arrays={
                "mean": measured.mean,
                "matrix": to_host(matrix),
                "eigenvalues": values,
            },
            backend="numpy" if device == "cpu" else "cupy",
            info={
                "epsilon": epsilon,
                "epsilon_share_of_mean_eigenvalue": _ratio(epsilon, float(values.mean())),
                "mean_eigenvalue": float(values.mean()),
                "effective_rank_before": effective_rank(values),
                "effective_rank_after": effective_rank(values * gains**2),
                "condition_number_before": _ratio(float(values[0]), float(values[-1])),
                "condition_number_after": _ratio(
                    float((values * gains**2).max()), float((values * gains**2).min())
                ),
            },
        )

    def _measured(self, X: Matrix, device: Device, reporter: Reporter) -> Moments:
        """Return the moments; on a GPU by float16 products, where those are good enough."""
        from gpucluster.ops.half_moments import half_moments
        from gpucluster.ops.moments import moments
        from gpucluster.ops.streaming import workplace

        rows, xp = workplace(X, device)
        if device == "gpu":
            measured = half_moments(rows, xp, reporter)
            if self._is_mild(float(measured.covariance.trace()) / X.shape[1]):
                return measured
        return moments(rows, reporter, xp=xp)

    def _is_mild(self, mean_eigenvalue: float) -> bool:
        """Whether what float16 products are off by is small beside the constant that is added."""
        return self.epsilon(mean_eigenvalue) >= MILD_SHARE * mean_eigenvalue

    def _judge(
        self, measured: Moments, mean_eigenvalue: float, epsilon: float, reporter: Reporter
    ) -> None:
        if mean_eigenvalue == 0:
            reporter.warn("whitening_no_variance", "all rows are equal: whitening only centres")
            return
        share = epsilon / mean_eigenvalue
        n_features = len(measured.mean)
        if share < MILD_SHARE and not self.force:
            few = measured.n_samples < ROWS_PER_FEATURE * n_features
            reporter.warn(
                "whitening_near_full",
                f"whitening regularization {epsilon:.3g} is {share:.2%} of the mean eigenvalue "
                f"({mean_eigenvalue:.3g}), which amplifies noise"
                + (f" (only {measured.n_samples} rows for {n_features} dimensions)" if few else "")
                + "; the gentle strength is regularization 1.0 with regularization_mode relative",
                QualityWarning,
            )

    def apply(self, X: Matrix, arrays: Mapping[str, Any]) -> Matrix:
        """Return ``(X - mean) @ matrix``."""
        from gpucluster.ops.moments import centred_product

        return centred_product(X, arrays["mean"], arrays["matrix"])

    def output(self, X: Matrix, arrays: Mapping[str, Any], device: Device = "cpu") -> Matrix:
        """Return the whitened training rows; `apply` cuts them into blocks itself.

        On a GPU by float16 products where whitening is mild, and where the rows are.
        """
        from gpucluster.ops.half_moments import half_centred_product
        from gpucluster.ops.streaming import workplace

        if device == "cpu" or not self._is_mild(float(arrays["eigenvalues"].mean())):
            return self.apply(X, arrays)
        rows, xp = workplace(X, device)
        whitened: Matrix = half_centred_product(rows, arrays["mean"], arrays["matrix"], xp)
        return whitened


def effective_rank(eigenvalues: Any) -> float:
    """Return the exponential of the entropy of the spectrum (Roy, Vetterli 2007)."""
    import numpy as np

    total = float(eigenvalues.sum())
    if total == 0:
        return 0.0
    shares = eigenvalues[eigenvalues > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _ratio(numerator: float, denominator: float) -> float | None:
    """Return the quotient, or None where it has no value."""
    return numerator / denominator if denominator > 0 else None
