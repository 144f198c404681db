"""What of a trigger is secret: the address of a condition, and what signs questions to it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gpucluster.errors import ConfigError
from gpucluster.service.catalog.port import Record
from gpucluster.service.outbound.signing import new_secret
from gpucluster.service.triggers.port import Question
from gpucluster.service.triggers.record import Trigger
from gpucluster.service.webhooks.masks import shown_address
from gpucluster.wire.triggers import CustomSchedule, TriggerCreated, TriggerModel
from gpucluster.wire.webhooks import MASK


def masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule as it is shown: the query of an address may let whoever knows it ask."""
    if "url" not in config:
        return dict(config)
    return {**config, "url": shown_address("webhook", config["url"])}


def unmasked(given: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule with what a mask in its address stands for: the query that is kept.

    Parameters
    ----------
    given : mapping
    kept : mapping
        The schedule so far.

    Raises
    ------
    ConfigError
        The mask stands for nothing.
    """
    url = given.get("url")
    if not isinstance(url, str) or MASK not in url:
        return dict(given)
    if url != masked(kept).get("url"):
        raise ConfigError(
            f"{MASK} stands for what is kept for this address, and there is nothing",
            path="schedule_config.url",
            hint="write the address itself",
        )
    return {**given, "url": kept["url"]}


def with_secret(trigger: Trigger) -> Trigger:
    """Return a trigger that can sign what it asks; itself where it asks nobody."""
    if trigger.secrets or not isinstance(trigger.schedule, CustomSchedule):
        return trigger
    return trigger.changed(secrets=[{"secret": new_secret(), "until": None}])


def question_of(
    record: Record, trigger: Trigger, schedule: CustomSchedule, now: datetime
) -> Question:
    """Return what an address is asked about a trigger."""
    body = {
        "namespace_id": record.ns,
        "trigger_id": record.id,
        "cluster_id": trigger.cluster_id,
        "metric": schedule.metric,
        "threshold": schedule.threshold,
    }
    question_id = f"{record.id}.{trigger.num_times + 1}"
    return Question(schedule.url, body, question_id, trigger.secrets, now)


def as_answer(record: Record) -> TriggerModel:
    """Return what is shown of a trigger."""
    return TriggerModel.model_validate(_shown(record))


def as_created(record: Record) -> TriggerCreated:
    """Return what is shown of a trigger to whoever made it."""
    secret = next((each["secret"] for each in record.body.get("secrets", ())), None)
    return TriggerCreated.model_validate({**_shown(record), "secret": secret})


def _shown(record: Record) -> dict[str, Any]:
    return {
        **record.body,
        "schedule_config": masked(record.body["schedule_config"]),
        "trigger_id": record.id,
        "namespace_id": record.ns,
        "internal_id": record.ns,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }
