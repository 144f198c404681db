"""Numbers and tables as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpucluster.report.numbers import NONE, amount, duration, gigabytes, number, one_line, share

__all__ = ["NONE", "amount", "duration", "gigabytes", "number", "share", "shortened", "table"]

TEXT_WIDTH = 60  # of an example


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
