"""What is counted of rows while they stream past their clusters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gpucluster.assignment import Assigned, cosine_beside
from gpucluster.ops.assign import sums_by_label
from gpucluster.ops.nesting import labels_at, node_levels
from gpucluster.ops.normalize import unit_rows
from gpucluster.sources import Stretch
from gpucluster.types import NOISE, Labels, Matrix

COUNTS = ("num_points", "num_rejected", "num_filtered", "num_known")
ARRAYS = ("members", "cosine_sum", "cosine_min", "best", "total")
MOVING = ("sums", "prepared_sums")


@dataclass(slots=True)
class Tally:
    """Running sums; all arrays are by node, of its descendants too.

    Attributes
    ----------
    parents : ndarray of shape (n_nodes,), int32
    members : ndarray of shape (n_nodes,), int64
    cosine_sum, cosine_min : ndarray of shape (n_nodes,), float64
        Of the similarity of members to the centroid, clipped to [0, 1].
    best : ndarray of shape (n_nodes,), float64
        Largest similarity, of the row `best_ids` names.
    best_ids : list of n_nodes (str or None)
    total : ndarray of shape (n_features,), float64
        Sum of all unit rows, noise too.
    sums : ndarray of shape (n_nodes, n_features), float64, or None
        Of the unit rows of members; None where centroids do not move.
    prepared_sums : ndarray of shape (n_roots, n_prepared), float64, or None
        Of members in the space of the means.
    num_points, num_rejected, num_filtered, num_known : int
    stop : int
        Rows of the input so far.
    """

    parents: Labels
    members: Any
    cosine_sum: Any
    cosine_min: Any
    best: Any
    best_ids: list[str | None]
    total: Any
    sums: Any = None
    prepared_sums: Any = None
    num_points: int = 0
    num_rejected: int = 0
    num_filtered: int = 0
    num_known: int = 0
    stop: int = 0

    @classmethod
    def empty(cls, parents: Labels, n_features: int) -> Self:
        """Return one of no rows."""
        n_nodes = len(parents)
        return cls(
            parents=parents,
            members=np.zeros(n_nodes, np.int64),
            cosine_sum=np.zeros(n_nodes),
            cosine_min=np.full(n_nodes, np.inf),
            best=np.full(n_nodes, -np.inf),
            best_ids=[None] * n_nodes,
            total=np.zeros(n_features),
        )

    def move(self, n_prepared: int | None) -> None:
        """Sum the vectors of members as well, of `n_prepared` values where means move."""
        self.sums = np.zeros((len(self.parents), len(self.total)))
        if n_prepared is not None:
            self.prepared_sums = np.zeros((self.n_roots, n_prepared))

    def add(
        self, stretch: Stretch, X: Matrix, found: Assigned, directions: Matrix, prepared: Matrix
    ) -> None:
        """Count the rows of a stretch of the input.

        Parameters
        ----------
        stretch : Stretch
        X : ndarray of shape (n_samples, n_features), float32
            Its vectors as they are compared.
        found : Assigned
            Where they belong.
        directions : ndarray of shape (n_nodes, n_features), float32
            Centroids at unit length.
        prepared : ndarray of shape (n_samples, n_prepared), float32
            The rows in the space of the means; of unit length where these are directions.
        """
        self.num_points += len(X)
        self.num_rejected += stretch.rejected.num_rows
        self.num_filtered += stretch.num_filtered
        self.num_known += stretch.num_known
        self.stop = stretch.stop
        unit = unit_rows(X)
        self.total += unit.sum(axis=0, dtype=np.float64)
        for labels, cosine in self._levels(unit, found, directions):
            inside = np.flatnonzero(labels != NOISE)
            own, similarity = labels[inside], cosine[inside].astype(np.float64)
            clipped = np.clip(similarity, 0, 1)
            self.members += np.bincount(own, minlength=len(self.parents))
            self.cosine_sum += np.bincount(own, weights=clipped, minlength=len(self.parents))
            np.minimum.at(self.cosine_min, own, clipped)
            order = np.lexsort((-similarity, own))
            nodes, first = np.unique(own[order], return_index=True)
            closest = order[first]
            better = similarity[closest] > self.best[nodes]  # the first of equal ones stays
            self.best[nodes[better]] = similarity[closest[better]]
            for node, row in zip(nodes[better], inside[closest[better]], strict=True):
                self.best_ids[node] = stretch.ids[row].as_py()
            if self.sums is not None:
                touched, sums = sums_by_label(unit.astype(np.float64), labels)
                self.sums[touched] += sums
        if self.prepared_sums is not None:
            roots = labels_at(found.labels, self.parents, 0)
            touched, sums = sums_by_label(prepared.astype(np.float64), roots)
            self.prepared_sums[touched] += sums

    def _levels(self, unit: Matrix, found: Assigned, directions: Matrix) -> Iterator[Any]:
        """Yield for each level the node of each row there, -1 for none, and its cosine to it."""
        levels = node_levels(self.parents)
        if not levels.any():
            yield found.labels, found.similarity
            return
        for level in range(int(levels.max()) + 1):
            labels = labels_at(found.labels, self.parents, level)
            labels = np.where((labels >= 0) & (levels[labels] == level), labels, NOISE)
            labels = labels.astype(np.int32)
            yield labels, cosine_beside(unit, directions, labels)

    @property
    def n_roots(self) -> int:
        """Clusters of the first level; they come first."""
        return int(np.count_nonzero(self.parents == NOISE))

    @property
    def mean_cosine(self) -> float | None:
        """Of all members to the centroid of their root; None without members."""
        members = int(self.members[: self.n_roots].sum())
        return float(self.cosine_sum[: self.n_roots].sum()) / members if members else None

    @property
    def num_noise(self) -> int:
        """Rows that are no members."""
        return self.num_points - int(self.members[: self.n_roots].sum())

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return arrays and JSON values that `restore` takes."""
        arrays = {name: getattr(self, name) for name in (*ARRAYS, *MOVING)}
        info = {name: getattr(self, name) for name in (*COUNTS, "stop", "best_ids")}
        return {name: array for name, array in arrays.items() if array is not None}, info

    def restore(self, arrays: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        for name, value in {**arrays, **info}.items():
            setattr(self, name, value)
