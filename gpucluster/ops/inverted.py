"""Inverted lists: each row looks for its neighbours only in the lists of the centres near it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gpucluster.device.storage import like
from gpucluster.events import Reporter
from gpucluster.ops.assign import lloyd_step, nearest_center
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.duplicates import distinct_rows
from gpucluster.ops.shards import Shard, Shards, Written, shown
from gpucluster.types import Matrix, Rows, Vector

LISTS_PER_ROOT = 2  # lists for each unit of the square root of the rows
TRAINED_ON = 16  # rows a list from which its centre is learned
ITERATIONS = 2  # of Lloyd
MOST_LISTS = 2**16 - 1  # what two bytes can number, with one value left for none
MOST_PROBES = 256  # lists that one row looks into
TILE_ROWS = 1024  # of a product with the centres
PARTS, MOST_ROWS = 32, 8192  # rows that look into lists together: more share more products
TILE_COLS = 1024  # a block by so many is 32 MB at most

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reach:
    """How far around a row its neighbours are looked for.

    A row looks into the lists of its `n_probes` nearest centres, as far as their squared
    distance exceeds that of the nearest one by at most `margin`.

    Attributes
    ----------
    n_probes : int
    margin : float
    n_candidates : float
        Rows that one row is expected to be compared with, on average.
    """

    n_probes: int
    margin: float
    n_candidates: float


@dataclass(frozen=True, slots=True)
class InvertedLists:
    """Centres that a sample of the rows was grouped around.

    Of equal rows only a few are members of lists, because no row lists more of them.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        The rows; no large offset common to all.
    sqnorms : ndarray of shape (n_samples,), float32
        Their squared norms.
    members : ndarray of shape (n_members,), int64
        Rows that can be found, rising.
    centers : ndarray of shape (n_lists, n_features), float32
        Those of neighbouring numbers lie near each other.
    center_sqnorms : ndarray of shape (n_lists,), float32
    sizes : ndarray of shape (n_lists,), float64
        Members that each list is expected to hold.
    n_least : int
        Members that each row is at least compared with, as far as `sizes` can tell.
    """

    X: Matrix
    sqnorms: Vector
    members: Rows
    centers: Matrix
    center_sqnorms: Vector
    sizes: Any
    n_least: int

    def reach(self, rows: Rows, neighbors: Any, recall: float) -> Reach | None:
        """Return the cheapest way to find a share of `recall` of known neighbours.

        Parameters
        ----------
        rows : ndarray of shape (n_drawn,), int64
        neighbors : ndarray of shape (n_drawn, k), int32
            Rows that each of `rows` should find.
        recall : float

        Returns
        -------
        Reach or None
            None when `MOST_PROBES` lists do not hold as many.
        """
        near, excess = _nearest_lists(
            self.X[rows], min(MOST_PROBES, len(self.centers)), *self._known()
        )
        listed, inverse = np.unique(neighbors, return_inverse=True)
        home = nearest_center(self.X[listed], self.centers)[inverse].reshape(neighbors.shape)
        # rank of the list that holds each neighbour; those beyond all probes are out of reach
        rank = np.full((len(rows), len(self.centers)), near.shape[1])
        np.put_along_axis(rank, near.astype(np.int64), np.arange(near.shape[1])[None], axis=1)
        rank = np.take_along_axis(rank, home.astype(np.int64), axis=1)
        reached = np.take_along_axis(np.pad(excess, ((0, 0), (0, 1))), rank, axis=1)
        size = self.sizes[near]
        needed = int(np.ceil(recall * rank.size)) - 1
        best = None
        for n_probes in np.unique(np.geomspace(1, near.shape[1], 40).astype(int)).tolist():
            needs = np.where(rank < n_probes, reached, np.float32(np.inf))
            margin = float(np.partition(needs, needed, axis=None)[needed])
            if margin == np.inf:
                continue
            looked = (excess[:, :n_probes] <= margin) * size[:, :n_probes]
            n_candidates = float(looked.sum(axis=1).mean())
            if best is None or n_candidates < best.n_candidates:
                best = Reach(n_probes, margin, n_candidates)
        return best

    def _known(self) -> tuple[Any, ...]:
        """Return what tells which lists are near."""
        return self.centers, self.center_sqnorms, self.sizes, self.n_least

    def probes(self, reach: Reach, reporter: Reporter | None) -> Any:
        """Return the lists that each row looks into, nearest first: (n_samples, n_probes) uint16.

        Those beyond the margin are the number of lists.
        """
        asked = like(self.X, (len(self.X), reach.n_probes), np.uint16, to_lend=True)
        shards = Shards(self.X, "probes", reporter, rows=TILE_ROWS)
        for _ in shards.map(_shard_probes, Written(asked), reach.margin, *self._known()):
            pass
        return asked

    def search(
        self,
        reach: Reach,
        n_kept: int,
        made: Callable[..., T],
        *args: Any,
        reporter: Reporter | None = None,
    ) -> Iterator[tuple[Rows, T]]:
        """Yield rows, and what is made of the nearest rows found for them; each row once.

        Parameters
        ----------
        reach : Reach
        n_kept : int
            Length of the lists.
        made : callable
            Of a module. Takes rows (count,) int64, keys (count, n_kept) float32, which are
            squared distances less the squared norm of the row, the rows found (count, n_kept)
            int32, and `args`; where there are too few rows, the key is infinite. Called where
            the search is, from several threads or processes.
        *args
        reporter : Reporter, optional
            Told after each block of rows.

        Notes
        -----
        Blocks of rows of the same and neighbouring lists are multiplied with the members of
        each list that some of them look into. Extra memory: ``2 * n_probes + 16`` bytes a
        row; a core has up to `MOST_ROWS` rows and their products with `TILE_COLS` others.
        """
        asked = self.probes(reach, reporter)
        order = np.argsort(asked[:, 0], kind="stable")
        members = self.members[np.argsort(asked[self.members, 0], kind="stable")]
        starts = np.searchsorted(asked[members, 0], np.arange(len(self.centers) + 1))
        block_rows = min(MOST_ROWS, -(-len(order) // PARTS))
        shards = Shards(
            shown(self.X, order), "inverted lists", reporter, rows=block_rows, tells=True
        )
        yield from shards.map(
            *(_shard_search, self.X, self.sqnorms, asked, members, starts, n_kept, made, *args)
        )


def _nearest_lists(
    block: Matrix, count: int, centers: Matrix, center_sqnorms: Vector, sizes: Any, n_least: int
) -> tuple[Any, Any]:
    """Return the `count` nearest centres, nearest first, and how much farther they are.

    Those that are needed for `n_least` rows are as near as the first.
    """
    keys = center_sqnorms - 2 * (block @ centers.T)
    if count < keys.shape[1]:
        near = np.argpartition(keys, count - 1, axis=1)[:, :count]
        keys = np.take_along_axis(keys, near, axis=1)
        order = np.argsort(keys, axis=1)
        near = np.take_along_axis(near, order, axis=1)
    else:
        near = order = np.argsort(keys, axis=1)
    keys = np.take_along_axis(keys, order, axis=1)
    excess = keys - keys[:, :1]
    size = sizes[near]
    excess[np.cumsum(size, axis=1) - size < n_least] = 0
    return near, excess


def _shard_probes(shard: Shard, asked: Any, margin: float, *known: Any) -> None:
    near, excess = _nearest_lists(shard.X, asked.shape[1], *known)
    asked[:] = np.where(excess <= margin, near, len(known[0]))


def _shard_search(
    shard: Shard,
    X: Matrix,
    sqnorms: Vector,
    asked: Any,
    members: Rows,
    starts: Any,
    n_kept: int,
    made: Callable[..., T],
    *args: Any,
) -> tuple[Rows, T]:
    """Search for the rows whose numbers the shard has."""
    from gpucluster.ops.compiled import scan_nearest

    rows, n_lists = np.asarray(shard.X, np.int64), len(starts) - 1
    vectors = X[rows]
    keys = np.full((len(rows), n_kept), np.inf, np.float32)
    found = np.full((len(rows), n_kept), -1, np.int32)
    lists = asked[rows]
    at, slot = np.nonzero(lists < n_lists)
    # the nearest lists first: they leave little for the others to improve
    wanted = lists[at, slot].astype(np.int64) + n_lists * (slot > 0)
    at = at[np.argsort(wanted, kind="stable")]
    numbers, counts = np.unique(wanted, return_counts=True)
    numbers %= n_lists
    for number, who in zip(numbers, np.split(at, np.cumsum(counts)[:-1]), strict=True):
        looking = vectors[who]
        for part in row_blocks(starts[number + 1] - starts[number], TILE_COLS):
            cols = members[starts[number] :][part]
            dots = looking @ X[cols].T
            scan_nearest(dots, sqnorms[cols], rows, who, cols, keys, found)
    return rows, made(rows, keys, found, *args)


def inverted_lists(
    X: Matrix,
    sqnorms: Vector,
    n_listed: int,
    random_state: int,
    reporter: Reporter | None = None,
) -> InvertedLists:
    """Learn the centres of inverted lists, some ``2 * sqrt(n_samples)``, from a sample.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        No large offset common to all rows.
    sqnorms : ndarray of shape (n_samples,), float32
    n_listed : int
        Length of the lists of neighbours that will be asked for.
    random_state : int
        Seed.
    reporter : Reporter, optional
        Asked for cancellation.

    Returns
    -------
    InvertedLists

    Notes
    -----
    Extra memory: the sample, `TRAINED_ON` rows a list.

    References
    ----------
    Sivic, Zisserman 2003, doi:10.1109/ICCV.2003.1238663; Jegou, Douze, Schmid 2011,
    doi:10.1109/TPAMI.2010.57.
    """
    drawn = np.random.default_rng(random_state)
    members = _early_copies(X, n_listed + 1)
    n_lists = min(int(LISTS_PER_ROOT * len(members) ** 0.5), MOST_LISTS, len(members))
    n_taught = min(len(members), TRAINED_ON * n_lists)
    taught = X[np.sort(drawn.choice(members, n_taught, replace=False))]
    centers = taught[np.sort(drawn.choice(n_taught, n_lists, replace=False))]
    for _ in range(ITERATIONS):
        step = lloyd_step(taught, centers, reporter)
        filled = step.counts > 0
        centers = (step.sums[filled] / step.counts[filled, None]).astype(np.float32)
    coarse = centers[:: max(1, int(len(centers) ** 0.5))]
    centers = centers[np.argsort(nearest_center(centers, coarse), kind="stable")]
    sizes = np.bincount(nearest_center(taught, centers), minlength=len(centers))
    return InvertedLists(
        X,
        sqnorms,
        members,
        centers,
        np.einsum("ij,ij->i", centers, centers),
        sizes * (len(members) / n_taught),
        2 * n_listed,
    )


def _early_copies(X: Matrix, count: int) -> Rows:
    """Return the rows that are among the first `count` of those that equal them, rising."""
    distinct = distinct_rows(X)
    if distinct is None:
        return np.arange(len(X))
    order = np.argsort(distinct.inverse, kind="stable")
    starts = np.cumsum(distinct.weights) - distinct.weights
    early = np.arange(len(X)) - np.repeat(starts, distinct.weights) < count
    return np.sort(order[early])
