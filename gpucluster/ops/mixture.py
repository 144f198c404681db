"""Expectation-maximisation of a Gaussian mixture, streamed over row blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain
from operator import iadd
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.device.cores import n_threads
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import one_blas_thread, row_blocks
from gpucluster.ops.gaussians import WIDE_BLOCK_BYTES, Gaussians
from gpucluster.ops.normalize import spread
from gpucluster.ops.shards import SHARDS, ByRow, Shard, Shards

NAME = "gaussian_mixture"
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
        return replace(self, basis=namespace(X).ascontiguousarray(vectors[:, ::-1]))

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
    first: Any,
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
    first : array of shape (n_samples,), int32, or int
        The component that has each row at first; or the seed of random responsibilities.
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
    Blocks are cut by the shape alone and their sums added in an order of its own, in float64: the
    result depends neither on the number of cores nor on who computes.
    """
    before, total = iterations_told or (0, max_iter)
    sweep = _Sweep(X, frame, reporter)
    with one_blas_thread:  # with more of them, the last bits depend on how many
        gaussians = sweep.maximized(start, first)
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
    shards, block_rows = _shards(X, 3 * n_features, WIDE_BLOCK_BYTES)
    held = _in_flight(n_features**2)
    known = block_rows, frame.shift, frame.scale, frame.basis
    return shards.reduce(_shard_scatter, iadd, *known, in_flight=held) / n_samples


def _shard_scatter(shard: Shard, block_rows: int, *frame: Any) -> Any:
    seen = Frame(*frame)
    blocks = (seen.view(shard.X[rows], np.float64) for rows in row_blocks(len(shard.X), block_rows))
    return reduce(iadd, (block.T @ block for block in blocks))


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
    # sums of the parts, the present components, the next ones, and what makes them
    return block * n_threads() + 8 * second_numbers * (_in_flight(second_numbers) + 7)


def _shards(
    X: Any, row_numbers: int, block_bytes: int, reporter: Reporter | None = None
) -> tuple[Shards, int]:
    """Return the rows in shards, and how many rows a block of a shard has."""
    if is_on_gpu(X):
        block_rows = rows_per_block(8 * row_numbers, GPU_BLOCK_BYTES)
        return Shards(X, NAME, reporter, rows=len(X)), block_rows
    block_rows = _part_rows(len(X), row_numbers, block_bytes)
    n_blocks = -(-len(X) // block_rows)
    return Shards(X, NAME, reporter, rows=block_rows * -(-n_blocks // SHARDS)), block_rows


def _part_rows(n_samples: int, row_numbers: int, block_bytes: int) -> int:
    fitting = max(LEAST_ROWS, rows_per_block(8 * row_numbers, block_bytes))
    return min(fitting, max(PART_ROWS, n_samples // PARTS))


def _in_flight(second_numbers: int) -> int:
    """Return how many parts exist at a time: two for each core, or what may be held."""
    return max(2, min(2 * n_threads(), PARTS_BYTES // (8 * second_numbers + 1)))


@dataclass(slots=True)
class _Sums:
    """What rows add up to, and what each of them is left with.

    Attributes
    ----------
    counts : array of shape (n_components,), float64
        Sums of the responsibilities.
    sums : array of shape (n_components, n_features), float64
        Rows, weighted with them.
    second : dict
        By their place, parts of the second moments.
    log_likelihood : float
    labels, shares : list of array
        Those of the rows, in order.
    """

    counts: Any
    sums: Any
    second: dict[Any, Any]
    log_likelihood: float
    labels: list[Any]
    shares: list[Any]

    def add(self, other: _Sums) -> _Sums:
        """Return both together; this one is written to, and the other never."""
        self.counts += other.counts
        self.sums += other.sums
        for where, moments in other.second.items():
            known = self.second.get(where)
            if known is None:
                self.second[where] = moments.astype(np.float64)
            else:  # of one block, they may be float32
                self.second[where] = known = known.astype(np.float64, copy=False)
                known += moments
        self.log_likelihood += other.log_likelihood
        self.labels += other.labels
        self.shares += other.shares
        return self


class _Sweep:
    """Passes over the rows, and what each row is left with."""

    def __init__(self, X: Any, frame: Frame, reporter: Reporter) -> None:
        self.X, self.frame, self.reporter = X, frame, reporter
        xp = namespace(X)
        self.labels = xp.full(len(X), -1, np.int32)
        self.shares = xp.empty(len(X), np.float32)

    def step(self, gaussians: Gaussians) -> tuple[Gaussians, float]:
        """Return the moved components, and the mean log likelihood of the present ones."""
        found = self._pass(gaussians, _moments_expected, ByRow(self.labels))
        self._keep(found.labels, found.shares)
        return self._moved(gaussians, found), found.log_likelihood / len(self.X)

    def maximized(self, gaussians: Gaussians, first: Any) -> Gaussians:
        """Return the components moved by the first responsibilities."""
        if isinstance(first, int):
            return self._moved(gaussians, self._pass(gaussians, _moments_drawn, first))
        return self._moved(gaussians, self._pass(gaussians, _moments_given, ByRow(first)))

    def expected(self, gaussians: Gaussians) -> float:
        """Give each row to its component, and return the mean log likelihood."""
        shards, known = self._shards(gaussians)
        parts = shards.map(_shard_expected, ByRow(self.labels), *known)
        labels, shares, log_likelihoods = zip(*parts, strict=True)
        self._keep(chain(*labels), chain(*shares))
        return math.fsum(log_likelihoods) / len(self.X)

    def _keep(self, labels: Iterable[Any], shares: Iterable[Any]) -> None:
        xp = namespace(self.X)
        self.labels, self.shares = xp.concatenate(list(labels)), xp.concatenate(list(shares))

    def _pass(self, gaussians: Gaussians, moments: Callable[..., _Sums], given: Any) -> _Sums:
        shards, known = self._shards(gaussians)
        held = math.prod(gaussians.second_shape)
        found: _Sums = shards.reduce(
            *(_shard_sums, _Sums.add, moments, given, *known), in_flight=_in_flight(held)
        )
        return found

    def _shards(self, gaussians: Gaussians) -> tuple[Shards, tuple[Any, ...]]:
        numbers = gaussians.row_numbers, gaussians.block_bytes
        shards, block_rows = _shards(self.X, *numbers, self.reporter)
        return shards, (block_rows, *_taken_apart(self.frame, gaussians))

    def _moved(self, gaussians: Gaussians, found: _Sums) -> Gaussians:
        second = namespace(self.X).zeros(gaussians.second_shape)
        for where, moments in found.second.items():
            second[where] = moments
        return gaussians.moved(found.counts, found.sums, second)


def _taken_apart(frame: Frame, gaussians: Gaussians) -> tuple[Any, ...]:
    """Return what other processes make frame and components of, arrays one by one."""
    state = {name: value for name, value in vars(gaussians).items() if name != "xp"}
    return frame.shift, frame.scale, frame.basis, type(gaussians), tuple(state), *state.values()


def _put_together(
    shift: Any, scale: float, basis: Any, kind: type[Gaussians], names: tuple[str, ...], *state: Any
) -> tuple[Frame, Gaussians]:
    gaussians = kind.__new__(kind)
    vars(gaussians).update(zip(names, state, strict=True), xp=namespace(shift))
    return Frame(shift, scale, basis), gaussians


def _shard_sums(
    shard: Shard, moments: Callable[..., _Sums], given: Any, block_rows: int, *known: Any
) -> _Sums:
    """Return the moments of a shard, by what is given of each row, or as a seed."""
    frame, gaussians = _put_together(*known)

    def found(rows: slice) -> _Sums:
        block = frame.view(shard.X[rows], gaussians.dtype)
        if isinstance(given, int):
            return moments(gaussians, block, (given, shard.start + rows.start))
        return moments(gaussians, block, given[rows])

    return reduce(_Sums.add, map(found, row_blocks(len(shard.X), block_rows)))


def _shard_expected(
    shard: Shard, labels: Any, block_rows: int, *known: Any
) -> tuple[list[Any], list[Any], float]:
    """Return the component of each row, its share, and the log likelihood of all."""
    frame, gaussians = _put_together(*known)
    labels_found, shares_found, total = [], [], 0.0
    for rows in row_blocks(len(shard.X), block_rows):
        block = frame.view(shard.X[rows], gaussians.dtype)
        _, own, shares, log_likelihood = _expected(gaussians, block, labels[rows])
        labels_found.append(own)
        shares_found.append(shares)
        total += log_likelihood
    return labels_found, shares_found, total


def _expected(gaussians: Gaussians, block: Any, labels: Any) -> tuple[Any, Any, Any, float]:
    """Return responsibilities, likeliest components, their shares, and the log likelihood."""
    xp = gaussians.xp
    joint = gaussians.log_joint(block, labels)
    own = joint.argmax(axis=1).astype(np.int32)
    top = joint.max(axis=1)
    joint -= top[:, None]
    xp.exp(joint, out=joint)
    total = joint.sum(axis=1)
    joint /= total[:, None]
    return joint, own, (1 / total).astype(np.float32), float((top + xp.log(total)).sum())


def _moments_expected(gaussians: Gaussians, block: Any, labels: Any) -> _Sums:
    joint, own, shares, log_likelihood = _expected(gaussians, block, labels)
    found = _moments(gaussians, block, joint)
    found.labels, found.shares, found.log_likelihood = [own], [shares], log_likelihood
    return found


def _moments_given(gaussians: Gaussians, block: Any, labels: Any) -> _Sums:
    numbers = gaussians.xp.arange(len(gaussians.means))
    return _moments(gaussians, block, (labels[:, None] == numbers).astype(np.float64))


def _moments_drawn(gaussians: Gaussians, block: Any, seed: tuple[int, int]) -> _Sums:
    shares = np.random.default_rng(seed).random((len(block), len(gaussians.means)))
    shares /= shares.sum(axis=1, keepdims=True)
    return _moments(gaussians, block, gaussians.xp.asarray(shares))


def _moments(gaussians: Gaussians, block: Any, joint: Any) -> _Sums:
    shares = joint.astype(gaussians.dtype, copy=False)
    sums = (shares.T @ block).astype(np.float64, copy=False)
    second = dict(gaussians.second(block, shares))
    return _Sums(joint.sum(axis=0), sums, second, 0.0, [], [])
