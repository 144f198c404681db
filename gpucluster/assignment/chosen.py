"""Some of the clusters that rows are compared with, where the others only keep rows away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpucluster.assignment.assigner import Assigned, cosine_beside
from gpucluster.types import NOISE, Labels, Matrix


@dataclass(frozen=True, slots=True)
class Chosen:
    """Clusters that have been chosen among those of an assigner.

    Rows go where they would with all of them. Who ends in a cluster that is not chosen belongs to
    the next one above it that is, or to none: without the others as rivals, a cluster would take
    in what is theirs.

    Attributes
    ----------
    places : ndarray of shape (n_clusters,), int32
        The chosen one that each counts as; -1 for none.
    clusters : ndarray of shape (n_chosen,), int
        The cluster that each chosen one is.
    parents : ndarray of shape (n_chosen,), int32
        Among the chosen ones; -1 for roots, which come first.
    directions : ndarray of shape (n_chosen, n_features), float32
        Of unit length.
    """

    places: Labels
    clusters: Labels
    parents: Labels
    directions: Matrix

    @classmethod
    def among(cls, clusters: Labels, parents: Labels, directions: Matrix) -> Chosen:
        """Choose `clusters` among nodes with these parents and directions.

        Parameters
        ----------
        clusters : ndarray of shape (n_chosen,), int
            Such that those without a chosen one above them come first.
        parents : ndarray of shape (n_clusters,), int32
            A node comes after its parent.
        directions : ndarray of shape (n_clusters, n_features), float32
        """
        places = np.full(len(parents) + 1, NOISE, np.int32)  # the last one is that of noise
        places[clusters] = np.arange(len(clusters), dtype=np.int32)
        for node in range(len(parents)):
            if places[node] == NOISE:
                places[node] = places[parents[node]]
        above = places[parents[clusters]]
        return cls(places[:-1], clusters, above, directions[clusters])

    def counted(self, found: Assigned, X: Matrix) -> Assigned:
        """Return where rows belong, by the chosen clusters.

        Parameters
        ----------
        found : Assigned
            By all clusters.
        X : ndarray of shape (n_samples, n_features), float32
            The rows.

        Returns
        -------
        Assigned
            Where the nearest cluster counts as no chosen one, there is no nearest one.
        """
        places = np.append(self.places, np.int32(NOISE))
        labels, nearest = places[found.labels], places[found.nearest]
        is_own = np.zeros(len(places), np.bool_)
        is_own[self.clusters] = True
        similarity = np.where(nearest == NOISE, np.float32(np.nan), found.similarity)
        above = np.flatnonzero((nearest != NOISE) & ~is_own[found.nearest])
        similarity[above] = cosine_beside(X[above], self.directions, nearest[above])
        return Assigned(labels, nearest, similarity.astype(np.float32))
