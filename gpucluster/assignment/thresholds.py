"""How similar to a centroid a row must be, as the rows of a cluster themselves say it."""

from __future__ import annotations

import numpy as np

from gpucluster.types import NOISE, Labels, Vector

CALIBRATED_SHARE = 0.01  # of a cluster's own rows lie below its threshold


def calibrated(cosine: Vector, labels: Labels, n_clusters: int | None = None) -> Vector:
    """Return for each cluster the similarity that `CALIBRATED_SHARE` of its own rows lack.

    Parameters
    ----------
    cosine : ndarray of shape (n_samples,), float32
        Similarity of each row to the centroid of its cluster.
    labels : ndarray of shape (n_samples,), int32
        Noise, -1, sets no threshold.
    n_clusters : int, optional
        Omitted: up to the largest label.

    Returns
    -------
    ndarray of shape (n_clusters,), float32
        Never below 0: what points away from a centroid is no member. 0 for a cluster without
        rows.
    """
    n_clusters = int(labels.max(initial=NOISE)) + 1 if n_clusters is None else n_clusters
    order = np.lexsort((cosine, labels))
    order = order[np.searchsorted(labels[order], 0) :]
    counts = np.bincount(labels[order], minlength=n_clusters)
    starts = np.cumsum(counts) - counts
    place = CALIBRATED_SHARE * np.maximum(counts - 1, 0)
    below = place.astype(np.int64)
    thresholds = np.zeros(n_clusters, np.float32)
    held = counts > 0
    ranked = cosine[order].astype(np.float64)
    low = ranked[(starts + below)[held]]
    high = ranked[(starts + np.minimum(below + 1, counts - 1))[held]]
    thresholds[held] = np.maximum(0, low + (place - below)[held] * (high - low))
    return thresholds
