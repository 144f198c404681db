"""Lines of cron on clocks that are set forward and back, by the rules of Debian.

A line without a star in minute and hour means a time of the day: it comes once a day, right after
the gap where that day has no such time, and the first time where it has two. A line with one
means every time that the clock shows it. `cronsim` finds what fits a line on a clock that is
never set; it can do the rest too, but not where a clock is set by half an hour.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

from cronsim import CronSim

from gpucluster.errors import InternalError

MINUTE = timedelta(minutes=1)
LARGEST_SHIFT = timedelta(hours=3)  # what cron takes for a correction, and not for a new time


def next_time(line: str, zone: tzinfo, after: datetime) -> datetime:
    """Return the first time later than `after` that a line means.

    Parameters
    ----------
    line : str
        Five fields; there is a time that fits them.
    zone : tzinfo
    after : datetime
        Aware.

    Returns
    -------
    datetime
        UTC.
    """
    minute, hour = line.split()[:2]
    if minute.startswith("*") or hour.startswith("*"):
        return _next_shown(line, zone, after)
    return _next_of_day(line, zone, after)


def _next_of_day(line: str, zone: tzinfo, after: datetime) -> datetime:
    for wall in CronSim(line, _shown(after, zone)):
        shown = wall
        while (at := _instant(shown, zone, fold=0)) is None:
            shown += MINUTE
        if at > after:
            return at
    raise InternalError(f"{line} is never due, and was not refused when it was read")


def _next_shown(line: str, zone: tzinfo, after: datetime) -> datetime:
    now = _shown(after, zone)
    around = {(after + shift).astimezone(zone).utcoffset() for shift in _AROUND}
    # Where the clock goes back soon, or just did, a time that it showed comes once more.
    back = timedelta() if len(around) == 1 else LARGEST_SHIFT
    found: datetime | None = None
    for wall in CronSim(line, now - back):
        for at in (_instant(wall, zone, fold=0), _instant(wall, zone, fold=1)):
            if at is not None and at > after:
                found = at if found is None else min(found, at)
        if found is not None and wall >= _shown(found, zone) + back:
            return found
    raise InternalError(f"{line} is never due, and was not refused when it was read")


_AROUND = (-LARGEST_SHIFT - MINUTE, timedelta(), LARGEST_SHIFT + MINUTE)


def _shown(at: datetime, zone: tzinfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


def _instant(wall: datetime, zone: tzinfo, *, fold: int) -> datetime | None:
    """Return when the clock shows `wall`, the first or second time; None: it never does."""
    at = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
    return at if _shown(at, zone) == wall else None
