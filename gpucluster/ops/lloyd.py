"""Lloyd's iteration with bounds: after its first pass, most rows are not looked at again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.assign import TILE_CENTERS, TILE_ROWS, LabelSums, filled_means, lloyd_step
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.compiled import relative_rounding
from gpucluster.ops.compiled_bounds import (
    ROUNDING,
    assign_again,
    carry_over,
    count_doubts,
    fold_tile,
    open_bounds,
    sqdist_to_own,
)
from gpucluster.ops.half_lloyd import HalfLabels
from gpucluster.ops.shards import Shard, Shards
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


@dataclass(frozen=True, slots=True)
class _Groups:
    """Centres that share a bound: the group of each, and the centres group by group."""

    group: Labels
    members: Labels
    starts: Any

    @classmethod
    def of(cls, centers: Matrix) -> Self:
        group = _grouped(centers, n_groups(*centers.shape))
        members = np.argsort(group, kind="stable").astype(np.int32)
        starts = np.searchsorted(group[members], np.arange(int(group.max()) + 2)).astype(np.int64)
        return cls(group, members, starts)

    @property
    def arrays(self) -> tuple[Labels, Labels, Any]:
        """Its arrays, in order: what other processes make it of."""
        return self.group, self.members, self.starts

    def farthest(self, moves: Vector64) -> Vector64:
        """Return the longest move in each group."""
        found = np.zeros(len(self.starts) - 1)
        np.maximum.at(found, self.group, moves)
        return found


class _Bounds:
    """The rows of a shard, their nearest centres, and how near others may be.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features), float32
    lower : ndarray of shape (n_rows, n_groups), float32
        Room for bounds.
    groups : _Groups
    """

    def __init__(self, X: Matrix, lower: Matrix, groups: _Groups) -> None:
        self._X, self._lower, self._groups = X, lower, groups
        self.labels: Labels = np.full(len(X), -1, np.int32)
        self._upper = np.empty(len(X), np.float32)
        self.version = 0

    def open(self, centers: Matrix) -> None:
        """Search every centre for every row, and keep how far the others are."""
        self.centers = centers
        self._gone = np.zeros(len(centers), np.float64)
        self._group_gone = np.zeros(len(self._groups.starts) - 1, np.float64)
        shift = centers.mean(axis=0)  # a large common offset would cost digits
        shifted = centers - shift
        half_sqnorms = 0.5 * np.einsum("ij,ij->i", shifted, shifted)
        rounding = relative_rounding(centers.shape[1])
        slack = np.array([rounding, rounding * 2 * half_sqnorms.max()], np.float32)
        self.labels[:] = -1
        self._lower[:] = np.inf
        group = self._groups.group
        for rows in row_blocks(len(self._X), TILE_ROWS):
            labels, lower = self.labels[rows], self._lower[rows]
            tile = self._X[rows] - shift
            best = np.full(len(tile), np.inf, np.float32)
            for cols in row_blocks(len(centers), TILE_CENTERS):
                dots = tile @ shifted[cols].T
                fold_tile(dots, half_sqnorms, cols.start, group, labels, best, lower)
            sqnorms = np.einsum("ij,ij->i", tile, tile)
            open_bounds(self._X[rows], centers, sqnorms, slack, labels, self._upper[rows], lower)
        self._search()

    def move(self, centers: Matrix, moves: Vector64, farthest: Vector64) -> None:
        """Find the nearest of centres that have moved by so much, and the groups at most."""
        self._gone += moves
        self._group_gone += farthest
        self.centers = centers
        if self.doubts() > DOUBTS_LIMIT:
            self.open(centers)
        else:
            self._search()

    def doubts(self) -> float:
        """Return which share of all distances the bounds leave to be computed."""
        run = max(1, min(ASKED_RUN, len(self._X) // (ASKED_EVERY * LEAST_RUNS)))
        asked, found = count_doubts(
            self._X,
            self.centers,
            np.diff(self._groups.starts),
            *(run, ASKED_EVERY),
            self._group_gone.astype(np.float32),
            self.labels,
            self._lower,
        )
        return float(found / (asked * len(self.centers)))

    def _search(self) -> None:
        gone = self._gone.astype(np.float32)
        group_gone = self._group_gone.astype(np.float32)
        assign_again(
            self._X,
            self.centers,
            self._groups.members,
            self._groups.starts,
            self._groups.group,
            gone,
            group_gone,
            ROUNDING * group_gone.max(),
            self.labels,
            self._upper,
            self._lower,
        )


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
        Asked for cancellation after each shard.

    Attributes
    ----------
    centers : ndarray of shape (n_clusters, n_features), float32
    sums : ndarray of shape (n_clusters, n_features), float64
        Sum of the rows of each centre.
    counts : ndarray of shape (n_clusters,), int64

    Notes
    -----
    Labels and bounds stay where the rows of a shard are; what comes from there is by how much
    the rows that changed their centre change its sum. That depends on the centres before and
    after alone, so a shard that was lost finds its labels again by the centres before, and
    results depend neither on the number of cores nor on who computes. Extra memory:
    ``4 * n_groups`` bytes a row, 40 bytes a centre and feature.

    References
    ----------
    Elkan 2003, *Using the triangle inequality to accelerate k-means*. Ding, Zhao, Shen,
    Musuvathi, Mytkowicz 2015, *Yinyang k-means*.
    """

    def __init__(self, X: Matrix, centers: Matrix, reporter: Reporter | None = None) -> None:
        self._X = X
        self._shards = Shards(X, "kmeans", reporter)
        self._groups = _Groups.of(centers)
        self._version = 0
        self.sums: Vector64 = np.zeros(centers.shape, np.float64)
        self.counts = np.zeros(len(centers), np.int64)
        self._step(None, centers, np.zeros(len(centers)))

    @property
    def labels(self) -> Labels:
        """The nearest centre of each row, (n_samples,) int32."""
        return np.concatenate(list(self._shards.map(_labels, *self._now())))

    def move(self, centers: Matrix) -> float:
        """Move the centres and assign the rows again; return the sum of squared moves."""
        sqmoves = np.square(centers.astype(np.float64) - self.centers).sum(axis=1)
        self._step(self.centers, centers, np.sqrt(sqmoves))
        return float(sqmoves.sum())

    def means(self) -> Matrix:
        """Return the mean of each cluster; an empty one gets the row farthest from its centre."""
        means: Matrix = filled_means(
            self._X,
            lambda: (self.labels, self.sqdist()),
            *(self.centers, self.sums, self.counts),
        )
        return means

    def sqdist(self) -> Vector64:
        """Return the squared distance of each row to its centre, from differences in float64."""
        return np.concatenate(list(self._shards.map(_sqdist, *self._now())))

    def _now(self) -> tuple[Any, ...]:
        return self._version, self.centers, *self._groups.arrays

    def _step(self, before: Matrix | None, centers: Matrix, moves: Vector64) -> None:
        moved = centers, moves, self._groups.farthest(moves)
        known = self._version, before, *self._groups.arrays
        change = self._shards.reduce(_move, LabelSums.add, *moved, *known)
        self.sums[change.touched] += change.sums[:, :-1]
        self.counts[change.touched] += change.sums[:, -1].astype(np.int64)
        self.centers = centers
        self._version += 1


def _bounds(
    shard: Shard, version: int, centers: Matrix | None, *groups: Any
) -> _Bounds | HalfLabels:
    """Return what is known of a shard after so many steps, computed anew where that was lost."""
    bounds: _Bounds | HalfLabels | None = shard.kept.get("bounds")
    if bounds is None or bounds.version != version:
        if shard.device == "gpu":
            bounds = HalfLabels(shard.X)
        else:
            bounds = _Bounds(shard.X, shard.room(len(groups[-1]) - 1), _Groups(*groups))
        shard.kept["bounds"] = bounds
        bounds.version = version
        if centers is not None:
            bounds.open(centers)
    return bounds


def _move(
    shard: Shard,
    centers: Matrix,
    moves: Vector64,
    farthest: Vector64,
    version: int,
    before: Matrix | None,
    *groups: Any,
) -> LabelSums:
    bounds = _bounds(shard, version, before, *groups)
    was = bounds.labels.copy()
    bounds.version = -1  # until all is done: half of it is of no use
    if before is None:
        bounds.open(centers)
    else:
        bounds.move(centers, moves, farthest)
    bounds.version = version + 1
    return _changes(shard.X, was, bounds.labels, len(centers))


def _changes(X: Matrix, was: Labels, labels: Labels, n_clusters: int) -> LabelSums:
    """Return by how much rows that changed their label change sums, and in the end counts."""
    changed = np.flatnonzero(labels != was)
    is_touched = np.zeros(n_clusters + 1, np.bool_)  # the last for those that come new
    is_touched[labels[changed]] = is_touched[was[changed]] = True
    touched = np.flatnonzero(is_touched[:-1]).astype(np.int32)
    place = np.empty(n_clusters, np.int32)
    place[touched] = np.arange(len(touched))
    sums = np.zeros((len(touched), X.shape[1] + 1), np.float64)
    carry_over(X, was, labels, place, sums)
    return LabelSums(touched, sums)


def _labels(shard: Shard, version: int, centers: Matrix, *groups: Any) -> Labels:
    return _bounds(shard, version, centers, *groups).labels


def _sqdist(shard: Shard, version: int, centers: Matrix, *groups: Any) -> Vector64:
    sqdist = np.empty(len(shard.X), np.float64)
    sqdist_to_own(shard.X, centers, _labels(shard, version, centers, *groups), sqdist)
    return sqdist


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
