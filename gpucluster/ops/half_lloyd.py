"""Lloyd's iteration by float16 products with proven labels: on a GPU, and on the host to see it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.device.arrays import namespace, to_host
from gpucluster.device.memory import rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.assign import cluster_sums
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.certified import certified_nearest, half_rows
from gpucluster.ops.lloyd import filled_means

DIFFERENCE_BYTES = 256 << 20  # of float64 differences at a time


class HalfLloyd:
    """The partition of rows by their nearest centres, each time by a full search.

    What `ops.lloyd.Lloyd` does with bounds on the host. Labels are those of a search in float64
    (`ops.certified`), and sums are added in a fixed order, so a run is the same every time.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32, C-contiguous
        Its device decides where the work runs.
    centers : array of shape (n_clusters, n_features), float32
        Where the centres begin; on the same device.
    reporter : Reporter, optional
        Asked for cancellation after each search.

    Attributes
    ----------
    centers : array of shape (n_clusters, n_features), float32
    labels : array of shape (n_samples,), int32
    n_rechecked : int
        Rows that the last search looked at again in float64.

    Notes
    -----
    Extra memory: 2 bytes for each value of `X`, 28 bytes a row, 32 bytes a centre and feature,
    and what `certified_nearest` takes.
    """

    def __init__(self, X: Any, centers: Any, reporter: Reporter | None = None) -> None:
        self._X, self._reporter = X, reporter
        self._half = half_rows(X, X.mean(axis=0, dtype=np.float64).astype(np.float32))
        self._search(centers)

    def _search(self, centers: Any) -> None:
        self.centers = centers
        found = certified_nearest(self._X, centers, self._half)
        self.labels, self.n_rechecked = found.labels, found.n_rechecked
        if self._reporter is not None:
            self._reporter.cancel.raise_if_cancelled()

    def means(self) -> Any:
        """Return the mean of each cluster; an empty one gets the row farthest from its centre."""
        counts = np.bincount(to_host(self.labels), minlength=len(self.centers))
        sums = cluster_sums(self._X, self.labels, len(self.centers))
        return filled_means(self._X, self.labels, self.centers, sums, counts, self.sqdist)

    def move(self, centers: Any) -> float:
        """Move the centres and assign the rows again; return the sum of squared moves."""
        moves = centers.astype(np.float64) - self.centers
        self._search(centers)
        return float((moves * moves).sum())

    def sqdist(self) -> Any:
        """Return the squared distance of each row to its centre, from differences in float64."""
        xp = namespace(self._X)
        sqdist = xp.empty(len(self._X), np.float64)
        for rows in row_blocks(
            len(self._X), rows_per_block(8 * self._X.shape[1], DIFFERENCE_BYTES)
        ):
            gap = self._X[rows].astype(np.float64) - self.centers[self.labels[rows]]
            sqdist[rows] = xp.einsum("ij,ij->i", gap, gap)
        return sqdist
