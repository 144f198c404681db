"""Noise: what becomes of it, and how anyone can tell.

Every member says who placed it. `ASSIGNED_BY` is ``fit`` for the algorithm itself, ``noise``
for a row that the algorithm left out and the noise policy gave to its nearest cluster,
``sample`` for one that was no part of the sample that was clustered, and ``assign`` for one
that joined the clusters of an earlier run. Undoing the policy is setting ``noise`` back to -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator

from gpucluster.types import NOISE, Labels, Vector

ASSIGNED_BY = ("fit", "noise", "sample", "assign")
BY_FIT, BY_NOISE_POLICY, BY_SAMPLE, BY_ASSIGNMENT = range(len(ASSIGNED_BY))


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


def _checked(text: str) -> str:
    NoisePolicy.parse(text)
    return text


NoisePolicyText = Annotated[str, AfterValidator(_checked)]
