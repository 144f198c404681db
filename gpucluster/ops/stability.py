"""How coarse to cluster, without labels: what is found again in halves of the rows.

Clusters that are there are found again in other rows of the same source; splits of one cluster
fall elsewhere each time. Each way of cutting the hierarchy is tried on all rows and on halves of
them, every row is given to a cluster of each, and the cut whose clusters say most about those of
the halves wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np

from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks
from gpucluster.ops.density import nearest_row
from gpucluster.ops.tree import Dendrogram, Rule, basins, flat_clusters
from gpucluster.types import Labels, Matrix, Weights

HALF_ROWS = 25_000  # most rows of a half
LEAST_HALF = 5  # rows that make a cluster of a half, at least: fewer are chance
FIRST_SIZE = 10
LAST_SHARE = 10  # the largest size is the number of rows divided by it
GROWTH = 1.25  # of a size to the next
PRICE = 5.0  # of information that the halves do not share, in information that they do


@dataclass(frozen=True, slots=True)
class Candidate:
    """What halves of the rows say of one way to cut.

    Attributes
    ----------
    min_cluster_size : int
    method : str
        ``eom`` or ``leaf``.
    n_clusters : int
        Of all rows.
    stability : float
        Share of the information of the clusters that those of a half have too, in [0, 1].
    score : float
        Shared information, less `PRICE` times what is not shared, less what chance shares; nats.
    """

    min_cluster_size: int
    method: Literal["eom", "leaf"]
    n_clusters: int
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
    tree: Dendrogram,
    hierarchy: Callable[[Matrix, Weights | None], Dendrogram],
    rules: Sequence[Rule],
    *,
    random_state: int,
    reporter: Reporter,
) -> list[Candidate]:
    """Try every size and rule on all rows and on two halves of them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        Distinct rows.
    weights : ndarray of shape (n_samples,), int64, or None
        How many equal rows each stands for; None: one.
    tree : Dendrogram
        Of all rows.
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
        Those that give all rows and each half two clusters or more. Empty when there is none.

    Notes
    -----
    Halves are disjoint, of at most `HALF_ROWS` rows each, and sizes shrink with them. A row
    belongs to the cluster whose basin it lies in (`tree.basins`), one that a half has not seen to
    that of its nearest neighbour there.
    With mutual information I and mean entropy H of the clusters of all rows and those of a half,
    the score is ``I - PRICE * (H - I) - (k1 - 1) * (k2 - 1) / (2 * n)``, the mean over the halves;
    the last term is what independent partitions of so many clusters share (Miller 1955). Halves
    that are compared with each other alone say nothing of what is found in twice as many rows:
    that can be something else. Extra memory: two copies of the halves, and 8 bytes for each of
    their rows and each cut.

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
    halves = np.sort(drawn.permutation(len(X))[: 2 * n_half].reshape(2, n_half))
    seen = np.sort(halves, axis=None)
    sizes = candidate_sizes(total)
    reporter.cancel.raise_if_cancelled()
    found = _cuts(tree, sizes, rules, seen)
    scores: dict[tuple[int, Rule], list[Candidate]] = {cut: [] for cut in found}
    for half, other in (halves, halves[::-1]):
        rows = np.ascontiguousarray(X[half])
        small = hierarchy(rows, None if weights is None else weights[half])
        nearest = nearest_row(rows, np.ascontiguousarray(X[other]))
        both = np.searchsorted(seen, np.concatenate((half, other)))
        share = small.total / total
        again = _cuts(small, sizes, rules, np.concatenate((np.arange(n_half), nearest)), share)
        reporter.cancel.raise_if_cancelled()
        for cut in found.keys() & again.keys():
            scores[cut].append(_judged(*cut, found[cut][both], again[cut]))
    return [_mean(each) for each in scores.values() if len(each) == 2]


def octaves(tried: Sequence[Candidate], chosen: Candidate) -> list[Candidate]:
    """Return the best candidate of each doubling of the number of clusters, finest first.

    That of the doubling in which `chosen` lies is `chosen`.
    """
    best: dict[int, Candidate] = {}
    for candidate in tried:
        octave = candidate.n_clusters.bit_length()
        if octave not in best or candidate.score > best[octave].score:
            best[octave] = candidate
    best[chosen.n_clusters.bit_length()] = chosen
    return [best[octave] for octave in sorted(best, reverse=True)]


def _cuts(
    tree: Dendrogram, sizes: Sequence[int], rules: Sequence[Rule], rows: Any, share: float = 1.0
) -> dict[tuple[int, Rule], Labels]:
    """Return the basins of some rows, for the cuts that give two clusters or more.

    `share` is that of the tree in all rows, by which sizes are meant.
    """

    def work(part: slice) -> list[tuple[tuple[int, Rule], Labels]]:
        size = sizes[part.start]
        own = max(2, round(size * share))
        cut = []
        for rule in rules:
            labels = flat_clusters(tree, own, rule).labels
            if labels.max(initial=-1) >= 1:
                cut.append(((size, rule), basins(tree, labels)[rows]))
        return cut

    return dict(chain.from_iterable(map_blocks(work, len(sizes), 1)))


def _mean(each: Sequence[Candidate]) -> Candidate:
    return replace(
        each[0],
        stability=sum(one.stability for one in each) / len(each),
        score=sum(one.score for one in each) / len(each),
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
        n_clusters=k1,
        stability=min(1.0, max(0.0, shared / mean)) if mean > 0 else 0.0,
        score=shared - PRICE * (mean - shared) - chance,
    )


def _entropy(counts: Any) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
