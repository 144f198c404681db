"""Which documents speak for a cluster: near its centroid, and not all alike.

Candidates are the members nearest to the centroid; among them maximal marginal relevance
(Carbonell and Goldstein 1998, doi:10.1145/290941.291025) picks those that are shown. All of it is
deterministic: ties go to the lower row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.types import NOISE, Labels, Matrix, Rows, Vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

POOL = 10  # candidates for each document that is shown
RELEVANCE = 0.7  # its weight beside that of being different
SAME = 0.9999  # cosine from which on two documents are one
DECIMALS = 4  # of similarities to a centroid: models of half precision tell copies apart by less
N_EDGE = 2
N_HELD_OUT = 10


@dataclass(frozen=True, slots=True)
class Candidates:
    """Members of each node that may speak for it, by their place among all members.

    Attributes
    ----------
    near : list of n_nodes ndarrays of int64
        The nearest to the centroid, nearest first.
    edge : list of n_nodes ndarrays of int64
        The farthest, farthest first.
    spread : list of n_nodes ndarrays of int64
        From near to far in even steps: a fair picture of the whole cluster.
    """

    near: list[Rows]
    edge: list[Rows]
    spread: list[Rows]


def candidates(
    labels: Labels, similarity: Vector, rows: Rows, parents: Labels, *, n_shown: int
) -> Candidates:
    """Find the members that may speak for each node of a hierarchy.

    Parameters
    ----------
    labels : ndarray of shape (n_members,), int32
        Deepest node of each member; noise is -1 and speaks for nobody.
    similarity : ndarray of shape (n_members,), float32
        To the centroid of that node; NaN counts as least.
    rows : ndarray of shape (n_members,), int64
        Positions in the input, which break ties.
    parents : ndarray of shape (n_nodes,), int32
    n_shown : int
        Documents that will be shown of each node.

    Returns
    -------
    Candidates
        A node that was divided takes them from its children in turn, so that each is heard. The
        nearest are of different similarities as far as there are such: of copies, which have
        about the same, there may be more than the list is long.

    Notes
    -----
    Memory: 16 bytes a member, as many again of the largest node, and what is returned: up to
    ``10 * n_shown + 12`` places a node.
    """
    n_nodes, pool = len(parents), POOL * n_shown
    closeness = np.where(np.isnan(similarity), np.float32(-np.inf), similarity)
    order = np.lexsort((rows, -closeness, labels))
    starts = np.searchsorted(labels[order], np.arange(n_nodes + 1))
    near, edge, spread = [], [], []
    for node in range(n_nodes):
        own = order[starts[node] : starts[node + 1]]
        near.append(own[_distinct(closeness[own], pool)])
        edge.append(own[: -N_EDGE - 1 : -1])
        spread.append(own[_steps(len(own), N_HELD_OUT)])
    children: list[list[int]] = [[] for _ in range(n_nodes)]
    for node in range(n_nodes - 1, -1, -1):  # children come after their parents
        below = children[node]
        if below:
            for lists, limit in ((near, pool), (edge, N_EDGE), (spread, N_HELD_OUT)):
                lists[node] = _in_turn([lists[one] for one in (node, *below)], limit)
        if parents[node] != NOISE:
            children[parents[node]].insert(0, node)
    return Candidates(near, edge, spread)


def _steps(size: int, count: int) -> NDArray[np.int64]:
    """Return `count` places in even steps, or all of fewer."""
    if size <= count:
        return np.arange(size)
    return (np.arange(1, count + 1) * size) // (count + 1)


def _distinct(falling: Vector, count: int) -> NDArray[np.int64]:
    """Return `count` places of falling similarities, or all of fewer: of like ones the first.

    The others come in, from the nearest on, where there are not enough.
    """
    if len(falling) <= count:
        return np.arange(len(falling))
    rounded = np.round(falling, DECIMALS)
    is_first = np.append(True, rounded[1:] != rounded[:-1])
    found = np.flatnonzero(is_first)[:count]
    more = np.flatnonzero(~is_first)[: count - len(found)]
    return np.sort(np.concatenate((found, more)))


def _in_turn(lists: Sequence[Rows], limit: int) -> Rows:
    """Return the first of each list, the second of each ..., up to `limit`."""
    nothing = object()
    turns: Any = chain.from_iterable(
        zip_longest(*(one.tolist() for one in lists), fillvalue=nothing)
    )
    found = [place for place in turns if place is not nothing]
    return np.array(found[:limit], np.int64)


def pick(X: Matrix, relevance: Vector, count: int) -> list[int]:
    """Choose some of a cluster's candidates by maximal marginal relevance.

    Parameters
    ----------
    X : ndarray of shape (n_candidates, n_features), float32
        Of unit length.
    relevance : ndarray of shape (n_candidates,), float32
        Cosine similarity to the centroid.
    count : int

    Returns
    -------
    list of at most `count` int
        Positions in `X`; the most relevant one first. Copies of a chosen document are not chosen.
    """
    if not len(X):
        return []
    score = np.nan_to_num(relevance, nan=-1.0).astype(np.float64)
    closest = np.full(len(X), -np.inf)
    free = np.ones(len(X), np.bool_)
    chosen: list[int] = []
    while len(chosen) < count and free.any():
        penalty = 0.0 if not chosen else (1 - RELEVANCE) * closest
        value = np.where(free, RELEVANCE * score - penalty, -np.inf)
        best = int(np.argmax(value))  # the first of equals
        chosen.append(best)
        closest = np.maximum(closest, X @ X[best])
        free[best] = False
        free &= closest < SAME
    return chosen
