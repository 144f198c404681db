"""Schedules are due when cron, or a ruler, says so, whatever the clocks of a country do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.errors import ConfigError
from gpucluster.service.triggers.schedule import check_schedule, event_due, first_due, next_due
from gpucluster.wire.triggers import (
    CronSchedule,
    EventSchedule,
    IntervalSchedule,
    VolumeSchedule,
    read_schedule,
)
from tests.helpers.debian_cron import runs

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 400  # both changes of the clocks, and one of them twice
LINES = (
    "0 * * * *",
    "*/30 1-3 * * *",
    "30 2 * * *",
    "0 3 * * *",
    "30 1 * * *",
    "15 0,2,23 * * *",
    "5-55/25 2 * * *",
    "0 9 * * 0",
    "0 9 * * 1-5",
    "0 0 1,15 * FRI",
    "*/45 */6 13 * 5",
    "0 2 29 feb-apr *",
)
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
HOSTILE = (
    *ZONES,
    "Africa/Cairo",  # the gap begins at midnight
    "Africa/Casablanca",  # the clock goes back for Ramadan
    "America/Santiago",
    "America/Scoresbysund",
    "Antarctica/Troll",  # two hours at once
    "Asia/Beirut",
    "Europe/Dublin",  # winter is what is saved
)
CHANGES = (  # two days around each change of those zones in 2026, and some more
    datetime(2026, 2, 14, tzinfo=UTC),
    datetime(2026, 3, 7, tzinfo=UTC),
    datetime(2026, 3, 21, tzinfo=UTC),
    datetime(2026, 3, 28, tzinfo=UTC),
    datetime(2026, 4, 4, tzinfo=UTC),
    datetime(2026, 4, 23, tzinfo=UTC),
    datetime(2026, 9, 5, tzinfo=UTC),
    datetime(2026, 10, 3, tzinfo=UTC),
    datetime(2026, 10, 24, tzinfo=UTC),
    datetime(2026, 10, 29, tzinfo=UTC),
    datetime(2026, 10, 31, tzinfo=UTC),
)


def cron(line: str, zone: str = "UTC") -> CronSchedule:
    return CronSchedule(cron_expression=line, timezone=zone)


def times(schedule: CronSchedule, start: datetime, end: datetime) -> list[datetime]:
    found = []
    while (start := next_due(schedule, start)) <= end:
        found.append(start)
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_as_cron_of_debian_for_400_days(zone: str) -> None:
    end = START + timedelta(days=DAYS)
    for line, due in runs(LINES, zone, START, end).items():
        assert times(cron(line, zone), START, end) == due, line


@settings(max_examples=300)
@given(
    st.sampled_from(["0", "15", "59", "0,30", "30", "*/20", "*", "7-50/20"]),
    st.sampled_from(["*", "*/2", "0", "1-3", "2", "1,2", "0-3/2", "3", "23", "0,2,23"]),
    st.sampled_from(HOSTILE),
    st.sampled_from(CHANGES),
)
def test_any_line_in_any_zone_on_days_when_clocks_change(
    minute: str, hour: str, zone: str, start: datetime
) -> None:
    line = f"{minute} {hour} * * *"
    end = start + timedelta(days=3)
    assert times(cron(line, zone), start, end) == runs([line], zone, start, end)[line]


@pytest.mark.parametrize(
    ("line", "zone", "day", "expected"),
    [
        ("0 9 * * 0", "UTC", (2026, 3, 22), ["03-22 09:00"]),  # a Sunday, and no Monday
        ("0 9 * * 1-5", "UTC", (2026, 3, 23), ["03-23 09:00"]),  # Monday is one of them
        ("0 0 13 * 5", "UTC", (2026, 3, 13), ["03-13 00:00"]),
        ("30 2 * * *", "Europe/Berlin", (2026, 3, 29), ["03-29 03:00"]),  # there is no 02:30
        ("30 2 * * *", "Europe/Berlin", (2026, 10, 25), ["10-25 02:30"]),  # there are two
        ("*/30 2 * * *", "Europe/Berlin", (2026, 10, 25), ["10-25 02:00", "10-25 02:30"] * 2),
    ],
)
def test_six_cases_that_libraries_get_wrong(
    line: str, zone: str, day: tuple[int, int, int], expected: list[str]
) -> None:
    begin = datetime(*day, tzinfo=ZoneInfo(zone)) - timedelta(minutes=1)
    end = begin.astimezone(UTC) + timedelta(hours=24)
    found = times(cron(line, zone), begin, end)
    assert [f"{at.astimezone(ZoneInfo(zone)):%m-%d %H:%M}" for at in found] == expected
    assert len(set(found)) == len(found)


def test_a_day_or_a_weekday_unless_one_is_a_star() -> None:
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    end = datetime(2026, 3, 31, tzinfo=UTC)
    either = [at.day for at in times(cron("0 0 13 * 1"), begin, end)]
    assert either == [2, 9, 13, 16, 23, 30]
    both = [at.day for at in times(cron("0 0 */2 * 1"), begin, end)]
    assert both == [9, 23]


SCHEDULES = st.one_of(
    st.builds(
        cron,
        st.sampled_from(LINES),
        st.sampled_from(HOSTILE),
    ),
    st.builds(IntervalSchedule, interval_seconds=st.integers(300, 10_000_000)),
    st.builds(
        VolumeSchedule,
        condition_type=st.just("volume"),
        threshold=st.just(1),
        check_interval_seconds=st.integers(60, 10_000_000),
    ),
)
MOMENTS = st.integers(0, 190_000_000).map(lambda s: START + timedelta(seconds=s - 40_000_000))


@settings(max_examples=300)
@given(SCHEDULES, MOMENTS, MOMENTS, st.floats(0, 1))
def test_the_next_time_is_later_and_the_same_from_anywhere_before(
    schedule: CronSchedule, anchor: datetime, after: datetime, part: float
) -> None:
    found = next_due(schedule, after, anchor=anchor)
    assert found > after
    assert found.tzinfo is UTC
    assert (
        next_due(
            schedule, after + part * (found - after - timedelta(microseconds=1)), anchor=anchor
        )
        == found
    )
    assert next_due(schedule, found, anchor=anchor) > found


def test_equal_distances_are_kept_however_late_a_start_is() -> None:
    schedule = IntervalSchedule(interval_seconds=300)
    late = START + timedelta(seconds=300 * 7 + 211)
    assert next_due(schedule, late, anchor=START) == START + timedelta(seconds=300 * 8)
    assert first_due(schedule, START) == START + timedelta(seconds=300)
    at_once = IntervalSchedule(interval_seconds=300, start_immediately=True)
    assert first_due(at_once, START) == START
    assert next_due(schedule, START - timedelta(days=1), anchor=START) == START + timedelta(
        seconds=300
    )  # a clock that was set back


def test_events_are_due_at_the_threshold_and_after_the_cooldown() -> None:
    schedule = EventSchedule(event_type="documents_added", event_threshold=10, collection_id="c")
    assert next_due(schedule, START) is None
    assert event_due(schedule, 9, None, START) is None
    assert event_due(schedule, 10, None, START) == START
    assert event_due(schedule, 10, START - timedelta(seconds=299), START) == START + timedelta(
        seconds=1
    )
    assert event_due(schedule, 10, START - timedelta(seconds=301), START) == START


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0 31 2 *", "no such day-of-month"),
        ("0 0 30 feb *", "no such day-of-month"),
        ("61 * * * *", "no such minute"),
        ("0 0 * * 8", "no such day-of-week"),
        ("0 0 0 * *", "no such day-of-month"),
        ("* * * * *", "again after 60 s, expected 300 or more"),
        ("*/4 * * * *", "again after 240 s"),
        ("0,58 * * * *", "again after 120 s"),
        ("59 23 * * 1", None),
        ("0,57 0,23 * * 1,2", "again after 180 s"),
        ("0 0 * * * *", "no five fields"),
        ("@daily", "no five fields"),
        (" ", "no five fields"),
        ("0 0 29 2 *", None),
        ("0 0 * 2 MON#5", None),
        ("*/5 * * * *", None),
    ],
)
def test_lines_that_cannot_be_kept_are_refused(line: str, said: str | None) -> None:
    schedule = cron(line)
    if said is None:
        check_schedule(schedule)
        assert next_due(schedule, START) > START
        return
    with pytest.raises(ConfigError, match=said) as caught:
        check_schedule(schedule)
    assert caught.value.path == "schedule_config.cron_expression"


@given(st.text(st.sampled_from("0123456789*/,-LW# SUNFEB"), min_size=1, max_size=25))
def test_any_text_is_a_line_or_an_error_of_ours(line: str) -> None:
    try:
        check_schedule(cron(line))
    except ConfigError:
        return
    assert next_due(cron(line), START) > START


@pytest.mark.parametrize(
    "zone", ["europe/berlin", "America", "right/UTC", "../../etc/passwd", "/etc/passwd", "x\0y", ""]
)
def test_zones_that_are_none_are_refused(zone: str) -> None:
    with pytest.raises(ConfigError, match="no time zone") as caught:
        check_schedule(cron("0 0 * * *", zone))
    if zone == "europe/berlin":
        assert "did you mean Europe/Berlin" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("cron", {"cron_expresion": "0 0 * * *"}, r"schedule_config.cron_expression: missing"),
        (
            "cron",
            {"cron_expression": "0 0 * * *", "time_zone": "UTC"},
            r"schedule_config.time_zone: unknown setting. did you mean timezone\?",
        ),
        ("interval", {"interval_seconds": 299}, "greater than or equal to 300"),
        ("event", {"event_type": "documents_removed", "collection_id": "c"}, "documents_added"),
        ("conditional", {"metric": "growth", "threshold": 1}, "condition_type"),
        (
            "conditional",
            {"condition_type": "drift", "threshold": 1, "treshold": 2},
            r"treshold: unknown setting. did you mean threshold\?",
        ),
        ("conditional", {"condition_type": "quality", "metric": "x", "threshold": 1}, "silhouette"),
        ("conditional", {"condition_type": "volume", "threshold": float("nan")}, "finite|greater"),
    ],
)
def test_settings_that_are_wrong_are_named(kind: str, given: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_schedule(kind, given)
