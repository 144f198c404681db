"""How runs went over time, as small panels: one for each metric, with the bounds that apply.

Colours are told apart by colour-blind people, and thicker edges say the same in print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from gpucluster.errors import ConfigError
from gpucluster.report.drawing.canvas import POINTS, Look, drawing
from gpucluster.report.drawing.palette import THEMES
from gpucluster.report.drawing.time_axis import between, limits, ticks
from gpucluster.report.numbers import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS: Final = {
    "silhouette_score": "silhouette",
    "mean_cosine_to_centroid": "mean cosine to centroid",
    "noise_ratio": "noise ratio",
    "share_divergence": "drift of cluster shares",
    "num_clusters": "clusters",
    "num_rows": "rows",
}
COUNTS: Final = frozenset({"num_clusters", "num_rows"})
MAX_SERIES: Final = 50
MAX_BOUNDS: Final = 3  # of a panel, the latest ones

MAX_TITLE: Final = 60
SMALL: Final = 0.1  # a difference of a share, and of a count as a share of it
FAR: Final = 2.0  # ranges of the values from them; a bound farther away is not drawn
LINE_HEIGHT: Final = 0.14  # inches
ROOMY: Final = 4.0  # markers from this size on may have a ring

UP, DOWN, DASHES = "\u2191", "\u2193", (0, (5, 3))
_LIGHT: Final = THEMES["light"]
PLAIN, FLAGGED, LINE, FAINT = _LIGHT.bar, _LIGHT.accent, _LIGHT.line, _LIGHT.faint
MODES: Final = {  # how a run came by its clusters: shape, whether filled, in words
    "full": ("o", True, "full run"),
    "assign": ("o", False, "assigned to a base"),
    "update": ("s", False, "assigned, centroids moved"),
}


@dataclass(frozen=True, slots=True)
class Track:
    """What is drawn of one series; everything has one value a run, in order.

    Attributes
    ----------
    title : str
    when : tuple of datetime
    modes : tuple of str
        Keys of `MODES`.
    flagged : tuple of bool
        Whether any rule fired.
    values : mapping of str to tuple of (float or None)
        Of each of `PANELS`; None is a gap.
    thresholds : mapping of str to tuple of float
        Of each of `PANELS`, the latest first.
    fired : mapping of str to tuple of bool
        Whether the rule about this metric fired.
    """

    title: str
    when: tuple[datetime, ...]
    modes: tuple[str, ...]
    flagged: tuple[bool, ...]
    values: Mapping[str, tuple[float | None, ...]]
    thresholds: Mapping[str, tuple[float, ...]]
    fired: Mapping[str, tuple[bool, ...]]


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Measures of the page, in inches."""

    columns: int
    width: float  # of a panel
    height: float
    left: float = 0.65
    right: float = 0.55
    gap: float = 0.95  # between panels: bounds of the one and numbers of the other
    title: float = 0.34  # of a series
    name: float = 0.27  # of a panel
    below: float = 0.36  # the dates
    legend: float = 0.38

    def size(self, count: int) -> tuple[float, float]:
        """Return width and height of a page with so many series."""
        width = self.left + self.columns * (self.width + self.gap) - self.gap + self.right
        return width, count * self.block + self.legend

    @property
    def block(self) -> float:
        """Height of a series."""
        return self.title + len(PANELS) // self.columns * self.row

    @property
    def row(self) -> float:
        """Height of a row of panels, with what is above and below them."""
        return self.name + self.height + self.below


ALONE: Final = _Sheet(columns=3, width=2.9, height=1.75)
ONE_OF_MANY: Final = _Sheet(columns=6, width=1.8, height=1.25, gap=0.85)


def draw(tracks: Sequence[Track], look: Look) -> Figure:
    """Return the picture of one or several series.

    Parameters
    ----------
    tracks : sequence of Track
        One is drawn in two rows of panels, of several each has a row.
    look : Look
        Of which the dots per inch are taken.

    Returns
    -------
    Figure

    Raises
    ------
    BackendUnavailableError
        Matplotlib is missing.
    ConfigError
        There are more than `MAX_SERIES` series, or the page has too many dots.
    """
    if len(tracks) > MAX_SERIES:
        raise ConfigError(
            f"{len(tracks)} series are too many for one plot, which has {MAX_SERIES} at most",
            hint="choose one by the name of its definition or by one of its runs",
        )
    sheet = ALONE if len(tracks) == 1 else ONE_OF_MANY
    with drawing():
        figure = look.page(*sheet.size(len(tracks)))
        _fill(figure, tracks, sheet)
    return figure


def _fill(figure: Figure, tracks: Sequence[Track], sheet: _Sheet) -> None:
    """Put titles, panels and the legend on the page."""
    width, height = sheet.size(len(tracks))
    for position, track in enumerate(tracks):
        top = height - position * sheet.block
        figure.text(
            sheet.left / width,
            (top - 0.2) / height,
            _heading(track),
            fontsize=10,
            fontweight="bold",
            va="center",
            parse_math=False,
        )
        for number, name in enumerate(PANELS):
            row, column = divmod(number, sheet.columns)
            left = sheet.left + column * (sheet.width + sheet.gap)
            bottom = top - sheet.title - row * sheet.row - sheet.name - sheet.height
            place = (left / width, bottom / height, sheet.width / width, sheet.height / height)
            axes = figure.add_axes(place, gid=f"series-{position}-{name}")
            _panel(axes, track, name, sheet)
    _legend(figure, tracks, sheet)


def _heading(track: Track) -> str:
    count = len(track.when)
    runs = f"{count:,} run{'s' if count > 1 else ''}"
    return f"{printable(track.title)}: {runs}, {between(track.when[0], track.when[-1])} (UTC)"


def _panel(axes: Axes, track: Track, name: str, sheet: _Sheet) -> None:
    """Draw one metric."""
    first, last = track.when[0], track.when[-1]
    axes.set_title(PANELS[name], fontsize=9, loc="left", pad=5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(labelsize=8, color=LINE, length=3)
    dates = ticks(first, last, sheet.width)
    axes.set_xticks([when for when, _ in dates], [text for _, text in dates])
    axes.set_xlim(*limits(first, last))
    known = [value for value in track.values[name] if value is not None]
    if not known:
        axes.set_yticks([])
        style: Any = {"ha": "center", "va": "center", "color": FAINT, "fontsize": 8.5}
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, **style)
        return
    near, far = _bounds(track, name)
    _scale(axes, [*known, *near.values()], _span(known, name), name)
    _draw_bounds(axes, near, far, sheet)
    _draw_runs(axes, track, name, sheet)


def _bounds(track: Track, name: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the bounds of a metric by what is written: those near its values, and others.

    A far one is not drawn: its line would leave the values no room to differ.
    """
    known = [value for value in track.values[name] if value is not None]
    if not known:
        return {}, {}
    reach = FAR * _span(known, name)
    latest = {short(bound): bound for bound in reversed(track.thresholds[name][:MAX_BOUNDS])}
    near = {t: b for t, b in latest.items() if min(known) - reach <= b <= max(known) + reach}
    return near, {text: bound for text, bound in latest.items() if text not in near}


def _span(known: Sequence[float], name: str) -> float:
    """Return the range of values, or where it is very small what would be a small one."""
    least = max(2.0, SMALL * max(known)) if name in COUNTS else SMALL
    return max(max(known) - min(known), least)


def _scale(axes: Axes, values: Sequence[float], span: float, name: str) -> None:
    """Set the limits and the numbers of the vertical axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

    low, high = min(values), max(values)
    spare = max(0.0, span - (high - low)) / 2 + 0.08 * max(span, high - low)
    axes.set_ylim(max(low - spare, 0.0 if low >= 0 else -1.0), high + spare)
    locator = MaxNLocator(4, steps=[1, 2, 5, 10], integer=name in COUNTS)
    axes.yaxis.set_major_locator(locator)
    of_counts = FuncFormatter(lambda value, _: short(value))
    axes.yaxis.set_major_formatter(
        of_counts if name in COUNTS else ScalarFormatter(useOffset=False)
    )


def _draw_bounds(
    axes: Axes, near: Mapping[str, float], far: Mapping[str, float], sheet: _Sheet
) -> None:
    """Draw lines where bounds are near, and write all of them on the right."""
    low, high = axes.get_ylim()
    for bound in near.values():
        axes.axhline(bound, color=FAINT, linewidth=0.9, linestyle=DASHES, zorder=0.5)
    arrows = {text: f"{text} {UP if bound > high else DOWN}" for text, bound in far.items()}
    free = 0.0
    for text, bound in sorted({**near, **far}.items(), key=lambda pair: pair[1]):
        # those beyond the panel stand clear of its corners
        place = max(free, min(0.97, max(0.05, (bound - low) / (high - low))))
        style: Any = {"transform": axes.transAxes, "va": "center", "color": FAINT, "fontsize": 8}
        axes.text(1 + 0.07 / sheet.width, place, arrows.get(text, text), **style)
        free = place + LINE_HEIGHT / sheet.height


def _draw_runs(axes: Axes, track: Track, name: str, sheet: _Sheet) -> None:
    """Draw a marker for each run, those that should be redone above the others."""
    when = [moment.timestamp() for moment in track.when]
    values = [math.nan if value is None else value for value in track.values[name]]
    size = _marker_size(track, sheet)
    joined = [value for value, mode in zip(values, track.modes, strict=True) if mode != "full"]
    # the line goes on over runs that never have this metric, and breaks at a value that is missing
    skips = all(map(math.isnan, joined))
    line = [i for i, mode in enumerate(track.modes) if mode == "full" or not skips]
    at, heights = [when[i] for i in line], [values[i] for i in line]
    axes.plot(at, heights, color=LINE, linewidth=0.9, zorder=1, gid=f"{axes.get_gid()}-line")

    def put(kind: str, chosen: Iterable[bool], **look: Any) -> None:
        shown = [i for i, is_one in enumerate(chosen) if is_one and not math.isnan(values[i])]
        if shown:
            axes.plot(
                [when[i] for i in shown],
                [values[i] for i in shown],
                linestyle="none",
                clip_on=False,  # a value may lie on the edge
                gid=f"{axes.get_gid()}-{kind}",
                **look,
            )

    for flagged in (False, True):
        for mode in MODES:
            kinds = zip(track.modes, track.flagged, strict=True)
            chosen = [kind == (mode, flagged) for kind in kinds]
            put(mode + "-flagged" * flagged, chosen, **_look(mode, size, flagged=flagged))
    if size >= ROOMY:
        put("fired", track.fired[name], **_ring(size))


def _marker_size(track: Track, sheet: _Sheet) -> float:
    """Return what lets neighbours touch, within bounds."""
    return min(6.5, max(3.0, 0.9 * POINTS * sheet.width / len(track.when)))


def _look(mode: str, size: float, *, flagged: bool) -> dict[str, Any]:
    """Return how the marker of a run is drawn."""
    marker, filled, _ = MODES[mode]
    color = FLAGGED if flagged else PLAIN
    return {
        "marker": marker,
        "markersize": size,
        "markeredgewidth": (1.7 if flagged else 1.1) * size / 6.5,
        "markeredgecolor": color,
        "markerfacecolor": color if filled else "white",
        "zorder": 3 if flagged else 2,
    }


def _ring(size: float) -> dict[str, Any]:
    look = {"markersize": size + 5, "markeredgewidth": 0.8, "markerfacecolor": "none", "zorder": 4}
    return _look("assign", size, flagged=True) | look


def _legend(figure: Figure, tracks: Sequence[Track], sheet: _Sheet) -> None:
    """Explain what is on the page, and nothing else."""
    from matplotlib.lines import Line2D

    def entry(text: str, **look: Any) -> Line2D:
        return Line2D([], [], label=text, **({"linestyle": "none"} | look))

    modes = {mode for track in tracks for mode in track.modes}
    entries = [
        entry(text, **_look(mode, 6.5, flagged=False))
        for mode, (_, _, text) in MODES.items()
        if mode in modes
    ]
    if any(any(track.flagged) for track in tracks):
        entries.append(entry("should be redone", **_look("full", 6.5, flagged=True)))
    roomy = [track for track in tracks if _marker_size(track, sheet) >= ROOMY]
    if any(any(track.fired[name]) for track in roomy for name in PANELS):
        entries.append(entry("because of this metric", **_ring(5)))
    pairs = [_bounds(track, name) for track in tracks for name in PANELS]
    if any(near for near, _ in pairs):
        entries.append(entry("threshold", color=FAINT, linewidth=0.9, linestyle=DASHES))
    if any(far for _, far in pairs):
        arrow = {"marker": r"$\updownarrow$", "markersize": 8, "color": FAINT, "mew": 0}
        entries.append(entry("threshold beyond the panel", **arrow))
    width, height = sheet.size(len(tracks))
    figure.legend(
        handles=entries,
        loc="lower left",
        bbox_to_anchor=(sheet.left / width, 0.11 / height),
        ncols=len(entries),
        frameon=False,
        fontsize=8.5,
        borderaxespad=0,
        borderpad=0,
        handletextpad=0.5,
        columnspacing=1.6,
    )


def short(value: float) -> str:
    """Return a number in few characters."""
    for unit, name in ((1e9, " G"), (1e6, " M")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def printable(text: str) -> str:
    """Return `text` as one line that fits above a series."""
    line = one_line(text)
    return line if len(line) <= MAX_TITLE else line[: MAX_TITLE - 3].rstrip() + "..."
