"""Lloyd's iteration by float16 products with proven labels: on a GPU, and on the host to see it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.device.arrays import namespace, to_host
from gpucluster.events import Reporter
from gpucluster.ops.assign import cluster_sums, filled_means
from gpucluster.ops.certified import CertifiedSearch
from gpucluster.ops.half import coarse_middle, half_rows, sample_of
from gpucluster.ops.pairs import pair_sqdist
from gpucluster.ops.streaming import SPARE_BYTES, each_block, placed


def resident_bytes(n_samples: int, n_features: int) -> int:
    """Return the device memory that `HalfLloyd` takes with rows that stay there."""
    return n_samples * (6 * n_features + 80) + SPARE_BYTES


class HalfLloyd:
    """The partition of rows by their nearest centres, each time by a full search.

    What `ops.lloyd.Lloyd` does with bounds on the host. Labels are those of a search in float64
    (`ops.certified`), and sums are added in a fixed order, so a run is the same every time.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32, C-contiguous
        On the device of the centres, or on the host: then it comes there block by block, in every
        iteration.
    centers : array of shape (n_clusters, n_features), float32
        Where the centres begin; their device decides where the work runs.
    reporter : Reporter, optional
        Asked for cancellation after each block.

    Attributes
    ----------
    centers : array of shape (n_clusters, n_features), float32
    labels : array of shape (n_samples,), int32
    n_rechecked : int
        Rows that the last search looked at again in float64.

    Notes
    -----
    Extra memory: 2 bytes for each value of `X` where it stays, 2 blocks where it comes, 40 bytes a
    row, 32 bytes a centre and feature, and what `certified_nearest` takes.
    """

    def __init__(self, X: Any, centers: Any, reporter: Reporter | None = None) -> None:
        self._X, self._reporter = X, reporter
        self._xp = namespace(centers)
        self._shift = coarse_middle(self._xp.asarray(sample_of(X)))
        self._half = half_rows(X, self._shift) if namespace(X) is self._xp else None
        self.labels = self._xp.empty(len(X), np.int32)
        self._search(centers)

    def _search(self, centers: Any) -> None:
        self.centers, self.n_rechecked = centers, 0
        self.sums = self._xp.zeros(centers.shape, np.float64)
        search = CertifiedSearch.of(centers, self._shift)

        if self._half is not None:  # rows that are here are searched at once, and summed in blocks
            found = search.nearest(self._X, self._half)
            self.labels, self.n_rechecked = found.labels, found.n_rechecked

        def work(rows: slice, block: Any) -> None:
            n_rechecked = 0
            if self._half is None:
                found = search.nearest(block)
                self.labels[rows], n_rechecked = found.labels, found.n_rechecked
            sums = cluster_sums(block, self.labels[rows], len(centers))
            self.n_rechecked += n_rechecked  # last: a block that ran out of memory comes again
            self.sums += sums

        each_block(work, self._X, self._xp, self._reporter)

    def means(self) -> Any:
        """Return the mean of each cluster; an empty one gets the row farthest from its centre."""
        counts = to_host(self._xp.bincount(self.labels, minlength=len(self.centers)))
        rows = lambda: (self.labels, self.sqdist())  # noqa: E731
        return filled_means(self._X, rows, self.centers, self.sums, counts)

    def move(self, centers: Any) -> float:
        """Move the centres and assign the rows again; return the sum of squared moves."""
        moves = centers.astype(np.float64) - self.centers
        self._search(centers)
        return float((moves * moves).sum())

    def sqdist(self) -> Any:
        """Return the squared distance of each row to its centre, from differences in float64."""
        sqdist = self._xp.empty(len(self._X), np.float64)
        centers = self.centers.astype(np.float64)

        def work(rows: slice, block: Any) -> None:
            numbers = self._xp.arange(len(block), dtype=np.int32)
            sqdist[rows] = pair_sqdist(block, centers, numbers, self.labels[rows])

        each_block(work, self._X, self._xp, self._reporter)
        return sqdist


class HalfLabels:
    """The nearest centres of rows of the host, found on a GPU: what a worker with one does.

    Labels are those of a search in float64, as those that `ops.lloyd` finds behind bounds are, so
    a shard that is worked on here says the same as one that is worked on without a GPU.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32, C-contiguous
        On the host; kept on the GPU as well, where that has room.

    Attributes
    ----------
    labels : ndarray of shape (n_samples,), int32
        On the host; -1 before the first search.
    version : int
        Of the search, for whoever counts them.
    """

    def __init__(self, X: Any) -> None:
        import cupy

        self._xp = cupy
        self._rows = placed(X, resident_bytes(*X.shape))
        self._shift = coarse_middle(cupy.asarray(sample_of(X)))
        here = namespace(self._rows) is cupy
        self._half = half_rows(self._rows, self._shift) if here else None
        self.labels = np.full(len(X), -1, np.int32)
        self.version = 0

    def open(self, centers: Any) -> None:
        """Find the nearest of some centres of the host."""
        search = CertifiedSearch.of(self._xp.asarray(centers), self._shift)
        if self._half is not None:
            self.labels = to_host(search.nearest(self._rows, self._half).labels)
            return

        def work(rows: slice, block: Any) -> None:
            self.labels[rows] = to_host(search.nearest(block).labels)

        each_block(work, self._rows, self._xp)

    def move(self, centers: Any, *_: Any) -> None:
        """Find the nearest of centres that have moved: by another full search."""
        self.open(centers)
