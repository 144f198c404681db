"""What became of clusters from run to run: bars as high as they have documents, and ribbons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpucluster.report.drawing.canvas import Look, cut
from gpucluster.report.drawing.palette import cluster_colour, unit
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gpucluster.types import Labels, Weights

MOST_BARS: Final = 36  # of a run; the smaller ones are one bar, "n others"
BAR: Final = 0.035  # the width of a bar, of the distance between runs
FREE: Final = 0.28  # of the height, for what lies between bars
LEAST: Final = 0.0015  # the height of a ribbon that is drawn
NAME_INCHES: Final = 0.13
ROUNDS: Final = 3  # of sorting, so that few ribbons cross
CURVE: Final = 30  # points of the edge of a ribbon


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
class _Bars:
    """The bars of a column, top down in the order of `order`; the last two are others and noise."""

    column: Column
    bar_of: Any  # of each cluster, and at last of noise
    sizes: Any
    order: list[int]
    tops: Any
    scale: float

    @property
    def others(self) -> int:
        return len(self.sizes) - 2

    @property
    def noise(self) -> int:
        return len(self.sizes) - 1


def draw_flow(columns: Sequence[Column], links: Sequence[Any], look: Look) -> Figure:
    """Return the picture.

    Parameters
    ----------
    columns : sequence of Column
        Two runs or more, the oldest first.
    links : sequence of ndarray of shape (n_links, 3), int64
        Between each run and the next: a cluster of the one, of the other (noise is -1), and how
        many documents are in both.
    look : Look
    """
    figure = look.page(4.4 + 2.6 * (len(columns) - 1), 7.0)
    axes = look.framed(figure, 2.0, 0.12, 2.0, 0.55)
    axes.set_axis_off()
    axes.set_xlim(0, len(columns) - 1)
    axes.set_ylim(1, 0)
    bars = [_gathered(column) for column in columns]
    flows = [
        _summed(before, after, found)
        for (before, after), found in zip(pairwise(bars), links, strict=True)
    ]
    _sort(bars, flows)
    tallest = max(float(each.sizes.sum()) for each in bars)
    for each in bars:
        _stack(each, tallest)
    for position, ((before, after), flow) in enumerate(zip(pairwise(bars), flows, strict=True)):
        _ribbons(axes, look, position, before, after, flow)
    for position, each in enumerate(bars):
        is_first, is_last = position == 0, position == len(bars) - 1
        _draw_bars(axes, look, position, each, is_first=is_first, is_last=is_last)
        side = "right" if is_first else "left" if is_last else "center"
        at = position + (-BAR if is_first else BAR if is_last else 0)
        style: Any = {"ha": side, "va": "bottom", "fontsize": 9, "fontweight": "bold"}
        text = f"{cut(each.column.title)}\n{len(each.column.sizes):,} clusters"
        look.write(axes, at, -0.015, text, **style)
    return figure


def _gathered(column: Column) -> _Bars:
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
    order = list(range(len(sizes)))
    return _Bars(column, bar_of, sizes, order, np.zeros(len(sizes)), 1.0)


def _summed(before: _Bars, after: _Bars, links: Any) -> Any:
    """Return how many documents go from each bar to each: (n_before, n_after)."""
    flow = np.zeros((len(before.sizes), len(after.sizes)))
    np.add.at(flow, (before.bar_of[links[:, 0]], after.bar_of[links[:, 1]]), links[:, 2])
    return flow


def _sort(bars: list[_Bars], flows: list[Any]) -> None:
    """Order the bars of each run by where their ribbons go; others and noise stay last."""

    def ordered(own: _Bars, other: _Bars, flow: Any) -> list[int]:
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


def _stack(bars: _Bars, tallest: float) -> None:
    """Give every bar its place."""
    bars.scale = (1 - FREE) / tallest
    shown = [bar for bar in bars.order if bars.sizes[bar] > 0]
    gap = FREE / max(len(shown) - 1, 8)
    at = (1 - bars.sizes.sum() * bars.scale - gap * (len(shown) - 1)) / 2
    for bar in shown:
        bars.tops[bar] = at
        at += bars.sizes[bar] * bars.scale + gap


def _ribbons(axes: Axes, look: Look, position: int, before: _Bars, after: _Bars, flow: Any) -> None:
    """Draw what two runs share, in the colours of the later one; what leaves is grey."""
    # each bar gives its documents from the top down, to the highest of the others first
    rank = {bar: number for number, bar in enumerate(after.order)}
    left, right = before.tops.copy(), after.tops.copy()
    pairs = [
        (bar, other)
        for bar in before.order
        for other in sorted(rank, key=rank.__getitem__)
        if flow[bar, other] * before.scale >= LEAST
    ]
    s = np.linspace(0, 1, CURVE)
    curve = s * s * (3 - 2 * s)
    x = position + BAR / 2 + s * (1 - BAR)
    for bar, other in pairs:
        high = flow[bar, other] * before.scale
        top = left[bar] + (right[other] - left[bar]) * curve
        left[bar] += high
        right[other] += high
        is_grey = other >= after.others or bar >= before.others
        colour = unit(look.colours.noise) if is_grey else _colour(after, other, look)
        axes.fill_between(
            x, top, top + high, color=colour, alpha=0.22 if is_grey else 0.45, linewidth=0
        )


def _draw_bars(
    axes: Axes, look: Look, position: int, bars: _Bars, *, is_first: bool, is_last: bool
) -> None:
    """Draw the bars of a run, and their names outside, as many as there is room for."""
    figure: Any = axes.figure
    height = axes.get_position().height * figure.get_size_inches()[1]
    side = -1 if is_first else 1
    free = -1.0
    for bar in [bar for bar in bars.order if bars.sizes[bar] > 0]:
        top, high = bars.tops[bar], bars.sizes[bar] * bars.scale
        axes.bar(
            position,
            high,
            BAR,
            bottom=top,
            color=_colour(bars, bar, look),
            linewidth=0,
            clip_on=False,
        )
        if not (is_first or is_last):
            continue
        middle = max(top + high / 2, free)
        if middle + NAME_INCHES / height / 2 - (top + high) > NAME_INCHES / height:
            continue  # it would stand by another bar
        free = middle + NAME_INCHES / height
        style: Any = {"ha": "right" if is_first else "left", "va": "center", "fontsize": 7}
        text = _name(bars, bar)
        look.write(axes, position + side * BAR, middle, text, clip_on=False, **style)


def _name(bars: _Bars, bar: int) -> str:
    column, size = bars.column, f"{int(bars.sizes[bar]):,}"
    if bar == bars.noise:
        return f"noise  {size}"
    if bar == bars.others:
        return f"{int(np.count_nonzero(bars.bar_of[:-1] == bar)):,} others  {size}"
    cluster = int(np.flatnonzero(bars.bar_of[:-1] == bar)[0])
    mark = " (born)" if column.was_born[cluster] else " (died)" if column.dies[cluster] else ""
    return f"{cut(column.names[cluster], 24)}{mark}  {size}"


def _colour(bars: _Bars, bar: int, look: Look) -> Any:
    if bar >= bars.others:
        return unit(look.colours.noise)
    cluster = int(np.flatnonzero(bars.bar_of[:-1] == bar)[0])
    identity = int(bars.column.identity[cluster])
    return look.colours.line if identity == NOISE else cluster_colour(identity, look.theme)
