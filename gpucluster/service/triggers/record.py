"""A trigger as the catalog keeps it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from gpucluster.service.catalog.port import Record, Transaction
from gpucluster.service.refusals import NotFoundError
from gpucluster.service.triggers.schedule import event_due, next_due
from gpucluster.wire.triggers import (
    AnySchedule,
    EventSchedule,
    RunMode,
    TriggerExecutionConfig,
    TriggerStatus,
    TriggerType,
    read_schedule,
)

KIND = "trigger"


class Trigger(BaseModel):
    """The body of a trigger's record.

    Attributes
    ----------
    anchor : datetime
        What equal distances are counted from.
    num_times : int
        Entries of its history.
    secrets : list of dict
        By which questions to an address are signed, the newest first.
    deleted : bool
        It is kept for the sake of its history.
    """

    model_config = ConfigDict(frozen=True)

    cluster_id: str
    execution_config: TriggerExecutionConfig
    trigger_type: TriggerType
    schedule_config: dict[str, Any]
    mode: RunMode
    status: TriggerStatus
    anchor: datetime
    description: str | None = None
    created_by: str | None = None
    next_scheduled_at: datetime | None = None
    last_triggered_at: datetime | None = None
    last_execution_job_id: str | None = None
    last_execution_status: str | None = None
    last_execution_error: str | None = None
    execution_count: int = 0
    consecutive_failures: int = 0
    event_counter: int = 0
    last_cooldown_at: datetime | None = None
    num_times: int = 0
    secrets: list[dict[str, Any]] = []
    deleted: bool = False

    @property
    def schedule(self) -> AnySchedule:
        """When it is due."""
        return read_schedule(self.trigger_type, self.schedule_config)

    def changed(self, **changes: Any) -> Trigger:
        """Return it with other values."""
        return self.model_copy(update=changes)

    def due_after(self, now: datetime) -> datetime | None:
        """Return when it is due next, as things are."""
        if self.status != "active":
            return None
        schedule = self.schedule
        if isinstance(schedule, EventSchedule):
            return event_due(schedule, self.event_counter, self.last_cooldown_at, now)
        return next_due(schedule, now, anchor=self.anchor)

    def stopped(self, status: TriggerStatus, reason: str | None = None) -> Trigger:
        """Return it with nothing planned."""
        why = {} if reason is None else {"last_execution_error": reason}
        return self.changed(status=status, next_scheduled_at=None, **why)


def trigger_of(record: Record) -> Trigger:
    """Read the body of a record."""
    return Trigger.model_validate(record.body)


def record_of(record: Record, trigger: Trigger) -> Record:
    """Return a record with another body, and what follows from it."""
    return replace(
        record,
        body=trigger.model_dump(mode="json"),
        status=trigger.status,
        parent=trigger.cluster_id,
        text=trigger.description or "",
        due_at=trigger.next_scheduled_at,
    )


def found(tx: Transaction, ns: str, trigger_id: str) -> Record:
    """Return the record of a trigger; ``NotFoundError`` where there is none."""
    record = tx.get(ns, KIND, trigger_id)
    if record is None or record.body["deleted"]:
        raise NotFoundError(f"there is no trigger {trigger_id}")
    return record
