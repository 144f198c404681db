"""Where dates stand on an axis of time, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

MINUTE, HOUR, DAY = 60, 3_600, 86_400
MOMENT_S: Final = 1  # what is closer together than this is one moment on the axis
MARGIN: Final = 0.05  # of the span, on either side of the first and the last run

CHARACTER, SPACE = 0.068, 0.11  # inches: of a date, and between dates, at 8 points

# Neighbours differ by a factor of 2.5 at most, so that the smallest one that fits leaves a date.
_SECONDS: Final = tuple(
    unit * count
    for unit, counts in (
        (1, (1, 2, 5, 10, 15, 30)),
        (MINUTE, (1, 2, 5, 10, 15, 30)),
        (HOUR, (1, 2, 3, 6, 12)),
        (DAY, (1, 2, 4, 7, 14)),
    )
    for count in counts
)
_MONTHS: Final = (1, 2, 3, 6, *(12 * years for years in (1, 2, 5, 10, 20, 50, 100, 200, 500)))
_NAMES: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONDAY: Final = 4 * DAY  # the first one after 1 January 1970


def limits(first: datetime, last: datetime) -> tuple[float, float]:
    """Return the ends of an axis that holds two moments, in seconds since 1970."""
    begin, end = first.timestamp(), last.timestamp()
    margin = MARGIN * (end - begin) if end - begin >= MOMENT_S else DAY / 2
    return begin - margin, end + margin


def ticks(first: datetime, last: datetime, width: float) -> list[tuple[float, str]]:
    """Return dates between two moments, and how they are written, in UTC.

    Parameters
    ----------
    first, last : datetime
        The first and the last run.
    width : float
        Of the axis, in inches: dates are so far apart that they do not touch.

    Returns
    -------
    list of (float, str)
        Seconds since 1970, rising, and the text: as exact as the steps between them are.
    """
    begin, end = first.timestamp(), last.timestamp()
    if end - begin < MOMENT_S:
        return [(begin, _day(first.astimezone(UTC), year=True))]
    low, high = limits(first, last)
    scale = width / (high - low)
    for step in _SECONDS:
        characters = len("00:00:00") if step < MINUTE else len("30 Sep")
        if step * scale >= characters * CHARACTER + SPACE:
            offset = _MONDAY if step % (7 * DAY) == 0 else 0
            numbers = range(
                math.ceil((low - offset) / step), math.floor((high - offset) / step) + 1
            )
            found = [_at(offset + step * number) for number in numbers]
            return [(when.timestamp(), _text(when, step)) for when in found]
    fits = (len("2026") * CHARACTER + SPACE) / scale
    step = next((months for months in _MONTHS if months * 28 * DAY >= fits), _MONTHS[-1])
    found = [when for when in _firsts(_at(low), _at(high), step) if when.timestamp() >= low]
    return [(when.timestamp(), _month(when) if when.month > 1 else f"{when:%Y}") for when in found]


def between(first: datetime, last: datetime) -> str:
    """Return in words the days from one to another."""
    first, last = first.astimezone(UTC), last.astimezone(UTC)
    if first.date() == last.date():
        return _day(last, year=True)
    return f"{_day(first, year=first.year != last.year)} to {_day(last, year=True)}"


def _firsts(low: datetime, high: datetime, step: int) -> Iterator[datetime]:
    """Yield the first day of each `step`-th month."""
    month = low.year * 12 + low.month - 1
    for number in range(-(-month // step) * step, high.year * 12 + high.month, step):
        yield datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


def _text(when: datetime, step: int) -> str:
    at_midnight = when.timestamp() % DAY == 0
    if step >= DAY or (at_midnight and step >= HOUR):
        return _day(when)
    return f"{when:%H:%M}" if step >= MINUTE else f"{when:%H:%M:%S}"


def _day(when: datetime, *, year: bool = False) -> str:
    return f"{when.day} {_month(when)} {when:%Y}" if year else f"{when.day} {_month(when)}"


def _month(when: datetime) -> str:
    """Return the name of the month, the same whatever the locale is."""
    return _NAMES[when.month - 1]


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
