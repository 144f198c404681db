"""Nearest neighbours of each row among all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace
from gpucluster.device.memory import blocks_bytes, rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.half_neighbors import SPARE, half_neighbors, most_half_neighbors
from gpucluster.ops.normalize import without_offset
from gpucluster.ops.shards import Shard, Shards, shown
from gpucluster.types import Cost, Matrix, Rows, Vector, Vector64

if TYPE_CHECKING:
    from gpucluster.ops.inverted import InvertedLists, Reach

TILE_COLS = 4096
TILE_ROWS = 512
SCAN_FLOP = 16  # for which a pair of rows takes the time that its scan takes
EXACT_LIMIT_FLOP = 1e11  # less than a second on two cores; above it lists are approximated
TARGET = 0.96  # share of the neighbours that lists are to hold; 0.985 gave the same clusters
NARROW_SECONDS = 1.0  # of a search; shorter ones do not repay that directions are learned
NARROW = 0.995  # share of them that few directions are to tell from other rows
RECALL_STEP = 0.05  # by which it is lowered until a search is affordable
MOST_FLOP = 2e13  # some two minutes on two cores: what structureless data may take
FLOOR = 0.93  # below it loose clusters suffer, and a graph is announced as poor
DRAWN = 200  # rows on which the reach of a search is chosen, and as many on which it is tested


@dataclass(frozen=True, slots=True)
class Neighbors:
    """A list of nearest rows for every row.

    Attributes
    ----------
    rows : array of shape (n_samples, n_neighbors), int32
        Nearest first; column 0 is the row itself.
    sqdist : array of shape (n_samples, n_neighbors), float32
        Squared Euclidean distances, rising; column 0 is 0.
    method : str
        ``exact`` or ``inverted_lists``.
    recall : float
        Share of the nearest rows that is listed, measured on a sample; 1 where exact.
    """

    rows: Any
    sqdist: Any
    method: str
    recall: float = 1.0


def neighbor_method(n_samples: int, n_features: int) -> str:
    """Return how `nearest_neighbors` will work on a matrix of this shape on the host."""
    flop = _flop(n_samples, n_samples, n_features)
    return "exact" if flop <= EXACT_LIMIT_FLOP else "inverted_lists"


def _flop(n_samples: int, n_candidates: float, n_features: int) -> float:
    """Return what it takes to compare each row with so many others."""
    return n_samples * n_candidates * (2.0 * n_features + SCAN_FLOP)


def neighbor_cost(n_samples: int, n_features: int, n_neighbors: int) -> Cost:
    """Return the cost of `nearest_neighbors` on the host."""
    method = neighbor_method(n_samples, n_features)
    far = 4 * n_samples * n_features
    extra = 8 * n_samples * n_neighbors + far + blocks_bytes(far)
    if method == "exact":
        seconds = _flop(n_samples, n_samples, n_features) / 150e9
        return Cost(extra, seconds, method, rows_bytes=far, far_bytes=far)
    # centres, candidates and samples; data with less structure take more, up to MOST_FLOP
    compared = 12 * n_samples**0.5 + 2 * DRAWN
    extra += 600 * n_samples + blocks_bytes(far)  # lists to look into, copies of rows
    seconds = _flop(n_samples, compared, n_features) / 100e9
    return Cost(extra, seconds, method, rows_bytes=far, far_bytes=far)


def nearest_neighbors(
    X: Any,
    n_neighbors: int,
    *,
    exact: bool = False,
    random_state: int = 42,
    reporter: Reporter | None = None,
) -> Neighbors:
    """Find the nearest rows of every row by Euclidean distance.

    For cosine, pass rows of unit length: the order is the same, and the cosine distance
    is half the squared Euclidean one.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32, C-contiguous
        Its device decides where the work runs.
    n_neighbors : int
        Length of the lists, the row itself included; at most ``n_samples``.
    exact : bool, default False
        Never approximate, however long it takes.
    random_state : int, default 42
        Seed of the approximate method.
    reporter : Reporter, optional
        Told after each block of rows.

    Returns
    -------
    Neighbors

    Notes
    -----
    Exact: blocked BLAS, ``2 * n_samples**2 * n_features`` flop; the tile of dot products
    is scanned in cache, extra memory is ``8 * n_samples * n_neighbors`` bytes, a centred
    copy of `X` when its rows lie far from zero, and a few megabytes a core. On the host
    the candidates are ordered by float64 differences, ties by the lower row; rows whose
    list float32 products cannot prove complete are compared with all others again, in
    float64. On a GPU the same by float16 products (`ops.half_neighbors`); lists longer than those
    of the kernel are by float32 products, and their distances too.

    Above `EXACT_LIMIT_FLOP` on the host, unless `exact`: inverted lists (`ops.inverted`). The
    exact neighbours of `DRAWN` rows tell how many lists a row must look into so that `TARGET`
    of the nearest rows are found; those of as many other rows measure the recall. Rows found
    are ordered as above; rows that find too few are compared with all. Where the data have so
    little structure that half of all pairs would have to be compared, or the recall is below
    `FLOOR`, the lists are exact after all; where that takes more than `MOST_FLOP`, they are as
    good as `MOST_FLOP` makes them, and a recall below `FLOOR` is a warning. Extra memory is
    what `neighbor_cost` says. The result does not depend on the number of cores.
    """
    if is_on_gpu(X):
        if n_neighbors <= most_half_neighbors():
            return Neighbors(*half_neighbors(X, n_neighbors, reporter), "exact")
        return _on_gpu(X, n_neighbors, reporter)
    space = _Space.of(X)
    if n_neighbors > 1 and not exact and neighbor_method(*X.shape) != "exact":
        found = _by_lists(space, n_neighbors, random_state, reporter or Reporter())
        if found is not None:
            return found
    return Neighbors(*_exact(space, np.arange(len(X)), n_neighbors, reporter), "exact")


@dataclass(frozen=True, slots=True)
class _Space:
    """Rows as they are, and as float32 products tell their distances best."""

    X: Matrix
    centred: Matrix
    sqnorms: Vector
    slack: Vector

    @classmethod
    def of(cls, X: Matrix) -> _Space:
        centred = without_offset(X)
        return cls(X, centred, *norms_with_slack(centred))


def _exact(
    space: _Space, queries: Rows, n_neighbors: int, reporter: Reporter | None = None
) -> tuple[Any, Any]:
    """Return the nearest rows of `queries` among all rows, and their squared distances."""
    k = n_neighbors - 1
    neighbors = np.empty((len(queries), n_neighbors), np.int32)
    sqdist = np.zeros((len(queries), n_neighbors), np.float32)
    neighbors[:, 0] = queries
    if k == 0:
        return neighbors, sqdist
    X, low = space.X, space.sqnorms - space.slack
    shards = Shards(
        shown(X, queries),
        "neighbours",
        reporter,
        rows=min(TILE_ROWS, max(128, len(queries) // 4)),
        tells=True,
    )
    end = 0
    for found_k, exact_k in shards.map(_shard_exact, X, space.centred, low, k):
        rows = slice(end, end := end + len(found_k))
        neighbors[rows, 1:], sqdist[rows, 1:] = found_k, exact_k
    return neighbors, sqdist


def _shard_exact(
    shard: Shard, X: Matrix, centred: Matrix, low: Vector, k: int
) -> tuple[Any, Vector]:
    """Compare rows, whose numbers the shard has, with all others."""
    from gpucluster.ops.compiled import scan_nearest

    rows, n_samples = np.asarray(shard.X, np.int64), len(X)
    kept = min(k + SPARE, n_samples - 1)
    at, vectors = np.arange(len(rows)), centred[rows]
    keys = np.full((len(rows), kept), np.inf, np.float32)
    found = np.empty((len(rows), kept), np.int32)
    for cols in row_blocks(n_samples, TILE_COLS):
        dots = vectors @ centred[cols].T
        scan_nearest(dots, low[cols], rows, at, np.arange(cols.start, cols.stop), keys, found)
    found_k, exact_k = _ranked(rows, keys, found, X, k)
    if kept < n_samples - 1:
        outside = keys[:, -1].astype(np.float64) + low[rows]  # no other row is nearer
        unsure = np.flatnonzero(exact_k[:, -1] >= outside)
        if len(unsure):
            found_k[unsure], exact_k[unsure] = _in_float64(X, rows[unsure], exact_k[unsure, -1], k)
    return found_k, exact_k.astype(np.float32)


def _ranked(rows: Rows, keys: Any, found: Any, X: Matrix, k: int) -> tuple[Any, Any]:
    """Return the `k` nearest of the rows found, by float64 differences; ties to the lower."""
    from gpucluster.ops.compiled import listed_sqdist

    exact = np.empty(found.shape)
    listed_sqdist(X, rows, found, exact)
    exact[keys == np.inf] = np.inf  # nothing was found for these slots
    order = np.lexsort((found, exact), axis=1)[:, :k]
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(exact, order, axis=1)


def _by_lists(
    space: _Space, n_neighbors: int, random_state: int, reporter: Reporter
) -> Neighbors | None:
    """Look into inverted lists, as far as the exact neighbours of some rows say it is worth."""
    from gpucluster.ops.inverted import inverted_lists
    from gpucluster.ops.projection import narrowed

    X, n_samples, k = space.X, len(space.X), n_neighbors - 1
    kept = min(k + SPARE, n_samples - 1)
    drawn = np.random.default_rng(random_state).choice(
        n_samples, min(n_samples, 2 * DRAWN), replace=False
    )
    true_rows, true_sqdist = _exact(space, drawn, n_neighbors)
    half = len(drawn) // 2  # what the search is fitted to says nothing about its recall
    fitted, wanted = drawn[:half], true_rows[:half, 1:]
    seen, share = space.centred, 1.0
    if (neighbor_cost(n_samples, X.shape[1], n_neighbors).seconds or 0) > NARROW_SECONDS:
        kept = min(k + max(k, SPARE), n_samples - 1)
        seen, share = narrowed(seen, space.sqnorms, fitted, wanted, kept, NARROW)
    lists = inverted_lists(seen, space.sqnorms, kept, random_state, reporter)
    reach = _affordable(lists, fitted, wanted, TARGET / share)
    if reach is None:
        return None
    neighbors = np.empty((n_samples, n_neighbors), np.int32)
    sqdist = np.zeros((n_samples, n_neighbors), np.float32)
    neighbors[:, 0] = np.arange(n_samples)
    for rows, found in lists.search(reach, kept, _ranked, X, k, reporter=reporter):
        neighbors[rows, 1:], sqdist[rows, 1:] = found
    few = np.flatnonzero(sqdist[:, -1] == np.inf)
    if len(few):
        neighbors[few], sqdist[few] = _exact(space, few, n_neighbors, reporter)
    tested = drawn[half:]
    recall = float((sqdist[tested, 1:] <= true_sqdist[half:, -1:]).mean())
    if recall < FLOOR:
        if _flop(n_samples, n_samples, X.shape[1]) <= MOST_FLOP:
            return None
        reporter.warn(
            "graph_recall",
            f"lists of nearest neighbours hold {recall:.0%} of them: the rows have little "
            "structure, and there are too many to compare all; reduce their dimensions first, "
            "or take a sample",
        )
    return Neighbors(neighbors, sqdist, "inverted_lists", recall)


def _affordable(lists: InvertedLists, drawn: Rows, neighbors: Any, target: float) -> Reach | None:
    """Return the reach that finds `target` of the neighbours of some rows, or fewer if it must.

    None when comparing all rows is no worse.
    """
    n_samples, n_features = lists.X.shape
    for recall in np.arange(target, 0, -RECALL_STEP).tolist():
        reach = lists.reach(drawn, neighbors, recall)
        if reach is not None and reach.n_candidates < n_samples / 2:
            if _flop(n_samples, reach.n_candidates, n_features) <= MOST_FLOP:
                return reach
        elif _flop(n_samples, n_samples, n_features) <= MOST_FLOP:
            break
    return None


def norms_with_slack(X: Matrix) -> tuple[Any, Any]:
    """Return squared norms, and their share of the rounding of an expanded distance.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32

    Returns
    -------
    sqnorms : ndarray of shape (n_samples,), float32
    slack : ndarray of shape (n_samples,), float32
        ``|x|^2 + |y|^2 - 2 x.y`` from float32 products is off by at most the sum of the
        slacks of its two rows.
    """
    from gpucluster.ops.compiled import relative_rounding

    sqnorms = np.concatenate(list(Shards(X, "norms").map(_shard_sqnorms)))
    # squares below the least float32 vanish, each by less than that
    underflow = X.shape[1] * float(np.finfo(np.float32).tiny)
    slack = relative_rounding(X.shape[1]) * sqnorms + underflow
    return sqnorms.astype(np.float32), slack.astype(np.float32)


def _shard_sqnorms(shard: Shard) -> Vector64:
    sqnorms: Vector64 = np.einsum("ij,ij->i", shard.X, shard.X, dtype=np.float64)
    return sqnorms


def _in_float64(X: Matrix, rows: Any, limit: Any, k: int) -> tuple[Any, Any]:
    """Return the `k` nearest of `rows`, none farther than `limit`, and their distances."""
    from gpucluster.ops.compiled import relative_rounding, scan_nearest_exact

    shrink = 1 - relative_rounding(X.shape[1], np.float64)
    block = X[rows].astype(np.float64)
    low = shrink * np.einsum("ij,ij->i", block, block)
    # a little above the limit, so that a row at the limit enters
    sqdist = np.repeat(np.nextafter(limit, np.inf)[:, None], k, axis=1)
    found = np.empty((len(rows), k), np.int32)
    for cols in row_blocks(len(X), TILE_COLS):
        others = X[cols].astype(np.float64)
        low_cols = shrink * np.einsum("ij,ij->i", others, others)
        dots = block @ others.T
        scan_nearest_exact(dots, X, rows, cols.start, low, low_cols, sqdist, found)
    return found, sqdist


def _on_gpu(X: Any, n_neighbors: int, reporter: Reporter | None) -> Neighbors:
    xp = namespace(X)
    X = without_offset(X)
    n_samples = len(X)
    sqnorms = xp.einsum("ij,ij->i", X, X)
    neighbors = xp.empty((n_samples, n_neighbors), np.int32)
    sqdist = xp.empty((n_samples, n_neighbors), np.float32)
    block_rows = rows_per_block(n_samples * 4, budget_bytes=2 << 30)
    for rows in row_blocks(n_samples, block_rows):
        keys = sqnorms - 2 * (X[rows] @ X.T)
        own = xp.arange(rows.start, rows.stop)
        keys[own - rows.start, own] = -xp.inf
        found = xp.argpartition(keys, n_neighbors - 1, axis=1)[:, :n_neighbors]
        keys = xp.take_along_axis(keys, found, axis=1)
        order = xp.argsort(keys, axis=1)
        neighbors[rows] = xp.take_along_axis(found, order, axis=1)
        sqdist[rows] = xp.take_along_axis(keys, order, axis=1) + sqnorms[rows, None]
        if reporter is not None:
            reporter.progress(rows.stop, n_samples)
    sqdist[:, 0] = 0
    return Neighbors(neighbors, xp.maximum(sqdist, 0), "exact")
