"""How much each feature counts: given, or learned from the data without labels."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gpucluster.events import Reporter
from gpucluster.ops.assign import lloyd_step
from gpucluster.ops.blocks import one_blas_thread
from gpucluster.ops.seeding import first_centers
from gpucluster.ops.silhouette import squared_silhouette
from gpucluster.types import Labels, Matrix

Block = tuple[str, int]  # feature URI and dimension
FIRST_POINTS = 5  # of the bayesian search, before there is anything to model
ITERATIONS = 20  # of the k-means behind each trial
CANDIDATES = 2000  # weights among which the next ones are chosen


class WeightLearning(BaseModel):
    """How weights are learned."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["bayesian", "grid_search"] = Field(
        default="bayesian", description="Choose the next weights by a model, or try a grid."
    )
    max_iterations: Annotated[int, Field(ge=5, le=100)] = Field(
        default=20, description="Weights that are tried."
    )
    metric: Literal["silhouette", "davies_bouldin", "calinski_harabasz"] = Field(
        default="silhouette", description="What good weights improve."
    )
    sample_size: Annotated[int, Field(ge=100)] = Field(
        default=5000, description="Rows on which they are tried."
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=42, description="Seed.")


@dataclass(frozen=True, slots=True)
class Learned:
    """Weights, and how good they were.

    Attributes
    ----------
    weights : tuple of float
        One for each block, the largest 1.
    score : float
        Of the metric; larger is better, so a Davies-Bouldin index ``x`` is ``1 / (1 + x)``.
    equal_score : float
        What equal weights reach.
    n_tried : int
        Weights that were tried.
    """

    weights: tuple[float, ...]
    score: float
    equal_score: float
    n_tried: int


def weigh(X: Matrix, blocks: Sequence[Block], weights: Sequence[float]) -> None:
    """Scale the blocks of `X`, in place, by the square roots of their weights.

    So the inner product of two rows is the weighted sum of those of their features.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    blocks : sequence of (str, int)
        Feature and dimension, as they lie side by side.
    weights : sequence of float
        Of each block, not negative.
    """
    for cols, weight in zip(columns(blocks), weights, strict=True):
        X[:, cols] *= np.float32(math.sqrt(weight))


def columns(blocks: Sequence[Block]) -> list[slice]:
    """Return where each block lies."""
    stops = list(itertools.accumulate(width for _, width in blocks))
    return [slice(a, b) for a, b in itertools.pairwise([0, *stops])]


def learn_weights(
    X: Matrix,
    blocks: Sequence[Block],
    settings: WeightLearning,
    n_clusters: int,
    reporter: Reporter,
) -> Learned:
    """Find weights under which the rows fall into clear groups.

    A sample is weighted and grouped by k-means. Its groups are measured in the space of each
    feature alone, and the mean counts: measured in the weighted space, a weight of 0 for all
    but one feature would always look best.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Blocks side by side, each of unit rows. Not written to.
    blocks : sequence of (str, int)
        Feature and dimension.
    settings : WeightLearning
    n_clusters : int
        Groups that k-means makes.
    reporter : Reporter
        Told of each trial.

    Returns
    -------
    Learned

    References
    ----------
    Jones, Schonlau, Welch 1998, *Efficient global optimization of expensive black-box
    functions*, doi:10.1023/A:1008306431147: the expected improvement.
    """
    drawn = np.random.default_rng(settings.random_state)
    if len(X) > settings.sample_size:
        X = X[np.sort(drawn.choice(len(X), settings.sample_size, replace=False))]
    trials: dict[tuple[float, ...], float] = {}
    search = (
        _grid(len(blocks), settings.max_iterations, drawn)
        if settings.method == "grid_search"
        else _bayesian(len(blocks), settings.max_iterations, drawn, trials)
    )
    for weights in search:
        trials[weights] = _score(X, blocks, weights, settings, n_clusters)
        reporter.progress(len(trials), settings.max_iterations, "trials")
    best = max(trials, key=lambda weights: (trials[weights], sum(weights)))
    equal = (1.0,) * len(blocks)
    return Learned(best, trials[best], trials[equal], len(trials))


def _score(
    X: Matrix,
    blocks: Sequence[Block],
    weights: Sequence[float],
    settings: WeightLearning,
    n_clusters: int,
) -> float:
    """Return how clear the groups are that `weights` lead to; larger is better."""
    weighted = X.copy()
    weigh(weighted, blocks, weights)
    labels = _groups(weighted, min(n_clusters, len(X) - 1), settings.random_state)
    if len(np.unique(labels)) < 2:
        return -math.inf
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int32)  # without empty groups
    with one_blas_thread:
        return float(np.mean([_clear(X[:, cols], labels, settings) for cols in columns(blocks)]))


def _groups(X: Matrix, n_clusters: int, random_state: int) -> Labels:
    """Return the partition of a short k-means."""
    stream = np.random.default_rng(random_state)
    centers = first_centers(X, n_clusters, "k-means++", stream, Reporter())
    step = lloyd_step(X, centers)
    for _ in range(ITERATIONS):
        filled = step.counts > 0
        centers = (step.sums[filled] / step.counts[filled, None]).astype(np.float32)
        previous, step = step, lloyd_step(X, centers)
        if filled.all() and np.array_equal(step.labels, previous.labels):
            break
    return step.labels


def _clear(block: Matrix, labels: Any, settings: WeightLearning) -> float:
    """Return the metric of a grouping in the space of one feature; larger is better."""
    from sklearn import metrics

    if settings.metric == "silhouette":
        return float(squared_silhouette(block, labels).mean(dtype=np.float64))
    if settings.metric == "davies_bouldin":
        # between 0 and 1, or a feature without groups would decide the mean
        return 1 / (1 + float(metrics.davies_bouldin_score(block, labels)))
    return float(metrics.calinski_harabasz_score(block, labels))


def _grid(n_blocks: int, limit: int, drawn: np.random.Generator) -> Iterator[tuple[float, ...]]:
    """Yield equal weights, and the finest grid of weights whose largest is 1, `limit` in all.

    Only ratios count, so the largest is 1. Of a grid that is too large with one step already,
    features used or not, points are drawn.
    """
    equal = (1.0,) * n_blocks
    yield equal
    steps = 1
    while (steps + 2) ** n_blocks - (steps + 1) ** n_blocks <= limit:
        steps += 1
    if (steps + 1) ** n_blocks - steps**n_blocks <= limit:
        values = [i / steps for i in range(steps + 1)]
        points = itertools.product(values, repeat=n_blocks)
        yield from (point for point in points if max(point) == 1 and point != equal)
        return
    seen = {equal}
    while len(seen) < limit:
        point = tuple(drawn.integers(0, 2, n_blocks).astype(float).tolist())
        if max(point) == 1 and point not in seen:
            seen.add(point)
            yield point


def _bayesian(
    n_blocks: int, limit: int, drawn: np.random.Generator, trials: Mapping[Any, float]
) -> Iterator[tuple[float, ...]]:
    """Yield equal weights, some drawn ones, then those of largest expected improvement."""
    from scipy.stats import norm
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    yield (1.0,) * n_blocks
    for trial in range(1, limit):
        fresh = [p for p in map(_scaled, drawn.random((CANDIDATES, n_blocks))) if p not in trials]
        if not fresh:
            return
        if trial < FIRST_POINTS:
            yield fresh[0]
            continue
        seen = np.array(list(trials))
        scores = np.nan_to_num(np.array(list(trials.values())), neginf=-1)
        spread = scores.std() or 1.0
        with one_blas_thread, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a kernel at its bounds is as good as any
            model = GaussianProcessRegressor(
                Matern(nu=2.5) + WhiteKernel(1e-3), normalize_y=True, random_state=0
            ).fit(seen, scores / spread)
            mean, deviation = model.predict(np.array(fresh), return_std=True)
        gain = mean - scores.max() / spread
        sigma = np.maximum(deviation, 1e-9)
        improvement = gain * norm.cdf(gain / sigma) + sigma * norm.pdf(gain / sigma)
        yield fresh[int(improvement.argmax())]


def _scaled(point: Any) -> tuple[float, ...]:
    """Return weights whose largest is 1, with two digits: finer ones mean nothing."""
    rounded = np.round(point / point.max(), 2)
    return tuple(rounded.tolist())
