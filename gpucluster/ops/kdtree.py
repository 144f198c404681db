"""A k-d tree over rows of few dimensions: exact neighbours, and edges between components."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.neighbors import Neighbors
from gpucluster.ops.shards import ByRow, Shard, Shards, joined, shown
from gpucluster.types import Labels, Matrix

BLOCK_ROWS = 1024


class KDTree:
    """Rows, halved at the median of their widest side again and again.

    Distances are those of float64 differences. Searches run on all cores, or by those who work on
    the rows, and give the same for any number of them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        At least one row.

    Notes
    -----
    Memory: some ``14 * n_features + 16`` bytes a row. Points of a leaf lie side by side in float32
    too, so that all are compared at once; what that cannot rule out is compared in
    float64.

    References
    ----------
    Bentley 1975, doi:10.1145/361002.361007.
    """

    def __init__(self, X: Matrix) -> None:
        from gpucluster.ops.compiled_kdtree import LEAF_SIZE, build, fill_leaves

        n_samples, n_features = X.shape
        self._points = X.astype(np.float64)
        self._order: Any = np.arange(n_samples)
        room = 4 * (n_samples // LEAF_SIZE) + 3
        start, stop, child = (np.empty(room, np.int64) for _ in range(3))
        low, high = (np.empty((room, n_features)) for _ in range(2))
        used = build(self._points, self._order, start, stop, child, low, high)
        self._nodes = tuple(part[:used] for part in (start, stop, child, low, high))
        is_leaf = self._nodes[2] == 0
        leaves = np.empty((int(is_leaf.sum()), n_features, LEAF_SIZE), np.float32)
        self._leaves = np.cumsum(is_leaf) - 1, leaves
        fill_leaves(self._points, self._nodes, *self._leaves)
        self._place = np.empty(n_samples, np.int64)
        self._place[self._order] = np.arange(n_samples)
        self._order = shown(X, self._order)
        self._parts = self._points, self._order, *self._nodes, *self._leaves

    def neighbors(self, n_neighbors: int, reporter: Reporter | None = None) -> Neighbors:
        """Return the nearest rows of every row, as `nearest_neighbors` does.

        Parameters
        ----------
        n_neighbors : int
            Length of the lists, the row itself included; at least 2, at most ``n_samples``.
        reporter : Reporter, optional
            Told after each block of rows.

        Returns
        -------
        Neighbors
        """
        shape = len(self._order), n_neighbors
        rows, sqdist = np.empty(shape, np.int32), np.zeros(shape, np.float32)
        shards = Shards(self._order, "neighbours", reporter, rows=BLOCK_ROWS, tells=True)
        for own, found, near in shards.map(_shard_near, n_neighbors - 1, *self._parts):
            rows[own, 0], rows[own, 1:], sqdist[own, 1:] = own, found, near
        return Neighbors(rows, sqdist, "exact")

    def nearest_to(self, queries: Matrix) -> Labels:
        """Return the nearest row of each of other rows, ties to the lower one.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), float32

        Returns
        -------
        ndarray of shape (n_queries,), int32
        """
        if not len(queries):
            return np.empty(0, np.int32)
        shards = Shards(queries, "nearest rows", rows=BLOCK_ROWS)
        return np.concatenate(list(shards.map(_shard_nearest, *self._parts)))

    def lightest_leaving(
        self, rows: Any, limit: Any, sqcore: Any, component: Any, scale: float
    ) -> tuple[Any, Any]:
        """Return the lightest edges that leave the components of some rows.

        Parameters
        ----------
        rows : ndarray of shape (count,), int64
        limit : ndarray of shape (count,), float64
            Edges must be lighter.
        sqcore : ndarray of shape (n_samples,), float64
            Squared core distances.
        component : ndarray of shape (n_samples,), integer
        scale : float
            Of squared distances, where they are compared with core distances.

        Returns
        -------
        weight : ndarray of shape (count,), float64
            Squared mutual reachability; `limit` where no edge is lighter.
        target : ndarray of shape (count,), int32
            The row at the other end; -1 where no edge is lighter.
        """
        from gpucluster.ops.compiled_kdtree import summarise

        cores, components = sqcore[self._order], component[self._order].astype(np.int64)
        least_core = np.empty(len(self._nodes[0]))
        common = np.empty(len(self._nodes[0]), np.int64)
        summarise(self._nodes, cores, components, least_core, common)
        # neighbours in the tree search the same nodes: what one has read, the next finds in cache
        order = np.argsort(self._place[rows])
        places = shown(self._order, self._place[rows[order]])
        shards = Shards(places, "lightest edges", rows=BLOCK_ROWS)
        known = least_core, common, cores, components, scale
        weight, target = joined(
            shards.map(_shard_leaving, ByRow(limit[order]), *known, *self._parts)
        )
        back = np.argsort(order)
        return weight[back], target[back]


def _shard_near(shard: Shard, k: int, points: Any, order: Any, *parts: Any) -> tuple[Any, Any, Any]:
    """Return rows of the tree, their nearest others, and how far these are."""
    from gpucluster.ops.compiled_kdtree import nearest

    shape, start = (len(shard.X), k), shard.start
    near, found = np.empty(shape), np.empty(shape, np.int32)
    own = points[start : start + len(near)]
    nearest(own, start, points, order, parts[:5], parts[5:], near, found)
    return shard.X, found, near.astype(np.float32)


def _shard_nearest(shard: Shard, points: Any, order: Any, *parts: Any) -> Labels:
    """Return the nearest row of the tree to each row of the shard."""
    from gpucluster.ops.compiled_kdtree import nearest

    near, found = np.empty((len(shard.X), 1)), np.empty((len(shard.X), 1), np.int32)
    queries = shard.X.astype(np.float64)
    nearest(queries, -len(queries), points, order, parts[:5], parts[5:], near, found)
    return found[:, 0]


def _shard_leaving(
    shard: Shard,
    limit: Any,
    least_core: Any,
    common: Any,
    cores: Any,
    components: Any,
    scale: float,
    points: Any,
    order: Any,
    *parts: Any,
) -> tuple[Any, Any]:
    """Return the lightest edges from rows whose places the shard has."""
    from gpucluster.ops.compiled_kdtree import leaving

    weight, target = limit.copy(), np.full(len(limit), -1, np.int32)
    nodes, leaves, known = parts[:5], parts[5:], (least_core, common, cores, components)
    leaving(shard.X, points, order, nodes, leaves, *known, scale, weight, target)
    return weight, target
