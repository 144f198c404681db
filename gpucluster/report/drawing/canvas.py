"""The page that a picture is drawn on, and the file that it becomes."""

from __future__ import annotations

import re
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unicodedata import east_asian_width

from gpucluster.errors import BackendUnavailableError, ConfigError, FallbackWarning
from gpucluster.notation import describe, is_number, nearest
from gpucluster.report.drawing.palette import THEMES, Theme, unit
from gpucluster.report.numbers import one_line
from gpucluster.report.whole_file import on_disk, write_whole
from gpucluster.types import DPI

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

ENDINGS: Final = ("png", "svg", "pdf")
POINTS: Final = 72  # of an inch
LEAST_INCHES, MOST_INCHES = 1.0, 50.0
LEAST_DPI, MOST_DPI = 20, 1200  # letters have no pixels with fewer
MOST_PIXELS: Final = 200_000_000  # of a page, each of four bytes
MOST_CHARACTERS: Final = 32
MOST_MISSING: Final = 10  # characters without a font that are named
# Fonts for names in any script; the first comes with Matplotlib, of the others what is installed.
# Those of Linux, macOS and Windows for one script stand together.
FAMILIES: Final = (
    *("DejaVu Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK JP"),
    *("Hiragino Sans", "Yu Gothic", "Noto Sans CJK KR", "Apple SD Gothic Neo", "Malgun Gothic"),
    *("Noto Sans Devanagari", "Kohinoor Devanagari", "Nirmala UI", "Noto Sans Thai", "Thonburi"),
    *("Leelawadee UI", "Noto Emoji", "Segoe UI Symbol", "Segoe UI Emoji", "Symbola"),
)
_MISSING: Final = re.compile(r"Glyph (\d+) .* missing from")
_NO_DATES: Final = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture looks.

    Attributes
    ----------
    theme : {"light", "dark"}
    width, height : float or None
        Inches; None: what suits the picture.
    dpi : int
        Dots per inch, of a PNG and of what is rasterised in other files.
    """

    theme: str = "light"
    width: float | None = None
    height: float | None = None
    dpi: int = DPI

    def checked(self) -> Look:
        """Return it, and raise `ConfigError` where it cannot be."""
        if not isinstance(self.theme, str) or self.theme not in THEMES:
            known = ", ".join(THEMES)
            raise ConfigError(f"got {describe(self.theme)}, expected {known}", path="theme")
        for name in ("width", "height"):
            inches = getattr(self, name)
            if inches is None:
                continue
            if not (is_number(inches) and LEAST_INCHES <= inches <= MOST_INCHES):
                bounds = f"{LEAST_INCHES:g} to {MOST_INCHES:g} inches"
                raise ConfigError(f"got {describe(inches)}, expected {bounds}", path=name)
        if not (is_number(self.dpi) and LEAST_DPI <= self.dpi <= MOST_DPI):
            bounds = f"{LEAST_DPI} to {MOST_DPI}"
            raise ConfigError(f"got {describe(self.dpi)}, expected {bounds}", path="dpi")
        return self

    @property
    def colours(self) -> Theme:
        """The colours of the theme."""
        return THEMES[self.theme]

    def page(self, width: float, height: float) -> Figure:
        """Return an empty page, of this size where none was asked for.

        Raises
        ------
        ConfigError
            It has more dots than `MOST_PIXELS`.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        size = (self.width or width, self.height or height)
        pixels = size[0] * size[1] * self.dpi**2
        if pixels > MOST_PIXELS:
            raise ConfigError(
                f"{size[0]:g} by {size[1]:g} inches are {pixels:,.0f} dots at {self.dpi} an inch, "
                f"expected at most {MOST_PIXELS:,}",
                path="dpi",
            )
        figure = Figure(size, dpi=self.dpi, facecolor=unit(self.colours.background))
        FigureCanvasAgg(figure)
        return figure

    def framed(self, figure: Figure, left: float, bottom: float, right: float, top: float) -> Axes:
        """Return plain axes that leave so many inches on each side, at most half of the page."""
        width, height = figure.get_size_inches()
        across = min(1.0, 0.5 * width / (left + right))
        down = min(1.0, 0.5 * height / (bottom + top))
        place = left * across / width, bottom * down / height
        size = 1 - (left + right) * across / width, 1 - (bottom + top) * down / height
        return self.plain(figure.add_axes((*place, *size)))

    def plain(self, axes: Axes) -> Axes:
        """Give axes the colours of the theme, and no frame above and on the right."""
        colours = self.colours
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(colours.line)
        axes.tick_params(labelsize=8, color=colours.line, labelcolor=colours.ink, length=3)
        for part in (axes.xaxis.label, axes.yaxis.label, axes.title):
            part.set_color(colours.ink)
            part.set_fontsize(9)
        return axes

    def write(self, axes: Axes, x: float, y: float, text: str, **style: Any) -> Any:
        """Write text that is taken as it is."""
        look: Any = {"color": self.colours.ink, "fontsize": 8, "parse_math": False}
        return axes.text(x, y, text, **(look | style))


def ending(path: Path) -> str:
    """Return what kind of picture a file is to be; `ConfigError` where it is none."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ENDINGS:
        names = ", ".join(f".{each}" for each in ENDINGS)
        raise ConfigError(
            f"cannot draw {path.name}", hint=f"a plot is a file that ends in one of {names}"
        )
    return kind


@contextmanager
def drawing() -> Iterator[None]:
    """Let Matplotlib draw the same whatever its settings are.

    Raises
    ------
    BackendUnavailableError
        Matplotlib is missing.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise BackendUnavailableError(
            "a plot needs Matplotlib, which is missing", hint="pip install 'gpucluster[plot]'"
        ) from error
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", _MISSING.pattern)  # `encoded` tells of these
        mpl.rcdefaults()
        fixed: Any = {"svg.hashsalt": "gpucluster", "svg.fonttype": "none", "pdf.fonttype": 42}
        mpl.rcParams.update(fixed | {"font.family": families()})
        yield


def families() -> list[str]:
    """Return those of `FAMILIES` that are installed."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [name for name in FAMILIES if name in installed]


def encoded(figure: Figure, kind: str, dpi: int) -> bytes:
    """Return a page as the content of a file; the same for the same page, Matplotlib and fonts.

    One `FallbackWarning` names the characters that no font here has.
    """
    file = BytesIO()
    colour: Any = figure.get_facecolor()
    with drawing(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(file, format=kind, dpi=dpi, metadata=_NO_DATES[kind], facecolor=colour)
    told = [(each, _MISSING.match(str(each.message))) for each in caught]
    missing = sorted({chr(int(match[1])) for _, match in told if match})
    for each, match in told:
        if match is None:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if missing:
        warnings.warn(
            f"no font here has {' '.join(missing[:MOST_MISSING])}"
            f"{' and others' if len(missing) > MOST_MISSING else ''}: boxes stand for them; "
            "fonts-noto-cjk or Noto Emoji have more",
            FallbackWarning,
            stacklevel=4,
        )
    return file.getvalue()


def finish(draw: Callable[[], Figure], path: str | Path | None, dpi: int) -> Figure | Path:
    """Return a picture, or write it and return where it lies."""
    return draw() if path is None else put(draw, path, dpi)


def put(draw: Callable[[], Figure], path: str | Path, dpi: int) -> Path:
    """Write a picture to a file that is there whole or not at all; return where it lies.

    The name of the file is looked at before anything is drawn.
    """
    target = on_disk(path)
    kind = ending(target)
    write_whole(target, encoded(draw(), kind, dpi))
    return target


def known(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` where a value is none of the choices."""
    if value not in choices:
        expected = ", ".join(choices)
        raise ConfigError(
            f"got {describe(value)}, expected one of {expected}",
            path=name,
            hint=nearest(str(value), choices),
        )


def cut(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return text as one line that is not too long; letters of East Asia are two wide."""
    line = one_line(text)
    ends = list(accumulate(1 + (east_asian_width(letter) in "WF") for letter in line))
    if not line or ends[-1] <= most:
        return line
    return line[: bisect_right(ends, most - 1)].rstrip() + "\u2026"


def shorten(text: Text, width: float) -> None:
    """Cut a text of one line until it is not wider than so many pixels."""
    line = text.get_text()
    most = len(line)
    while most > 1 and text.get_window_extent().width > width:
        most -= 1
        text.set_text(cut(line, most))
