"""Weighted landmarks: a few means that stand for many rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.device.arrays import namespace, to_host
from gpucluster.device.memory import blocks_bytes, rows_per_block
from gpucluster.events import Reporter
from gpucluster.ops.assign import lloyd_step
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.normalize import without_offset
from gpucluster.types import Cost, Matrix

ITERATIONS = 3  # of Lloyd: later ones change means little, and each costs as much


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Means of small groups of rows that lie together, with what they stand for.

    Attributes
    ----------
    means : ndarray of shape (n_landmarks, n_features), float32
        Mean of the rows of each landmark.
    weights : ndarray of shape (n_landmarks,), int64
        Rows of each; at least one.
    labels : ndarray of shape (n_samples,), int32
        Landmark of each row.
    mean_sqdist, max_sqdist : ndarray of shape (n_landmarks,), float64
        Mean and largest squared distance of the rows to their mean.
    """

    means: Matrix
    weights: Any
    labels: Any
    mean_sqdist: Any
    max_sqdist: Any


def landmark_cost(n_samples: int, n_features: int, n_landmarks: int) -> Cost:
    """Return the cost of `landmarks` on the host."""
    flop = (ITERATIONS + 1.5) * 2.0 * n_samples * n_features * n_landmarks
    centred = 4 * n_samples * n_features  # when the rows lie far from zero
    return Cost(
        centred + 40 * n_samples + 32 * n_landmarks * n_features + blocks_bytes(centred),
        flop / 120e9,
        "landmarks",
        rows_bytes=centred,
        far_bytes=centred,
    )


def landmarks(
    X: Matrix, n_landmarks: int, random_state: int, reporter: Reporter | None = None
) -> Landmarks:
    """Choose landmarks for the rows of `X`.

    Half of the first ones are drawn uniformly, the others by their squared distance to
    those, so that small and remote groups have landmarks of their own (one round of
    k-means||). A few Lloyd iterations then move them into the middle of their rows.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), float32
        Its device decides where the work runs.
    n_landmarks : int
        At most ``n_samples``; fewer are returned when there are fewer distinct rows.
    random_state : int
        Seed.
    reporter : Reporter, optional
        Told after each iteration.

    Returns
    -------
    Landmarks
        On the host.

    Notes
    -----
    Extra memory: a centred copy of `X` when its rows lie far from zero, 40 bytes a row,
    and 32 bytes for each value of the means.

    References
    ----------
    Bahmani, Moseley, Vattani, Kumar, Vassilvitskii 2012, *Scalable k-means++*,
    doi:10.14778/2180912.2180915.
    """
    drawn = np.random.default_rng(random_state)
    centred = without_offset(X)
    n_uniform = min(n_landmarks, max(1, n_landmarks // 2))
    first = np.sort(drawn.choice(len(X), n_uniform, replace=False))
    centers = centred[first]
    if n_uniform < n_landmarks:
        sqdist = to_host(lloyd_step(centred, centers, reporter).sqdist)
        far = _draw(drawn, sqdist, n_landmarks - n_uniform, first)
        centers = namespace(X).concatenate((centers, centred[far]))
    for iteration in range(ITERATIONS):
        step = lloyd_step(centred, centers, reporter)
        filled = step.counts > 0
        centers = (step.sums[filled] / step.counts[filled, None]).astype(np.float32)
        if reporter is not None:
            reporter.progress(iteration + 1, ITERATIONS + 1, "iterations")
    step = lloyd_step(centred, centers, reporter)
    filled = to_host(step.counts > 0)
    number = np.cumsum(filled) - 1
    labels = number[to_host(step.labels)].astype(np.int32)
    weights = to_host(step.counts)[filled]
    shift = to_host(X[:1].astype(np.float64) - centred[:1])
    means = to_host(step.sums)[filled] / weights[:, None] + shift
    mean_sqdist, max_sqdist = _radii(X, labels, means, weights)
    return Landmarks(means.astype(np.float32), weights, labels, mean_sqdist, max_sqdist)


def _draw(drawn: np.random.Generator, sqdist: Any, count: int, taken: Any) -> Any:
    """Draw rows without replacement, each as likely as its squared distance says.

    Efraimidis, Spirakis 2006, doi:10.1016/j.ipl.2005.11.003: the largest of random keys.
    """
    with np.errstate(divide="ignore"):
        keys = np.log(drawn.random(len(sqdist))) / sqdist.astype(np.float64)
    keys[sqdist <= 0] = -np.inf
    keys[taken] = -np.inf
    count = min(count, int(np.isfinite(keys).sum()))
    chosen = np.argpartition(-keys, count - 1)[:count] if count else np.empty(0, np.int64)
    return np.sort(chosen)


def _radii(X: Matrix, labels: Any, means: Any, weights: Any) -> tuple[Any, Any]:
    """Return mean and largest squared distance of the rows of each landmark to its mean."""
    total = np.zeros(len(means))
    largest = np.zeros(len(means))
    for rows in row_blocks(len(X), rows_per_block(16 * X.shape[1])):
        own = labels[rows]
        difference = to_host(X[rows]).astype(np.float64) - means[own]
        sqdist = np.einsum("ij,ij->i", difference, difference)
        total += np.bincount(own, weights=sqdist, minlength=len(means))
        np.maximum.at(largest, own, sqdist)
    return total / weights, largest
