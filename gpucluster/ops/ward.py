"""Ward's clusters, merged from the closest pair up, without a distance matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace, to_host
from gpucluster.device.memory import blocks_bytes, rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks, one_blas_thread, row_blocks
from gpucluster.ops.neighbors import TILE_COLS, norms_with_slack
from gpucluster.types import Cost, Matrix

TILE_ROWS = 128
GPU_TILE_BYTES = 1 << 30
SEARCH_SHARE, SEARCH_ROWS = 1 / 32, 64  # clusters searched at once at the least: BLAS needs some


def ward_cost(n_samples: int, n_features: int) -> Cost:
    """Return the cost of `ward_tree` on the host."""
    # two products of all pairs, less what is merged by then; the scan of a tile costs as 64 columns
    flop = 4.0 * n_samples**2 * (n_features + 64)
    return Cost(
        8 * n_samples * n_features + 120 * n_samples + blocks_bytes(4 * n_samples * n_features),
        flop / 150e9,
    )


def ward_tree(X: Any, weights: Any = None, reporter: Reporter | None = None) -> Any:
    """Merge, again and again, the two clusters whose union adds least to the sum of squares.

    Clusters that are nearest to each other can be merged in any order, many at once,
    because Ward's criterion is reducible: a union is never nearer to a third cluster than
    its parts were. For the same reason a cluster keeps its nearest one until that is
    merged. So only clusters that lost theirs are searched again, and only when another
    points to them; in all about three times as many searches as rows. Their distances are
    blocked products with the means: there is no distance matrix.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        Rows, or means of groups of rows. Its device decides where the products are computed.
    weights : ndarray of shape (n_samples,), optional
        How many rows each stands for.
    reporter : Reporter, optional
        Told of the merges so far.

    Returns
    -------
    ndarray of shape (n_samples - 1, 3), float64
        Row, row, ``sqrt(2 n m / (n + m)) |x - y|``: the height as scipy states it.

    Notes
    -----
    On the host, partners are compared by float64 differences of float32 means wherever
    float32 products cannot tell; ties go to the lower row. Extra memory: two copies of `X`
    at the most, and 120 bytes a row.

    References
    ----------
    Ward 1963, doi:10.1080/01621459.1963.10500845. Bruynooghe 1977 (reducibility); Murtagh
    1983, doi:10.1093/comjnl/26.4.354.
    """
    with one_blas_thread:  # held over all rounds: to set and lift it takes longer than a late one
        clusters = _WardClusters(X, weights)
        merges = [clusters.unite_equal_rows(reporter)]
        missing = len(X) - 1 - len(merges[0])
        while missing:
            clusters.search(clusters.wanted(), reporter)
            merges.append(clusters.unite_reciprocal())
            missing -= len(merges[-1])
            if reporter is not None:
                reporter.progress(len(X) - 1 - missing, len(X) - 1, "merges")
    return np.concatenate(merges)


class _WardClusters:
    """The clusters so far: means, and the nearest other cluster of those that know it.

    The cluster of a merge takes the lower slot. Slots that are merged away have infinite
    `low`, and are dropped when they are many.
    """

    def __init__(self, X: Any, weights: Any) -> None:
        n_samples = len(X)
        self.means = X - X.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.weights = np.ones(n_samples) if weights is None else weights.astype(np.float64)
        self.row = np.arange(n_samples)  # one of each cluster
        self.low = _low_norms(self.means)
        self.height = np.full(n_samples, np.inf)  # squared; a bound where not known
        self.nearest = np.zeros(n_samples, np.int32)
        self.known = np.zeros(n_samples, np.bool_)

    def wanted(self) -> Any:
        """Return the clusters that others take for their nearest, and do not know their own.

        With them, those that may be the closest of the rest: a product of a few rows costs
        as much as one of many.
        """
        alive = np.isfinite(self.low)
        wanted = np.zeros(len(alive), np.bool_)
        wanted[self.nearest[self.known]] = True
        wanted &= ~self.known
        ahead = max(SEARCH_ROWS, int(SEARCH_SHARE * alive.sum())) - int(wanted.sum())
        rest = np.flatnonzero(alive & ~self.known & ~wanted)
        if 0 < ahead < len(rest):
            rest = rest[np.argpartition(self.height[rest], ahead)[:ahead]]
        if ahead > 0:
            wanted[rest] = True
        return np.flatnonzero(wanted)

    def search(self, wanted: Any, reporter: Reporter | None) -> None:
        """Find the nearest other cluster of each of `wanted`."""
        share = (0.5 / self.weights).astype(np.float32)
        find = _cheapest_in_namespace if is_on_gpu(self.means) else _cheapest
        self.height[wanted], self.nearest[wanted] = find(
            self.means, wanted, self.low, share, reporter
        )
        self.known[wanted] = True

    def unite_equal_rows(self, reporter: Reporter | None) -> Any:
        """Search everything for the first time, and merge what lies at distance zero.

        All equal rows are nearest to the lowest of them: in pairs it would take long.
        """
        self.search(self.row, reporter)
        into = np.where((self.height == 0) & (self.nearest < self.row), self.nearest, self.row)
        equal = np.flatnonzero(into != self.row)
        merges = np.column_stack((into[equal], equal, np.zeros(len(equal))))
        while not np.array_equal(into, into[into]):
            into = into[into]
        np.add.at(self.weights, into[equal], self.weights[equal])
        self._forget(into[equal], equal)
        return merges

    def unite_reciprocal(self) -> Any:
        """Merge the pairs of clusters that are nearest to each other."""
        valid = np.flatnonzero(self.known)
        back = self.nearest[valid]
        mutual = self.known[back] & (self.nearest[back] == valid) & (valid < back)
        a = valid[mutual]
        if not len(a) and self.known[np.isfinite(self.low)].all():
            a = valid[[self.height[valid].argmin()]]  # tied, or within a rounding of each other
        b = self.nearest[a]
        a, b = np.minimum(a, b), np.maximum(a, b)
        merges = np.column_stack((self.row[a], self.row[b], np.sqrt(self.height[a])))
        xp = namespace(self.means)
        part = self.weights[a] / (self.weights[a] + self.weights[b])
        for some in row_blocks(len(a), rows_per_block(32 * self.means.shape[1])):
            share = xp.asarray(part[some, None])
            mean = self.means[a[some]] * share + self.means[b[some]] * (1 - share)
            self.means[a[some]] = mean.astype(np.float32)
            self.low[a[some]] = _low_norms(self.means[a[some]])
        self.weights[a] += self.weights[b]
        self._forget(a, b)
        return merges

    def _forget(self, changed: Any, gone: Any) -> None:
        """Drop `gone`, and the nearest clusters that changed."""
        self.low[gone] = np.inf
        moved = np.zeros(len(self.low), np.bool_)
        moved[changed] = moved[gone] = True
        self.known &= ~moved & ~moved[self.nearest]
        kept = np.flatnonzero(np.isfinite(self.low))
        if len(kept) > 0.75 * len(self.low):
            return
        slot = np.zeros(len(self.low), np.int32)
        slot[kept] = np.arange(len(kept))
        self.means = self.means[kept]
        for name in ("weights", "row", "low", "height", "known"):
            setattr(self, name, getattr(self, name)[kept])
        self.nearest = slot[self.nearest[kept]]


def _low_norms(means: Any) -> Any:
    sqnorms, slack = norms_with_slack(means)
    return to_host(sqnorms - slack)


def _cheapest(
    means: Matrix, wanted: Any, low: Any, share: Any, reporter: Reporter | None
) -> tuple[Any, Any]:
    """Return the least cost of uniting each of `wanted` with another cluster, and that cluster."""
    from gpucluster.ops.compiled_linkage import scan_ward

    height = np.full(len(wanted), np.inf)
    nearest = np.zeros(len(wanted), np.int32)

    def work(part: slice) -> None:
        rows = wanted[part]
        block = means[rows]
        for cols in row_blocks(len(means), TILE_COLS):
            dots = block @ means[cols].T
            scan_ward(dots, means, rows, cols.start, low, share, height[part], nearest[part])

    for _ in map_blocks(work, len(wanted), TILE_ROWS):
        if reporter is not None:
            reporter.cancel.raise_if_cancelled()
    return height, nearest


def _cheapest_in_namespace(
    means: Any, wanted: Any, low: Any, share: Any, reporter: Reporter | None
) -> tuple[Any, Any]:
    """Do what `_cheapest` does up to float32 rounding, with operations numpy and CuPy share."""
    xp = namespace(means)
    height = np.empty(len(wanted))
    nearest = np.empty(len(wanted), np.int32)
    sqnorms = xp.einsum("ij,ij->i", means, means)
    sqnorms[xp.asarray(np.isinf(low))] = np.inf
    share = xp.asarray(share)
    for part in row_blocks(len(wanted), rows_per_block(8 * len(means), GPU_TILE_BYTES)):
        rows = xp.asarray(wanted[part])
        block = means[rows]
        costs = sqnorms[rows, None] + sqnorms - 2 * (block @ means.T)
        costs /= share[rows, None] + share
        costs[xp.arange(len(rows)), rows] = np.inf
        found = costs.argmin(axis=1)
        difference = block.astype(np.float64) - means[found]
        exact = xp.einsum("ij,ij->i", difference, difference) / (share[rows] + share[found])
        height[part], nearest[part] = to_host(exact), to_host(found)
        if reporter is not None:
            reporter.cancel.raise_if_cancelled()
    return height, nearest
