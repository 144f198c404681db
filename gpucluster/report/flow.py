"""How clusters flow from run to run: which get bars of their own, in what order, and ribbons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpucluster.types import NOISE

if TYPE_CHECKING:
    from gpucluster.types import Labels, Weights

MOST_BARS: Final = 36  # of a run; the smaller ones are one bar, "n others"
LEAST: Final = 0.002  # of the documents of the largest run: the smallest ribbon that is drawn
ROUNDS: Final = 3  # of sorting, so that few ribbons cross


@dataclass(frozen=True, slots=True)
class Column:
    """The clusters of a run.

    Attributes
    ----------
    title : str
    names : sequence of n_clusters str
    sizes : ndarray of shape (n_clusters,), int64
    n_noise : int
    identity : ndarray of shape (n_clusters,), int32
        The cluster of the last run that each is carried on by, whose colour it has; -1: none.
    was_born, dies : ndarray of shape (n_clusters,), bool
        Whether it is of no cluster of the run before; goes into none of the next.
    """

    title: str
    names: Sequence[str]
    sizes: Weights
    n_noise: int
    identity: Labels
    was_born: Any
    dies: Any


@dataclass(slots=True)
class Bars:
    """The bars of a column; the last two are others and noise.

    Attributes
    ----------
    column : Column
    clusters : ndarray of shape (n_bars - 2,), int64
        The cluster of each bar, but for the last two.
    bar_of : ndarray of shape (n_clusters + 1,), int64
        The bar of each cluster, and at last of noise.
    sizes : ndarray of shape (n_bars,), float64
    order : list of n_bars int
        Top down.
    """

    column: Column
    clusters: Any
    bar_of: Any
    sizes: Any
    order: list[int]

    @property
    def others(self) -> int:
        """The bar of all clusters that have none of their own."""
        return len(self.sizes) - 2

    @property
    def noise(self) -> int:
        """The bar of noise."""
        return len(self.sizes) - 1

    @property
    def shown(self) -> list[int]:
        """Those that hold documents, top down."""
        return [bar for bar in self.order if self.sizes[bar] > 0]

    def cluster_of(self, bar: int) -> int:
        """Return the cluster that a bar is of; -1: of none alone."""
        return NOISE if bar >= self.others else int(self.clusters[bar])

    def identity_of(self, bar: int) -> int:
        """Return the cluster of the last run whose colour a bar has; -1: of none."""
        cluster = self.cluster_of(bar)
        return NOISE if cluster == NOISE else int(self.column.identity[cluster])

    def name_of(self, bar: int) -> str:
        """Return what a bar is called."""
        if bar == self.noise:
            return "noise"
        if bar == self.others:
            return f"{len(self.column.sizes) - len(self.clusters):,} others"
        return self.column.names[self.cluster_of(bar)]

    def fate_of(self, bar: int) -> str | None:
        """Return whether a cluster was born or died."""
        cluster = self.cluster_of(bar)
        if cluster == NOISE:
            return None
        born, died = self.column.was_born[cluster], self.column.dies[cluster]
        return "born" if born else "died" if died else None


def arrange(columns: Sequence[Column], links: Sequence[Any]) -> tuple[list[Bars], list[Any]]:
    """Gather small clusters, and order all so that few ribbons cross.

    Parameters
    ----------
    columns : sequence of Column
        Two runs or more, the oldest first.
    links : sequence of ndarray of shape (n_links, 3), int64
        Between each run and the next: a cluster of the one, of the other (noise is -1), and how
        many documents are in both.

    Returns
    -------
    bars : list of Bars
        Of each run.
    flows : list of ndarray of shape (n_bars_before, n_bars_after), float64
        Documents between each run and the next.
    """
    bars = [_gathered(column) for column in columns]
    flows = [
        _summed(before, after, found)
        for (before, after), found in zip(pairwise(bars), links, strict=True)
    ]
    _sort(bars, flows)
    return bars, flows


def most_documents(bars: Sequence[Bars]) -> float:
    """Return how many documents the largest run has."""
    return max(float(each.sizes.sum()) for each in bars)


def ribbons(before: Bars, after: Bars, flow: Any, most: float) -> Iterator[tuple[int, int, int]]:
    """Yield the ribbons between two runs, but for those too thin to see.

    Each bar gives its documents from the top down, to the highest of the others first.

    Parameters
    ----------
    before, after : Bars
    flow : ndarray of shape (n_bars_before, n_bars_after)
    most : float
        Documents of the largest run.

    Yields
    ------
    bar, other, colour : int
        Of each run a bar, and the cluster whose colour the ribbon has; -1: grey.
    """
    for bar in before.order:
        for other in after.order:
            if flow[bar, other] >= LEAST * most:
                is_grey = bar >= before.others
                yield bar, other, NOISE if is_grey else after.identity_of(other)


def _gathered(column: Column) -> Bars:
    """Give the largest clusters bars of their own."""
    n_clusters = len(column.sizes)
    largest = np.argsort(-column.sizes, kind="stable")[
        : MOST_BARS if n_clusters > MOST_BARS + 1 else n_clusters
    ]
    bar_of = np.full(n_clusters + 1, len(largest))
    bar_of[largest] = np.arange(len(largest))
    bar_of[-1] = len(largest) + 1
    values = np.append(column.sizes, column.n_noise).astype(np.float64)
    sizes = np.bincount(bar_of, values, minlength=len(largest) + 2)
    return Bars(column, largest, bar_of, sizes, list(range(len(sizes))))


def _summed(before: Bars, after: Bars, links: Any) -> Any:
    """Return how many documents go from each bar to each: (n_before, n_after)."""
    flow = np.zeros((len(before.sizes), len(after.sizes)))
    np.add.at(flow, (before.bar_of[links[:, 0]], after.bar_of[links[:, 1]]), links[:, 2])
    return flow


def _sort(bars: list[Bars], flows: list[Any]) -> None:
    """Order the bars of each run by where their ribbons go; others and noise stay last."""

    def ordered(own: Bars, other: Bars, flow: Any) -> list[int]:
        place = np.empty(len(other.sizes))
        place[other.order] = np.arange(len(other.order))
        weight = flow[:, : other.others].sum(axis=1)
        towards = flow[:, : other.others] @ place[: other.others]
        middle = np.where(weight > 0, towards / np.maximum(weight, 1), np.inf)
        named = sorted(range(own.others), key=lambda bar: (middle[bar], bar))
        return [*named, own.others, own.noise]

    for _ in range(ROUNDS):
        for position in reversed(range(len(flows))):
            bars[position].order = ordered(bars[position], bars[position + 1], flows[position])
        for position in range(len(flows)):
            bars[position + 1].order = ordered(
                bars[position + 1], bars[position], flows[position].T
            )
