"""Rows that a fit did not place: what becomes of them, and how anyone can tell.

Every member says who placed it. `ASSIGNED_BY` is ``fit`` for the algorithm itself, ``noise``
for a row that the algorithm left out and the noise policy gave to its nearest cluster. Undoing
the policy is setting the latter back to -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator

from gpucluster.types import NOISE, Labels, Vector

ASSIGNED_BY = ("fit", "noise")
BY_FIT, BY_NOISE_POLICY = range(len(ASSIGNED_BY))


@dataclass(frozen=True, slots=True)
class NoisePolicy:
    """What becomes of noise.

    Attributes
    ----------
    threshold : float or None
        Least cosine similarity to the nearest centroid that makes a row its member, in
        [-1, 1]; None keeps all noise.
    """

    threshold: float | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``keep`` or ``assign_above:t``; a `ValueError` says what was expected."""
        if text == "keep":
            return cls(None)
        name, _, number = text.partition(":")
        try:
            threshold = float(number)
        except ValueError:
            threshold = np.nan
        if name != "assign_above" or not -1 <= threshold <= 1:
            raise ValueError("keep, or assign_above:t with a cosine similarity t in [-1, 1]")
        return cls(threshold)

    def apply(
        self, labels: Labels, nearest: Labels, nearest_similarity: Vector
    ) -> tuple[Labels, Any]:
        """Place the noise that lies near enough to a cluster.

        Parameters
        ----------
        labels : ndarray of shape (n_samples,), int32
            Of the fit; noise is -1. Not written to.
        nearest : ndarray of shape (n_samples,), int32
            Cluster with the most similar centroid; -1 when there is none.
        nearest_similarity : ndarray of shape (n_samples,), float32
            Cosine similarity to it.

        Returns
        -------
        labels : ndarray of shape (n_samples,), int32
        assigned_by : ndarray of shape (n_samples,), int8
            Positions in `ASSIGNED_BY`.
        """
        assigned_by = np.full(len(labels), BY_FIT, np.int8)
        if self.threshold is None:
            return labels, assigned_by
        moved = (labels == NOISE) & (nearest != NOISE) & (nearest_similarity >= self.threshold)
        assigned_by[moved] = BY_NOISE_POLICY
        return np.where(moved, nearest, labels).astype(np.int32), assigned_by


def _checked(text: str) -> str:
    NoisePolicy.parse(text)
    return text


NoisePolicyText = Annotated[str, AfterValidator(_checked)]
