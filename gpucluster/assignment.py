"""Rows that a fit did not place: what becomes of them, and how anyone can tell.

Every member says who placed it. `ASSIGNED_BY` is ``fit`` for the algorithm itself, ``noise``
for a row that the algorithm left out and the noise policy gave to its nearest cluster, and
``sample`` for one that was no part of the sample that was clustered. Undoing the policy is
setting ``noise`` back to -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator

from gpucluster.device.select import Device
from gpucluster.ops.assign import most_similar
from gpucluster.ops.normalize import unit_rows
from gpucluster.types import NOISE, Labels, Matrix, Vector

ASSIGNED_BY = ("fit", "noise", "sample")
BY_FIT, BY_NOISE_POLICY, BY_SAMPLE = range(len(ASSIGNED_BY))
CALIBRATED_SHARE = 0.01  # of a cluster's own rows lie below its threshold


@dataclass(frozen=True, slots=True)
class NoisePolicy:
    """What becomes of noise.

    Attributes
    ----------
    threshold : float or None
        Least cosine similarity to the centroid that makes a row a member, in [-1, 1]; None keeps
        all noise, or leaves it to each cluster.
    calibrated : bool
        Whether each cluster has a threshold of its own, from its rows (`Centroids.of`).
    """

    threshold: float | None
    calibrated: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``keep``, ``assign_near`` or ``assign_above:t``, or say in a `ValueError` so."""
        if text in ("keep", "assign_near"):
            return cls(None, calibrated=text == "assign_near")
        name, _, number = text.partition(":")
        try:
            threshold = float(number)
        except ValueError:
            threshold = np.nan
        if name != "assign_above" or not -1 <= threshold <= 1:
            raise ValueError(
                "keep, assign_near, or assign_above:t with a cosine similarity t in [-1, 1]"
            )
        return cls(threshold)

    def apply(
        self,
        labels: Labels,
        nearest: Labels,
        nearest_similarity: Vector,
        thresholds: Vector | None = None,
    ) -> tuple[Labels, Any]:
        """Place the noise that lies near enough to a cluster.

        Parameters
        ----------
        labels : ndarray of shape (n_samples,), int32
            Of the fit; noise is -1. Not written to.
        nearest : ndarray of shape (n_samples,), int32
            The cluster that each row may join; -1 when there is none.
        nearest_similarity : ndarray of shape (n_samples,), float32
            Cosine similarity to its centroid.
        thresholds : ndarray of shape (n_clusters,), float32, optional
            Those of the clusters, for a calibrated policy. Omitted: it places nothing.

        Returns
        -------
        labels : ndarray of shape (n_samples,), int32
        assigned_by : ndarray of shape (n_samples,), int8
            Positions in `ASSIGNED_BY`.
        """
        assigned_by = np.full(len(labels), BY_FIT, np.int8)
        least: Any = self.threshold
        if self.calibrated and thresholds is not None and len(thresholds):
            least = thresholds[nearest]
        if least is None:
            return labels, assigned_by
        moved = (labels == NOISE) & (nearest != NOISE) & (nearest_similarity >= least)
        assigned_by[moved] = BY_NOISE_POLICY
        return np.where(moved, nearest, labels).astype(np.int32), assigned_by


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
            Whether a row may belong nowhere. Then the threshold of a cluster leaves
            `CALIBRATED_SHARE` of its own rows out; otherwise every row joins the nearest.
        """
        clusters = np.unique(labels[labels >= 0]).astype(np.int32)
        thresholds = np.full(len(clusters), -1, np.float32)
        if has_noise:
            for position, cluster in enumerate(clusters):
                own = cosine[labels == cluster]
                thresholds[position] = max(0.0, float(np.quantile(own, CALIBRATED_SHARE)))
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


def _checked(text: str) -> str:
    NoisePolicy.parse(text)
    return text


NoisePolicyText = Annotated[str, AfterValidator(_checked)]
