"""Centroids that move with new members, and how far they may."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.artifacts import Run
from gpucluster.identity import separation
from gpucluster.ops.normalize import unit_rows
from gpucluster.sources import KnownIds
from gpucluster.tally import Tally
from gpucluster.trained import ENTRY, TrainedModel
from gpucluster.types import Matrix

LEAST = 1e-4  # half a distance of unit rows that float32 can tell from none
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


def moved_model(model: TrainedModel, base: Run, tally: Tally, known: KnownIds) -> dict[str, Any]:
    """Return the model folder of the run whose centroids moved.

    Parameters
    ----------
    model : TrainedModel
        Of `base`.
    base : Run
    tally : Tally
        Of the rows that joined.
    known : KnownIds
        All documents behind the clusters, those that joined among them.

    Returns
    -------
    dict
        Thresholds, and what the rows of the fit looked like, stay those of the fit, so that
        drift is always measured against it; its centroids are kept as ``anchors``. With `known`
        in it, later runs need none of those before.
    """
    entries = dict(base.model)
    arrays = {**entries[ENTRY]["arrays"], "anchors": model.anchors}
    arrays |= {f"known_{i}": hashes for i, hashes in enumerate(known.hashes)}
    means = model.assigner.means
    if means is not None:
        roots = slice(0, tally.n_roots)
        sizes, joined = model.num_members[roots], tally.members[roots]
        arrays["means"] = _moved(means, sizes, tally.prepared_sums, joined)
    settings = {
        **entries[ENTRY]["settings"],
        "fit_run_id": model.fit_run_id,
        "num_fit": model.num_fit,
        "num_since": model.num_since + tally.num_points,
    }
    return {**entries, ENTRY: {"settings": settings, "arrays": arrays}}


def shift(model: TrainedModel, tally: Tally) -> tuple[float | None, int]:
    """Return how far centroids left those of the fit, as a part of half the way to the next one.

    Parameters
    ----------
    model : TrainedModel
    tally : Tally

    Returns
    -------
    largest : float or None
        Among the clusters of the first level that hold `HELD` of the members; None where there
        is one cluster. From 1 on rows of the fit lie nearer to another centroid than to theirs.
    n_left : int
        Clusters that left by more than 1.
    """
    roots = slice(0, tally.n_roots)
    fit, moved = unit_rows(model.anchors[roots]), unit_rows(moved_centroids(model, tally)[roots])
    if len(fit) < 2:
        return None, 0
    half = np.sqrt(np.maximum(0, (1 - separation(fit)) / 2))  # half of |a - b| of unit rows
    apart = half > LEAST  # of centroids that coincide none is nearer to its rows than the other
    shifts = np.zeros(len(fit))
    shifts[apart] = np.linalg.norm(moved - fit, axis=1)[apart] / half[apart]
    counts = (model.num_members + tally.members)[roots]
    held = counts >= HELD * counts.sum()
    return float(shifts[held].max(initial=0)), int((shifts > 1).sum())


def _moved(centers: Matrix, sizes: Any, sums: Any, joined: Any) -> Matrix:
    total = centers.astype(np.float64) * sizes[:, None] + sums
    moved: Matrix = (total / np.maximum(sizes + joined, 1)[:, None]).astype(np.float32)
    return moved
