"""Lloyd's iteration with bounds: after its first pass, most rows are not looked at again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucluster.device.arrays import namespace, to_host
from gpucluster.device.storage import like
from gpucluster.events import Reporter
from gpucluster.ops.assign import TILE_CENTERS, TILE_ROWS, lloyd_step, part_rows, sums_by_label
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.compiled import relative_rounding
from gpucluster.ops.compiled_bounds import (
    ROUNDING,
    assign_again,
    count_doubts,
    fold_tile,
    open_bounds,
    sqdist_to_own,
)
from gpucluster.types import Labels, Matrix, Vector64

MIN_GROUPS = 64  # of centres that share a bound; there may be half as many as features
GROUPING_STEPS = 3
# One in so many rows is asked whether the bounds still leave little to do; rows on disk come in
# pages and more, so they are asked in runs of so many, where that leaves enough runs.
ASKED_EVERY, ASKED_RUN, LEAST_RUNS = 64, 64, 64
DOUBTS_LIMIT = 1 / 6  # share of all distances; more are faster by products of blocks


def n_groups(n_clusters: int, n_features: int) -> int:
    """Return how many bounds a row has: one for each centre, or half the size of the row."""
    return min(n_clusters, max(MIN_GROUPS, n_features // 2))


class Lloyd:
    """The partition of rows by their nearest centres, kept up as the centres move.

    A centre that has moved by ``m`` is at most ``m`` nearer to any row. So a row keeps its
    centre unseen while the distance to it, and what that centre has gone since, stay below
    the distance to every other centre less what that has gone (Elkan 2003). Above
    `n_groups` centres, groups of centres near each other share a bound (Ding et al. 2015).
    The labels are those of a full search, ties to the lower centre.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    centers : ndarray of shape (n_clusters, n_features), float32
        Where the centres begin.
    reporter : Reporter, optional
        Asked for cancellation after each block.

    Attributes
    ----------
    centers : ndarray of shape (n_clusters, n_features), float32
    labels : ndarray of shape (n_samples,), int32
        The nearest centre of each row.
    sums : ndarray of shape (n_clusters, n_features), float64
        Sum of the rows of each centre.
    counts : ndarray of shape (n_clusters,), int64

    Notes
    -----
    Rows are cut by their shape alone and sums are added in order, so results do not depend
    on the number of cores. Extra memory: ``4 * n_groups`` bytes a row, 24 bytes a centre
    and feature.

    References
    ----------
    Elkan 2003, *Using the triangle inequality to accelerate k-means*. Ding, Zhao, Shen,
    Musuvathi, Mytkowicz 2015, *Yinyang k-means*.
    """

    def __init__(self, X: Matrix, centers: Matrix, reporter: Reporter | None = None) -> None:
        n_clusters, n_features = centers.shape
        self._X, self.centers, self._reporter = X, centers, reporter
        self.labels: Labels = np.empty(len(X), np.int32)
        self._group = _grouped(centers, n_groups(n_clusters, n_features))
        self._members = np.argsort(self._group, kind="stable").astype(np.int32)
        self._n_groups = int(self._group.max()) + 1
        self._starts = np.searchsorted(
            self._group[self._members], np.arange(self._n_groups + 1)
        ).astype(np.int64)
        self._upper = np.empty(len(X), np.float32)
        self._lower = like(X, (len(X), self._n_groups))
        self._open()

    def move(self, centers: Matrix) -> float:
        """Move the centres and assign the rows again; return the sum of squared moves."""
        sqmoves = np.square(centers.astype(np.float64) - self.centers).sum(axis=1)
        moves = np.sqrt(sqmoves)
        self._gone += moves
        farthest = np.zeros(self._n_groups)
        np.maximum.at(farthest, self._group, moves)
        self._group_gone += farthest
        self.centers = centers
        if self._doubts() > DOUBTS_LIMIT:
            self._open()
        else:
            self._again()
        return float(sqmoves.sum())

    def means(self) -> Matrix:
        """Return the mean of each cluster; an empty one gets the row farthest from its centre."""
        means: Matrix = filled_means(
            self._X, self.labels, self.centers, self.sums, self.counts, self.sqdist
        )
        return means

    def sqdist(self) -> Vector64:
        """Return the squared distance of each row to its centre, from differences in float64."""
        sqdist = np.empty(len(self._X), np.float64)

        def work(rows: slice) -> None:
            sqdist_to_own(self._X[rows], self.centers, self.labels[rows], sqdist[rows])

        for _ in map_blocks(work, len(self._X), part_rows(*self._X.shape)):
            pass
        return sqdist

    def _open(self) -> None:
        """Search every centre for every row, and keep how far the others are."""
        X, centers = self._X, self.centers
        self.sums: Vector64 = np.zeros(centers.shape, np.float64)
        self._gone = np.zeros(len(centers), np.float64)
        self._group_gone = np.zeros(self._n_groups, np.float64)
        shift = centers.mean(axis=0)  # a large common offset would cost digits
        shifted = centers - shift
        half_sqnorms = 0.5 * np.einsum("ij,ij->i", shifted, shifted)
        rounding = relative_rounding(X.shape[1])
        slack = np.array([rounding, rounding * 2 * half_sqnorms.max()], np.float32)

        def work(part: slice) -> Any:
            self.labels[part] = -1
            self._lower[part] = np.inf
            for rows in row_blocks(part.stop - part.start, TILE_ROWS):
                labels, lower = self.labels[part][rows], self._lower[part][rows]
                tile = X[part][rows] - shift
                best = np.full(len(tile), np.inf, np.float32)
                for cols in row_blocks(len(centers), TILE_CENTERS):
                    dots = tile @ shifted[cols].T
                    fold_tile(dots, half_sqnorms, cols.start, self._group, labels, best, lower)
                sqnorms = np.einsum("ij,ij->i", tile, tile)
                upper = self._upper[part][rows]
                open_bounds(X[part][rows], centers, sqnorms, slack, labels, upper, lower)
            self._search(part)
            return sums_by_label(X[part].astype(np.float64), self.labels[part])

        self._collect(work)

    def _doubts(self) -> float:
        """Return which share of all distances the bounds leave to be computed."""
        run = max(1, min(ASKED_RUN, len(self._X) // (ASKED_EVERY * LEAST_RUNS)))
        asked, found = count_doubts(
            self._X,
            self.centers,
            np.diff(self._starts),
            *(run, ASKED_EVERY),
            self._group_gone.astype(np.float32),
            self.labels,
            self._lower,
        )
        return float(found / (asked * len(self.centers)))

    def _again(self) -> None:
        """Search for the rows whose bounds leave doubt, and carry those that changed over."""

        def work(part: slice) -> Any:
            before = self.labels[part].copy()
            self._search(part)
            changed = np.flatnonzero(self.labels[part] != before)
            block = self._X[part][changed].astype(np.float64)
            signed = np.concatenate([block, -block])
            return sums_by_label(
                signed, np.concatenate([self.labels[part][changed], before[changed]])
            )

        self._collect(work)

    def _search(self, part: slice) -> None:
        gone = self._gone.astype(np.float32)
        group_gone = self._group_gone.astype(np.float32)
        assign_again(
            self._X[part],
            self.centers,
            self._members,
            self._starts,
            self._group,
            gone,
            group_gone,
            ROUNDING * group_gone.max(),
            self.labels[part],
            self._upper[part],
            self._lower[part],
        )

    def _collect(self, work: Any) -> None:
        for touched, sums in map_blocks(work, len(self._X), part_rows(*self._X.shape)):
            self.sums[touched] += sums
            if self._reporter is not None:
                self._reporter.cancel.raise_if_cancelled()
        self.counts = np.bincount(self.labels, minlength=len(self.centers))


def filled_means(
    X: Any, labels: Any, centers: Any, sums: Any, counts: Any, sqdist: Callable[[], Any]
) -> Any:
    """Return the mean of each cluster; an empty one gets the row farthest from its centre.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        On the device of the other arrays, or on the host, as `counts` is.
    labels : array of shape (n_samples,), int32
    centers : array of shape (n_clusters, n_features), float32
        What a cluster keeps that stays empty.
    sums : array of shape (n_clusters, n_features), float64
        Of the rows of each cluster.
    counts : ndarray of shape (n_clusters,), int64
    sqdist : callable
        Returns the squared distance of each row to its centre.

    Returns
    -------
    array of shape (n_clusters, n_features), float32
    """
    xp = namespace(sums)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        sums, counts = sums.copy(), counts.copy()
        farthest = np.argsort(-to_host(sqdist()), kind="stable")[: len(empty) * 4]
        own = to_host(labels[xp.asarray(farthest)])
        donors = [pair for pair in zip(farthest, own, strict=True) if counts[pair[1]] > 1]
        for cluster, (row, donor) in zip(empty, donors, strict=False):
            vector = xp.asarray(X[row])
            sums[donor] -= vector
            counts[donor] -= 1
            sums[cluster], counts[cluster] = vector, 1
    filled = np.flatnonzero(counts)
    means = centers.copy()
    means[filled] = sums[filled] / xp.asarray(counts[filled])[:, None]
    return means


def _grouped(centers: Matrix, n_wanted: int) -> Labels:
    """Return the group of each centre: its own, or one of those near it."""
    if n_wanted == len(centers):
        return np.arange(n_wanted, dtype=np.int32)
    drawn = np.random.default_rng(0).choice(len(centers), n_wanted, replace=False)
    middles = centers[drawn]
    for _ in range(GROUPING_STEPS):
        step = lloyd_step(centers, middles)
        filled = step.counts > 0
        middles[filled] = step.sums[filled] / step.counts[filled, None]
    return np.unique(lloyd_step(centers, middles).labels, return_inverse=True)[1].astype(np.int32)
