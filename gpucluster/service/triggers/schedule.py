"""When a schedule is due: pure functions of it and of times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from gpucluster.errors import ConfigError
from gpucluster.notation import describe, nearest
from gpucluster.service.triggers.wall_clock import next_time
from gpucluster.wire.triggers import (
    MIN_INTERVAL_S,
    AnySchedule,
    CronSchedule,
    DriftSchedule,
    EventSchedule,
    IntervalSchedule,
    RunMode,
    TriggerExecutionConfig,
)

LOOKED_AT = 600  # times of a cron line; more than two days of the most frequent that is allowed
HORIZON = timedelta(days=400)


def check_schedule(schedule: AnySchedule) -> None:
    """Refuse what can be written, but not kept: an unknown time zone, the 31st of February."""
    if not isinstance(schedule, CronSchedule):
        return
    _check_zone(schedule.timezone)
    _check_line(schedule.cron_expression)


def check_joins(schedule: AnySchedule, mode: RunMode, what: TriggerExecutionConfig) -> None:
    """Refuse that documents join groups of attributes, also to look how far they drifted."""
    if what.config.get("cluster_type") != "attribute":
        return
    drifts = isinstance(schedule, DriftSchedule)
    if drifts or mode == "assign":
        raise ConfigError(
            "its definition groups by attributes: nothing joins groups, and they do not drift",
            path="schedule_config.condition_type" if drifts else "mode",
            hint="a condition of volume with mode full groups anew when there is more",
        )


def next_due(
    schedule: AnySchedule, after: datetime, *, anchor: datetime | None = None
) -> datetime | None:
    """Return the first time later than `after` that a schedule is due.

    Parameters
    ----------
    schedule : CronSchedule, IntervalSchedule, EventSchedule, or one of the conditional ones
    after : datetime
        Aware.
    anchor : datetime, optional
        What equal distances are counted from; omitted: `after`.

    Returns
    -------
    datetime or None
        UTC; None for what no clock decides.
    """
    if isinstance(schedule, EventSchedule):
        return None
    if isinstance(schedule, CronSchedule):
        return next_time(schedule.cron_expression, _zone(schedule.timezone), after)
    seconds = (
        schedule.interval_seconds
        if isinstance(schedule, IntervalSchedule)
        else schedule.check_interval_seconds
    )
    start = (anchor or after).astimezone(UTC)
    step = timedelta(seconds=seconds)
    return start + max(1, (after - start) // step + 1) * step


def first_due(schedule: AnySchedule, now: datetime) -> datetime | None:
    """Return when a new schedule is due for the first time."""
    if isinstance(schedule, IntervalSchedule) and schedule.start_immediately:
        return now
    return next_due(schedule, now)


def event_due(
    schedule: EventSchedule, counter: int, cooldown_from: datetime | None, now: datetime
) -> datetime | None:
    """Return when a schedule of events is due; None: not enough happened yet."""
    if counter < schedule.event_threshold:
        return None
    if cooldown_from is None:
        return now
    return max(now, cooldown_from + timedelta(seconds=schedule.cooldown_seconds))


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)  # UTC needs no data of zones


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) | {"UTC"}


def _check_zone(name: str) -> None:
    if name not in _zones():
        raise ConfigError(
            f"got {describe(name)}, which is no time zone",
            path="schedule_config.timezone",
            got=name,
            expected="a name of the IANA data base",
            hint=nearest(name, sorted(_zones())),
        )


def _check_line(line: str) -> None:
    """Refuse a cron line that is none, that never comes, or that comes too often."""
    if len(line.split()) != 5:
        raise _line_error(line, "it has no five fields: minute hour day month weekday")
    begin = datetime(2025, 1, 1, tzinfo=UTC)
    try:
        times = islice(CronSim(line, begin), LOOKED_AT)
        last = next(times, None)
    except CronSimError as error:
        raise _line_error(line, str(error).lower().replace("bad", "no such")) from None
    if last is None:
        raise _line_error(line, "no day is like that within 50 years")
    while last < begin + HORIZON and (following := next(times, None)):
        gap = (following - last).total_seconds()
        if gap < MIN_INTERVAL_S:
            raise _line_error(
                line, f"comes again after {gap:.0f} s, expected {MIN_INTERVAL_S} or more"
            )
        last = following


def _line_error(line: str, problem: str) -> ConfigError:
    return ConfigError(
        f"got {describe(line)}: {problem}",
        path="schedule_config.cron_expression",
        got=line,
        hint="every night at half past two is 30 2 * * *",
    )
