"""The clusters of a finished run, as new rows meet them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, Self

import numpy as np

from gpucluster.device.memory import rows_per_block
from gpucluster.device.select import Device
from gpucluster.errors import ConfigError
from gpucluster.notation import describe
from gpucluster.ops.assign import most_similar, nearest_center
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.normalize import unit_rows
from gpucluster.ops.shards import ByRow, Shard, Shards
from gpucluster.types import NOISE, Labels, Matrix, Vector

Metric = Literal["cosine", "euclidean"]


@dataclass(frozen=True, slots=True)
class Assigned:
    """Where rows belong.

    Attributes
    ----------
    labels : ndarray of shape (n_samples,), int32
        The deepest node whose threshold is reached; noise is -1.
    nearest : ndarray of shape (n_samples,), int32
        That node, and for noise the root it came nearest to.
    similarity : ndarray of shape (n_samples,), float32
        Cosine similarity to the centroid of `nearest`, in [-1, 1].
    """

    labels: Labels
    nearest: Labels
    similarity: Vector


@dataclass(frozen=True, slots=True)
class Assigner:
    """Clusters that rows join, from the roots down.

    A row is compared with all roots. It belongs to the nearest if its cosine similarity to the
    centroid reaches the threshold; then it is compared with the children of that one, and so
    on, until it misses a threshold.

    Attributes
    ----------
    directions : ndarray of shape (n_nodes, n_features), float32
        Centroids in the original space, at unit length; zero where a centroid has no direction.
    parents : ndarray of shape (n_nodes,), int32
        The node that each was divided from; -1 for the roots, which come first.
    thresholds : ndarray of shape (n_nodes,), float32
        Least cosine similarity that makes a row a member, inclusive.
    means : ndarray of shape (n_roots, n_prepared), float32, or None
        Means of the roots in the space they were found in, where these decide which root is
        the nearest; None: the directions do.
    metric : {"cosine", "euclidean"}
        How rows are compared with the means.
    """

    directions: Matrix
    parents: Labels
    thresholds: Vector
    means: Matrix | None = None
    metric: Metric = "cosine"

    @property
    def n_roots(self) -> int:
        """Clusters of the first level."""
        return int(np.count_nonzero(self.parents == NOISE))

    def with_threshold(self, threshold: float) -> Self:
        """Return the same clusters with one threshold, in [-1, 1], for all of them."""
        return replace(self, thresholds=np.full(len(self.parents), threshold, np.float32))

    def assign(self, X: Matrix, prepared: Matrix | None = None, device: Device = "cpu") -> Assigned:
        """Say where rows belong.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features), float32
            Original vectors; no zero row.
        prepared : ndarray of shape (n_samples, n_prepared), float32, optional
            The same rows in the space of the means; omitted: that is `X`.
        device : {"cpu", "gpu"}, default "cpu"

        Returns
        -------
        Assigned
            Ties go to the lower root, and to the lower child.
        """
        if not len(self.parents):
            nothing = np.full(len(X), NOISE, np.int32)
            return Assigned(nothing, nothing, np.full(len(X), np.nan, np.float32))
        nearest, similarity = self._nearest_root(X, X if prepared is None else prepared, device)
        labels = np.where(similarity >= self.thresholds[nearest], nearest, NOISE).astype(np.int32)
        if self.n_roots == len(self.parents):
            return Assigned(labels, nearest, similarity)
        nearest, similarity = nearest.copy(), similarity.copy()
        by_parent = np.argsort(self.parents, kind="stable")
        starts = np.searchsorted(self.parents[by_parent], np.arange(len(self.parents) + 1))
        moved = np.flatnonzero(labels != NOISE)
        while len(moved):
            moved = moved[np.argsort(labels[moved], kind="stable")]
            nodes, first = np.unique(labels[moved], return_index=True)
            below: list[Any] = []
            for node, rows in zip(nodes, np.split(moved, first[1:]), strict=True):
                children = by_parent[starts[node] : starts[node + 1]]
                if not len(children):
                    continue
                found, cosine = most_similar(X[rows], self.directions[children], device)
                inside = cosine >= self.thresholds[children[found]]
                rows, found = rows[inside], children[found[inside]].astype(np.int32)  # noqa: PLW2901
                labels[rows] = nearest[rows] = found
                similarity[rows] = cosine[inside]
                below.append(rows)
            moved = np.concatenate(below) if below else moved[:0]
        return Assigned(labels, nearest, similarity)

    def _nearest_root(self, X: Matrix, prepared: Matrix, device: Device) -> tuple[Labels, Vector]:
        roots = self.directions[: self.n_roots]
        if self.means is None:
            return most_similar(X, roots, device)
        if self.metric == "cosine":
            nearest, _ = most_similar(prepared, unit_rows(self.means), device)
        else:
            nearest = nearest_center(prepared, self.means, device)
        return nearest, cosine_beside(X, roots, nearest)


def check_threshold(threshold: Any) -> float | Literal["auto"]:
    """Return a cosine similarity as a float, or ``auto``; else raise `ConfigError`."""
    if isinstance(threshold, str) and threshold == "auto":
        return "auto"
    is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if not is_number or not -1 <= threshold <= 1:
        shown = describe(threshold) if isinstance(threshold, str) else repr(threshold)
        raise ConfigError(
            f"got {shown}, expected a cosine similarity in [-1, 1], or auto",
            path="threshold",
            hint="auto calibrates one for each cluster",
        )
    return float(threshold) + 0.0  # and no -0.0, which would be another request


def cosine_beside(X: Matrix, directions: Matrix, labels: Labels) -> Vector:
    """Return the cosine of each row to one direction.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Of any length; no zero row.
    directions : ndarray of shape (n_directions, n_features), float32
        Of unit length.
    labels : ndarray of shape (n_samples,), int32
        The direction of each row; -1 for none.

    Returns
    -------
    ndarray of shape (n_samples,), float32
        In [-1, 1]; NaN for rows without a direction.
    """
    if not len(X):
        return np.empty(0, np.float32)
    found = Shards(X, "similarities").map(_shard_beside, ByRow(labels), directions)
    return np.concatenate(list(found))


def _shard_beside(shard: Shard, labels: Labels, directions: Matrix) -> Vector:
    cosine = np.full(len(labels), np.nan, np.float32)
    for rows in row_blocks(len(labels), rows_per_block(12 * shard.X.shape[1])):
        unit = unit_rows(shard.X[rows])
        found = np.einsum("ij,ij->i", unit, directions[labels[rows]])
        cosine[rows] = np.where(labels[rows] == NOISE, np.nan, np.clip(found, -1, 1))
    return cosine
