"""How coarse to cluster, without labels: what two halves of the rows agree on.

Clusters that are there are found again in other rows of the same source; splits of one cluster
fall elsewhere each time. Each way of cutting the hierarchy is tried on two halves, every row is
given to a cluster of both, and the cut whose clusters say most about each other wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.density import nearest_row
from gpucluster.ops.tree import Dendrogram, Rule, basins, flat_clusters
from gpucluster.types import Labels, Matrix, Weights

HALF_ROWS = 25_000  # most rows of a half
MOST_PAIRS = 2  # of halves, drawn anew, where they are small
LEAST_HALF = 5  # rows that make a cluster of a half, at least: fewer are chance
FIRST_SIZE = 10
LAST_SHARE = 10  # the largest size is the number of rows divided by it
GROWTH = 1.25  # of a size to the next
PRICE = 5.0  # of information that the halves do not share, in information that they do


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the halves say of one way to cut.

    Attributes
    ----------
    min_cluster_size : int
    method : str
        ``eom`` or ``leaf``.
    n_clusters : float
        Mean of the halves.
    stability : float
        Share of the information of a half's clusters that the other half's have too, in [0, 1].
    score : float
        Shared information, less `PRICE` times what is not shared, less what chance shares; nats.
    """

    min_cluster_size: int
    method: str
    n_clusters: float
    stability: float
    score: float


def candidate_sizes(n_rows: int) -> tuple[int, ...]:
    """Return the sizes that are tried for `n_rows` rows, rising."""
    half = max(1, min(n_rows // 2, HALF_ROWS))
    largest = max(2, n_rows // LAST_SHARE)
    sizes = [min(largest, max(FIRST_SIZE, math.ceil(LEAST_HALF * n_rows / half)))]
    while max(sizes[-1] + 1, int(sizes[-1] * GROWTH)) <= largest:
        sizes.append(max(sizes[-1] + 1, int(sizes[-1] * GROWTH)))
    return tuple(sizes)


def score_cuts(
    X: Matrix,
    weights: Weights | None,
    hierarchy: Callable[[Matrix, Weights | None], Dendrogram],
    rules: Sequence[Rule],
    *,
    random_state: int,
    reporter: Reporter,
) -> list[Candidate]:
    """Try every size and rule on two halves of the rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Distinct rows.
    weights : ndarray of shape (n_samples,), int64, or None
        How many equal rows each stands for; None: one.
    hierarchy : callable
        Returns the dendrogram of some of the rows with their weights.
    rules : sequence of Rule
        Ways to select clusters.
    random_state : int
        Which rows make the halves.
    reporter : Reporter
        Asked for cancellation.

    Returns
    -------
    list of Candidate
        Those that give each half two clusters or more. Empty when there is none.

    Notes
    -----
    Halves are disjoint, of at most `HALF_ROWS` rows each, and sizes shrink with them; where they
    are small, two pairs of them say more than one. A row of a
    half belongs to the cluster whose basin it lies in (`tree.basins`), a row of the other half
    to that of its nearest neighbour. With mutual information I and mean entropy H of the two
    partitions, the score is ``I - PRICE * (H - I) - (k1 - 1) * (k2 - 1) / (2 * n)``; the last
    term is what independent partitions of so many clusters share (Miller 1955). Extra memory: two
    copies of the halves.

    References
    ----------
    Stability under resampling: Lange, Roth, Braun, Buhmann 2004,
    doi:10.1162/089976604773717621; prediction across halves: Tibshirani, Walther 2005,
    doi:10.1198/106186005X59243.
    """
    n_half = min(len(X) // 2, HALF_ROWS)
    if n_half < 2:
        return []
    drawn = np.random.default_rng(random_state)
    total = len(X) if weights is None else int(weights.sum())
    tried: dict[tuple[int, str], list[Candidate]] = {}
    n_pairs = min(MOST_PAIRS, max(1, HALF_ROWS // n_half))
    for _ in range(n_pairs):
        order = drawn.permutation(len(X))
        halves = np.sort(order[:n_half]), np.sort(order[n_half : 2 * n_half])
        rows = [np.ascontiguousarray(X[half]) for half in halves]
        trees = [
            hierarchy(own, None if weights is None else weights[half])
            for own, half in zip(rows, halves, strict=True)
        ]
        across = [nearest_row(rows[0], rows[1]), nearest_row(rows[1], rows[0])]
        for size in candidate_sizes(total):
            for rule in rules:
                reporter.cancel.raise_if_cancelled()
                share = max(2, round(size * trees[0].total / total)), rule
                first = _on_both(trees[0], share, across[0])
                share = max(2, round(size * trees[1].total / total)), rule
                second = _on_both(trees[1], share, across[1])
                if first is not None and second is not None:
                    second = np.concatenate((second[n_half:], second[:n_half]))
                    judged = _judged(size, rule, first, second)
                    tried.setdefault((size, rule.method), []).append(judged)
    return [_mean(found) for found in tried.values() if len(found) == n_pairs]


def _on_both(tree: Dendrogram, cut: tuple[int, Rule], across: Labels) -> Labels | None:
    """Return the basins of the rows of a tree and of those of the other half, in this order."""
    labels = flat_clusters(tree, *cut).labels
    if labels.max(initial=-1) < 1:
        return None
    own = basins(tree, labels)
    return np.concatenate((own, own[across]))


def _mean(found: Sequence[Candidate]) -> Candidate:
    count = len(found)
    return replace(
        found[0],
        n_clusters=sum(one.n_clusters for one in found) / count,
        stability=sum(one.stability for one in found) / count,
        score=sum(one.score for one in found) / count,
    )


def _judged(size: int, rule: Rule, first: Labels, second: Labels) -> Candidate:
    k1, k2 = int(first.max()) + 1, int(second.max()) + 1
    codes, counts = np.unique(first.astype(np.int64) * k2 + second, return_counts=True)
    joint = _entropy(counts)
    alone = _entropy(np.bincount(codes // k2, counts)), _entropy(np.bincount(codes % k2, counts))
    shared, mean = sum(alone) - joint, sum(alone) / 2
    chance = (k1 - 1) * (k2 - 1) / (2 * len(first))
    return Candidate(
        min_cluster_size=size,
        method=rule.method,
        n_clusters=(k1 + k2) / 2,
        stability=min(1.0, max(0.0, shared / mean)) if mean > 0 else 0.0,
        score=shared - PRICE * (mean - shared) - chance,
    )


def _entropy(counts: Any) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
