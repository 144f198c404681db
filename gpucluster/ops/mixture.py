"""Expectation-maximisation of a Gaussian mixture, streamed over row blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.device.cores import n_threads
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, one_blas_thread, row_blocks
from gpucluster.ops.gaussians import WIDE_BLOCK_BYTES, Gaussians
from gpucluster.ops.normalize import spread

T = TypeVar("T")

PARTS, PART_ROWS = 16, 1024  # that many parts or more, where that leaves that many rows
LEAST_ROWS = 256  # of a part, however wide they are: its sums have to be worth adding
GPU_BLOCK_BYTES = 512 << 20  # of a part on a GPU, which starts a kernel for each step
PARTS_BYTES = 1 << 30  # what the parts in flight may hold, where that leaves at least two


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the rows are seen from: centred, of size one, and perhaps turned.

    Attributes
    ----------
    shift : array of shape (n_features,), float32
    scale : float
        A power of two, so that nothing is rounded.
    basis : array of shape (n_features, n_features), float64, or None
        Orthonormal columns: the directions that the rows are turned to.
    """

    shift: Any
    scale: float
    basis: Any = None

    @classmethod
    def of(cls, X: Any) -> Frame:
        """Return the frame of a matrix (n_samples, n_features), float32."""
        mean, variance = spread(X)
        size = math.sqrt(variance / X.shape[1])
        return cls(mean.astype(np.float32), 2.0 ** -round(math.log2(size)) if size else 1.0)

    def turned(self, X: Any) -> Frame:
        """Return a frame whose first axes are those along which the rows of `X` differ most."""
        with one_blas_thread:  # with more of them, the last bits depend on how many
            vectors = namespace(X).linalg.eigh(scatter(X, self))[1]
        return replace(self, basis=vectors[:, ::-1])

    def view(self, rows: Any, dtype: type) -> Any:
        """Return rows (rows, n_features) in the frame."""
        block = rows - self.shift  # rounded as the rows themselves are
        block *= np.float32(self.scale)
        block = block.astype(dtype, copy=False)
        return block if self.basis is None else block @ self.basis.astype(dtype)


@dataclass(frozen=True, slots=True)
class Fit:
    """Where the iteration came to rest.

    Attributes
    ----------
    gaussians : Gaussians
        In the frame.
    labels : array of shape (n_samples,), int32
        The component with the largest responsibility.
    shares : array of shape (n_samples,), float32
        That responsibility.
    log_likelihood : float
        Mean over the rows; unit: nats.
    n_iter : int
    converged : bool
    """

    gaussians: Gaussians
    labels: Any
    shares: Any
    log_likelihood: float
    n_iter: int
    converged: bool


def expectation_maximization(
    X: Any,
    frame: Frame,
    start: Gaussians,
    responsibilities: Callable[[slice], Any],
    *,
    tol: float,
    max_iter: int,
    reporter: Reporter,
    iterations_told: tuple[int, int] | None = None,
) -> Fit:
    """Raise the likelihood of a mixture until it rests.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        Its device decides where the work runs.
    frame : Frame
    start : Gaussians
        Moved by the first responsibilities before anything else is asked of it.
    responsibilities : callable
        Returns the first ones of a slice of rows, (rows, n_components).
    tol : float
        Rest: the mean log likelihood changes by less.
    max_iter : int
    reporter : Reporter
        Told of progress; asked for cancellation.
    iterations_told : (int, int), optional
        Iterations done before, and the most there can be, where this is part of more.

    Returns
    -------
    Fit

    Notes
    -----
    Blocks are cut by the shape alone and their sums added in order, in float64: the result
    does not depend on the number of cores.
    """
    before, total = iterations_told or (0, max_iter)
    sweep = _Sweep(X, frame, reporter)
    with one_blas_thread:  # with more of them, the last bits depend on how many
        gaussians = sweep.maximized(start, responsibilities)
        found, converged = -math.inf, False
        for iteration in range(1, max_iter + 1):
            gaussians, log_likelihood = sweep.step(gaussians)
            converged = abs(log_likelihood - found) < tol
            found = log_likelihood
            reporter.progress(before + iteration, total, "iterations")
            if converged:
                break
        log_likelihood = sweep.expected(gaussians)  # labels belong to the last components
    log_likelihood += X.shape[1] * math.log(frame.scale)
    return Fit(gaussians, sweep.labels, sweep.shares, log_likelihood, iteration, converged)


def scatter(X: Any, frame: Frame) -> Any:
    """Return the mean outer product of the rows in a frame, in float64.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
    frame : Frame

    Returns
    -------
    array of shape (n_features, n_features), float64
    """
    n_samples, n_features = X.shape
    total = namespace(X).zeros((n_features, n_features))

    def work(rows: slice) -> Any:
        block = frame.view(X[rows], np.float64)
        return block.T @ block

    numbers = (3 * n_features, n_features**2)
    for part in _parts(X, work, *numbers, block_bytes=WIDE_BLOCK_BYTES):
        total += part
    return total / n_samples


def working_bytes(
    n_samples: int, row_numbers: int, second_numbers: int, *, block_bytes: int
) -> int:
    """Return the bytes of a fit beside its rows: blocks, moments in parts, and the components.

    Parameters
    ----------
    n_samples : int
    row_numbers : int
        How many numbers a row of a block takes while it is worked on.
    second_numbers : int
        How many numbers the moments of all components have.
    block_bytes : int
        Of the form of the covariance.
    """
    block = 8 * row_numbers * _part_rows(n_samples, row_numbers, block_bytes)
    # the sum of the parts, the present components, the next ones, and what makes them
    return block * n_threads() + 8 * second_numbers * (_in_flight(second_numbers) + 5)


def _parts(
    X: Any,
    work: Callable[[slice], T],
    row_numbers: int,
    second_numbers: int,
    *,
    block_bytes: int,
) -> Iterator[T]:
    """Yield ``work(block)`` for each row block, in order."""
    if is_on_gpu(X):
        block_rows = rows_per_block(8 * row_numbers, GPU_BLOCK_BYTES)
        return map(work, row_blocks(len(X), block_rows))
    block_rows = _part_rows(len(X), row_numbers, block_bytes)
    return map_blocks(work, len(X), block_rows, in_flight=_in_flight(second_numbers))


def _part_rows(n_samples: int, row_numbers: int, block_bytes: int) -> int:
    fitting = max(LEAST_ROWS, rows_per_block(8 * row_numbers, block_bytes))
    return min(fitting, max(PART_ROWS, n_samples // PARTS))


def _in_flight(second_numbers: int) -> int:
    """Return how many parts exist at a time: two for each core, or what may be held."""
    return max(2, min(2 * n_threads(), PARTS_BYTES // (8 * second_numbers + 1)))


class _Sweep:
    """Passes over the rows, and what each row is left with."""

    def __init__(self, X: Any, frame: Frame, reporter: Reporter) -> None:
        self.X, self.frame, self.reporter = X, frame, reporter
        xp = namespace(X)
        self.labels = xp.full(len(X), -1, np.int32)
        self.shares = xp.empty(len(X), np.float32)

    def step(self, gaussians: Gaussians) -> tuple[Gaussians, float]:
        """Return the moved components, and the mean log likelihood of the present ones."""
        *moments, log_likelihood = self._pass(gaussians, None)
        return gaussians.moved(*moments), log_likelihood

    def maximized(
        self, gaussians: Gaussians, responsibilities: Callable[[slice], Any]
    ) -> Gaussians:
        """Return the components moved by given responsibilities."""
        *moments, _ = self._pass(gaussians, responsibilities)
        return gaussians.moved(*moments)

    def expected(self, gaussians: Gaussians) -> float:
        """Give each row to its component, and return the mean log likelihood."""

        def work(rows: slice) -> float:
            block = self.frame.view(self.X[rows], gaussians.dtype)
            return self._expect(gaussians, rows, block)[1]

        return math.fsum(self._parts(work, gaussians)) / len(self.X)

    def _expect(self, gaussians: Gaussians, rows: slice, block: Any) -> tuple[Any, float]:
        """Return the responsibilities of a block, and the sum of its log likelihoods."""
        xp = namespace(block)
        joint = gaussians.log_joint(block, self.labels[rows])
        self.labels[rows] = joint.argmax(axis=1)
        top = joint.max(axis=1)
        joint -= top[:, None]
        xp.exp(joint, out=joint)
        total = joint.sum(axis=1)
        joint /= total[:, None]
        self.shares[rows] = 1 / total
        return joint, float((top + xp.log(total)).sum())

    def _pass(
        self, gaussians: Gaussians, responsibilities: Callable[[slice], Any] | None
    ) -> tuple[Any, Any, Any, float]:
        xp = namespace(self.X)
        n_components, n_features = gaussians.means.shape
        counts = xp.zeros(n_components)
        sums = xp.zeros((n_components, n_features))
        second = xp.zeros(gaussians.second_shape)
        log_likelihood = 0.0

        def work(rows: slice) -> tuple[Any, Any, list[tuple[Any, Any]], float]:
            block = self.frame.view(self.X[rows], gaussians.dtype)
            log_likelihood = 0.0
            if responsibilities is None:
                joint, log_likelihood = self._expect(gaussians, rows, block)
            else:
                joint = responsibilities(rows)
            shares = joint.astype(gaussians.dtype, copy=False)
            added = list(gaussians.second(block, shares))
            return joint.sum(axis=0), shares.T @ block, added, log_likelihood

        for part_counts, part_sums, added, part in self._parts(work, gaussians):
            counts += part_counts
            sums += part_sums
            for where, moments in added:
                second[where] += moments
            log_likelihood += part
        return counts, sums, second, log_likelihood / len(self.X)

    def _parts(self, work: Callable[[slice], T], gaussians: Gaussians) -> Iterator[T]:
        second_numbers = math.prod(gaussians.second_shape)
        numbers = (gaussians.row_numbers, second_numbers)
        for part in _parts(self.X, work, *numbers, block_bytes=gaussians.block_bytes):
            self.reporter.cancel.raise_if_cancelled()
            yield part
