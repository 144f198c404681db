"""When cron of Debian would run lines: its main loop, minute by minute, slow and plain.

Written after ``cron.c`` (Vixie's 3.0 with Debian's handling of clocks that jump), not after the
library that the service uses. Lines that start a command at a fixed time run once whatever the
clock does; those with a star in minute or hour run whenever the wall clock fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
THREE_HOURS = 180
NAMED_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NAMED_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = {name: position + 1 for position, name in enumerate(NAMED_MONTHS)}
DAYS = {name: position for position, name in enumerate(NAMED_DAYS)}


class Line:
    """Five fields, as sets of numbers."""

    def __init__(self, text: str) -> None:
        fields = text.lower().split()
        self.minutes = values(fields[0], 0, 59, {})
        self.hours = values(fields[1], 0, 23, {})
        self.days = values(fields[2], 1, 31, {})
        self.months = values(fields[3], 1, 12, MONTHS)
        self.weekdays = {day % 7 for day in values(fields[4], 0, 7, DAYS)}
        self.either = "*" not in (fields[2][0], fields[4][0])
        self.wild = "*" in (fields[0][0], fields[1][0])
        self.fits_day = lru_cache(maxsize=None)(self._fits_day)

    def _fits_day(self, number: int) -> bool:
        day = date(1970, 1, 1) + timedelta(days=number)
        if day.month not in self.months:
            return False
        fits = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return any(fits) if self.either else all(fits)

    def fits(self, minute: int) -> bool:
        """Say whether a minute of the wall clock, counted from 1970, is one of the line."""
        return (
            minute % 60 in self.minutes
            and minute // 60 % 24 in self.hours
            and self.fits_day(minute // 1440)
        )


def values(field: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        extent, _, step = part.partition("/")
        if extent == "*":
            first, last = low, high
        elif "-" in extent:
            first, last = (names[end] if end in names else int(end) for end in extent.split("-"))
        else:
            first = last = names[extent] if extent in names else int(extent)
        found |= set(range(first, last + 1, int(step or 1)))
    return found


def runs(
    texts: Iterable[str], zone: str, start: datetime, end: datetime
) -> dict[str, list[datetime]]:
    """Return the minutes after `start`, up to `end`, in which cron starts each line."""
    lines = {text: Line(text) for text in texts}
    found: dict[str, list[datetime]] = {text: [] for text in lines}
    clock = ZoneInfo(zone)

    def wall(at: datetime) -> int:
        offset = at.astimezone(clock).utcoffset()
        return (at - EPOCH + offset) // MINUTE

    def find(minute: int, *, wild: bool, fixed: bool) -> None:
        for text, line in lines.items():
            if (wild if line.wild else fixed) and line.fits(minute) and at not in found[text][-1:]:
                found[text].append(at)

    at = start
    virtual = wall(at)
    while (at := at + MINUTE) <= end:
        running = wall(at)
        late = running - virtual
        if late == 1:
            virtual = running
            find(virtual, wild=True, fixed=True)
        elif 1 < late <= THREE_HOURS:  # the clock went forward
            find(running, wild=True, fixed=False)
            while virtual < running:
                virtual += 1
                find(virtual, wild=False, fixed=True)
        elif -THREE_HOURS < late <= 0:  # it went back: fixed times have had their turn
            find(running, wild=True, fixed=False)
        else:
            virtual = running
            find(virtual, wild=True, fixed=True)
    return found
