"""Numbers as people read them, on a terminal and on a page."""

from __future__ import annotations

from typing import Any

NONE = "-"


def one_line(text: str) -> str:
    """Return `text` as one line that cannot control a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


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
