"""Mean shift with a flat kernel: seeds climb to where rows are densest, all at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace, to_host
from gpucluster.device.cores import n_threads
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.duplicates import equal_groups
from gpucluster.types import Cost

TILE_SEEDS, TILE_ROWS = 256, 4096
GPU_TILE_BYTES = 256 << 20
TYPICAL_STEPS = 12  # of all seeds at once: some take 60, most far fewer
STOP = 1e-3  # a seed has arrived when it moves less, in bandwidths; as in scikit-learn
TOLERANCE = 1e-3  # of a squared bandwidth: more rounding than this calls for float64


@dataclass(frozen=True, slots=True)
class Modes:
    """Where seeds arrived.

    Attributes
    ----------
    centers : array of shape (n_modes, n_features), float32 or float64
    mass : array of shape (n_modes,), float64
        Rows in the last ball of each.
    n_iter : int
        Steps of the seed that took most.
    n_seeds : int
        Seeds that started.
    n_moving : int
        Seeds that still moved when they were stopped.
    """

    centers: Any
    mass: Any
    n_iter: int
    n_seeds: int
    n_moving: int


class FlatKernel:
    """The rows within a bandwidth of a point: how many they are, and their mean.

    Parameters
    ----------
    points : array of shape (n_points, n_features), float32
        Without a large common offset. Their device decides where the work runs.
    bandwidth : float
        Radius of the ball; inclusive.
    weights : array of shape (n_points,), optional
        How many rows each point stands for. Omitted: one.
    mean_sqdist : array of shape (n_points,), optional
        Mean squared distance of those rows to their point. A point is then inside when the
        mean squared distance of its rows to the centre of the ball is at most the squared
        bandwidth. Omitted: zero.

    Notes
    -----
    Distances are ``|x|^2 + |s|^2 - 2 s.x`` by blocked BLAS, a second product adds up what
    lies inside: ``4 * n_seeds * n_points * n_features`` flop. In float32 where the bandwidth
    allows it, else in float64. Extra memory: 24 bytes a point and a few tiles
    for each core.
    """

    def __init__(
        self, points: Any, bandwidth: float, weights: Any = None, mean_sqdist: Any = None
    ) -> None:
        xp = namespace(points)
        sqnorms = xp.einsum("ij,ij->i", points, points, dtype=np.float64)
        self.points = points
        self.bandwidth = bandwidth
        # float32 where its products tell distances from the bandwidth
        single = resolves(points, bandwidth, np.float32)
        self.dtype = np.dtype(np.float32 if single else np.float64)
        if mean_sqdist is not None:
            sqnorms = sqnorms + xp.asarray(mean_sqdist)
        self.half_sqnorms = (0.5 * sqnorms).astype(self.dtype)
        self.weights = xp.ones(len(points), self.dtype)
        if weights is not None:
            self.weights = xp.asarray(weights).astype(self.dtype)

    def around(self, seeds: Any, reporter: Reporter | None = None) -> tuple[Any, Any]:
        """Return mean and mass of the ball around each seed; an empty one has mass 0.

        Parameters
        ----------
        seeds : array of shape (n_seeds, n_features)
            Of the kernel's own dtype.
        reporter : Reporter, optional
            Asked for cancellation after each block.

        Returns
        -------
        means : array of shape (n_seeds, n_features)
        mass : array of shape (n_seeds,), float64
        """
        xp = namespace(seeds)
        means = xp.empty_like(seeds)
        mass = xp.zeros(len(seeds), np.float64)
        reach = 0.5 * (xp.einsum("ij,ij->i", seeds, seeds) - self.bandwidth**2)
        tile_rows = _tile_rows(seeds)

        def work(block: slice) -> None:
            own = seeds[block]
            sums = xp.zeros(own.shape, np.float64)
            for rows in row_blocks(len(self.points), tile_rows):
                others = self.points[rows].astype(self.dtype, copy=False)
                tile = own @ others.T
                tile -= self.half_sqnorms[rows]
                inside = tile >= reach[block, None]
                xp.multiply(inside, self.weights[rows], out=tile)
                sums += tile @ others
                mass[block] += tile.sum(axis=1)
            means[block] = sums / xp.maximum(mass[block], 1)[:, None]

        for _ in _each(work, len(seeds), seeds):
            if reporter is not None:
                reporter.cancel.raise_if_cancelled()
        return means, mass


def resolves(points: Any, bandwidth: float, dtype: Any = np.float64) -> bool:
    """Whether products of `dtype` can tell distances from the bandwidth."""
    sqnorm = float(namespace(points).einsum("ij,ij->i", points, points, dtype=np.float64).max())
    # rounding of two norms and a product, its additions in the worst order
    rounding = (points.shape[1] + 20) * float(np.finfo(dtype).eps) * sqnorm
    return bool(rounding < TOLERANCE * bandwidth**2)


def step_flop(n_seeds: int, n_points: int, n_features: int) -> float:
    """Return the work of one step of all seeds; comparing a distance costs as much as 100 flop."""
    return 4.0 * n_seeds * n_points * (n_features + 25)


def climb_cost(
    n_seeds: int, n_points: int, n_features: int, n_steps: float = TYPICAL_STEPS
) -> Cost:
    """Return the cost of `climb` on the host, if all seeds take so many steps."""
    tiles = n_threads() * 8 * (4 * TILE_SEEDS * TILE_ROWS + 2 * TILE_ROWS * n_features)
    seeds = 40 * n_seeds * (n_features + 1)  # they, their means, the step, and while they merge
    flop = n_steps * step_flop(n_seeds, n_points, n_features)
    return Cost(32 * n_points + seeds + tiles + (32 << 20), flop / 150e9)


def climb(kernel: FlatKernel, seeds: Any, max_iter: int, reporter: Reporter | None = None) -> Modes:
    """Move each seed to the mean of its ball, until it moves no more.

    Seeds that meet go on as one, which changes nothing: equal balls have equal means.

    Parameters
    ----------
    kernel : FlatKernel
    seeds : array of shape (n_seeds, n_features)
        Seeds with an empty ball are dropped.
    max_iter : int
        Steps, beside the one that finds a seed at rest.
    reporter : Reporter, optional
        Told how many seeds have arrived.

    Returns
    -------
    Modes
        One for each seed that did not meet another on its way. On the device of the kernel.

    References
    ----------
    Cheng 1995, doi:10.1109/34.400568. Comaniciu, Meer 2002, doi:10.1109/34.1000236.
    """
    xp = namespace(kernel.points)
    moving = _merged(xp.asarray(seeds).astype(kernel.dtype))
    n_seeds = len(seeds)
    centers, masses, n_moving, iteration = [], [], 0, 0
    for iteration in range(max_iter + 1):
        means, mass = kernel.around(moving, reporter)
        difference = means - moving
        step = xp.sqrt(xp.einsum("ij,ij->i", difference, difference))
        arrived = step <= STOP * kernel.bandwidth
        if iteration == max_iter:
            n_moving = int((~arrived & (mass > 0)).sum())
            arrived[:] = True
        arrived &= mass > 0
        centers.append(means[arrived])
        masses.append(mass[arrived])
        moving = _merged(means[~arrived & (mass > 0)])
        if reporter is not None:
            reporter.progress(n_seeds - len(moving), n_seeds, "seeds")
        if not len(moving):
            break
    return Modes(xp.concatenate(centers), xp.concatenate(masses), iteration, n_seeds, n_moving)


def separate(modes: Modes, bandwidth: float) -> Any:
    """Return the centres that no denser one has within a bandwidth, densest first.

    Ties in mass go to the larger coordinates, as in scikit-learn.

    Returns
    -------
    array of shape (n_kept, n_features)
        Of the dtype and on the device of the modes.
    """
    xp = namespace(modes.centers)
    order = np.lexsort((*to_host(modes.centers).T[::-1], to_host(modes.mass)))[::-1]
    remaining = modes.centers[xp.asarray(order.copy())]
    kept = [remaining[:0]]
    while len(remaining):
        head, rest = remaining[:TILE_SEEDS], remaining[TILE_SEEDS:]
        close = to_host(_within(head, head, bandwidth))
        free = np.ones(len(head), np.bool_)
        for i in range(len(head)):
            if free[i]:
                free[i + 1 :] &= ~close[i, i + 1 :]
        winners = head[xp.asarray(free)]
        kept.append(winners)
        free_rest = xp.ones(len(rest), np.bool_)
        for rows in row_blocks(len(rest), TILE_ROWS):
            free_rest[rows] = ~_within(winners, rest[rows], bandwidth).any(axis=0)
        remaining = rest[free_rest]
    return xp.concatenate(kept)


def _within(A: Any, B: Any, bandwidth: float) -> Any:
    xp = namespace(A)
    A, B = A.astype(np.float64), B.astype(np.float64)
    sqdist = xp.einsum("ij,ij->i", A, A)[:, None] + xp.einsum("ij,ij->i", B, B) - 2 * (A @ B.T)
    return sqdist <= bandwidth**2


def nearest_mode(X: Any, centers: Any, reporter: Reporter | None = None) -> tuple[Any, Any]:
    """Return the nearest centre of each row, ties to the lower, and the squared distance.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
    centers : array of shape (n_centers, n_features), float32 or float64
        Their dtype is that of the products.
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    labels : array of shape (n_samples,), int32
    sqdist : array of shape (n_samples,), float64
    """
    xp = namespace(X)
    half_sqnorms = 0.5 * xp.einsum("ij,ij->i", centers, centers)
    labels = xp.empty(len(X), np.int32)
    sqdist = xp.empty(len(X), np.float64)

    def work(block: slice) -> None:
        rows = X[block].astype(centers.dtype, copy=False)
        best = xp.full(len(rows), -np.inf, centers.dtype)
        for cols in row_blocks(len(centers), _tile_rows(X)):
            scores = rows @ centers[cols].T
            scores -= half_sqnorms[cols]
            found = scores.argmax(axis=1)
            score = xp.take_along_axis(scores, found[:, None], axis=1)[:, 0]
            closer = score > best
            labels[block] = xp.where(closer, found + cols.start, labels[block])
            best = xp.maximum(best, score)
        sqdist[block] = xp.maximum(xp.einsum("ij,ij->i", rows, rows) - 2 * best, 0)

    for _ in _each(work, len(X), X, reporter):
        pass
    return labels, sqdist


def _tile_rows(array: Any) -> int:
    return rows_per_block(4 * TILE_ROWS, GPU_TILE_BYTES) if is_on_gpu(array) else TILE_ROWS


def _each(work: Any, count: int, array: Any, reporter: Reporter | None = None) -> Iterable[Any]:
    """Do `work` on blocks of rows: of one core each on the host, one after another on a GPU."""
    if is_on_gpu(array):
        return map(work, row_blocks(count, TILE_ROWS))
    return map_blocks(work, count, TILE_SEEDS, reporter)


def _merged(seeds: Any) -> Any:
    first, _ = equal_groups(to_host(seeds))
    return seeds if len(first) == len(seeds) else seeds[namespace(seeds).asarray(first)]


def bin_seeds(points: Any, origin: Any, bandwidth: float, min_bin_freq: int, weights: Any) -> Any:
    """Return the middles of the cells of a grid, one bandwidth wide, that hold rows enough.

    Parameters
    ----------
    points : array of shape (n_points, n_features), float32
    origin : array of shape (n_features,) or None
        What was taken off the points: the grid has a middle at zero without it.
    bandwidth : float
    min_bin_freq : int
        Rows that make a cell count.
    weights : ndarray of shape (n_points,), integer
        Rows that each point stands for.

    Returns
    -------
    array of shape (n_seeds, n_features), float32
        The points themselves when no two share a cell, as in scikit-learn. Else on the host.
    """
    shift = 0.0 if origin is None else to_host(origin).astype(np.float64)
    cells = np.round((to_host(points) + shift) / bandwidth)
    first, group = equal_groups(cells)
    kept = first[np.bincount(group, weights, minlength=len(first)) >= min_bin_freq]
    if len(kept) == len(points):
        return points
    return (cells[kept] * bandwidth - shift).astype(np.float32)


def estimated_bandwidth(
    X: Any, quantile: float, max_rows: int, random_state: int, reporter: Reporter | None = None
) -> float:
    """Return the mean distance of a row to its neighbour at a quantile of all rows.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        Without a large common offset.
    quantile : float
        Share of the rows that lie nearer; the row itself is one of them.
    max_rows : int
        Above it, a uniform sample of that many rows is looked at.
    random_state : int
        Seed of the sample.
    reporter : Reporter, optional
        Asked for cancellation after each block.

    Returns
    -------
    float
        The value of scikit-learn's ``estimate_bandwidth`` where all rows are looked at.

    Notes
    -----
    Extra memory: the sample, and a tile for each core.
    """
    xp = namespace(X)
    if len(X) > max_rows:
        drawn = np.random.default_rng(random_state).choice(len(X), max_rows, replace=False)
        X = X[xp.asarray(np.sort(drawn))]
    last = max(1, int(len(X) * quantile)) - 1
    half_sqnorms = 0.5 * xp.einsum("ij,ij->i", X, X)

    def work(block: slice) -> float:
        nearness = half_sqnorms - X[block] @ X.T
        neighbor = xp.argpartition(nearness, last, axis=1)[:, last]
        difference = X[block].astype(np.float64) - X[neighbor]  # exact zeros for equal rows
        return float(xp.sqrt(xp.einsum("ij,ij->i", difference, difference)).sum())

    total = 0.0
    for part in _each(work, len(X), X):
        total += part
        if reporter is not None:
            reporter.cancel.raise_if_cancelled()
    return total / len(X)
