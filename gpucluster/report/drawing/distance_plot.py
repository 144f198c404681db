"""Sorted distances to the k-th neighbour: where a radius of density lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpucluster.report.drawing.canvas import Look
    from gpucluster.types import Vector64


def draw_distances(
    distances: Vector64, suggested: float, marks: Mapping[str, float], look: Look, *, label: str
) -> Figure:
    """Return the curve, with the suggested radius and others.

    Parameters
    ----------
    distances : ndarray of shape (n,), float64
        Rising.
    suggested : float
    marks : mapping of str to float
        Other radii, by what they are.
    look : Look
    label : str
        Of the axis of distances.
    """
    figure = look.page(6.0, 4.0)
    axes = look.framed(figure, 0.75, 0.5, 0.25, 0.2)
    share = 100 * np.arange(1, len(distances) + 1) / len(distances)
    axes.plot(share, distances, color=look.colours.bar, linewidth=1.6)
    lines = {"suggested": suggested, **marks}
    top = max(float(distances[-1]), *lines.values())
    taken: list[float] = []
    for name, radius in sorted(lines.items(), key=lambda pair: pair[1]):
        is_suggested = name == "suggested"
        colour = look.colours.accent if is_suggested else look.colours.faint
        axes.axhline(radius, color=colour, linewidth=1.1, linestyle="--" if is_suggested else ":")
        within = 100 * np.searchsorted(distances, radius, side="right") / len(distances)
        at = max([radius + 0.012 * top, *(each + 0.055 * top for each in taken)])
        taken.append(at)
        style: Any = {"color": colour, "va": "bottom", "ha": "left"}
        look.write(axes, 1.5, at, f"{name}: {radius:.4g}, {within:.0f} % within", **style)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 1.08 * top)
    axes.set_xlabel("share of rows, %")
    axes.set_ylabel(label)
    return figure


def knee(distances: Vector64) -> float:
    """Return the distance where a rising curve bends most.

    That is where it lies farthest below the line from its first point to its last, both axes
    scaled to 1; where it never does, its end.

    Parameters
    ----------
    distances : ndarray of shape (n,), float64
        Rising, at least one.

    References
    ----------
    Satopaa, Albrecht, Irwin, Raghavan 2011, doi:10.1109/ICDCSW.2011.20. The sorted curve:
    Ester, Kriegel, Sander, Xu 1996; Schubert et al. 2017, doi:10.1145/3068335.
    """
    span = float(distances[-1] - distances[0])
    if span <= 0:
        return float(distances[-1])
    below = np.linspace(0, 1, len(distances)) - (distances - distances[0]) / span
    return float(distances[int(below.argmax())]) if below.max() > 0 else float(distances[-1])
