"""Hierarchies as icicles: what lies in what, as wide as it has documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpucluster.report.drawing.canvas import Look, cut
from gpucluster.report.drawing.palette import cluster_colour, unit
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gpucluster.types import DensityTree, Labels, Weights

WIDTH, HEIGHT = 7.5, 5.0  # inches
LEVEL_INCHES: Final = 1.25
GAP: Final = 0.25  # of the rows that fall out where a cluster parts: left free between its parts
STEPS: Final = 60  # of an outline
BAND: Final = 1.5  # inches below a tree, for names
NAME_INCHES: Final = 0.1  # that a name is high
CHARACTER: Final = 0.056  # inches
DENSEST: Final = 0.999  # of the rows: what only the last ones reach is not drawn


def draw_density_tree(tree: DensityTree, names: Sequence[str], look: Look) -> Figure:
    """Return a condensed tree: the width is the rows that are left at a density.

    Parameters
    ----------
    tree : DensityTree
    names : sequence of n_clusters str
        Of the selected clusters, which have their colours and are outlined.
    look : Look
    """
    figure = look.page(WIDTH, HEIGHT)
    axes = look.framed(figure, 0.7, BAND, 0.15, 0.15)
    first, last = _reach(tree)
    outlines = _outlines(tree, first, last)
    for node, (density, left, right) in enumerate(outlines):
        cluster = int(tree.cluster[node])
        is_selected = cluster != NOISE
        colour = cluster_colour(cluster, look.theme) if is_selected else unit(look.colours.noise)
        outline: Any = {"linewidth": 0.9 if is_selected else 0, "zorder": 1 + is_selected}
        # those within a selected cluster show what it could have been parted into
        axes.fill_betweenx(
            1 / density,
            left,
            right,
            facecolor=(*colour, 0.75 if is_selected else 0.35),
            edgecolor=colour,
            **outline,
        )
    axes.set_yscale("log")
    axes.set_ylim(1 / last, 1 / first)
    axes.set_xlim(-0.01 * tree.size[0], 1.01 * tree.size[0])
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_ylabel("distance")
    _plain_distances(axes)
    apart = 1.02 * int(tree.size[0]) * NAME_INCHES / _across(axes)
    taken: list[float] = []
    for node in np.argsort(np.where(tree.cluster == NOISE, np.inf, tree.cluster)).tolist():
        at = float(outlines[node][1][0] + outlines[node][2][0]) / 2
        if tree.cluster[node] == NOISE or any(abs(at - other) < apart for other in taken):
            continue
        taken.append(at)
        style: Any = {
            "rotation": 90,
            "ha": "center",
            "va": "top",
            "fontsize": 6.5,
            "clip_on": False,
        }
        place = axes.get_xaxis_transform()
        name = cut(names[int(tree.cluster[node])], 24)
        look.write(axes, at, -0.015, name, transform=place, **style)
    return figure


def _reach(tree: DensityTree) -> tuple[float, float]:
    """Return the densities between which the tree is drawn."""
    finite = tree.row_density[np.isfinite(tree.row_density) & (tree.row_density > 0)]
    if not len(finite):
        return 1.0, 2.0
    parted = tree.birth[1:]
    least = float(np.quantile(finite, 0.002))
    first = min(least, float(parted.min())) if len(parted) else least
    return first, max(float(np.quantile(finite, DENSEST)), 1.001 * first)


def _outlines(tree: DensityTree, first: float, last: float) -> list[tuple[Any, Any, Any]]:
    """Return densities, left and right edges of each node."""
    n_nodes = len(tree.parent)
    children: list[list[int]] = [[] for _ in range(n_nodes)]
    for node in range(1, n_nodes):
        children[int(tree.parent[node])].append(node)
    order = np.lexsort((tree.row_density, tree.row_node))
    bounds = np.searchsorted(tree.row_node[order], np.arange(n_nodes + 1))
    begin = np.zeros(n_nodes)
    found: list[tuple[Any, Any, Any]] = []
    for node in range(n_nodes):  # parents come first, so that where each begins is known
        size = float(tree.size[node])
        out = tree.row_density[order[bounds[node] : bounds[node + 1]]]
        birth = max(first, float(tree.birth[node]))
        parts = children[node]
        death = float(tree.birth[parts[0]]) if parts else float(out[-1]) if len(out) else birth
        death = min(max(death, birth), max(last, birth))
        density = np.geomspace(birth, death, STEPS)
        left_over = size - np.searchsorted(out, density, side="right")
        middle = begin[node] + size / 2
        found.append((density, middle - left_over / 2, middle + left_over / 2))
        if parts:
            total = sum(float(tree.size[part]) for part in parts)
            free = GAP * (size - total) / (len(parts) - 1)
            at = middle - (total + free) / 2
            for part in sorted(parts, key=lambda part: -int(tree.size[part])):
                begin[part] = at
                at += float(tree.size[part]) + free
    return found


def draw_levels(
    parents: Labels, sizes: Weights, names: Sequence[str], look: Look, *, n_noise: int
) -> Figure:
    """Return clusters and what they were divided into, level below level.

    Parameters
    ----------
    parents : ndarray of shape (n_nodes,), int32
        -1 for roots; parents come before children.
    sizes : ndarray of shape (n_nodes,), int64
        Documents, those of descendants included.
    names : sequence of n_nodes str
    look : Look
    n_noise : int
        Documents in no cluster; grey, on the right.
    """
    n_nodes = len(parents)
    levels = np.zeros(n_nodes, np.int64)
    begin = np.zeros(n_nodes)
    free = np.zeros(n_nodes)  # where the next child of each begins
    at = 0.0
    for node in range(n_nodes):
        above = int(parents[node])
        if above == NOISE:
            begin[node], at = at, at + float(sizes[node])
        else:
            levels[node] = levels[above] + 1
            begin[node] = free[above]
            free[above] += float(sizes[node])
        free[node] = begin[node]
    n_levels = int(levels.max()) + 1
    figure = look.page(WIDTH, 0.5 + LEVEL_INCHES * n_levels)
    axes = look.framed(figure, 0.65, 0.12, 0.15, 0.12)
    edge = unit(look.colours.background)
    for level in range(n_levels):
        here = np.flatnonzero(levels == level)
        colours = [cluster_colour(int(node), look.theme) for node in here]
        axes.bar(
            begin[here],
            np.full(len(here), -0.94),
            width=sizes[here],
            bottom=-level,
            align="edge",
            color=colours,
            edgecolor=edge,
            linewidth=0.4,
        )
    if n_noise:
        axes.bar(
            at, -0.94, width=n_noise, align="edge", color=unit(look.colours.noise), linewidth=0
        )
    axes.set_xlim(0, at + n_noise)
    axes.set_ylim(-n_levels, 0)
    axes.set_xticks([])
    axes.set_yticks(-np.arange(n_levels) - 0.47, [f"level {level}" for level in range(n_levels)])
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    inches = _across(axes) / (at + n_noise)
    for node in np.flatnonzero(sizes * inches >= NAME_INCHES).tolist():
        place = begin[node] + float(sizes[node]) / 2, -float(levels[node]) - 0.47
        _write_inside(axes, look, place, names[node], float(sizes[node]) * inches, node)
    return figure


def _across(axes: Axes) -> float:
    """Return the width of axes in inches."""
    figure: Any = axes.figure
    return float(axes.get_position().width * figure.get_size_inches()[0])


def _write_inside(
    axes: Axes, look: Look, place: tuple[float, float], name: str, inches: float, node: int
) -> None:
    """Write the name of a node on it: upright where it is too narrow, in as few characters."""
    is_upright = len(cut(name)) * CHARACTER > inches
    text = cut(name, int(0.98 * LEVEL_INCHES / CHARACTER) if is_upright else 32)
    red, green, blue = cluster_colour(node, look.theme)
    is_bright = 0.3 * red + 0.6 * green + 0.1 * blue > 0.5
    colour = "black" if is_bright else "white"
    style: Any = {"ha": "center", "va": "center", "fontsize": 6.5, "color": colour}
    look.write(axes, *place, text, rotation=90 if is_upright else 0, **style)


def _plain_distances(axes: Axes) -> None:
    """Write distances as numbers and not as powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
