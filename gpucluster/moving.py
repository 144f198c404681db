"""Centroids that move with new members, and how far they may."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.artifacts import Run
from gpucluster.identity import separation
from gpucluster.ops.normalize import unit_rows
from gpucluster.tally import Tally
from gpucluster.trained import ENTRY, TrainedModel
from gpucluster.types import Matrix

HELD = 0.01  # share of the members that makes the shift of a centroid count


def moved_centroids(model: TrainedModel, tally: Tally) -> Matrix:
    """Return the means of old and new members.

    Parameters
    ----------
    model : TrainedModel
        Of the run whose clusters were joined; its centroids are means of unit rows.
    tally : Tally
        Of the rows that joined, with their sums.

    Returns
    -------
    ndarray of shape (n_nodes, n_features), float32
        The same as of all rows at once, had they been in these clusters (MacQueen 1967).
    """
    return _moved(model.centroids, model.num_members, tally.sums, tally.members)


def moved_model(model: TrainedModel, base: Run, tally: Tally) -> dict[str, Any]:
    """Return the model folder of the run whose centroids moved.

    Thresholds, and what the rows of the fit looked like, stay those of the fit, so that drift
    is always measured against it; its centroids are kept as ``anchors``.
    """
    entries = dict(base.model)
    arrays = {**entries[ENTRY]["arrays"], "anchors": model.anchors}
    means = model.assigner.means
    if means is not None:
        joined = tally.members[: tally.n_roots]
        sizes = arrays["sizes"]
        arrays["means"] = _moved(means, sizes, tally.prepared_sums, joined)
        arrays["sizes"] = sizes + joined
    return {**entries, ENTRY: {**entries[ENTRY], "arrays": arrays}}


def shift(model: TrainedModel, tally: Tally) -> tuple[float, int]:
    """Return how far centroids left those of the fit, as a part of half the way to the next one.

    Parameters
    ----------
    model : TrainedModel
    tally : Tally

    Returns
    -------
    largest : float
        Among the clusters of the first level that hold `HELD` of the members. From 1 on rows of
        the fit lie nearer to another centroid than to their own.
    n_left : int
        Clusters that left by more than 1.
    """
    roots = slice(0, tally.n_roots)
    fit, moved = unit_rows(model.anchors[roots]), unit_rows(moved_centroids(model, tally)[roots])
    if len(fit) < 2:
        return 0.0, 0
    half = np.sqrt(np.maximum(0, (1 - separation(fit)) / 2))  # half of |a - b| of unit rows
    shifts = np.linalg.norm(moved - fit, axis=1) / np.maximum(half, 1e-12)
    counts = (model.num_members + tally.members)[roots]
    held = counts >= HELD * counts.sum()
    return float(shifts[held].max(initial=0)), int((shifts > 1).sum())


def _moved(centers: Matrix, sizes: Any, sums: Any, joined: Any) -> Matrix:
    total = centers.astype(np.float64) * sizes[:, None] + sums
    moved: Matrix = (total / np.maximum(sizes + joined, 1)[:, None]).astype(np.float32)
    return moved
