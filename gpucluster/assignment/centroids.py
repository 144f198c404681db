"""Centroids that rows join, and how similar to one a row must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from gpucluster.device.select import Device
from gpucluster.ops.assign import most_similar
from gpucluster.ops.normalize import unit_rows
from gpucluster.types import NOISE, Labels, Matrix, Vector

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


@dataclass(frozen=True, slots=True)
class Centroids:
    """What new rows are compared with.

    Attributes
    ----------
    clusters : ndarray of shape (n_centroids,), int32
        Clusters that hold rows of their own.
    directions : ndarray of shape (n_centroids, n_features), float32
        Their centroids at unit length.
    thresholds : ndarray of shape (n_centroids,), float32
        Least cosine similarity that makes a row a member.
    """

    clusters: Labels
    directions: Matrix
    thresholds: Vector

    @classmethod
    def of(cls, centroids: Matrix, labels: Labels, cosine: Vector, *, has_noise: bool) -> Self:
        """Take them from a clustering.

        Parameters
        ----------
        centroids : ndarray of shape (n_clusters, n_features), float32
        labels : ndarray of shape (n_samples,), int32
            Cluster of each fitted row; noise is -1.
        cosine : ndarray of shape (n_samples,), float32
            Its cosine similarity to the centroid of its cluster.
        has_noise : bool
            Whether a row may belong nowhere. Then the thresholds are `calibrated`; otherwise
            every row joins the nearest.
        """
        clusters = np.unique(labels[labels >= 0]).astype(np.int32)
        thresholds = np.full(len(clusters), -1, np.float32)
        if has_noise:
            thresholds = calibrated(cosine, labels)[clusters]
        return cls(clusters, unit_rows(centroids[clusters]), thresholds)

    def arrays(self) -> tuple[Labels, Matrix, Vector]:
        """Return the attributes in order."""
        return self.clusters, self.directions, self.thresholds

    def assign(self, X: Matrix, device: Device = "cpu") -> tuple[Labels, Labels, Vector]:
        """Return label, nearest cluster and cosine similarity to it of each row.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features), float32
            No zero row.
        device : {"cpu", "gpu"}, default "cpu"

        Returns
        -------
        labels : ndarray of shape (n_samples,), int32
            The nearest cluster, or -1 where its threshold is not reached.
        nearest : ndarray of shape (n_samples,), int32
        similarity : ndarray of shape (n_samples,), float32
        """
        if not len(self.clusters):
            nothing = np.full(len(X), NOISE, np.int32)
            return nothing, nothing, np.full(len(X), np.nan, np.float32)
        found, similarity = most_similar(X, self.directions, device)
        nearest = self.clusters[found]
        labels = np.where(similarity >= self.thresholds[found], nearest, NOISE)
        return labels.astype(np.int32), nearest, similarity
