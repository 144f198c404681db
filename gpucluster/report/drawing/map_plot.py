"""The map of a run: documents as dots in the colours of their clusters, and their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpucluster.report.drawing.canvas import POINTS, Look, cut
from gpucluster.report.drawing.palette import cluster_colour, cluster_colours, unit
from gpucluster.report.drawing.placing import write_names
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gpucluster.types import Labels, Matrix, Vector

COLOUR_BY: Final = ("cluster", "similarity", "truth")
SIDE: Final = 7.0  # inches
MARGIN: Final = 0.02  # of the picture, on every side
MOST_NAMES, MOST_ENTRIES = 60, 24
CELLS: Final = 32  # across the map, in which the densest part of a group is looked for
COVERED: Final = 0.22  # of the picture, by dots of which none covers another
LEAST_DOT, MOST_DOT = 0.35, 9.0  # square points
FAR, NEAR = 0.35, 1.75  # the area of the farthest and of the nearest dot, where there is a depth
FAINTEST: Final = 0.45  # opacity of the farthest
SCALE: Final = "viridis"


@dataclass(frozen=True, slots=True)
class Dots:
    """What is drawn on a map.

    Attributes
    ----------
    coordinates : ndarray of shape (n, 2) or (n, 3), float32
        Finite.
    groups : ndarray of shape (n,), int32
        The cluster or class of each, whose colour it has; -1: none, grey.
    names : sequence of str
        Of the groups, by number.
    similarity : ndarray of shape (n,), float32, or None
        Colours the dots instead; NaN for noise.
    """

    coordinates: Matrix
    groups: Labels
    names: Sequence[str]
    similarity: Vector | None = None


def draw_map(dots: Dots, look: Look, *, legend: bool) -> Figure:
    """Return the picture.

    Parameters
    ----------
    dots : Dots
    look : Look
    legend : bool
        Whether the largest groups are listed beside it, with their sizes.

    Returns
    -------
    Figure
        Dots are rasterised, in SVG and PDF too.
    """
    beside = 2.4 if legend else 0.75 if dots.similarity is not None else 0.0
    across, down = np.ptp(dots.coordinates[:, :2], axis=0).tolist()
    side = SIDE * min(1.2, max(0.5, down / max(across, 1e-6)))  # as the map is shaped
    figure = look.page(SIDE + beside, side)
    width, height = figure.get_size_inches()
    share = max(0.3, 1 - beside / width)
    axes = figure.add_axes((0, 0, share, 1))
    axes.set_axis_off()
    _set_limits(axes, dots.coordinates, width * share / height)
    _scatter(axes, dots, look, width * share * height * POINTS**2)
    sizes = np.bincount(dots.groups[dots.groups >= 0], minlength=len(dots.names))
    largest = np.argsort(-sizes, kind="stable")[: int(np.count_nonzero(sizes))]
    cell = max(np.ptp(dots.coordinates[:, :2], axis=0).max() / CELLS, 1e-6)
    points = [dots.coordinates[dots.groups == group, :2] for group in largest[: 2 * MOST_NAMES]]
    anchors = np.array([_middle(own, cell) for own in points])
    names = [cut(dots.names[group]) for group in largest[: 2 * MOST_NAMES]]
    write_names(axes, look, names, anchors, most=MOST_NAMES)
    if dots.similarity is not None:
        _scale_bar(figure, _scale(dots.similarity), look, share)
    elif legend:
        _legend(figure, dots, look, [(int(group), int(sizes[group])) for group in largest], share)
    return figure


def _set_limits(axes: Axes, coordinates: Matrix, ratio: float) -> None:
    """Show all dots, both axes in one unit."""
    low, high = coordinates[:, :2].min(axis=0), coordinates[:, :2].max(axis=0)
    middle, span = (low + high) / 2, np.maximum(high - low, 1e-6)
    across = max(float(span[0]), float(span[1]) * ratio) / (1 - 2 * MARGIN)
    axes.set_xlim(middle[0] - across / 2, middle[0] + across / 2)
    axes.set_ylim(middle[1] - across / ratio / 2, middle[1] + across / ratio / 2)


def _scatter(axes: Axes, dots: Dots, look: Look, area: float) -> None:
    """Draw the dots, noise first."""
    is_noise = dots.groups < 0
    n = len(dots.groups)
    sizes = np.full(n, np.clip(COVERED * area / n, LEAST_DOT, MOST_DOT), np.float32)
    opacity = np.ones(n, np.float32)
    order = np.random.default_rng(0).permutation(n)  # no cluster lies above the others
    if dots.coordinates.shape[1] == 3:
        z = dots.coordinates[:, 2]
        depth = (z - z.min()) / max(float(np.ptp(z)), 1e-6)
        sizes *= FAR + (NEAR - FAR) * depth
        opacity = FAINTEST + (1 - FAINTEST) * depth
        order = np.argsort(depth, kind="stable")
    colours = np.column_stack((np.zeros((n, 3), np.float32), opacity))
    colours[is_noise] *= (1, 1, 1, 0.5)
    colours[is_noise, :3] = unit(look.colours.noise)
    if dots.similarity is None:
        colours[~is_noise, :3] = cluster_colours(dots.groups[~is_noise], look.theme)
    else:
        colours[~is_noise, :3] = _scale(dots.similarity).to_rgba(dots.similarity[~is_noise])[:, :3]
    for number, chosen in enumerate((order[is_noise[order]], order[~is_noise[order]])):
        axes.scatter(
            dots.coordinates[chosen, 0],
            dots.coordinates[chosen, 1],
            s=sizes[chosen],
            c=colours[chosen],
            linewidths=0,
            rasterized=True,
            zorder=1 + number,
        )


def _scale(similarity: Vector) -> Any:
    """Return what gives similarities their colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    known = similarity[np.isfinite(similarity)]
    low, high = np.quantile(known, (0.01, 0.99)) if len(known) else (0.0, 1.0)
    return ScalarMappable(Normalize(low, high), SCALE)


def _middle(points: Matrix, cell: float) -> Any:
    """Return the middle of the densest part of a group: that of all may lie beside it."""
    places = np.floor(points / cell).astype(np.int64)
    places -= places.min(axis=0) - 1
    counts = np.zeros(places.max(axis=0) + 2)
    np.add.at(counts, tuple(places.T), 1)
    around = sum(np.roll(counts, (x, y), (0, 1)) for x in (-1, 0, 1) for y in (-1, 0, 1))
    densest = np.unravel_index(int(np.argmax(around)), counts.shape)
    return points[(np.abs(places - densest) <= 1).all(axis=1)].mean(axis=0)


def _scale_bar(figure: Figure, scale: Any, look: Look, share: float) -> None:
    axes = figure.add_axes((share + 0.005, 0.3, 0.02, 0.4))
    bar = figure.colorbar(scale, cax=axes, extend="both")
    bar.set_label("cosine to the centroid", color=look.colours.ink, fontsize=8)
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=7, color=look.colours.line, labelcolor=look.colours.ink)


def _legend(
    figure: Figure, dots: Dots, look: Look, largest: list[tuple[int, int]], share: float
) -> None:
    from matplotlib.lines import Line2D

    def entry(text: str, colour: Any) -> Line2D:
        style: Any = {"marker": "o", "linestyle": "none", "markersize": 5, "markeredgewidth": 0}
        return Line2D([], [], color=colour, label=text, **style)

    shown = largest[:MOST_ENTRIES]
    entries = [
        entry(f"{cut(dots.names[group], 28)}  {size:,}", cluster_colour(group, look.theme))
        for group, size in shown
    ]
    if len(largest) > len(shown):
        rest = sum(size for _, size in largest[len(shown) :])
        entries.append(entry(f"{len(largest) - len(shown):,} others  {rest:,}", "none"))
    n_noise = int(np.count_nonzero(dots.groups == NOISE))
    if n_noise:
        entries.append(entry(f"none  {n_noise:,}", unit(look.colours.noise)))
    found = figure.legend(
        handles=entries,
        loc="center left",
        bbox_to_anchor=(share, 0.5),
        frameon=False,
        fontsize=7.5,
        labelcolor=look.colours.ink,
        handletextpad=0.2,
    )
    for text in found.get_texts():
        text.set_parse_math(False)
