"""Gaussian components whose covariances are a few directions and noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from gpucluster.device.arrays import namespace
from gpucluster.ops.gaussians import (
    FLOAT32_SQUARES,
    LOG_2PI,
    WIDE_BLOCK_BYTES,
    Gaussians,
    claimed,
    not_positive,
)

WARMING = 4  # steps towards the principal directions of the first components


class LowRank(Gaussians):
    """Covariances ``W W' + Psi``, a few directions and a diagonal: factor analysers.

    Nothing has the size of a covariance, and the density is products with all components at
    once. With ``P = Psi^-1`` and ``M = I + W' P W``, the inverse is ``P - P W M^-1 W' P``.

    References
    ----------
    Ghahramani, Hinton 1996, *The EM algorithm for mixtures of factor analyzers*.
    """

    block_bytes = WIDE_BLOCK_BYTES

    def __init__(
        self,
        means: Any,
        log_weights: Any,
        reg: float,
        loadings: Any,
        noise: Any,
        warming: int = 0,
    ) -> None:
        super().__init__(means, log_weights, reg)
        xp, (_, d, rank) = self.xp, loadings.shape
        self.loadings, self.noise, self.warming = loadings, noise, warming  # W and Psi
        self.scaled = loadings / noise[:, :, None]  # P W
        self.inner = loadings.transpose(0, 2, 1) @ self.scaled + xp.eye(rank)  # M
        factors = xp.linalg.cholesky(self.inner)
        bases = xp.linalg.solve(factors, self.scaled.transpose(0, 2, 1))  # (k, rank, d)
        log_determinant = xp.log(noise).sum(axis=1)
        log_determinant += 2 * xp.log(xp.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        squares = (means**2 / noise).sum(axis=1)
        self.constant = -0.5 * (d * LOG_2PI + log_determinant + squares)
        largest = float((squares + xp.trace(self.inner, axis1=1, axis2=2)).max())
        if not warming and largest <= FLOAT32_SQUARES:
            self.dtype = np.float32
        wide = xp.concatenate([bases.reshape(-1, d), means / noise])
        self.wide = xp.ascontiguousarray(wide.T.astype(self.dtype))
        self.precisions = (-0.5 / noise).T.astype(self.dtype)
        self.origins = (bases @ means[:, :, None])[:, :, 0].astype(self.dtype)

    @classmethod
    def start(cls, means: Any, reg: float, rank: int, stream: np.random.Generator) -> Self:
        """Return random directions; the first moves turn them into principal ones."""
        xp, (k, d) = namespace(means), means.shape
        drawn = _orthonormal(xp.asarray(stream.standard_normal((d, rank))))
        loadings = xp.broadcast_to(drawn, (k, d, rank))
        return cls(means, xp.zeros(k), reg, loadings, xp.ones((k, d)), WARMING)

    @property
    def second_shape(self) -> tuple[int, ...]:
        """Products with the loadings, and the diagonals."""
        k, d, rank = self.loadings.shape
        return (k, d, rank + 1)

    @property
    def row_numbers(self) -> int:
        """Of a block; its products with the loadings count too."""
        n_components, _, rank = self.loadings.shape
        return super().row_numbers + int(2 * n_components * rank)

    def log_joint(self, block: Any, likely: Any) -> Any:
        """Return the log of weight times density."""
        k, _, rank = self.loadings.shape
        products = block @ self.wide
        explained = products[:, : k * rank].reshape(-1, k, rank) - self.origins
        joint = 0.5 * self.xp.einsum("ijk,ijk->ij", explained, explained)
        joint += products[:, k * rank :]
        joint += (block * block) @ self.precisions
        return joint + (self.log_weights + self.constant)

    def second(self, block: Any, shares: Any) -> Iterator[tuple[Any, Any]]:
        """Yield scatter times ``P W``, and the weighted squares, around the present means."""
        for k, mean in enumerate(self.means.astype(self.dtype)):
            rows, share = claimed(shares[:, k])
            if len(rows):
                members = (block if len(rows) == len(block) else block[rows]) - mean
                scores = (members @ self.scaled[k].astype(self.dtype)) * share[:, None]
                squares = share @ (members * members)
                yield k, self.xp.concatenate([members.T @ scores, squares[:, None]], axis=1)

    def _refit(self, counts: Any, means: Any, second: Any) -> Self:
        xp, rank = self.xp, self.loadings.shape[2]
        step = (means - self.means)[:, :, None]
        moments = second / counts[:, None, None]
        turned = self.scaled.transpose(0, 2, 1)
        product = moments[:, :, :rank] - step @ (turned @ step).transpose(0, 2, 1)  # S P W
        variances = xp.maximum(moments[:, :, rank] - step[:, :, 0] ** 2, 0)
        inner = turned @ product
        if self.warming > 1:  # subspace iteration; Psi is the identity until it ends
            return self._with(means, _orthonormal(product), self.noise, self.warming - 1)
        if self.warming:  # the loadings are orthonormal: take the principal axes among them
            values, axes = xp.linalg.eigh((inner + inner.transpose(0, 2, 1)) / 2)
            rest = xp.maximum(variances.sum(axis=1) - values.sum(axis=1), 0)
            mean_rest = rest / max(1, means.shape[1] - rank)
            scale = xp.sqrt(xp.maximum(values - mean_rest[:, None], 0))
            loadings = (self.loadings @ axes) * scale[:, None, :]
            explained = (loadings**2).sum(axis=2)
        else:
            solved = xp.linalg.solve(self.inner, inner) + xp.eye(rank)
            loadings = xp.linalg.solve(solved.transpose(0, 2, 1), product.transpose(0, 2, 1))
            shared = xp.linalg.solve(self.inner, loadings).transpose(0, 2, 1)
            loadings = loadings.transpose(0, 2, 1)
            explained = (product * shared).sum(axis=2)
        return self._with(means, loadings, xp.maximum(variances - explained, 0) + self.reg)

    def _with(self, means: Any, loadings: Any, noise: Any, warming: int = 0) -> Self:
        if not bool((noise > 0).all()):
            raise not_positive()
        return type(self)(means, self.log_weights, self.reg, loadings, noise, warming)


def _orthonormal(matrices: Any) -> Any:
    """Return an orthonormal basis of the columns of each matrix."""
    return namespace(matrices).linalg.qr(matrices)[0]
