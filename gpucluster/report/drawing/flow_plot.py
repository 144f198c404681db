"""What became of clusters from run to run: bars as high as they have documents, and ribbons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpucluster.report.drawing.canvas import MOST_CHARACTERS, Look, cut, shorten
from gpucluster.report.drawing.palette import cluster_colour
from gpucluster.report.flow import Bars, Column, arrange, most_documents, ribbons
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR: Final = 0.035  # the width of a bar, of the distance between runs
FREE: Final = 0.28  # of the height, for what lies between bars
NAME_INCHES: Final = 0.13
LEAST_CHARACTERS: Final = 5  # of a name, however little room there is
SIDE_INCHES: Final = 2.0  # on either side, for names
RUN_INCHES: Final = 2.6  # from run to run
CURVE: Final = 30  # points of the edge of a ribbon


@dataclass(frozen=True, slots=True)
class _Placed:
    """The bars of a run, where each begins, and how high a document is."""

    bars: Bars
    tops: Any
    scale: float

    def high(self, bar: int) -> float:
        return float(self.bars.sizes[bar] * self.scale)


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
    from matplotlib.transforms import offset_copy

    figure = look.page(0.4 + 2 * SIDE_INCHES + RUN_INCHES * (len(columns) - 1), 7.0)
    axes = look.framed(figure, SIDE_INCHES, 0.12, SIDE_INCHES, 0.55)
    axes.set_axis_off()
    axes.set_xlim(0, len(columns) - 1)
    axes.set_ylim(1, 0)
    bars, flows = arrange(columns, links)
    most = most_documents(bars)
    placed = [_stacked(each, most) for each in bars]
    for position, ((before, after), flow) in enumerate(zip(pairwise(placed), flows, strict=True)):
        _ribbons(axes, look, position, before, after, flow, most)
    for position, each in enumerate(placed):
        is_first, is_last = position == 0, position == len(placed) - 1
        _draw_bars(axes, look, position, each, is_first=is_first, is_last=is_last)
        side = "left" if is_first else "right" if is_last else "center"
        style: Any = {"ha": side, "va": "bottom", "fontsize": 9, "fontweight": "bold"}
        title = look.write(axes, position, -0.015, cut(each.bars.column.title), **style)
        room = axes.bbox.width / (len(columns) - 1)
        if is_first or is_last:  # it begins at the edge of the page
            room = room / 2 + axes.bbox.x0
            margin = 0.95 * axes.bbox.x0 / figure.dpi * (1 if is_last else -1)
            title.set_transform(offset_copy(axes.transData, figure, margin, 0))
        shorten(title, 0.9 * room)
        title.set_text(f"{title.get_text()}\n{len(each.bars.column.sizes):,} clusters")
    return figure


def _stacked(bars: Bars, most: float) -> _Placed:
    """Give every bar its place."""
    scale, tops = (1 - FREE) / most, np.zeros(len(bars.sizes))
    gap = FREE / max(len(bars.shown) - 1, 8)
    at = (1 - bars.sizes.sum() * scale - gap * (len(bars.shown) - 1)) / 2
    for bar in bars.shown:
        tops[bar] = at
        at += bars.sizes[bar] * scale + gap
    return _Placed(bars, tops, scale)


def _ribbons(
    axes: Axes, look: Look, position: int, before: _Placed, after: _Placed, flow: Any, most: float
) -> None:
    """Draw what two runs share, in the colours of the later one; what leaves is grey."""
    left, right = before.tops.copy(), after.tops.copy()
    s = np.linspace(0, 1, CURVE)
    curve = s * s * (3 - 2 * s)
    x = position + BAR / 2 + s * (1 - BAR)
    for bar, other, cluster in ribbons(before.bars, after.bars, flow, most):
        high = flow[bar, other] * before.scale
        top = left[bar] + (right[other] - left[bar]) * curve
        left[bar] += high
        right[other] += high
        colour = cluster_colour(cluster, look.theme)
        alpha = 0.22 if cluster == NOISE else 0.45
        axes.fill_between(x, top, top + high, color=colour, alpha=alpha, linewidth=0)


def _draw_bars(
    axes: Axes, look: Look, position: int, placed: _Placed, *, is_first: bool, is_last: bool
) -> None:
    """Draw the bars of a run, and their names outside, as many as there is room for."""
    figure: Any = axes.figure
    height = axes.get_position().height * figure.get_size_inches()[1]
    side = -1 if is_first else 1
    room = 0.98 * axes.bbox.x0 - BAR * axes.bbox.width / np.ptp(axes.get_xlim())
    free = -1.0
    for bar in placed.bars.shown:
        top, high = placed.tops[bar], placed.high(bar)
        axes.bar(
            position,
            high,
            BAR,
            bottom=top,
            color=_colour(placed.bars, bar, look),
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
        text = look.write(axes, position + side * BAR, middle, "", clip_on=False, **style)
        for most in range(MOST_CHARACTERS, LEAST_CHARACTERS, -1):
            text.set_text(_text(placed.bars, bar, most))
            if text.get_window_extent().width <= room:
                break


def _text(bars: Bars, bar: int, most: int) -> str:
    fate = bars.fate_of(bar)
    mark = f" ({fate})" if fate else ""
    return f"{cut(bars.name_of(bar), most)}{mark}  {int(bars.sizes[bar]):,}"


def _colour(bars: Bars, bar: int, look: Look) -> Any:
    identity = bars.identity_of(bar)
    if identity == NOISE and bar < bars.others:
        return look.colours.line
    return cluster_colour(identity, look.theme)
