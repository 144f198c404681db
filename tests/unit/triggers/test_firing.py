"""What happens when a trigger is due, while one is running, and when that is over."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from gpucluster.errors import ConfigError
from gpucluster.service.refusals import ConflictError, TooManyError
from gpucluster.service.triggers.firing import RETRY
from gpucluster.wire.triggers import TriggerHistoryRequest, UpdateTriggerRequest
from tests.helpers.scheduled import CLUSTER, NS, START, UNANSWERED, Stage

HOURLY = {"interval_seconds": 3600}
HOUR = timedelta(hours=1)
ADDED = {
    "event_type": "documents_added",
    "event_threshold": 10,
    "collection_id": "docs",
    "cooldown_seconds": 600,
}


def changed(stage: Stage, count: int, collection: str = "docs", event: Any = "documents_added"):
    with stage.catalog.writing() as tx:
        stage.triggers.documents_changed(tx, NS, collection, event, count)


def later(stage: Stage, **time: float) -> int:
    stage.clock.advance(**time)
    return stage.run()


def test_it_starts_when_it_is_due_and_tells_how_that_went(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY, mode="assign")
    assert later(stage, minutes=59) == 0
    assert later(stage, minutes=1) == 1
    (run,) = stage.runs()
    assert run.body == {"trigger_id": trigger, "mode": "assign", "purpose": None}
    shown = stage.get(trigger)
    assert shown.last_triggered_at == START + HOUR
    assert shown.next_scheduled_at == START + 2 * HOUR
    assert (shown.last_execution_job_id, shown.last_execution_status) == (run.id, "pending")
    assert shown.execution_count == 1
    stage.finish(num_clusters=7, num_points=900, execution_time_ms=1234)
    (entry,) = stage.history(trigger)
    assert entry.model_dump() == {
        "job_id": run.id,
        "triggered_at": START + HOUR,
        "scheduled_at": START + HOUR,
        "status": "completed",
        "execution_time_ms": 1234,
        "error": None,
        "num_clusters": 7,
        "num_documents": 900,
        "check": None,
    }
    assert stage.get(trigger).last_execution_status == "completed"
    assert [name for name, _, _ in stage.events] == [
        "trigger.created",
        "trigger.fired",
        "trigger.execution.completed",
    ]
    assert stage.events[1][2]["run_id"] == run.id
    stage.finish(run.id, num_clusters=8)  # told twice: nothing is counted twice
    assert stage.history(trigger) == [entry]


def test_missed_times_are_made_up_for_once(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    assert later(stage, hours=7.25) == 1
    (entry,) = stage.history(trigger)
    assert entry.scheduled_at == START + HOUR
    assert entry.triggered_at == START + 7.25 * HOUR
    assert stage.get(trigger).next_scheduled_at == START + 8 * HOUR


def test_while_one_is_running_no_other_is_started_or_queued(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    later(stage, hours=1)
    for _ in range(3):
        later(stage, hours=1)
    assert len(stage.runs()) == 1
    assert [entry.status for entry in stage.history(trigger)] == ["pending"] + ["skipped"] * 3
    skipped = stage.history(trigger, status_filter="skipped")
    assert len(skipped) == 3
    assert "is being executed" in skipped[0].error
    assert skipped[0].job_id is None
    stage.finish()
    assert stage.run() == 0  # nothing was queued
    later(stage, hours=1)
    assert len(stage.runs()) == 2
    assert stage.get(trigger).execution_count == 2
    assert stage.get(trigger).consecutive_failures == 0


def test_five_failures_in_a_row_are_the_end_until_it_is_resumed(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    for error in ("a", "b", "c", "d"):
        later(stage, hours=1)
        stage.finish(status="failed", error_message=error)
    later(stage, hours=1)
    stage.finish()  # one that goes well is enough
    assert stage.get(trigger).consecutive_failures == 0
    for error in "12345":
        assert stage.get(trigger).status == "active"
        later(stage, hours=1)
        stage.finish(status="failed", error_message=error)
    shown = stage.get(trigger)
    assert (shown.status, shown.consecutive_failures) == ("failed", 5)
    assert (shown.last_execution_status, shown.last_execution_error) == ("failed", "5")
    assert shown.next_scheduled_at is None
    assert later(stage, hours=9) == 0
    assert stage.triggers.resume(NS, trigger).consecutive_failures == 0
    assert later(stage, hours=1) == 1
    told = [told["status"] for name, _, told in stage.events if name == "trigger.updated"]
    assert told == ["failed"]


def test_one_that_was_canceled_is_no_failure(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    later(stage, hours=1)
    stage.finish(status="canceled")
    assert stage.get(trigger).last_execution_status == "canceled"
    assert stage.get(trigger).consecutive_failures == 0
    assert stage.history(trigger)[0].status == "canceled"


@pytest.mark.parametrize("error", [ConfigError("bad", path="x"), ZeroDivisionError("secret")])
def test_what_cannot_be_started_leaves_nothing_half_written(stage: Stage, error: Exception) -> None:
    trigger = stage.create("interval", HOURLY)
    for n in range(1, 6):
        stage.definitions.errors = [error]
        assert later(stage, hours=1) == 1
        assert stage.runs() == []  # its record was undone
        assert stage.get(trigger).consecutive_failures == n
    entries = stage.history(trigger)
    assert [entry.status for entry in entries] == ["failed"] * 5
    assert ("secret" in entries[0].error, "bad" in entries[0].error) == (
        False,
        isinstance(error, ConfigError),
    )
    assert stage.get(trigger).status == "failed"
    assert stage.events[-1][0] == "trigger.execution.failed"


def test_a_queue_that_is_full_is_waited_for(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    stage.definitions.errors = [TooManyError("full", after_s=30)]
    assert later(stage, hours=1) == 1
    assert stage.history(trigger) == []
    assert later(stage, seconds=29) == 0
    assert later(stage, seconds=1) == 1
    (entry,) = stage.history(trigger)
    assert entry.scheduled_at == START + HOUR
    assert stage.get(trigger).next_scheduled_at == START + 2 * HOUR


def test_one_whose_definition_is_gone_is_disabled(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    stage.definitions.configs.clear()
    assert later(stage, hours=1) == 1
    shown = stage.get(trigger)
    assert shown.status == "disabled"
    assert "no cluster" in shown.last_execution_error
    assert stage.history(trigger)[0].status == "skipped"
    assert later(stage, hours=9) == 0


def test_run_now_leaves_the_plan_as_it_is(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY, status="paused")
    item = stage.triggers.run_now(NS, trigger)
    assert item.job_id == stage.runs()[0].id
    assert item.scheduled_at is None
    shown = stage.get(trigger)
    assert (shown.status, shown.next_scheduled_at) == ("paused", None)
    assert shown.execution_count == 1
    with pytest.raises(ConflictError, match="is being executed"):
        stage.triggers.run_now(NS, trigger)
    assert len(stage.history(trigger)) == 1
    stage.finish()
    assert stage.history(trigger)[0].status == "completed"


def test_a_history_is_read_from_its_new_end(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    stage.definitions.lasts = False
    for _ in range(12):
        later(stage, hours=1)
    request = TriggerHistoryRequest(offset=1, limit=3)
    page = stage.triggers.history(NS, trigger, request)
    assert (page.total, page.offset, page.limit, page.trigger_id) == (12, 1, 3, trigger)
    assert [e.scheduled_at for e in page.executions] == [START + n * HOUR for n in (11, 10, 9)]


def test_events_are_counted_and_start_one_at_the_threshold(stage: Stage) -> None:
    trigger = stage.create("event", ADDED)
    other = stage.create("event", {**ADDED, "collection_id": "Docs"})
    changed(stage, 9)
    changed(stage, 50, collection="other")
    changed(stage, 50, event="documents_updated")
    assert stage.run() == 0
    assert stage.get(trigger).event_counter == 9
    assert stage.get(other).event_counter == 0
    changed(stage, 1)
    assert stage.get(trigger).next_scheduled_at == START
    changed(stage, 5)
    assert stage.run() == 1
    shown = stage.get(trigger)
    assert (shown.event_counter, shown.last_cooldown_at) == (0, START)
    assert shown.next_scheduled_at is None
    assert len(stage.runs()) == 1


def test_a_cooldown_is_waited_for_and_then_one_is_started(stage: Stage) -> None:
    trigger = stage.create("event", ADDED)
    stage.definitions.lasts = False
    changed(stage, 10)
    stage.run()
    for _ in range(5):
        stage.clock.advance(seconds=100)
        changed(stage, 10)
        assert stage.run() == 0
    assert stage.get(trigger).next_scheduled_at == START + timedelta(seconds=600)
    assert later(stage, seconds=100) == 1
    assert stage.get(trigger).event_counter == 0
    assert later(stage, hours=1) == 0
    changed(stage, 10)
    assert stage.run() == 1  # the cooldown is over


def test_what_happened_while_one_ran_is_not_forgotten(stage: Stage) -> None:
    trigger = stage.create("event", ADDED)
    changed(stage, 10)
    stage.run()
    changed(stage, 10)
    assert later(stage, seconds=600) == 1  # it is running still
    assert [entry.status for entry in stage.history(trigger)] == ["pending", "skipped"]
    assert stage.get(trigger).event_counter == 10
    stage.finish()
    assert later(stage, seconds=600) == 1
    assert [e.status for e in stage.history(trigger)] == ["completed", "skipped", "pending"]
    assert stage.get(trigger).event_counter == 0


def test_events_of_a_pause_do_not_count_and_others_stay(stage: Stage) -> None:
    trigger = stage.create("event", ADDED)
    changed(stage, 6)
    stage.triggers.pause(NS, trigger)
    changed(stage, 50)
    stage.triggers.resume(NS, trigger)
    assert stage.get(trigger).event_counter == 6
    changed(stage, 4)
    assert stage.run() == 1


def test_a_lower_threshold_may_be_reached_already(stage: Stage) -> None:
    trigger = stage.create("event", ADDED)
    changed(stage, 6)
    lower = UpdateTriggerRequest(schedule_config={**ADDED, "event_threshold": 5})
    stage.triggers.patch(NS, trigger, lower)
    assert stage.run() == 1
    other = UpdateTriggerRequest(schedule_config={**ADDED, "event_type": "batch_completed"})
    changed(stage, 3)
    assert stage.triggers.patch(NS, trigger, other).event_counter == 0


def check(kind: str, **more: Any) -> dict[str, Any]:
    return {"condition_type": kind, "check_interval_seconds": 600, **more}


def test_each_check_is_written_down_whether_it_starts_one_or_not(stage: Stage) -> None:
    trigger = stage.create("conditional", check("volume", threshold=0.5))
    later(stage, seconds=600)
    base = stage.add_run()
    later(stage, seconds=600)
    stage.definitions.n_rows = 1600
    later(stage, seconds=600)
    without, before, grown = stage.history(trigger)
    assert (without.status, without.job_id) == ("checked", None)
    assert "no completed full run" in without.check["reason"]
    assert (before.status, before.check["value"], before.check["fired"]) == ("checked", 0, False)
    assert (grown.status, grown.check["value"], grown.check["fired"]) == ("pending", 0.6, True)
    assert grown.check["base_run_id"] == base
    shown = stage.get(trigger)
    assert (shown.execution_count, shown.last_triggered_at) == (1, START + timedelta(minutes=30))
    assert shown.next_scheduled_at == START + timedelta(minutes=40)


def test_quality_is_looked_at_and_not_twice_for_the_same_rows(stage: Stage) -> None:
    quality = check("quality", metric="silhouette_score", threshold=0.3)
    trigger = stage.create("conditional", quality)
    stage.add_run(metrics={"silhouette_score": 0.2})
    later(stage, seconds=600)
    stage.finish(metrics={"silhouette_score": 0.2})
    for _ in range(3):
        later(stage, seconds=600)
    assert len(stage.runs()) == 2
    assert [entry.status for entry in stage.history(trigger)] == ["completed"] + ["checked"] * 3
    stage.definitions.n_rows += 1
    later(stage, seconds=600)
    assert len(stage.runs()) == 3


def test_an_address_is_asked_and_its_silence_is_no_failure_of_a_run(stage: Stage) -> None:
    custom = check("custom", url="https://example.com/ask", metric="sales", threshold=3)
    trigger = stage.create("conditional", custom)
    later(stage, seconds=600)
    stage.answers.reply = UNANSWERED
    for _ in range(6):
        later(stage, seconds=600)
    stage.answers.reply = {"fire": True, "reason": "sales fell"}
    later(stage, seconds=600)
    url, body = stage.answers.asked[0]
    assert url == "https://example.com/ask"
    assert body == {
        "namespace_id": NS,
        "trigger_id": trigger,
        "cluster_id": CLUSTER,
        "metric": "sales",
        "threshold": 3.0,
    }
    entries = stage.history(trigger)
    assert [e.status for e in entries] == ["checked"] + ["failed"] * 6 + ["pending"]
    assert entries[1].error == "the address does not answer"
    assert entries[-1].check["reason"] == "sales fell"
    assert stage.get(trigger).status == "active"
    assert stage.get(trigger).consecutive_failures == 0


def drifted(value: float, num_new: int = 100) -> dict[str, Any]:
    shares = {"share_divergence": 0.02, "share_divergence_expected": 0.01}
    return {"drift": {"num_new": num_new, "cosine_drift": value, **shares}}


def test_drift_is_found_by_letting_documents_join(stage: Stage) -> None:
    trigger = stage.create("conditional", check("drift", threshold=0.2))
    later(stage, seconds=600)
    assert stage.runs() == []
    assert "no completed full run" in stage.history(trigger)[0].check["reason"]
    stage.add_run()
    later(stage, seconds=600)
    joined = stage.runs()[-1]
    assert (joined.body["mode"], joined.body["purpose"]) == ("assign", "drift_check")
    assert stage.history(trigger)[1].status == "checking"
    assert stage.get(trigger).execution_count == 0
    stage.finish(execution_time_ms=5, **drifted(0.1))
    entry = stage.history(trigger)[1]
    assert (entry.status, entry.check["fired"], entry.check["value"]) == ("checked", False, 0.1)
    assert entry.check["embedding_drift"] == pytest.approx(0.01)
    assert (entry.job_id, entry.execution_time_ms) == (joined.id, 5)
    later(stage, seconds=600)
    stage.finish(**drifted(0.3))
    checked, started = stage.history(trigger)[2:]
    assert (checked.status, checked.check["fired"]) == ("checked", True)
    assert (started.status, started.check["value"]) == ("pending", 0.3)
    assert started.check["run_id"] == checked.job_id
    full = {run.id: run for run in stage.runs()}[started.job_id]
    assert (full.body["mode"], full.body["purpose"]) == ("full", None)
    assert stage.get(trigger).execution_count == 1
    stage.finish()
    assert stage.history(trigger)[3].status == "completed"
    assert [name for name, _, _ in stage.events] == [
        "trigger.created",
        "trigger.fired",
        "trigger.execution.completed",
    ]


def test_drift_is_not_looked_for_again_where_nothing_has_changed(stage: Stage) -> None:
    trigger = stage.create("conditional", check("drift", threshold=0.2))
    stage.add_run()
    later(stage, seconds=600)
    stage.finish(**drifted(0.1))
    n_runs = len(stage.runs())
    stage.definitions.look = stage.runs()[-1]
    later(stage, seconds=600)
    entry = stage.history(trigger)[-1]
    assert (entry.status, entry.check["fired"], entry.check["value"]) == ("checked", False, 0.1)
    assert entry.check["run_id"] == stage.definitions.look.id
    assert len(stage.runs()) == n_runs
    given = UpdateTriggerRequest(schedule_config=check("drift", threshold=0.05))
    stage.triggers.patch(NS, trigger, given)
    later(stage, seconds=600)
    assert stage.history(trigger)[-1].status == "pending"
    assert stage.runs()[-1].body["mode"] == "full"


def test_a_check_that_ends_after_a_pause_starts_nothing(stage: Stage) -> None:
    trigger = stage.create("conditional", check("drift", threshold=0.2))
    stage.add_run()
    later(stage, seconds=600)
    stage.triggers.pause(NS, trigger)
    stage.finish(**drifted(0.9))
    (entry,) = stage.history(trigger)
    assert (entry.check["fired"], entry.check["reason"]) == (False, "the trigger is paused")
    assert len(stage.runs()) == 2


def test_checks_that_fail_count(stage: Stage) -> None:
    trigger = stage.create("conditional", check("drift", threshold=0.2))
    stage.add_run()
    for _ in range(5):
        later(stage, seconds=600)
        stage.finish(status="failed", error_message="no memory")
    assert stage.get(trigger).status == "failed"
    assert stage.history(trigger)[-1].error == "no memory"


def test_executions_that_no_trigger_started_are_passed_over(stage: Stage) -> None:
    stage.finish(stage.add_run())
    assert stage.events == []


def test_events_that_could_not_start_anything_are_tried_later_and_not_at_once(stage: Stage) -> None:
    schedule = {"event_type": "documents_added", "collection_id": "docs", "cooldown_seconds": 0}
    trigger = stage.create("event", schedule)
    stage.definitions.errors = [OSError("the disk is away")] * 5
    with stage.catalog.writing() as tx:
        stage.triggers.documents_changed(tx, NS, "docs", "documents_added", 3)
    assert stage.run() == 1
    found = stage.get(trigger)
    assert (found.status, found.consecutive_failures, found.event_counter) == ("active", 1, 3)
    assert found.next_scheduled_at == stage.clock() + RETRY
