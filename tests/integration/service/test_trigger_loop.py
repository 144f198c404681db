"""Several servers see to triggers of one catalog: nothing twice, nothing lost, whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gpucluster.service.catalog import open_catalog
from gpucluster.service.catalog.port import Full, Query
from gpucluster.service.triggers.loop import HOLD, TriggerLoop
from tests.helpers.clocks import FakeClock
from tests.helpers.debian_cron import runs
from tests.helpers.scheduled import NS, START, Stage, die_at, serve_rounds

LINES = (
    "0 */6 * * *",
    "*/30 2 * * *",
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
DAYS = 400
SECONDS = 600
SERVERS = multiprocessing.get_context("forkserver")  # which imports what they need once
SERVERS.set_forkserver_preload(["tests.helpers.scheduled"])


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty catalog."""
    if request.param == "sqlite":
        return str(tmp_path / "catalog.db")
    return request.getfixturevalue("postgres").make_place()


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of commits that are not about disks."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def entries_of(stage: Stage, trigger: str) -> list[dict[str, Any]]:
    with stage.catalog.reading() as tx:
        query = Query(parent=trigger, sort="id", direction="asc", limit=100_000)
        return [dict(entry.body) for entry in tx.page(NS, "trigger_history", query).records]


def starts_of(stage: Stage) -> Counter[str]:
    """Return how many executions there are of each trigger."""
    with stage.catalog.reading() as tx:
        records = tx.page(NS, "execution", Query(limit=100_000)).records
    return Counter(record.body["trigger_id"] for record in records)


@pytest.mark.slow
def test_400_days_with_restarts_and_deaths(quick_folder: Path) -> None:
    """36 triggers, two servers that are down now and then, or die with a trigger in their hands."""
    clock, rng = FakeClock(START), random.Random(13)
    path = str(quick_folder / "catalog.db")
    servers = [Stage(open_catalog(path, clock=clock)) for _ in range(2)]
    stage = servers[0]
    for server in servers:
        server.definitions.lasts = False
    made = {}
    for zone in ZONES:
        for line in LINES:
            schedule = {"cron_expression": line, "timezone": zone}
            made[line, zone] = stage.create("cron", schedule)
    end = START + timedelta(days=DAYS)
    down: list[tuple[datetime, datetime]] = []
    while clock.now < end:
        up_to = min(end, clock.now + timedelta(minutes=rng.expovariate(1 / 5_000)))
        while True:
            with stage.catalog.reading() as tx:
                due = tx.next_due("trigger")
            if due > up_to:
                break
            clock.now = max(clock.now, due)
            server = rng.choice(servers)
            if rng.random() < 0.02:
                with server.catalog.writing() as tx:
                    tx.claim("trigger", hold=HOLD)  # and nothing more
            else:
                server.loop.step()
        clock.now = up_to + timedelta(minutes=rng.expovariate(1 / 1_000))
        down.append((up_to, clock.now))
    counted = starts_of(stage)
    for zone in ZONES:
        for line, due_times in runs(LINES, zone, START, end - timedelta(minutes=5)).items():
            found = entries_of(stage, made[line, zone])
            assert counted[made[line, zone]] == len(found)
            _check_times(found, due_times, down)
    assert sum(counted.values()) > 10_000
    for server in servers:
        server.catalog.close()


def _check_times(
    entries: list[dict[str, Any]],
    due: list[datetime],
    down: list[tuple[datetime, datetime]],
) -> None:
    """Hold what was started against when it was due: once each, but for what passed in between."""
    left = list(due)
    for entry in entries:
        scheduled = datetime.fromisoformat(entry["scheduled_at"])
        triggered = datetime.fromisoformat(entry["triggered_at"])
        if not left:  # the last minutes
            assert scheduled > due[-1]
            return
        assert left.pop(0) == scheduled
        late = triggered - scheduled
        assert late >= timedelta()
        if late > 3 * HOLD:  # nobody was there
            assert any(begin < scheduled + 3 * HOLD and stop <= triggered for begin, stop in down)
            assert any(begin < triggered - HOLD * 3 <= stop + HOLD for begin, stop in down)
        while left and left[0] <= triggered:
            left.pop(0)
    assert left == [] or any(begin <= left[0] for begin, _ in down[-1:])


def test_threads_share_what_is_due(url: str) -> None:
    clock, n_rounds = FakeClock(START), 6
    servers = [Stage(open_catalog(url, clock=clock)) for _ in range(3)]
    for server in servers:
        server.definitions.lasts = False
    made = [servers[0].create("interval", {"interval_seconds": SECONDS}) for _ in range(10)]
    begin = threading.Barrier(3, action=lambda: clock.advance(seconds=SECONDS))
    end = threading.Barrier(3)
    numbers: list[list[int]] = [[], [], []]

    def serve(position: int) -> None:
        for _ in range(n_rounds):
            begin.wait(60)
            numbers[position].append(servers[position].run())
            end.wait(60)

    threads = [threading.Thread(target=serve, args=(position,)) for position in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sum(row) for row in zip(*numbers, strict=True)] == [10] * n_rounds
    _check_rounds(servers[0], made, n_rounds)
    for server in servers:
        server.catalog.close()


def test_processes_share_what_is_due(url: str) -> None:
    n_rounds = 6
    stage = Stage(open_catalog(url, clock=FakeClock(START)))
    made = [stage.create("interval", {"interval_seconds": SECONDS}) for _ in range(10)]
    barrier = SERVERS.Barrier(2)
    args = (url, barrier, n_rounds, SECONDS)
    processes = [SERVERS.Process(target=serve_rounds, args=args) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    _check_rounds(stage, made, n_rounds)
    stage.catalog.close()


def _check_rounds(stage: Stage, made: list[str], n_rounds: int) -> None:
    rounds = [START + timedelta(seconds=SECONDS) * n for n in range(1, n_rounds + 1)]
    for trigger in made:
        entries = entries_of(stage, trigger)
        assert [datetime.fromisoformat(entry["scheduled_at"]) for entry in entries] == rounds
        assert stage.get(trigger).execution_count == n_rounds
    assert starts_of(stage) == Counter(dict.fromkeys(made, n_rounds))


def test_a_server_may_be_killed_anywhere(tmp_path: Path) -> None:
    """One start comes of each time, wherever the server that began with it was killed."""
    path = str(tmp_path / "catalog.db")
    stage = Stage(open_catalog(path, clock=FakeClock(START)))
    stage.definitions.lasts = False
    found = []
    for at in range(1, 20):
        trigger = stage.create("interval", {"interval_seconds": SECONDS})
        due = stage.get(trigger).next_scheduled_at
        stage.clock.now = due
        process = SERVERS.Process(target=die_at, args=(path, due, at))
        process.start()
        process.join()
        assert process.exitcode in {-signal.SIGKILL, 0}
        found.append(starts_of(stage)[trigger])
        stage.clock.now = due + HOLD
        stage.run()
        assert starts_of(stage)[trigger] == 1
        (entry,) = entries_of(stage, trigger)
        assert datetime.fromisoformat(entry["scheduled_at"]) == due
        assert stage.get(trigger).next_scheduled_at == due + timedelta(seconds=SECONDS)
        stage.triggers.delete(NS, trigger)
        if process.exitcode == 0:
            break
    # claim: before, within, after; start: before, in the middle, at its end; and what was committed
    assert found == [0] * 6 + [1] * (len(found) - 6)
    assert process.exitcode == 0
    stage.catalog.close()


def test_a_slow_server_changes_nothing_any_more(tmp_path: Path) -> None:
    clock = FakeClock(START)
    servers = [Stage(open_catalog(str(tmp_path / "c.db"), clock=clock)) for _ in range(2)]
    slow, quick = servers
    trigger = slow.create(
        "conditional",
        {"condition_type": "custom", "url": "https://example.com", "check_interval_seconds": 600},
    )
    for server in servers:
        server.answers.reply = {"fire": True}
    asked = []

    def ask(_: object) -> object:
        clock.now += 2 * HOLD
        asked.append(quick.run())  # takes it for abandoned
        return {"fire": True}

    slow.answers.ask = ask
    clock.advance(seconds=600)
    assert slow.run() == 1
    assert asked == [1]
    assert starts_of(slow) == Counter([trigger])
    assert len(entries_of(slow, trigger)) == 1
    for server in servers:
        server.catalog.close()


def test_a_pause_between_claim_and_start_is_heeded(tmp_path: Path) -> None:
    stage = Stage(open_catalog(str(tmp_path / "c.db"), clock=FakeClock(START)))
    trigger = stage.create(
        "conditional",
        {"condition_type": "custom", "url": "https://example.com", "check_interval_seconds": 600},
    )

    def ask(_: object) -> object:
        stage.triggers.pause(NS, trigger)
        return {"fire": True}

    stage.answers.ask = ask
    stage.clock.advance(seconds=600)
    assert stage.run() == 1
    assert starts_of(stage) == Counter()
    assert stage.get(trigger).status == "paused"
    stage.catalog.close()


def test_the_thread_sleeps_until_there_is_something_to_do(tmp_path: Path) -> None:
    stage = Stage(open_catalog(str(tmp_path / "c.db")))
    fired = threading.Event()
    stage.definitions.started = fired.set
    loop = TriggerLoop(stage.catalog, stage.triggers, poll_s=3600)
    loop.start()
    stage.create("interval", {"interval_seconds": SECONDS, "start_immediately": True})
    assert fired.wait(60)
    loop.stop()
    assert sum(starts_of(stage).values()) == 1
    stage.catalog.close()


def test_errors_of_the_catalog_do_not_end_the_thread(tmp_path: Path) -> None:
    catalog = open_catalog(str(tmp_path / "c.db"))
    stage = Stage(catalog)
    stage.create("interval", {"interval_seconds": SECONDS, "start_immediately": True})
    fired = threading.Event()
    stage.definitions.started = fired.set
    errors: list[Exception] = [Full("busy"), ZeroDivisionError(), Full("busy")]

    class Failing:
        clock = staticmethod(catalog.clock)
        reading = staticmethod(catalog.reading)

        @contextmanager
        def writing(self) -> Iterator[Any]:
            if errors:
                raise errors.pop()
            with catalog.writing() as tx:
                yield tx

    loop = TriggerLoop(Failing(), stage.triggers, poll_s=0.01)
    loop.start()
    assert fired.wait(60)
    loop.stop()
    assert errors == []
    catalog.close()
