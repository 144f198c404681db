"""Gaussian components whose covariances are a few directions and noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from gpucluster.device.arrays import namespace
from gpucluster.ops.gaussians import FLOAT32_SQUARES, LOG_2PI, Gaussians, claimed, not_positive

WARMING = 4  # steps towards the principal directions of the first components


class LowRank(Gaussians):
    """Covariances ``W W' + s^2 I``: probabilistic principal components of each component.

    Every form of a row is a product with all components at once, and nothing has the size
    of a covariance.

    References
    ----------
    Tipping, Bishop 1999, doi:10.1162/089976699300016728.
    """

    def __init__(
        self, means: Any, log_weights: Any, reg: float, loadings: Any, noise: Any, warming: int = 0
    ) -> None:
        super().__init__(means, log_weights, reg)
        xp, (_, d, rank) = self.xp, loadings.shape
        self.loadings, self.noise, self.warming = loadings, noise, warming  # W and s^2
        inner = loadings.transpose(0, 2, 1) @ loadings + noise[:, None, None] * xp.eye(rank)
        factors = xp.linalg.cholesky(inner)
        bases = xp.linalg.solve(factors, loadings.transpose(0, 2, 1))  # (k, rank, d)
        log_determinant = (d - rank) * xp.log(noise)
        log_determinant += 2 * xp.log(xp.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        sqnorms = (means**2).sum(axis=1)
        self.constant = -0.5 * (d * LOG_2PI + log_determinant + sqnorms / noise)
        largest = float(((sqnorms + (loadings**2).sum(axis=(1, 2))) / noise).max())
        if not warming and largest <= FLOAT32_SQUARES:
            self.dtype = np.float32
        wide = xp.concatenate([bases.reshape(-1, d), means])
        self.wide = xp.ascontiguousarray(wide.T.astype(self.dtype))
        self.origins = (bases @ means[:, :, None])[:, :, 0].astype(self.dtype)

    @classmethod
    def start(cls, means: Any, reg: float, rank: int, stream: np.random.Generator) -> Self:
        """Return random directions; the first moves turn them into principal ones."""
        xp, (k, d) = namespace(means), means.shape
        drawn = _orthonormal(xp.asarray(stream.standard_normal((d, rank))))
        loadings = xp.broadcast_to(drawn, (k, d, rank))
        return cls(means, xp.zeros(k), reg, loadings, xp.ones(k), WARMING)

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
        square = self.xp.einsum("ijk,ijk->ij", explained, explained)
        square += 2 * products[:, k * rank :]
        square -= self.xp.einsum("ij,ij->i", block, block)[:, None]
        return square * (0.5 / self.noise) + (self.log_weights + self.constant)

    def second(self, block: Any, shares: Any) -> Iterator[tuple[Any, Any]]:
        """Yield scatter times loadings, and the weighted squares, around the present means."""
        for k, mean in enumerate(self.means.astype(self.dtype)):
            rows, share = claimed(shares[:, k])
            if len(rows):
                members = (block if len(rows) == len(block) else block[rows]) - mean
                scores = (members @ self.loadings[k].astype(self.dtype)) * share[:, None]
                squares = share @ (members * members)
                yield k, self.xp.concatenate([members.T @ scores, squares[:, None]], axis=1)

    def _refit(self, counts: Any, means: Any, second: Any) -> Self:
        xp, (_, d, rank) = self.xp, self.loadings.shape
        step = (means - self.means)[:, :, None]
        moments = second / counts[:, None, None]
        turned = self.loadings.transpose(0, 2, 1)
        product = moments[:, :, :rank] - step @ (turned @ step).transpose(0, 2, 1)
        trace = xp.maximum((moments[:, :, rank] - step[:, :, 0] ** 2).sum(axis=1), 0)
        inner = turned @ product
        if self.warming > 1:  # subspace iteration
            return self._with(means, _orthonormal(product), self.noise, self.warming - 1)
        if self.warming:  # the loadings are orthonormal: take the principal axes among them
            values, axes = xp.linalg.eigh((inner + inner.transpose(0, 2, 1)) / 2)
            values = xp.maximum(values, 0)
            noise = xp.maximum(trace - values.sum(axis=1), 0) / max(1, d - rank) + self.reg
            scale = xp.sqrt(xp.maximum(values + self.reg - noise[:, None], 0))
            return self._with(means, (self.loadings @ axes) * scale[:, None, :], noise)
        identity = xp.eye(rank)
        noise = self.noise[:, None, None]
        gram = turned @ self.loadings + noise * identity
        solved = xp.linalg.solve(gram, inner)
        loadings = xp.linalg.solve(
            (noise * identity + solved).transpose(0, 2, 1), product.transpose(0, 2, 1)
        ).transpose(0, 2, 1)
        explained = product * xp.linalg.solve(gram, loadings.transpose(0, 2, 1)).transpose(0, 2, 1)
        left = xp.maximum(trace - explained.sum(axis=(1, 2)), 0) / d
        return self._with(means, loadings, left + self.reg)

    def _with(self, means: Any, loadings: Any, noise: Any, warming: int = 0) -> Self:
        if not bool((noise > 0).all()):
            raise not_positive()
        return type(self)(means, self.log_weights, self.reg, loadings, noise, warming)


def _orthonormal(matrices: Any) -> Any:
    """Return an orthonormal basis of the columns of each matrix."""
    return namespace(matrices).linalg.qr(matrices)[0]
