"""Numbers and tables as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpucluster.cli.voice import one_line

TEXT_WIDTH = 60  # of an example
NONE = "-"


def amount(value: float) -> str:
    """Return a count with thousands separators; with a decimal where it is small and broken."""
    return f"{value:,.1f}" if value < 10 and value != int(value) else f"{value:,.0f}"


def gigabytes(count: int | None) -> str:
    """Return bytes in units of 1e9."""
    return NONE if count is None else f"{count / 1e9:,.2f} GB"


def duration(seconds: float | None) -> str:
    """Return seconds as people say it."""
    if seconds is None:
        return NONE
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def share(part: float, whole: float) -> str:
    """Return a part of a whole in percent."""
    return f"{100 * part / whole:.1f} %" if whole else NONE


def number(value: Any) -> str:
    """Return a measured value, or a word."""
    if value is None:
        return NONE
    return f"{value:.4f}" if isinstance(value, float) else one_line(str(value))


def shortened(text: str, width: int = TEXT_WIDTH) -> str:
    """Return `text` as one line of at most `width` characters."""
    line = one_line(text)
    return line if len(line) <= width else line[: width - 3].rstrip() + "..."


def table(rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Return rows in aligned columns; those in `right` are aligned to the right."""
    rows, right = list(rows), set(right)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if position in right else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
