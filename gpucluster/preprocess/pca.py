"""Steps on principal components: keep the largest, or remove them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gpucluster.device.select import Device
from gpucluster.errors import ConfigError
from gpucluster.events import Reporter
from gpucluster.ops.moments import spectral_cost
from gpucluster.preprocess.base import Fitted, Step
from gpucluster.types import Cost, Matrix


class PCA(Step):
    """Project rows on their directions of largest variance.

    With as many components as dimensions this is a rotation: distances stay as they are.

    References
    ----------
    Pearson 1901, doi:10.1080/14786440109462720.
    """

    applied: ClassVar[tuple[str, ...]] = ("mean", "components")

    method: Literal["pca"] = "pca"
    n_components: Annotated[int, Field(ge=1)] = Field(
        default=50, description="Dimensions to keep; all of them is a rotation."
    )

    def n_out(self, n_features: int) -> int:
        """Return `n_components`."""
        return self.n_components

    def check(self, n_samples: int, n_features: int, reporter: Reporter) -> PCA:
        """Refuse more components than dimensions or rows."""
        if self.n_components > min(n_features, n_samples):
            raise ConfigError(
                f"got {self.n_components} for {n_samples} rows of {n_features} dimensions",
                path="preprocessing_steps.pca.n_components",
                got=self.n_components,
                expected=f"at most {min(n_features, n_samples)}",
                hint=f"use at most {min(n_features, n_samples)}",
            )
        return self

    def cost(self, n_samples: int, n_features: int, device: Device = "cpu") -> Cost:
        """Return the cost of a covariance, its eigenvectors, and a product with them."""
        return spectral_cost(n_samples, n_features)

    def fit(self, X: Matrix, device: Device, reporter: Reporter) -> Fitted:
        """Learn mean and directions; signs are fixed so that the largest entry is positive."""
        mean, values, vectors = _spectrum(X, device, reporter)
        total = float(values.sum())
        kept = float(values[: self.n_components].sum())
        return Fitted(
            arrays={"mean": mean, "components": vectors[:, : self.n_components]},
            backend="numpy" if device == "cpu" else "cupy",
            info={"explained_variance_ratio": kept / total if total > 0 else None},
        )

    def apply(self, X: Matrix, arrays: Mapping[str, Any]) -> Matrix:
        """Return ``(X - mean) @ components``."""
        from gpucluster.ops.moments import centred_product

        return centred_product(X, arrays["mean"], arrays["components"])

    def output(self, X: Matrix, arrays: Mapping[str, Any], device: Device = "cpu") -> Matrix:
        """Return the projected training rows; `apply` cuts them into blocks itself."""
        return self.apply(X, arrays)


class RemoveTopComponents(Step):
    """Centre rows and take out their largest directions, which often carry no meaning.

    References
    ----------
    Mu, Viswanath 2018, *All-but-the-Top*, arXiv:1702.01417.
    """

    applied: ClassVar[tuple[str, ...]] = ("mean", "components")

    method: Literal["remove_top_components"] = "remove_top_components"
    n_components: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Directions to remove."
    )

    def n_out(self, n_features: int) -> int:
        """Return `n_features`."""
        return n_features

    def check(self, n_samples: int, n_features: int, reporter: Reporter) -> RemoveTopComponents:
        """Refuse to remove everything."""
        if self.n_components >= n_features:
            raise ConfigError(
                f"got {self.n_components} of {n_features} dimensions",
                path="preprocessing_steps.remove_top_components.n_components",
                got=self.n_components,
                expected=f"below {n_features}",
                hint="remove a few directions only",
            )
        return self

    def cost(self, n_samples: int, n_features: int, device: Device = "cpu") -> Cost:
        """Return the cost of a covariance, its eigenvectors, and a product with them."""
        return spectral_cost(n_samples, n_features)

    def fit(self, X: Matrix, device: Device, reporter: Reporter) -> Fitted:
        """Learn mean and the directions to remove."""
        mean, _, vectors = _spectrum(X, device, reporter)
        return Fitted(
            arrays={"mean": mean, "components": vectors[:, : self.n_components]},
            backend="numpy" if device == "cpu" else "cupy",
        )

    def apply(self, X: Matrix, arrays: Mapping[str, Any]) -> Matrix:
        """Return the centred rows without their part in the removed directions."""
        components = arrays["components"].astype("float32")
        shifted = X - arrays["mean"].astype("float32")
        remaining: Matrix = shifted - (shifted @ components) @ components.T
        return remaining


def _spectrum(X: Matrix, device: Device, reporter: Reporter) -> tuple[Any, Any, Any]:
    """Return mean, falling eigenvalues, and eigenvectors with a fixed sign."""
    import numpy as np

    from gpucluster.device.arrays import to_host
    from gpucluster.ops.moments import moments
    from gpucluster.ops.streaming import workplace

    rows, xp = workplace(X, device)
    measured = moments(rows, reporter, xp=xp)
    values, vectors = measured.eigen()
    vectors = to_host(vectors)
    largest = np.abs(vectors).argmax(axis=0)
    vectors *= np.where(vectors[largest, np.arange(len(values))] < 0, -1.0, 1.0)
    return measured.mean, values, vectors
