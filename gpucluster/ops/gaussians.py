"""Gaussian components: the log densities of a block of rows, and what moves the components.

One class for each form of the covariance. All of it runs where its arrays live. Rows come
centred and scaled (`gpucluster.ops.mixture.Frame`), so that float32 has digits enough in the
usual case; each class says in `dtype` when its next pass needs float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from scipy.linalg.lapack import dtrtri

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.errors import InputError

LOG_2PI = float(np.log(2 * np.pi))
NEGLIGIBLE = 1e-12  # a smaller responsibility changes no digit of a float32 sum
UNREACHABLE = 45.0  # nats below the best component: e^-45 is less than a rounding of float64
WIDE_BLOCK_BYTES = 64 << 20  # where the moments of each block are large
PANEL = 32  # columns of a factor that are applied before rows are given up; then twice as many
FLOAT32_SQUARES = 1e4  # float32 when squares that cancel are at most this many variances
FLOAT32_CONDITION = 1e7  # float32 when the eigenvalues of a covariance span no more


class Gaussians(ABC):
    """Weighted Gaussian components.

    Parameters
    ----------
    means : array of shape (n_components, n_features), float64
    log_weights : array of shape (n_components,), float64
    reg : float
        Added to the variances at each move.
    """

    dtype: type = np.float64  # of the next pass
    block_bytes: int = 2 << 20  # of a block of rows: a few products and many passes, in cache

    def __init__(self, means: Any, log_weights: Any, reg: float) -> None:
        self.xp = namespace(means)
        self.means, self.log_weights, self.reg = means, log_weights, reg

    @property
    @abstractmethod
    def second_shape(self) -> tuple[int, ...]:
        """The shape of the second moments, all components together."""

    @property
    def row_numbers(self) -> int:
        """How many numbers a row of a block takes while it is worked on."""
        n_components, n_features = self.means.shape
        return int(3 * n_features + 4 * n_components)

    @abstractmethod
    def log_joint(self, block: Any, likely: Any) -> Any:
        """Return the log of weight times density.

        Parameters
        ----------
        block : array of shape (rows, n_features), of `dtype`
        likely : array of shape (rows,), int32
            The component that each row belonged to before, -1 where none is known.

        Returns
        -------
        array of shape (rows, n_components), float64
        """

    @abstractmethod
    def second(self, block: Any, shares: Any) -> Iterator[tuple[Any, Any]]:
        """Yield where a block adds to the second moments, and what; each place at most once.

        Parameters
        ----------
        block : array of shape (rows, n_features), of `dtype`
        shares : array of shape (rows, n_components), of `dtype`
            Responsibilities.
        """

    @abstractmethod
    def _refit(self, counts: Any, means: Any, second: Any) -> Self:
        """Return components at `means` from second moments; `counts` are above zero."""

    def moved(self, counts: Any, sums: Any, second: Any) -> Self:
        """Return the components of most likelihood under given responsibilities.

        Parameters
        ----------
        counts : array of shape (n_components,), float64
            Sums of the responsibilities.
        sums : array of shape (n_components, n_features), float64
            Rows, weighted with them.
        second : array of shape `second_shape`, float64

        Raises
        ------
        InputError
            A covariance is not positive definite in spite of `reg`.
        """
        counts = counts + 10 * np.finfo(np.float64).eps  # as scikit-learn: none is ever empty
        alive = (counts > 1e-10)[:, None]
        means = self.xp.where(alive, sums / counts[:, None], self.means)
        moved = self._refit(counts, means, second)
        moved.log_weights = self.xp.log(counts / counts.sum())
        return moved


class Axes(Gaussians):
    """Covariances along the axes: of each feature, or one variance for all of a component.

    With squares and rows as matrices, both terms of the density are one product each.
    """

    def __init__(self, means: Any, log_weights: Any, reg: float, variances: Any) -> None:
        super().__init__(means, log_weights, reg)
        self.variances = variances  # (n_components, n_features), or (n_components, 1): spherical
        squares = (self.means**2 / variances).sum(axis=1)
        if float(squares.max()) <= FLOAT32_SQUARES:
            self.dtype = np.float32
        each = means.shape[1] // variances.shape[1]
        log_determinant = each * self.xp.log(variances).sum(axis=1)
        self.constant = -0.5 * (means.shape[1] * LOG_2PI + log_determinant + squares)
        self.precisions = (-0.5 / variances).T.astype(self.dtype, order="C")
        self.slopes = (means / variances).T.astype(self.dtype, order="C")

    @classmethod
    def start(cls, means: Any, reg: float, *, spherical: bool) -> Self:
        """Return components that only wait to be moved."""
        xp = namespace(means)
        shape = (len(means), 1) if spherical else means.shape
        start = cls(means, xp.zeros(len(means)), reg, xp.ones(shape))
        start.dtype = np.float64
        return start

    @property
    def second_shape(self) -> tuple[int, ...]:
        """One for each variance."""
        return tuple(self.variances.shape)

    def _squares(self, block: Any) -> Any:
        spherical = self.variances.shape[1] == 1
        return self.xp.einsum("ij,ij->i", block, block)[:, None] if spherical else block * block

    def log_joint(self, block: Any, likely: Any) -> Any:
        """Return the log of weight times density."""
        joint = self._squares(block) @ self.precisions
        joint += block @ self.slopes
        return joint + (self.log_weights + self.constant)

    def second(self, block: Any, shares: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the weighted squares."""
        yield ..., shares.T @ self._squares(block)

    def _refit(self, counts: Any, means: Any, second: Any) -> Self:
        squares = means**2
        if second.shape[1] == 1:
            squares = squares.sum(axis=1, keepdims=True)
        variances = self.xp.maximum(second / counts[:, None] - squares, 0)
        variances = variances / (means.shape[1] // second.shape[1]) + self.reg
        if not bool((variances > 0).all()):
            raise _not_positive()
        return type(self)(means, self.log_weights, self.reg, variances)


class Tied(Gaussians):
    """One covariance for all components.

    The square of a row is the same for all, so it cancels in the responsibilities, and its
    sum over all rows follows from their scatter, which is measured once.
    """

    def __init__(
        self, means: Any, log_weights: Any, reg: float, scatter: Any, covariance: Any
    ) -> None:
        super().__init__(means, log_weights, reg)
        self.scatter = scatter  # (n_features, n_features): mean outer product of the rows
        factor = _precision_factor(covariance)
        slopes = (means @ factor) @ factor.T
        squares = (slopes * means).sum(axis=1)
        if float(squares.max()) <= FLOAT32_SQUARES:
            self.dtype = np.float32
        common = float(((factor.T @ scatter) * factor.T).sum())  # the mean of x' P x
        log_determinant = -2 * float(self.xp.log(self.xp.diag(factor)).sum())
        self.constant = -0.5 * (means.shape[1] * LOG_2PI + log_determinant + common + squares)
        self.slopes = slopes.T.astype(self.dtype, order="C")

    @classmethod
    def start(cls, means: Any, reg: float, scatter: Any) -> Self:
        """Return components that only wait to be moved."""
        xp = namespace(means)
        start = cls(means, xp.zeros(len(means)), reg, scatter, xp.eye(means.shape[1]))
        start.dtype = np.float64
        return start

    @property
    def second_shape(self) -> tuple[int, ...]:
        """None: the scatter is known."""
        return (0,)

    def log_joint(self, block: Any, likely: Any) -> Any:
        """Return the log of weight times density, with the mean square for that of each row."""
        return block @ self.slopes + (self.log_weights + self.constant)

    def second(self, block: Any, shares: Any) -> Iterator[tuple[Any, Any]]:
        """Yield nothing."""
        return iter(())

    def _refit(self, counts: Any, means: Any, second: Any) -> Self:
        covariance = self.scatter - (means * (counts / counts.sum())[:, None]).T @ means
        covariance[self.xp.diag_indices(len(covariance))] += self.reg
        return type(self)(means, self.log_weights, self.reg, self.scatter, covariance)


class Full(Gaussians):
    """A covariance for each component; of all features, or of the first ones and a diagonal.

    A row is multiplied with the inverse Cholesky factor panel by panel. Squares only add up,
    so a component is given up for a row as soon as it is seen to lie `UNREACHABLE` below
    another: what is left out is below the rounding of float64. The sooner the features
    differ, the less there is to do: hence `Frame.turned`.

    With fewer than all features in `factors`, each of the others is a regression on the
    first ones with a variance of its own. That is a covariance of low rank and a diagonal,
    and nothing has the size of a covariance.

    Parameters
    ----------
    means, log_weights, reg
        As of every form.
    factors : array of shape (n_components, rank, n_features), float64
        Columns that make independent numbers of variance 1 of the first `rank` features
        (an upper triangle), and what the others take from them.
    scales : array of shape (n_components, n_features - rank), float64
        Inverse standard deviations of the others, given the first ones.

    References
    ----------
    Pourahmadi 1999, doi:10.1093/biomet/86.3.677 (covariances as regressions); Vecchia 1988,
    doi:10.1111/j.2517-6161.1988.tb01729.x (on a part of what comes before).
    """

    block_bytes = WIDE_BLOCK_BYTES

    def __init__(self, means: Any, log_weights: Any, reg: float, factors: Any, scales: Any) -> None:
        super().__init__(means, log_weights, reg)
        xp, d = self.xp, means.shape[1]
        log_determinants = xp.log(xp.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        log_determinants += xp.log(scales).sum(axis=1)
        self.constant = log_determinants - 0.5 * d * LOG_2PI
        self.factors, self.scales, self.rank = factors, scales, factors.shape[1]

    @classmethod
    def start(cls, means: Any, reg: float, rank: int) -> Self:
        """Return components that only wait to be moved."""
        xp, (k, d) = namespace(means), means.shape
        factors = xp.broadcast_to(xp.eye(rank, d), (k, rank, d))
        return cls(means, xp.zeros(k), reg, factors, xp.ones((k, d - rank)))

    @property
    def second_shape(self) -> tuple[int, ...]:
        """Covariances with the first features; and the variances, unless these are all."""
        k, rank, d = self.factors.shape
        return (k, rank + (rank < d), d)

    def log_joint(self, block: Any, likely: Any) -> Any:
        """Return the log of weight times density; -inf where that is out of reach."""
        xp, width = self.xp, self.rank if self.rank <= 2 * PANEL else PANEL
        lead = xp.ascontiguousarray(block[:, :width])
        joint = xp.empty((len(self.means), len(block))).T
        for k, mean in enumerate(self.means.astype(self.dtype)):
            panel = (lead - mean[:width]) @ self.factors[k, :width, :width]
            joint[:, k] = self.log_weights[k] + self.constant[k]
            joint[:, k] -= 0.5 * xp.einsum("ij,ij->i", panel, panel)
        if width == block.shape[1]:
            return joint
        best = xp.full(len(block), -np.inf)
        for own in (True, False):  # the likely component first: it is the one to be beaten
            for k in range(len(self.means)):
                self._complete(block, xp.flatnonzero((likely == k) == own), k, width, joint, best)
        return joint

    def _complete(self, block: Any, rows: Any, k: int, start: int, joint: Any, best: Any) -> None:
        """Apply the columns from `start` on of one factor, to those of `rows` it can claim."""
        mean, factor, rank = self.means[k].astype(self.dtype), self.factors[k], self.rank
        log_joint, floor = joint[rows, k], best[rows] - UNREACHABLE
        joint[rows, k] = -np.inf
        while True:
            reached = log_joint > floor
            rows, floor, log_joint = rows[reached], floor[reached], log_joint[reached]
            if start == len(mean) or not len(rows):
                break
            stop = min(2 * start, rank if start < rank else len(mean))
            first = min(stop, rank)
            panel = (block[rows, :first] - mean[:first]) @ factor[:first, start:stop]
            if start >= rank:
                others = block[rows, start:stop] - mean[start:stop]
                panel += others * self.scales[k, start - rank : stop - rank]
            log_joint -= 0.5 * self.xp.einsum("ij,ij->i", panel, panel)
            start = stop
        joint[rows, k] = log_joint
        best[rows] = self.xp.maximum(best[rows], log_joint)

    def second(self, block: Any, shares: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the weighted scatter around the mean that each component has now."""
        rank, d = self.factors.shape[1:]
        for k, mean in enumerate(self.means.astype(self.dtype)):
            rows, share = _claimed(shares[:, k])
            if len(rows):
                members = (block if len(rows) == len(block) else block[rows]) - mean
                members *= self.xp.sqrt(share)[:, None]
                if rank == d:
                    yield k, members.T @ members
                else:
                    added = self.xp.empty((rank + 1, d), members.dtype)
                    self.xp.matmul(members[:, :rank].T, members, out=added[:rank])
                    added[rank] = self.xp.einsum("ij,ij->j", members, members)
                    yield k, added

    def _refit(self, counts: Any, means: Any, second: Any) -> Self:
        xp, (_, rank, d) = self.xp, self.factors.shape
        first = xp.arange(rank)
        dtype: type = np.float32
        factors = xp.empty(self.factors.shape, np.float64)
        scales = xp.empty(self.scales.shape, np.float64)
        for k in range(len(means)):
            step = means[k] - self.means[k]
            covariance = second[k, :rank] / counts[k] - xp.outer(step[:rank], step)
            covariance[first, first] += self.reg
            factors[k, :, :rank] = factor = _precision_factor(covariance[:, :rank])
            trace = float(xp.trace(covariance))
            if rank < d:
                shared = factor.T @ covariance[:, rank:]
                variances = (second[k, rank] / counts[k] - step**2)[rank:]
                trace += float(variances.sum())
                left = xp.maximum(variances - (shared**2).sum(axis=0), 0) + self.reg
                if not bool((left > 0).all()):
                    raise _not_positive()
                scales[k] = 1 / xp.sqrt(left)
                factors[k, :, rank:] = -(factor @ shared) * scales[k]
            steepest = (factors[k] ** 2).sum(axis=0)
            steepest[rank:] += scales[k] ** 2
            if trace * float(steepest.max()) > FLOAT32_CONDITION:
                dtype = np.float64
        moved = type(self)(means, self.log_weights, self.reg, factors, scales)
        moved.dtype = dtype
        moved.factors = factors.astype(dtype, copy=False)
        moved.scales = scales.astype(dtype, copy=False)
        return moved


def _claimed(share: Any) -> tuple[Any, Any]:
    """Return the rows that a component has a share in, and the shares."""
    rows = namespace(share).flatnonzero(share > NEGLIGIBLE)
    return rows, share[rows]


def _precision_factor(covariance: Any) -> Any:
    """Return the upper triangle ``F`` with ``F F'`` the inverse of a covariance."""
    xp = namespace(covariance)
    try:
        lower = _cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise _not_positive() from error
    inverse = xp.linalg.inv(lower) if is_on_gpu(lower) else dtrtri(lower, lower=1)[0]
    return xp.triu(inverse.T)


def _cholesky(covariance: Any) -> Any:
    if not is_on_gpu(covariance):
        return np.linalg.cholesky(covariance)
    import cupy
    import cupyx

    with cupyx.errstate(linalg="raise"):  # else what comes back is not defined
        return cupy.linalg.cholesky(covariance)


def _not_positive() -> InputError:
    """Return the error of a covariance that cannot be inverted."""
    return InputError(
        "gaussian_mixture: the covariance of a component is not positive definite: "
        "it has too few rows, or they lie in a plane",
        hint="raise reg_covar, use fewer components, or covariance_type diag",
    )
