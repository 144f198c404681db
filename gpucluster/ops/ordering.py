"""The order in which density reaches the rows: what OPTICS is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace, to_host
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, row_blocks
from gpucluster.ops.neighbors import TILE_COLS, TILE_ROWS, Neighbors, norms_with_slack
from gpucluster.ops.normalize import without_offset
from gpucluster.types import NOISE, Labels, Vector64, Weights

COMPARED_ROWS = 128  # walked rows that are compared with all others at once, at least
STEPS = 4096  # of the walk, between two reports


@dataclass(frozen=True, slots=True)
class Ordering:
    """A reachability plot.

    Attributes
    ----------
    order : ndarray of shape (n_samples,), int32
        The rows as they were walked.
    position : ndarray of shape (n_samples,), int32
        When each row was walked.
    reachability : ndarray of shape (n_samples,), float64
        Of each row, from its predecessor; infinite where nothing reached it.
    core_distances : ndarray of shape (n_samples,), float64
        Infinite where a row is not core.
    predecessor : ndarray of shape (n_samples,), int32
        The row from which each was reached, or -1.
    """

    order: Labels
    position: Labels
    reachability: Vector64
    core_distances: Vector64
    predecessor: Labels

    def repeated(self, weights: Weights) -> Ordering:
        """Return the plot in which each row stands as often as its weight says.

        Copies are numbered, and walked, one after another. All but the first are reached
        from it, at its core distance, unless it was itself reached from nearer.
        """
        first = np.cumsum(weights) - weights
        copies = np.repeat(np.arange(len(weights)), weights)
        is_first = np.zeros(len(copies), np.bool_)
        is_first[first] = True
        reachability = self.reachability[copies]
        predecessor = np.where(self.predecessor < 0, NOISE, first[self.predecessor])[copies]
        nearer = ~is_first & (self.core_distances[copies] < reachability)
        reachability[nearer] = self.core_distances[copies][nearer]
        predecessor[nearer] = first[copies][nearer]
        order = np.argsort(self.position[copies], kind="stable")
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        return Ordering(
            order.astype(np.int32),
            position.astype(np.int32),
            reachability,
            self.core_distances[copies],
            predecessor.astype(np.int32),
        )


def density_ordering(
    X: Any,
    neighbors: Neighbors,
    min_samples: int,
    *,
    weights: Weights | None = None,
    limit: float = np.inf,
    reporter: Reporter | None = None,
) -> Ordering:
    """Order the rows as OPTICS does, by Euclidean distance, without the distances.

    Row q is reached from a walked row p at ``max(core(p), |p - q|)``; the row of the least
    reachability is walked next, ties to the lower row. Rows beside the list of p are
    farther than its last: only when the walk gets beyond the radius of a list is its row
    compared with all rows that are left, together with others (blocked BLAS). So the
    reachabilities are exact at any number of rows.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        Its device decides where rows are compared; the walk is on the host.
    neighbors : Neighbors
        Exact lists over `X`, of `min_samples` or more where there are so many rows.
    min_samples : int
        Which neighbour sets the core distance; the row itself is counted.
    weights : ndarray of shape (n_samples,), integer, optional
        How often `min_samples` counts each row. Omitted: once.
    limit : float, default infinite
        No distance beyond it counts; inclusive.
    reporter : Reporter, optional
        Told of the steps walked.

    Returns
    -------
    Ordering

    Notes
    -----
    Each row is compared at most once with those then left: up to
    ``n_samples**2 * n_features`` flop. Extra memory: 100 bytes a row, a centred copy of
    `X` when its rows lie far from zero, and a few megabytes a core. What float32 products
    leave open is decided by float64 differences. On a GPU, of several predecessors within
    a rounding of float32 any may be taken.

    Among equal reachabilities, a row outside the lists is not preferred to one in them
    before it must be known: on data with many equal distances ties may be broken otherwise
    than by row, and no reachability is more than the least there was.

    References
    ----------
    Ankerst, Breunig, Kriegel, Sander 1999, doi:10.1145/304181.304187.
    """
    from gpucluster.ops.compiled_ordering import make_heap, walk

    n_samples = len(X)
    state = _State(X, to_host(neighbors.rows), min_samples, weights, float(limit) ** 2)
    compare = state.compare_on_gpu if is_on_gpu(X) else state.compare_on_cpu
    order = np.empty(n_samples, np.int32)
    heap = np.empty(n_samples, np.int32)
    place = np.full(n_samples, -1, np.int32)
    at, size = np.zeros(3, np.int64), 0
    while at[0] < n_samples:
        at[1] = stop = min(n_samples, int(at[0]) + STEPS)
        size = walk(
            state.X,
            state.listed,
            state.sqcore,
            state.sqradius,
            state.sqlimit,
            state.reach,
            state.predecessor,
            order,
            state.position,
            heap,
            place,
            size,
            at,
        )
        if at[0] < stop:
            rows = state.to_compare(order[: at[0]], state.reach[heap[0]] if size else np.inf)
            for part in row_blocks(len(rows), TILE_COLS):
                compare(rows[part])
                if reporter is not None:
                    reporter.cancel.raise_if_cancelled()
            size = make_heap(heap, place, state.reach, state.position)
        if reporter is not None:
            reporter.progress(int(at[0]), n_samples)
    return Ordering(
        order, state.position, np.sqrt(state.reach), np.sqrt(state.sqcore), state.predecessor
    )


class _State:
    """What the walk has reached so far; distances are squared, in float64."""

    def __init__(
        self, X: Any, listed: Any, min_samples: int, weights: Weights | None, sqlimit: float
    ) -> None:
        self.X, self.listed, self.sqlimit = to_host(X), listed, sqlimit
        self.centred = without_offset(X)
        norms, slack = norms_with_slack(to_host(self.centred))
        self.low = norms - slack
        self.sqcore, self.sqradius = _measured(self.X, listed, min_samples, weights)
        if is_on_gpu(X):  # its lists are those of float32 products
            self.sqradius = np.maximum(self.sqradius - slack - slack.max(), 0)
        self.sqcore[self.sqcore > sqlimit] = np.inf
        # a row is done when nothing outside its list counts, or when it was compared
        self.sqradius[(self.sqradius > sqlimit) | np.isinf(self.sqcore)] = np.inf
        if listed.shape[1] == len(X):
            self.sqradius[:] = np.inf
        self.reach = np.full(len(X), np.inf)
        self.predecessor = np.full(len(X), NOISE, np.int32)
        self.position = np.full(len(X), -1, np.int32)

    def to_compare(self, walked: Any, bound: float) -> Any:
        """Return the rows whose radius is below `bound`, and a few more, as they were walked."""
        waiting = walked[self.sqradius[walked] < np.inf]
        nearest = np.argsort(self.sqradius[waiting], kind="stable")
        needed = int((self.sqradius[waiting] < bound).sum())
        return waiting[np.sort(nearest[: max(needed, COMPARED_ROWS)])]

    def compare_on_cpu(self, rows: Any) -> None:
        """Lower the reachability of all rows that are left by what `rows` reach."""
        from gpucluster.ops.compiled_ordering import scan_reach

        left = np.flatnonzero(self.position < 0).astype(np.int32)

        def work(part: slice) -> None:
            cols = left[part]
            others = self.centred[cols].T
            for block in row_blocks(len(rows), TILE_ROWS):
                scan_reach(
                    self.centred[rows[block]] @ others,
                    self.X,
                    rows[block],
                    cols,
                    self.low,
                    self.sqcore,
                    self.sqlimit,
                    self.position,
                    self.reach,
                    self.predecessor,
                )

        for _ in map_blocks(work, len(left), TILE_COLS):
            pass
        self.sqradius[rows] = np.inf

    def compare_on_gpu(self, rows: Any) -> None:
        """Do the same with the namespace of the array, of float32 products."""
        from gpucluster.ops.compiled import listed_sqdist

        xp = namespace(self.centred)
        block = self.centred[xp.asarray(rows)]
        norms = xp.einsum("ij,ij->i", block, block)[:, None]
        core = xp.asarray(self.sqcore[rows].astype(np.float32))[:, None]
        left = np.flatnonzero(self.position < 0)
        for part in row_blocks(
            len(left), rows_per_block(12 * len(rows) + 4 * self.X.shape[1], 2 << 30)
        ):
            cols = left[part]
            others = self.centred[xp.asarray(cols)]
            sqdist = norms - 2 * (block @ others.T) + xp.einsum("ij,ij->i", others, others)
            source = rows[to_host(xp.maximum(sqdist, core).argmin(axis=0))]
            exact = np.empty((len(cols), 1))
            listed_sqdist(self.X, cols, source[:, None], exact)
            weight = np.maximum(exact[:, 0], self.sqcore[source])
            known, before = self.reach[cols], self.predecessor[cols]
            earlier = (before < 0) | (self.position[source] < self.position[before])
            better = (weight <= self.sqlimit) & ((weight < known) | ((weight == known) & earlier))
            self.reach[cols[better]] = weight[better]
            self.predecessor[cols[better]] = source[better]
        self.sqradius[rows] = np.inf


def _measured(X: Any, listed: Any, min_samples: int, weights: Weights | None) -> tuple[Any, Any]:
    """Return squared core distances and radii of the lists, in float64, from differences."""
    from gpucluster.ops.compiled import listed_sqdist

    sqcore, sqradius = np.empty(len(X)), np.empty(len(X))
    own = np.arange(len(X))

    def measure(rows: slice) -> None:
        sqdist = np.empty(listed[rows].shape)
        listed_sqdist(X, own[rows], listed[rows], sqdist)
        own_weights = None if weights is None else weights[listed[rows]]
        sqcore[rows] = _core(sqdist, min_samples, own_weights)
        sqradius[rows] = sqdist.max(axis=1)

    for _ in map_blocks(measure, len(X), TILE_COLS):
        pass
    return sqcore, sqradius


def _core(distances: Any, min_samples: int, weights: Any) -> Any:
    """Return within which of its `distances` each row has `min_samples`; infinite: none."""
    if weights is None:
        return np.partition(distances, min_samples - 1, axis=1)[:, min_samples - 1]
    nearest = np.argsort(distances, axis=1, kind="stable")
    enough = np.take_along_axis(weights, nearest, axis=1).cumsum(axis=1) >= min_samples
    at = np.take_along_axis(nearest, enough.argmax(axis=1)[:, None], axis=1)
    core = np.take_along_axis(distances, at, axis=1)[:, 0]
    return np.where(enough[:, -1], core, np.inf)


def ordering_of_distances(
    distances: Any,
    min_samples: int,
    *,
    weights: Weights | None = None,
    limit: float = np.inf,
    reporter: Reporter | None = None,
) -> Ordering:
    """Order rows as `density_ordering` does, by a matrix of any distances.

    Parameters
    ----------
    distances : ndarray of shape (n_samples, n_samples), float64
    min_samples : int
        Which neighbour sets the core distance; the row itself is counted.
    weights : ndarray of shape (n_samples,), integer, optional
        How often `min_samples` counts each row. Omitted: once.
    limit : float, default infinite
        No distance beyond it counts; inclusive.
    reporter : Reporter, optional
        Told of the steps walked.

    Returns
    -------
    Ordering
        Ties go to the lower row.
    """
    n_samples = len(distances)
    own_weights = None if weights is None else weights[None, :]
    core = np.concatenate([_core(row[None, :], min_samples, own_weights) for row in distances])
    core[core > limit] = np.inf
    reach = np.full(n_samples, np.inf)
    predecessor = np.full(n_samples, NOISE, np.int32)
    position = np.full(n_samples, -1, np.int32)
    order = np.empty(n_samples, np.int32)
    left = np.arange(n_samples)
    for step in range(n_samples):
        row = left[reach[left].argmin()]
        order[step], position[row] = row, step
        left = left[left != row]
        if core[row] < np.inf:
            known = distances[row, left]
            weight = np.maximum(known, core[row])
            better = (known <= limit) & (weight < reach[left])
            reach[left[better]], predecessor[left[better]] = weight[better], row
        if reporter is not None and step % STEPS == 0:
            reporter.progress(step, n_samples)
    return Ordering(order, position, reach, core, predecessor)
