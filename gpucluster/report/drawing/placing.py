"""Where names stand so that none covers another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gpucluster.report.drawing.palette import unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gpucluster.report.drawing.canvas import Look

# Away from where a name would like to be, in its heights and half widths: nearest first.
_STEPS = (
    *((0.0, 1.0), (0.0, -1.0), (0.0, 0.0), (0.6, 0.9), (-0.6, 0.9), (0.6, -0.9), (-0.6, -0.9)),
    *((1.1, 0.0), (-1.1, 0.0), (0.0, 2.4), (0.0, -2.4), (1.1, 1.8), (-1.1, 1.8)),
    *((1.1, -1.8), (-1.1, -1.8)),
)

Box = tuple[float, float, float, float]  # left, bottom, right, top


def place(
    sizes: Iterable[tuple[float, float]],
    anchors: Sequence[tuple[float, float]],
    bounds: Box,
    *,
    most: int,
    steps: Sequence[tuple[float, float]] = _STEPS,
) -> list[tuple[int, float, float]]:
    """Place boxes, those named first before the others.

    Parameters
    ----------
    sizes : iterable of (float, float)
        Width and height of each box; asked for one after the other.
    anchors : sequence of (float, float)
        Where the middle of each would like to be.
    bounds : tuple of 4 float
        Left, bottom, right and top of what they must lie in.
    most : int
        How many are placed at most.
    steps : sequence of (float, float)
        What is tried for each, in its half widths and its heights away from its anchor.

    Returns
    -------
    list of (int, float, float)
        Number and middle of each box that found a place.
    """
    taken: list[Box] = []
    placed: list[tuple[int, float, float]] = []
    for number, ((width, height), (x, y)) in enumerate(zip(sizes, anchors, strict=False)):
        for right, up in steps:
            middle = x + right * width / 2, y + up * height
            box = (
                middle[0] - width / 2,
                middle[1] - height / 2,
                middle[0] + width / 2,
                middle[1] + height / 2,
            )
            if _is_inside(box, bounds) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                placed.append((number, *middle))
                break
        if len(placed) >= most:
            break
    return placed


def write_names(
    axes: Axes,
    look: Look,
    names: Sequence[str],
    anchors: Any,
    *,
    most: int,
    steps: Sequence[tuple[float, float]] = _STEPS,
    fontsize: float = 7.0,
) -> None:
    """Write names, with a halo, at or near their anchors, as many as there is room for.

    Parameters
    ----------
    axes : Axes
        Its limits and its place on the page are settled.
    look : Look
    names : sequence of n str
        The most important first.
    anchors : array of shape (n, 2)
        In the units of the axes.
    most : int
    steps : sequence of (float, float)
        As of `place`.
    fontsize : float
        Points.
    """
    from matplotlib.patheffects import withStroke

    if not len(names):
        return
    renderer: Any = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg has one
    halo = [withStroke(linewidth=2.4, foreground=unit(look.colours.background))]
    style: Any = {"ha": "center", "va": "center", "fontsize": fontsize}
    texts: list[Any] = []

    def sizes() -> Iterable[tuple[float, float]]:
        for name in names:
            text = look.write(axes, 0, 0, name, path_effects=halo, zorder=10, **style)
            texts.append(text)
            box = text.get_window_extent(renderer)
            yield box.width + 0.4 * box.height, 1.15 * box.height

    frame = axes.get_window_extent(renderer)
    wanted = axes.transData.transform(anchors).tolist()
    bounds = (frame.x0, frame.y0, frame.x1, frame.y1)
    found = place(sizes(), wanted, bounds, most=most, steps=steps)
    back = axes.transData.inverted()
    places = {number: back.transform((x, y)) for number, x, y in found}
    for number, text in enumerate(texts):
        if number not in places:
            text.remove()
            continue
        text.set_position(places[number])


def _is_inside(box: Box, bounds: Box) -> bool:
    return (
        box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]
    )


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
