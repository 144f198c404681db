"""Minimum spanning tree of the mutual-reachability graph, without the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.neighbors import TILE_COLS, TILE_ROWS, Neighbors, norms_with_slack
from gpucluster.ops.normalize import without_offset
from gpucluster.ops.shards import ByRow, Shard, Shards, joined, shown
from gpucluster.types import Matrix, Vector

if TYPE_CHECKING:
    from gpucluster.ops.kdtree import KDTree

Search = Callable[[Any, Any, Any, Any, float], tuple[Any, Any]]


def mutual_reachability_tree(
    X: Matrix,
    neighbors: Neighbors,
    min_samples: int,
    *,
    alpha: float = 1.0,
    tree: KDTree | None = None,
    reporter: Reporter | None = None,
) -> Any:
    """Return the exact spanning tree that HDBSCAN's hierarchy is read from.

    Boruvka's rounds. In each, the lightest edge leaving a component is looked for in the
    neighbour lists first; the radius of a list bounds from below what lies outside it, so
    that only rows whose bound could still beat their component's best are compared with
    all others, by blocked BLAS or in a k-d tree. What such a comparison found stays a bound in
    later rounds, because components only grow.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    neighbors : Neighbors
        Exact lists over `X`, longer than `min_samples`.
    min_samples : int
        Which neighbour sets the core distance; the row itself is not counted. With 0 core
        distances are zero: it is the Euclidean minimum spanning tree.
    alpha : float, default 1.0
        Distances are divided by it, core distances are not.
    tree : KDTree, optional
        Of `X`. Omitted: rows are compared by BLAS.
    reporter : Reporter, optional
        Told of the edges found after each round.

    Returns
    -------
    ndarray of shape (n_samples - 1, 3), float64
        Lower row, higher row, mutual reachability distance; by rising distance, then rows.

    References
    ----------
    Campello, Moulavi, Sander 2013, doi:10.1007/978-3-642-37456-2_14.
    """
    from gpucluster.ops.compiled import lightest_listed, merge_edges

    n_samples = len(X)
    scale = 1 / alpha**2
    search = _by_blas(X, reporter) if tree is None else tree.lightest_leaving
    listed = np.ascontiguousarray(neighbors.rows[:, 1:])
    listed_weight, sqcore, bound = _listed_weights(X, neighbors, min_samples, scale)
    if neighbors.rows.shape[1] == n_samples:
        bound[:] = np.inf
    found_weight = np.full(n_samples, np.inf)
    found_target = np.zeros(n_samples, np.int32)

    parent = np.arange(n_samples, dtype=np.int32)
    component = parent.copy()
    joined_edges: list[Any] = []
    missing = n_samples - 1
    while missing:
        weight, target = np.full(n_samples, np.inf), np.zeros(n_samples, np.int32)
        lightest_listed(listed, listed_weight, component, weight, target)
        remembered = (component[found_target] != component) & (found_weight < weight)
        weight[remembered] = found_weight[remembered]
        target = np.where(remembered, found_target, target)

        best = np.full(n_samples, np.inf)
        np.minimum.at(best, component, weight)
        for unsure in filter(len, _unsure(bound, weight, best, component)):
            limit = np.minimum(weight[unsure], best[component[unsure]])
            bound[unsure], end = search(unsure, limit, sqcore, component, scale)
            found = unsure[end >= 0]
            weight[found], target[found] = bound[found], end[end >= 0]
            found_weight[found], found_target[found] = weight[found], target[found]
            np.minimum.at(best, component[found], weight[found])

        edges = _lightest(component, weight, target, best)
        keep = np.zeros(len(edges), np.bool_)
        merge_edges(edges, parent, keep)
        joined_edges.append(edges[keep])
        missing -= len(joined_edges[-1])
        component = _roots(parent)
        if reporter is not None:
            reporter.progress(n_samples - 1 - missing, n_samples - 1, "edges")

    return _weighed(X, joined_edges, sqcore, alpha)


def _unsure(bound: Any, weight: Any, best: Any, component: Any) -> Iterator[Any]:
    """Yield rows with a bound below the best edge of their component: one of each, then others.

    What the most promising row of a component finds spares most of the others a search.
    """
    unsure = np.flatnonzero((bound < weight) & (bound < best[component]))
    order = np.lexsort((bound[unsure], component[unsure]))
    _, first = np.unique(component[unsure[order]], return_index=True)
    yield unsure[order[first]]
    yield np.flatnonzero((bound < weight) & (bound < best[component]))


def _lightest(component: Any, weight: Any, target: Any, best: Any) -> Any:
    """Return one edge of each component, the lightest that leaves it; by weight, then rows."""
    chosen = np.flatnonzero(np.isfinite(weight) & (weight == best[component]))
    low = np.minimum(chosen, target[chosen])
    high = np.maximum(chosen, target[chosen])
    order = np.lexsort((high, low, weight[chosen]))
    # one edge a component: two tied ones may both reach a pair that a lighter edge joins
    _, first = np.unique(component[chosen[order]], return_index=True)
    order = order[np.sort(first)]
    return np.column_stack((low[order], high[order])).astype(np.int32)


def _listed_weights(
    X: Matrix, neighbors: Neighbors, min_samples: int, scale: float
) -> tuple[Any, Any, Any]:
    """Return squared weights of the listed edges, core distances, and what lies outside a list.

    All in float64, from differences: edges compare as exactly as their rows allow.
    """
    from gpucluster.ops.compiled import listed_sqdist

    n_samples = len(X)
    listed = neighbors.rows[:, 1:]
    weight = np.empty(listed.shape)
    sqcore = np.empty(n_samples)
    bound = np.empty(n_samples)

    def measure(rows: slice) -> None:
        listed_sqdist(X, neighbors.rows[rows, 0], listed[rows], weight[rows])
        sqcore[rows] = weight[rows, min_samples - 1] if min_samples else 0
        weight[rows] *= scale
        np.maximum(weight[rows, -1], sqcore[rows], out=bound[rows])

    def reach(rows: slice) -> None:
        np.maximum(weight[rows], sqcore[rows, None], out=weight[rows])
        np.maximum(weight[rows], sqcore[listed[rows]], out=weight[rows])

    for step in (measure, reach):
        for _ in map_blocks(step, n_samples, TILE_COLS):
            pass
    return weight, sqcore, bound


def _weighed(X: Matrix, tree: list[Any], sqcore: Any, alpha: float) -> Any:
    """Return the edges with their weights in float64, by rising weight, then rows."""
    from gpucluster.ops.compiled import listed_sqdist

    edges = np.concatenate(tree) if tree else np.empty((0, 2), np.int32)
    reach = np.empty((len(edges), 1))
    listed_sqdist(X, edges[:, 0], edges[:, 1:], reach)
    reach = np.maximum(np.sqrt(reach[:, 0]) / alpha, np.sqrt(sqcore[edges].max(axis=1)))
    order = np.lexsort((edges[:, 1], edges[:, 0], reach))
    return np.column_stack((edges[order].astype(np.float64), reach[order]))


def _by_blas(X: Matrix, reporter: Reporter | None) -> Search:
    """Return a search over all rows by tiles of products."""
    centred = without_offset(X)
    sqnorms, slack = norms_with_slack(centred)
    low = sqnorms - slack

    def search(rows: Any, limit: Any, sqcore: Any, component: Any, scale: float) -> tuple[Any, Any]:
        shards = Shards(shown(X, rows), "lightest edges", reporter, rows=TILE_ROWS)
        known = ByRow(limit), X, centred, low, sqcore, component, scale
        found: tuple[Any, Any] = joined(shards.map(_shard_leaving, *known))
        return found

    return search


def _shard_leaving(
    shard: Shard,
    limit: Any,
    X: Matrix,
    centred: Matrix,
    low: Vector,
    sqcore: Any,
    component: Any,
    scale: float,
) -> tuple[Any, Any]:
    """Compare rows, whose numbers the shard has, with those of other components."""
    from gpucluster.ops.compiled import scan_leaving

    rows, weight, target = shard.X, limit.copy(), np.full(len(limit), -1, np.int32)
    block = centred[rows]
    for cols in row_blocks(len(X), TILE_COLS):
        dots = block @ centred[cols].T
        scan_leaving(dots, X, rows, cols.start, low, sqcore, component, scale, weight, target)
    return weight, target


def _roots(parent: Any) -> Any:
    """Return the root of every row by pointer jumping."""
    roots = parent
    while True:
        jumped = roots[roots]
        if np.array_equal(jumped, roots):
            return jumped
        roots = jumped
