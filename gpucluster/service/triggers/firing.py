"""Triggers start executions, and learn what became of them; in transactions of others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gpucluster.service.catalog.port import Record, Transaction
from gpucluster.service.counters import TRIGGER_TIMES
from gpucluster.service.definitions import Emit
from gpucluster.service.refusals import ConflictError, NotFoundError, TooManyError
from gpucluster.service.triggers.conditions import (
    NOTHING_TO_COMPARE,
    Verdict,
    judge_drift,
    judge_quality,
    judge_volume,
)
from gpucluster.service.triggers.history import find_live, settle_entry, write_entry
from gpucluster.service.triggers.port import DRIFT_CHECK, Clusters
from gpucluster.service.triggers.record import KIND, Trigger, record_of, trigger_of
from gpucluster.wire.triggers import (
    DriftSchedule,
    EventSchedule,
    QualitySchedule,
    VolumeSchedule,
)

MOST_FAILURES = 5
RETRY = timedelta(seconds=60)  # of what happened while an execution was live


@dataclass(frozen=True, slots=True)
class Time:
    """One time that a trigger is seen to.

    Attributes
    ----------
    now : datetime
    scheduled_at : datetime or None
        When it was due; None: somebody asked for it.
    check : mapping or None
        Numbers of its condition.
    """

    now: datetime
    scheduled_at: datetime | None
    check: Any = None


class Firing:
    """What happens when a trigger is due, and afterwards.

    Parameters
    ----------
    clusters : Clusters
    emit : callable
    """

    def __init__(self, clusters: Clusters, emit: Emit) -> None:
        self._clusters = clusters
        self._emit = emit

    def see_to(
        self, tx: Transaction, record: Record, now: datetime, verdict: Verdict | None = None
    ) -> None:
        """Do what a trigger that is due is for.

        Parameters
        ----------
        tx : Transaction
        record : Record
            As it was read in this transaction.
        now : datetime
        verdict : Verdict, optional
            Of a condition that takes a call to find out.
        """
        trigger = trigger_of(record)
        time = Time(now, trigger.next_scheduled_at)
        schedule = trigger.schedule
        if isinstance(schedule, DriftSchedule):
            self._begin_check(tx, record, trigger, time)
            return
        if isinstance(schedule, VolumeSchedule):
            base = self._clusters.latest(tx, record.ns, trigger.cluster_id, mode="full")
            num_rows = self._clusters.num_rows(tx, record.ns, trigger.cluster_id)
            verdict = judge_volume(schedule, base, num_rows)
        elif isinstance(schedule, QualitySchedule):
            latest = self._clusters.latest(tx, record.ns, trigger.cluster_id)
            num_rows = self._clusters.num_rows(tx, record.ns, trigger.cluster_id)
            own = trigger.last_execution_job_id
            verdict = judge_quality(schedule, latest, own, num_rows)
        if verdict is not None:
            time = Time(now, time.scheduled_at, verdict.numbers)
        if verdict is None or verdict.fire:
            self._start_due(tx, record, trigger, time)
        else:
            self._note(tx, record, _moved_on(trigger, time), time, "checked")

    def start(self, tx: Transaction, record: Record, trigger: Trigger, time: Time) -> Record:
        """Begin an execution, and return the entry of the history.

        ``ConflictError`` where one is live, ``NotFoundError`` where the definition is gone.
        """
        job_id = self._clusters.start(
            *(tx, record.ns, trigger.cluster_id),
            mode=trigger.mode,
            trigger_id=record.id,
        )
        fired = trigger.changed(
            last_triggered_at=time.now,
            last_execution_job_id=job_id,
            last_execution_status="pending",
            last_execution_error=None,
            execution_count=trigger.execution_count + 1,
        )
        if trigger.trigger_type == "event":
            fired = fired.changed(
                event_counter=0, last_cooldown_at=time.now, next_scheduled_at=None
            )
        elif time.scheduled_at is not None:
            fired = _moved_on(fired, time)
        told = {
            "cluster_id": trigger.cluster_id,
            "run_id": job_id,
            "mode": trigger.mode,
            "trigger_type": trigger.trigger_type,
            "scheduled_at": time.scheduled_at and time.scheduled_at.isoformat(),
            "check": time.check,
        }
        self._emit(tx, record.ns, "trigger.fired", "trigger", record.id, told)
        return self._note(tx, record, fired, time, "pending", job_id=job_id)

    def fail(self, tx: Transaction, record: Record, now: datetime, error: str) -> None:
        """Write down that nothing could be started."""
        trigger = trigger_of(record)
        time = Time(now, trigger.next_scheduled_at)
        failed = self._failed(tx, record, _put_off(trigger, time), error)
        self._note(tx, record, failed, time, "failed", error=error)
        told = {"cluster_id": trigger.cluster_id, "run_id": None, "error": error}
        self._emit(tx, record.ns, "trigger.execution.failed", "trigger", record.id, told)

    def unanswered(self, tx: Transaction, record: Record, now: datetime, error: str) -> None:
        """Write down that a condition could not be looked at; that is no failure of a run."""
        trigger = trigger_of(record)
        time = Time(now, trigger.next_scheduled_at)
        moved = _moved_on(trigger, time).changed(last_execution_error=error)
        self._note(tx, record, moved, time, "failed", error=error)

    def finished(self, tx: Transaction, execution: Record, now: datetime) -> None:
        """Write down what became of an execution; those of no trigger are passed over."""
        trigger_id = execution.body.get("trigger_id")
        entry = None if trigger_id is None else find_live(tx, execution.ns, execution.id)
        if entry is None:
            return
        error = execution.body.get("error_message")
        facts = {
            "execution_time_ms": execution.body.get("execution_time_ms"),
            "num_clusters": execution.body.get("num_clusters"),
            "num_documents": execution.body.get("num_points"),
            "error": error,
        }
        record = tx.get(execution.ns, KIND, str(trigger_id))
        if record is None:
            return
        is_check = execution.body.get("purpose") == DRIFT_CHECK
        if is_check and execution.status == "completed":
            self._conclude_check(tx, record, entry, execution, facts, now)
            return
        status = str(execution.status)
        settle_entry(tx, entry, status, **facts)
        trigger = trigger_of(record)
        changed = trigger.changed(last_execution_status=status, last_execution_error=error)
        if status == "failed":
            changed = self._failed(tx, record, changed, error)
        elif status == "completed":
            changed = changed.changed(consecutive_failures=0)
        tx.replace(record_of(record, changed))
        if status != "canceled":
            told = {"cluster_id": trigger.cluster_id, "run_id": execution.id, **facts}
            kind = f"trigger.execution.{status}"
            self._emit(tx, record.ns, kind, "trigger", record.id, told)

    def _begin_check(self, tx: Transaction, record: Record, trigger: Trigger, time: Time) -> None:
        """Let new documents join the clusters; `_conclude_check` reads how far they drifted.

        Where nothing has changed since the last time, what that has found holds still.
        """
        moved = _moved_on(trigger, time)
        look = self._clusters.last_look(tx, record.ns, trigger.cluster_id)
        if look is not None and isinstance(trigger.schedule, DriftSchedule):
            verdict = judge_drift(trigger.schedule, look.body.get("drift"))
            time = Time(time.now, time.scheduled_at, {**verdict.numbers, "run_id": look.id})
            if verdict.fire:  # its threshold was another one then
                self._start_due(tx, record, trigger, time)
            else:
                self._note(tx, record, moved, time, "checked")
            return
        if self._clusters.latest(tx, record.ns, trigger.cluster_id, mode="full") is None:
            told = {"fired": False, "reason": NOTHING_TO_COMPARE}
            self._note(tx, record, moved, Time(time.now, time.scheduled_at, told), "checked")
            return
        try:
            job_id = self._clusters.start(
                *(tx, record.ns, trigger.cluster_id),
                mode="assign",
                trigger_id=record.id,
                purpose=DRIFT_CHECK,
            )
        except ConflictError as error:
            self._note(tx, record, moved, time, "skipped", error=error.message)
        except NotFoundError as error:
            self._disable(tx, record, trigger, time, error.message)
        else:
            self._note(tx, record, moved, time, "checking", job_id=job_id)

    def _conclude_check(
        self,
        tx: Transaction,
        record: Record,
        entry: Record,
        execution: Record,
        facts: dict[str, Any],
        now: datetime,
    ) -> None:
        """Start what the trigger is for where documents drifted far enough."""
        trigger = trigger_of(record)
        schedule = trigger.schedule
        if not isinstance(schedule, DriftSchedule):  # it was changed meanwhile
            settle_entry(tx, entry, "completed", **facts)
            return
        verdict = judge_drift(schedule, execution.body.get("drift"))
        numbers = {**verdict.numbers, "run_id": execution.id}
        if verdict.fire and trigger.status != "active":
            numbers |= {"fired": False, "reason": f"the trigger is {trigger.status}"}
        settle_entry(tx, entry, "checked", **facts, check=numbers)
        if numbers["fired"]:
            time = Time(now, None, numbers)
            try:
                self._start_due(tx, record, trigger, time)
            except TooManyError as error:  # the execution has to end all the same
                self._note(tx, record, trigger, time, "skipped", error=error.message)

    def _start_due(self, tx: Transaction, record: Record, trigger: Trigger, time: Time) -> None:
        try:
            self.start(tx, record, trigger, time)
        except ConflictError as error:
            moved = _put_off(trigger, time)
            self._note(tx, record, moved, time, "skipped", error=error.message)
        except NotFoundError as error:
            self._disable(tx, record, trigger, time, error.message)

    def _disable(
        self, tx: Transaction, record: Record, trigger: Trigger, time: Time, reason: str
    ) -> None:
        self._note(tx, record, trigger.stopped("disabled", reason), time, "skipped", error=reason)
        told = {"status": "disabled", "reason": reason}
        self._emit(tx, record.ns, "trigger.updated", "trigger", record.id, told)

    def _failed(
        self, tx: Transaction, record: Record, trigger: Trigger, error: str | None
    ) -> Trigger:
        """Count a failure; too many in a row are the end of it, until somebody resumes it."""
        failures = trigger.consecutive_failures + 1
        failed = trigger.changed(
            consecutive_failures=failures,
            last_execution_status="failed",
            last_execution_error=error,
        )
        if failures < MOST_FAILURES or trigger.status != "active":
            return failed
        told = {"status": "failed", "consecutive_failures": failures, "error": error}
        self._emit(tx, record.ns, "trigger.updated", "trigger", record.id, told)
        return failed.stopped("failed")

    def _note(
        self,
        tx: Transaction,
        record: Record,
        trigger: Trigger,
        time: Time,
        status: str,
        *,
        job_id: str | None = None,
        error: str | None = None,
    ) -> Record:
        """Write a trigger and an entry of its history."""
        counted = trigger.changed(num_times=trigger.num_times + 1)
        tx.replace(record_of(record, counted))
        outcome = "fired" if status == "pending" else status
        TRIGGER_TIMES.labels(trigger.trigger_type, outcome).inc()
        return write_entry(
            *(tx, record.ns, record.id, counted.num_times),
            status=status,
            triggered_at=time.now,
            scheduled_at=time.scheduled_at,
            job_id=job_id,
            error=error,
            check=time.check,
        )


def _moved_on(trigger: Trigger, time: Time) -> Trigger:
    """Return it with its next time, however many have passed meanwhile."""
    if time.scheduled_at is None:
        return trigger
    return trigger.changed(next_scheduled_at=trigger.due_after(max(time.now, time.scheduled_at)))


def _put_off(trigger: Trigger, time: Time) -> Trigger:
    """Return it with its next time; what an event trigger has counted is not forgotten."""
    schedule = trigger.schedule
    if not isinstance(schedule, EventSchedule):
        return _moved_on(trigger, time)
    pause = max(RETRY, timedelta(seconds=schedule.cooldown_seconds))
    return trigger.changed(next_scheduled_at=time.now + pause)
