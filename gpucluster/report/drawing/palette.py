"""A colour for each cluster, the one that it has in the browser (``web/colours.js``)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GOLDEN: Final = 137.50776405  # degrees between the hues of neighbours
FIRST_HUE: Final = 250
CHROMA, CHROMA_STEP = 0.15, 0.01

Colour = tuple[int, int, int]  # red, green, blue, 0 to 255


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a picture.

    Attributes
    ----------
    lightness : tuple of float
        Of clusters, in turn; OKLCH.
    noise, background : tuple of 3 int
    ink, faint, line : str
        Of text, of text that stands back, of axes.
    bar : str
        What is of no single cluster.
    accent : str
        What is pointed out.
    """

    lightness: tuple[float, ...]
    noise: Colour
    background: Colour
    ink: str
    faint: str
    line: str
    bar: str
    accent: str


THEMES: Final = {
    "light": Theme(
        lightness=(0.5, 0.62, 0.4),
        noise=(150, 154, 160),
        background=(255, 255, 255),
        ink="#15181c",
        faint="#555b63",
        line="#9aa0a8",
        bar="#0072b2",
        accent="#d55e00",
    ),
    "dark": Theme(
        lightness=(0.66, 0.78, 0.88),
        noise=(98, 104, 112),
        background=(20, 23, 27),
        ink="#f2f4f6",
        faint="#a9b0b9",
        line="#626870",
        bar="#56b4e9",
        accent="#e69f00",
    ),
}


@cache
def colour_of(index: int, theme: str) -> Colour:
    """Return the colour of a cluster; noise is negative."""
    if index < 0:
        return THEMES[theme].noise
    levels = THEMES[theme].lightness
    hue = math.radians((FIRST_HUE + index * GOLDEN) % 360)
    lightness, chroma = levels[index % len(levels)], CHROMA
    while True:
        parts = _from_oklch(lightness, max(0.0, chroma), hue)
        if chroma <= 0 or all(0 <= part <= 255 for part in parts):
            red, green, blue = (math.floor(min(255.0, max(0.0, part)) + 0.5) for part in parts)
            return red, green, blue
        chroma -= CHROMA_STEP


def _from_oklch(lightness: float, chroma: float, hue: float) -> list[float]:
    """Return OKLCH as sRGB, by Ottosson's matrices."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.707614701 * short,
    )
    return [
        255 * (12.92 * part if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055)
        for part in linear
    ]


def unit(colour: Colour) -> tuple[float, float, float]:
    """Return a colour in parts of 1, as Matplotlib has it."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def cluster_colour(index: int, theme: str) -> tuple[float, float, float]:
    """Return the colour of a cluster, for Matplotlib."""
    return unit(colour_of(index, theme))


def cluster_colours(indices: Iterable[int], theme: str) -> NDArray[np.float32]:
    """Return the colour of each of many clusters: (n, 3) float32 in [0, 1]."""
    import numpy as np

    index: Any = np.asarray(indices)
    known, inverse = np.unique(index, return_inverse=True)
    table = np.array([cluster_colour(int(i), theme) for i in known], np.float32)
    colours: NDArray[np.float32] = table.reshape(-1, 3)[inverse]
    return colours
