"""What was measured of clusters: their silhouettes, sizes, and similarities to the centroid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpucluster.report.drawing.canvas import Look, cut, shorten
from gpucluster.report.drawing.palette import cluster_colour
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gpucluster.types import Labels, Vector, Weights

MOST_SILHOUETTES: Final = 80  # clusters
STEPS: Final = 400  # of the outline of one cluster
NAME_INCHES: Final = 0.16  # that a name is high
MOST_BARS: Final = 40
TOP_NAMES: Final = 5
MOST_PANELS: Final = 12
COLUMNS: Final = 4
BINS: Final = 40
WIDE: Final = 20  # the ratio of sizes from which on their axis is logarithmic


def draw_silhouettes(values: Vector, labels: Labels, names: Sequence[str], look: Look) -> Figure:
    """Return the silhouettes of the members, cluster by cluster, with their mean.

    Parameters
    ----------
    values : ndarray of shape (n,), float32
        Silhouettes; NaN for noise.
    labels : ndarray of shape (n,), int32
        Clusters; noise is -1.
    names : sequence of n_clusters str
    look : Look

    Returns
    -------
    Figure
        Of more than `MOST_SILHOUETTES` clusters the largest; the mean is of all.

    References
    ----------
    Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7.
    """
    sizes = np.bincount(labels[labels >= 0], minlength=len(names))
    n_held = int(np.count_nonzero(sizes))  # none may have joined a cluster
    largest = np.sort(np.argsort(-sizes, kind="stable")[: min(n_held, MOST_SILHOUETTES)])
    figure = look.page(6.5, min(11.0, max(3.0, 1.1 + NAME_INCHES * 1.15 * len(largest))))
    axes = look.framed(figure, 2.15, 0.55, 0.3, 0.45)
    inches = axes.get_position().height * figure.get_size_inches()[1]
    room = inches / len(largest)  # of a cluster
    shown = sizes[largest] / sizes[largest].sum()
    # each as high as it has members, but none so low that its name has no place
    heights = np.maximum(shown, min(NAME_INCHES, room) / inches)
    heights /= heights.sum()
    gap = 0.12 * heights.min()
    tops = np.cumsum(heights)
    for position, cluster in enumerate(largest.tolist()):
        own = np.sort(values[labels == cluster])
        at = np.linspace(0, 1, min(STEPS, len(own)) + 1)
        outline = np.quantile(own, at)
        bottom, top = tops[position] - gap, tops[position] - heights[position] + gap
        y = bottom + (top - bottom) * at
        axes.fill_betweenx(y, 0, outline, color=cluster_colour(cluster, look.theme), linewidth=0)
        if min(NAME_INCHES, room) > 0.09:
            middle = (bottom + top) / 2
            style: Any = {"ha": "right", "va": "center", "fontsize": min(7.5, 70 * room)}
            place = axes.get_yaxis_transform()
            look.write(axes, -0.02, middle, cut(names[cluster]), transform=place, **style)
    mean = float(np.nanmean(values, dtype=np.float64))
    axes.axvline(mean, color=look.colours.accent, linewidth=1.2, linestyle="--")
    place = axes.get_xaxis_transform()
    style = {"color": look.colours.accent, "va": "bottom", "ha": "center"}
    look.write(axes, mean, 1.005, f"mean {mean:.3f}", transform=place, **style)
    axes.axvline(0, color=look.colours.line, linewidth=0.8)
    axes.set_xlim(
        min(-0.1, float(np.nanmin(values)) * 1.05), max(0.5, float(np.nanmax(values)) * 1.05)
    )
    axes.set_ylim(1, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("cosine silhouette")
    if len(largest) < n_held:
        text = f"the largest {len(largest)} of {n_held:,} clusters"
        figure.text(0.02, 0.012, text, fontsize=7.5, color=look.colours.faint)
    return figure


def draw_sizes(
    sizes: Weights,
    numbers: Labels,
    names: Sequence[str],
    look: Look,
    *,
    n_noise: int,
    entropy: float,
) -> Figure:
    """Return the sizes of the clusters by rank: bars with names, or dots where they are many.

    Parameters
    ----------
    sizes : ndarray of shape (n_clusters,), int64
    numbers : ndarray of shape (n_clusters,), int32
        Whose colours they have.
    names : sequence of n_clusters str
    look : Look
    n_noise : int
    entropy : float
        Of the sizes, over its maximum.
    """
    order = np.argsort(-sizes, kind="stable")
    ranked = sizes[order]
    is_wide = ranked[0] > WIDE * max(1, ranked[-1])
    colours = [cluster_colour(number, look.theme) for number in numbers[order].tolist()]
    if len(order) <= MOST_BARS:
        figure = look.page(6.5, 1.0 + 0.17 * max(4, len(order)))
        axes = look.framed(figure, 2.15, 0.5, 0.4, 0.35)
        ranks = np.arange(len(order))
        axes.barh(ranks, ranked, color=colours, height=0.8, log=bool(is_wide))
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_yticks(ranks, [cut(names[cluster]) for cluster in order.tolist()])
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
            label.set_fontsize(7.5)
        axes.set_xlabel("documents")
    else:
        figure = look.page(6.5, 4.2)
        axes = look.framed(figure, 0.8, 0.5, 0.25, 0.35)
        ranks = 1 + np.arange(len(order))
        axes.plot(ranks, ranked, color=look.colours.line, linewidth=0.8, zorder=1)
        axes.scatter(ranks, ranked, c=colours, s=14, linewidths=0, zorder=2)
        axes.set_yscale("log" if is_wide else "linear")
        axes.set_xscale("log" if len(order) > 10 * MOST_BARS else "linear")
        if not is_wide:
            axes.set_ylim(0, None)
        axes.set_xlabel("rank")
        axes.set_ylabel("documents")
        last = np.inf
        for rank, cluster in enumerate(order[:TOP_NAMES].tolist(), 1):
            at = axes.transData.transform((rank, float(sizes[cluster])))[1] / figure.dpi
            if last - at >= NAME_INCHES:
                last = at
                place: Any = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
                style: Any = {"fontsize": 7.5, "color": look.colours.ink, "parse_math": False}
                axes.annotate(cut(names[cluster]), (rank, sizes[cluster]), **place, **style)
    _count_axes(axes, is_logarithmic=bool(is_wide), is_across=len(order) <= MOST_BARS)
    total = int(sizes.sum()) + n_noise
    count = f"{len(sizes):,} cluster{'s' * (len(sizes) != 1)}"
    facts = f"{count}, median {np.median(sizes):,.0f}, entropy {entropy:.3f}"
    noise = f", noise {n_noise:,} ({100 * n_noise / max(1, total):.1f} %)" if n_noise else ""
    figure.text(
        0.98,
        0.985,
        facts + noise,
        ha="right",
        va="top",
        fontsize=8,
        color=look.colours.faint,
    )
    return figure


def draw_similarities(
    similarity: Vector, labels: Labels, names: Sequence[str], look: Look
) -> Figure:
    """Return histograms of the cosine to the centroid: of all, and of the largest clusters.

    Parameters
    ----------
    similarity : ndarray of shape (n,), float32
        NaN for noise.
    labels : ndarray of shape (n,), int32
    names : sequence of n_clusters str
    look : Look
    """
    sizes = np.bincount(labels[labels >= 0], minlength=len(names))
    n_panels = min(MOST_PANELS, int(np.count_nonzero(sizes)))  # nodes of other levels are empty
    largest = np.argsort(-sizes, kind="stable")[:n_panels].tolist()
    rows = -(-len(largest) // COLUMNS)
    height = 2.5 + 1.15 * rows
    figure = look.page(7.0, height)
    low = float(np.nanquantile(similarity, 0.001))
    edges = np.linspace(min(low, 0.95), 1, BINS + 1)
    clustered = similarity[labels != NOISE]
    n_below = int(np.count_nonzero(clustered < edges[0]))
    axes = look.plain(figure.add_axes((0.08, 1 - 1.95 / height, 0.9, 1.6 / height)))
    _histogram(axes, clustered, edges, look, look.colours.bar)
    mean = float(clustered.mean(dtype=np.float64))
    style: Any = {"fontsize": 9, "color": look.colours.ink}
    axes.set_title(f"all clusters: mean {mean:.3f}", loc="left", pad=4, **style)
    for position, cluster in enumerate(largest):
        row, column = divmod(position, COLUMNS)
        left, bottom = 0.08 + column * 0.23, 1 - (2.25 + 1.15 * (row + 1) - 0.28) / height
        panel = look.plain(figure.add_axes((left, bottom, 0.21, 0.62 / height)))
        _histogram(
            panel, similarity[labels == cluster], edges, look, cluster_colour(cluster, look.theme)
        )
        style = {"fontsize": 7, "color": look.colours.ink, "parse_math": False}
        shorten(panel.set_title(cut(names[cluster]), loc="left", pad=3, **style), panel.bbox.width)
        panel.tick_params(labelsize=6.5, labelbottom=position + COLUMNS >= len(largest))
    figure.text(
        0.53,
        0.08 / height,
        "cosine to the centroid"
        + (f"; {n_below:,} below {edges[0]:.2f} are in the first bar" if n_below else ""),
        ha="center",
        va="bottom",
        fontsize=8.5,
        color=look.colours.ink,
    )
    return figure


def _histogram(axes: Axes, values: Any, edges: Any, look: Look, colour: Any) -> None:
    shown = np.clip(values, edges[0], edges[-1])
    axes.hist(shown, bins=edges, color=colour, linewidth=0, histtype="stepfilled")
    axes.axvline(float(values.mean()), color=look.colours.ink, linewidth=0.9, linestyle="--")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _count_axes(axes: Axes, *, is_logarithmic: bool, is_across: bool) -> None:
    """Write counts as people do, with commas and not as powers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axis = axes.xaxis if is_across else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if is_logarithmic:
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_xscale() == "log" and not is_across:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
