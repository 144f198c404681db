"""What the rows of a fit say of joining its clusters: how similar is similar enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.assignment.assigner import Assigned, Assigner, cosine_beside
from gpucluster.assignment.thresholds import calibrated
from gpucluster.device.memory import BLOCK_BYTES, rows_per_block
from gpucluster.device.storage import take
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.nesting import labels_at, node_levels
from gpucluster.ops.normalize import unit_rows
from gpucluster.ops.shards import Shard, Shards
from gpucluster.types import NOISE, USUAL_THRESHOLD, Hierarchy, Labels, Matrix, Vector, Vector64

PAIRS = 20_000
SLACK = 1e-6  # of a threshold: two ways to compute one cosine differ by less


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is kept of a fit, for the rows that join its clusters later.

    Attributes
    ----------
    thresholds : ndarray of shape (n_nodes,), float32
        Those of ``auto``: a hundredth of a node's own rows is less similar to its centroid.
    roots : ndarray of shape (n_samples,), int32
        The cluster of the first level that each fitted row would be compared with.
    similarity : ndarray of shape (n_samples,), float32
        Its cosine similarity to the centroid of that one.
    mean : ndarray of shape (n_features,), float64
        Mean unit row.
    facts : dict
        For people, as JSON values.
    """

    thresholds: Vector
    roots: Labels
    similarity: Vector
    mean: Any
    facts: dict[str, Any]


def calibrate(
    X: Matrix, nodes: Hierarchy, assigner: Assigner, placed: Assigned, random_state: int
) -> Calibration:
    """Compare where fitted rows would be assigned with where the fit has put them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Original vectors; no zero row.
    nodes : Hierarchy
        Of the fit, before any noise policy.
    assigner : Assigner
        Its thresholds do not count.
    placed : Assigned
        What it says of the rows of `X` where no threshold holds them back.
    random_state : int
        Seed of the random pairs.

    Returns
    -------
    Calibration

    Notes
    -----
    Extra memory: 40 bytes a row.
    """
    n_roots = assigner.n_roots
    levels = node_levels(nodes.parents)
    roots, similarity = labels_at(placed.labels, nodes.parents, 0), placed.similarity
    if levels.any():
        similarity = cosine_beside(X, assigner.directions, roots)
    thresholds = np.zeros(len(nodes.parents), np.float32)
    for level in range(int(levels.max(initial=NOISE)) + 1):
        inside = labels_at(nodes.labels, nodes.parents, level)
        inside = np.where((inside >= 0) & (levels[inside] == level), inside, NOISE)
        inside = inside.astype(np.int32)
        cosine = cosine_beside(X, assigner.directions, inside)
        if level == 0:
            cosine = np.where(inside == roots, similarity, cosine)
        at_level = calibrated(cosine, inside, len(levels)) - np.float32(SLACK)
        thresholds[levels == level] = np.maximum(at_level, 0)[levels == level]
    facts: dict[str, Any] = {
        **_agreement(nodes, placed, levels),
        **_random_pairs(X, random_state),
    }
    if n_roots:
        missed = similarity < thresholds[roots]
        noise = nodes.labels == NOISE
        facts |= {
            "auto_rejects": float(missed.mean()),
            "auto_rejects_noise": float(missed[noise].mean()) if noise.any() else None,
            "auto_threshold_median": float(np.median(thresholds[:n_roots])),
            f"{USUAL_THRESHOLD:g}_rejects": float((similarity < USUAL_THRESHOLD).mean()),
        }
    return Calibration(thresholds, roots, similarity, _mean_direction(X), facts)


def _agreement(nodes: Hierarchy, placed: Assigned, levels: Any) -> dict[str, Any]:
    """Return the share of clustered rows that would be assigned to the cluster they are in."""
    clustered = nodes.labels != NOISE
    if not clustered.any():
        return {"agreement": None}
    own = labels_at(nodes.labels, nodes.parents, 0)[clustered]
    found = labels_at(placed.labels, nodes.parents, 0)[clustered]
    facts: dict[str, Any] = {"agreement": float((own == found).mean())}
    if levels.any():
        same = nodes.labels[clustered] == placed.labels[clustered]
        facts["agreement_of_deepest"] = float(same.mean())
    return facts


def _random_pairs(X: Matrix, random_state: int) -> dict[str, Any]:
    """Return what the cosine of two random rows is, and how often it reaches `USUAL_THRESHOLD`."""
    if len(X) < 2:
        return {"random_pair_cosine": None}
    rng = np.random.default_rng(random_state)
    first = rng.integers(0, len(X), PAIRS)
    second = (first + rng.integers(1, len(X), PAIRS)) % len(X)  # never the row itself
    cosine = np.empty(PAIRS, np.float32)
    for pairs in row_blocks(PAIRS, rows_per_block(8 * X.shape[1], 2 * BLOCK_BYTES)):
        others = unit_rows(take(X, second[pairs]))
        cosine[pairs] = cosine_beside(
            take(X, first[pairs]), others, np.arange(len(others), dtype=np.int32)
        )
    return {
        "random_pair_cosine": {
            "mean": float(cosine.mean(dtype=np.float64)),
            **{f"p{rank}": float(np.percentile(cosine, rank)) for rank in (1, 50, 99)},
            f"share_above_{USUAL_THRESHOLD:g}": float((cosine >= USUAL_THRESHOLD).mean()),
        }
    }


def _mean_direction(X: Matrix) -> Any:
    return Shards(X, "mean direction").reduce(_shard_direction, np.add) / len(X)


def _shard_direction(shard: Shard) -> Vector64:
    total = np.zeros(shard.X.shape[1], np.float64)
    for rows in row_blocks(len(shard.X), rows_per_block(16 * shard.X.shape[1])):
        total += unit_rows(shard.X[rows]).sum(axis=0, dtype=np.float64)
    return total
