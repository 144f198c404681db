"""A k-d tree over rows of few dimensions: exact neighbours, and edges between components."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks
from gpucluster.ops.neighbors import Neighbors
from gpucluster.types import Labels, Matrix

BLOCK_ROWS = 1024


class KDTree:
    """Rows, halved at the median of their widest side again and again.

    Distances are those of float64 differences. Searches run on all cores and give the same for any
    number of them.

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
        self._order = np.arange(n_samples)
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
        from gpucluster.ops.compiled_kdtree import nearest

        shape = len(self._order), n_neighbors
        rows, sqdist = np.empty(shape, np.int32), np.zeros(shape, np.float32)

        def work(block: slice) -> None:
            count = block.stop - block.start
            near, found = (
                np.empty((count, n_neighbors - 1)),
                np.empty((count, n_neighbors - 1), "i4"),
            )
            points = self._points
            nearest(
                points[block],
                block.start,
                points,
                self._order,
                self._nodes,
                self._leaves,
                near,
                found,
            )
            own = self._order[block]
            rows[own, 0] = own
            rows[own, 1:] = found
            sqdist[own, 1:] = near

        for _ in map_blocks(work, shape[0], BLOCK_ROWS, reporter):
            pass
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
        from gpucluster.ops.compiled_kdtree import nearest

        found = np.empty(len(queries), np.int32)

        def work(block: slice) -> None:
            points = queries[block].astype(np.float64)
            near, rows = np.empty((len(points), 1)), np.empty((len(points), 1), np.int32)
            nearest(
                points,
                -len(points),
                self._points,
                self._order,
                self._nodes,
                self._leaves,
                near,
                rows,
            )
            found[block] = rows[:, 0]

        for _ in map_blocks(work, len(queries), BLOCK_ROWS):
            pass
        return found

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
        from gpucluster.ops.compiled_kdtree import leaving, summarise

        cores, components = sqcore[self._order], component[self._order].astype(np.int64)
        least_core = np.empty(len(self._nodes[0]))
        common = np.empty(len(self._nodes[0]), np.int64)
        summarise(self._nodes, cores, components, least_core, common)
        # neighbours in the tree search the same nodes: what one has read, the next finds in cache
        order = np.argsort(self._place[rows])
        places = self._place[rows[order]]
        weight, target = limit[order], np.full(len(rows), -1, np.int32)

        def work(part: slice) -> None:
            leaving(
                places[part],
                self._points,
                self._order,
                self._nodes,
                self._leaves,
                least_core,
                common,
                cores,
                components,
                scale,
                weight[part],
                target[part],
            )

        for _ in map_blocks(work, len(rows), BLOCK_ROWS):
            pass
        back = np.argsort(order)
        return weight[back], target[back]
