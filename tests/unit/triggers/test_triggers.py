"""Triggers are made, changed, paused and looked at; what is planned follows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from gpucluster.errors import ConfigError
from gpucluster.service.refusals import ConflictError, NotFoundError
from gpucluster.wire.triggers import ListTriggersRequest, UpdateTriggerRequest
from tests.helpers.scheduled import CLUSTER, CREATE, NS, START, Stage

DAILY = {"cron_expression": "30 2 * * *", "timezone": "Europe/Berlin"}
HOURLY = {"interval_seconds": 3600}
HOUR = timedelta(hours=1)


def update(stage: Stage, trigger_id: str, **changes: object) -> None:
    stage.triggers.patch(NS, trigger_id, UpdateTriggerRequest(**changes))


def test_what_is_made_is_shown(stage: Stage) -> None:
    made = stage.get(stage.create("cron", DAILY, description="every night"))
    assert made.model_dump(exclude={"trigger_id"}) == {
        "cluster_id": CLUSTER,
        "namespace_id": NS,
        "internal_id": NS,
        "execution_config": {"collection_ids": ["docs"], "config": {}},
        "trigger_type": "cron",
        "schedule_config": DAILY,
        "mode": "full",
        "status": "active",
        "last_triggered_at": None,
        "last_execution_job_id": None,
        "next_scheduled_at": START + timedelta(hours=1.5),
        "execution_count": 0,
        "consecutive_failures": 0,
        "last_execution_status": None,
        "last_execution_error": None,
        "event_counter": 0,
        "last_cooldown_at": None,
        "created_at": START,
        "updated_at": START,
        "created_by": "tok",
        "description": "every night",
    }
    assert [event[0] for event in stage.events] == ["trigger.created"]


def test_defaults_of_a_schedule_are_written_down(stage: Stage) -> None:
    made = stage.get(stage.create("event", {"event_type": "documents_added", "collection_id": "c"}))
    assert made.schedule_config["cooldown_seconds"] == 300
    assert made.next_scheduled_at is None


def test_a_definition_is_made_where_none_is_named(stage: Stage) -> None:
    config = {"collection_ids": ["docs"], "config": {"algorithm": "kmeans"}}
    made = stage.get(stage.create("interval", HOURLY, execution_config=config))
    assert made.execution_config.model_dump() == config
    assert made.cluster_id != CLUSTER
    assert stage.definitions.configs[made.cluster_id].config == {"algorithm": "kmeans"}


def test_the_same_request_again_makes_one(stage: Stage) -> None:
    request = CREATE.validate_python(
        {"trigger_type": "interval", "schedule_config": HOURLY, "cluster_id": CLUSTER}
    )
    first = stage.triggers.create(NS, "trig_1", request, cluster_id="clust_x")
    assert stage.triggers.create(NS, "trig_1", request, cluster_id="clust_x") == first
    assert stage.triggers.list(NS, ListTriggersRequest()).total == 1


@pytest.mark.parametrize(
    "target",
    [{}, {"cluster_id": CLUSTER, "execution_config": {"collection_ids": ["c"], "config": {}}}],
)
def test_one_target_and_one_alone(target: dict) -> None:
    given = {"trigger_type": "interval", "schedule_config": HOURLY, **target}
    with pytest.raises(ValidationError, match="cluster_id or execution_config, and not both"):
        CREATE.validate_python(given)


def test_what_is_wrong_is_refused_when_it_is_made(stage: Stage) -> None:
    with pytest.raises(NotFoundError):
        stage.create("interval", HOURLY, cluster_id="clust_none")
    with pytest.raises(ConfigError, match="no time zone"):
        stage.create("cron", {**DAILY, "timezone": "Mars"})
    with pytest.raises(ValidationError, match="schedule_config"):
        stage.create("interval", {"interval_seconds": 3600, "every": 1})
    with pytest.raises(ValidationError, match="status"):
        stage.create("interval", HOURLY, status="failed")
    assert stage.triggers.list(NS, ListTriggersRequest()).total == 0
    assert stage.events == []


def test_fifty_may_be_active(stage: Stage) -> None:
    made = [stage.create("interval", HOURLY) for _ in range(50)]
    with pytest.raises(ConflictError, match="50 active"):
        stage.create("interval", HOURLY)
    paused = stage.create("interval", HOURLY, status="paused")
    with pytest.raises(ConflictError, match="50 active"):
        stage.triggers.resume(NS, paused)
    with pytest.raises(ConflictError, match="50 active"):
        update(stage, paused, status="active")
    stage.triggers.delete(NS, made[0])
    stage.triggers.resume(NS, paused)


def test_a_pause_plans_nothing_and_the_end_of_it_counts_from_then(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    stage.triggers.pause(NS, trigger)
    assert stage.get(trigger).next_scheduled_at is None
    stage.clock.advance(hours=10.25)
    assert stage.run() == 0
    resumed = stage.triggers.resume(NS, trigger)
    assert resumed.next_scheduled_at == stage.clock() + HOUR
    for _ in range(2):  # once more changes nothing
        stage.clock.advance(minutes=1)
        assert stage.triggers.resume(NS, trigger) == resumed
    stage.triggers.pause(NS, trigger)
    paused = stage.get(trigger)
    assert stage.triggers.pause(NS, trigger) == paused
    names = [name for name, _, _ in stage.events]
    assert names == ["trigger.created", "trigger.paused", "trigger.resumed", "trigger.paused"]


def test_one_that_is_made_paused_starts_nothing(stage: Stage) -> None:
    at_once = {**HOURLY, "start_immediately": True}
    paused = stage.create("interval", at_once, status="paused")
    active = stage.create("interval", at_once)
    assert stage.run() == 1
    assert stage.get(paused).execution_count == 0
    assert stage.get(active).execution_count == 1


def test_another_schedule_plans_anew(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    stage.clock.advance(minutes=30)
    update(stage, trigger, schedule_config={"interval_seconds": 600}, description="often")
    changed = stage.get(trigger)
    assert changed.next_scheduled_at == stage.clock() + timedelta(minutes=10)
    assert changed.description == "often"
    with pytest.raises(ConfigError, match="schedule_config.interval_seconds: missing"):
        update(stage, trigger, schedule_config=DAILY)
    assert stage.get(trigger) == changed
    update(stage, trigger, status="paused")
    update(stage, trigger, schedule_config=HOURLY)
    assert stage.get(trigger).next_scheduled_at is None
    update(stage, trigger, status="active", description=None)
    assert stage.get(trigger).next_scheduled_at == stage.clock() + HOUR
    assert stage.get(trigger).description is None


def test_what_is_deleted_is_gone_but_for_its_record(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    stage.triggers.delete(NS, trigger)
    stage.clock.advance(days=1)
    assert stage.run() == 0
    for verb in (stage.triggers.get, stage.triggers.delete, stage.triggers.run_now):
        with pytest.raises(NotFoundError):
            verb(NS, trigger)
    with pytest.raises(NotFoundError):
        stage.history(trigger)
    assert stage.triggers.list(NS, ListTriggersRequest(status="disabled")).total == 0
    with stage.catalog.reading() as tx:
        kept = tx.get(NS, "trigger", trigger)
    assert (kept.status, kept.body["deleted"], kept.due_at) == ("disabled", True, None)
    assert stage.events[-1][:2] == ("trigger.deleted", trigger)


def test_nothing_is_seen_from_another_namespace(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    for verb in (
        stage.triggers.get,
        stage.triggers.delete,
        stage.triggers.pause,
        stage.triggers.resume,
        stage.triggers.run_now,
    ):
        with pytest.raises(NotFoundError):
            verb("other", trigger)
    assert stage.triggers.list("other", ListTriggersRequest()).total == 0


def test_lists_filter_sort_and_page(stage: Stage) -> None:
    stage.definitions.configs["clust_b"] = stage.definitions.configs[CLUSTER]
    made = []
    for position in range(5):
        stage.clock.advance(minutes=1)
        cluster = CLUSTER if position % 2 else "clust_b"
        made.append(stage.create("interval", HOURLY, cluster_id=cluster))
    made.append(stage.create("cron", DAILY, status="paused"))

    def ids(**request: object) -> list[str]:
        return [
            t.trigger_id for t in stage.triggers.list(NS, ListTriggersRequest(**request)).results
        ]

    assert ids(trigger_type="interval") == made[4::-1]
    assert ids(trigger_type="cron") == made[5:]
    assert ids(status="paused") == made[5:]
    assert ids(cluster_id="clust_b", direction="asc") == made[:5:2]
    assert ids(sort_by="next_scheduled_at", direction="asc", limit=2, offset=1) == made[1:3]
    page = stage.triggers.list(NS, ListTriggersRequest(limit=2, offset=5))
    assert (len(page.results), page.total, page.offset, page.limit) == (1, 6, 5, 2)


def test_triggers_of_a_definition_that_goes_are_disabled(stage: Stage) -> None:
    trigger = stage.create("interval", HOURLY)
    other = stage.create("interval", HOURLY, status="paused")
    with stage.catalog.writing() as tx:
        gone = stage.triggers.cluster_gone(tx, NS, CLUSTER)
    assert sorted(gone) == sorted([trigger, other])
    del stage.definitions.configs[CLUSTER]
    for each in (trigger, other):
        assert stage.get(each).status == "disabled"
        assert stage.get(each).last_execution_error == "clust_a was deleted"
        with pytest.raises(NotFoundError):
            stage.triggers.resume(NS, each)
        with pytest.raises(ConflictError, match="is disabled"):
            stage.triggers.pause(NS, each)
    stage.clock.advance(days=1)
    assert stage.run() == 0
