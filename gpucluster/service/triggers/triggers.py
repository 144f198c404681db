"""The triggers of a service: made, changed, looked at, run."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeAlias

from gpucluster.service.catalog.port import Catalog, Query, Record, Taken, Transaction
from gpucluster.service.definitions import Emit
from gpucluster.service.outbound.signing import BOTH_FOR, new_secret, rotated
from gpucluster.service.refusals import ConflictError, InvalidError, NotFoundError
from gpucluster.service.triggers.custom import as_answer, as_created, unmasked, with_secret
from gpucluster.service.triggers.firing import Firing, Time
from gpucluster.service.triggers.history import as_item, read_entries
from gpucluster.service.triggers.port import Asks, Clusters
from gpucluster.service.triggers.record import (
    KIND,
    Trigger,
    found,
    record_of,
    trigger_of,
)
from gpucluster.service.triggers.schedule import check_joins, check_schedule, first_due
from gpucluster.sources.filters import Condition, Filters
from gpucluster.wire.triggers import (
    AnySchedule,
    CreateConditionalTrigger,
    CreateCronTrigger,
    CreateEventTrigger,
    CreateIntervalTrigger,
    CustomSchedule,
    EventSchedule,
    EventType,
    ListTriggersRequest,
    ListTriggersResponse,
    TriggerCreated,
    TriggerExecutionHistoryItem,
    TriggerHistoryRequest,
    TriggerHistoryResponse,
    TriggerModel,
    TriggerSecret,
    UpdateTriggerRequest,
    read_schedule,
)

MOST_ACTIVE = 50  # of a namespace
Ids: TypeAlias = list[str]  # a method of the class has the name of the type


class Triggers:
    """The triggers of a service.

    Parameters
    ----------
    catalog : Catalog
    clusters : Clusters
        What they start.
    emit : callable
        Tells whoever listens; in the transaction of the change.
    asks : Asks
        Calls the addresses of conditions.

    Attributes
    ----------
    clusters : Clusters
    asks : Asks
    firing : Firing
    news : threading.Event
        Set when something may be due.
    """

    def __init__(self, catalog: Catalog, clusters: Clusters, emit: Emit, asks: Asks) -> None:
        self._catalog = catalog
        self.clusters = clusters
        self._emit = emit
        self.asks = asks
        self.firing = Firing(clusters, emit)
        self.news = threading.Event()

    def create(
        self,
        ns: str,
        trigger_id: str,
        request: CreateCronTrigger
        | CreateIntervalTrigger
        | CreateEventTrigger
        | CreateConditionalTrigger,
        *,
        cluster_id: str,
        created_by: str | None = None,
    ) -> TriggerCreated:
        """Keep a trigger.

        Parameters
        ----------
        ns, trigger_id : str
        request : CreateTriggerRequest
        cluster_id : str
            Of the definition that is made where the request names none.
        created_by : str, optional
            Who asked.

        Raises
        ------
        ConfigError
            Its schedule cannot be kept, or its definition is wrong.
        NotFoundError
            There is no such definition.
        ConflictError
            The namespace has as many as it may have.
        """
        now = self._catalog.clock()
        with self._catalog.reading() as tx:
            there = tx.get(ns, KIND, trigger_id)
            config = self._checked(tx, ns, request.schedule_config)
            if there is None:
                what = request.execution_config
                if what is None:
                    _, what = self.clusters.config_of(tx, ns, request.cluster_id or cluster_id)
                check_joins(request.schedule_config, request.mode, what)
                if request.status == "active":
                    self._check_quota(tx, ns)
        if there is not None:  # the same request, sent again
            return as_created(there)
        if request.execution_config is not None:
            self.clusters.define(ns, cluster_id, request.execution_config)
        with self._catalog.writing() as tx:
            identifier = request.cluster_id or cluster_id
            own_id, what = self.clusters.config_of(tx, ns, identifier)
            trigger = Trigger(
                cluster_id=own_id,
                execution_config=what,
                trigger_type=request.trigger_type,
                schedule_config=config,
                mode=request.mode,
                status=request.status,
                anchor=now,
                description=request.description,
                created_by=created_by,
            )
            trigger = with_secret(trigger)
            if trigger.status == "active":
                self._check_quota(tx, ns)
                due = first_due(request.schedule_config, now)
                trigger = trigger.changed(next_scheduled_at=due)
            blank = Record(ns=ns, kind=KIND, id=trigger_id, body={})
            try:
                record = tx.create(record_of(blank, trigger))
            except Taken:
                return as_created(found(tx, ns, trigger_id))
            told = {"cluster_id": own_id, "trigger_type": trigger.trigger_type}
            self._emit(tx, ns, "trigger.created", "trigger", trigger_id, told)
        self.news.set()
        return as_created(record)

    def get(self, ns: str, trigger_id: str) -> TriggerModel:
        """Return a trigger; ``NotFoundError`` where there is none."""
        with self._catalog.reading() as tx:
            return as_answer(found(tx, ns, trigger_id))

    def list(self, ns: str, request: ListTriggersRequest) -> ListTriggersResponse:
        """Return a page of triggers."""
        conditions = [Condition(field="deleted", value=False)]
        if request.trigger_type is not None:
            conditions.append(Condition(field="trigger_type", value=request.trigger_type))
        query = Query(
            filters=Filters(AND=tuple(conditions)),
            parent=request.cluster_id,
            status=request.status,
            sort=request.sort_by,
            direction=request.direction,
            limit=request.limit,
            offset=request.offset,
        )
        with self._catalog.reading() as tx:
            records = tx.page(ns, KIND, query).records
            total = tx.summary(ns, KIND, query).count
        return ListTriggersResponse(
            results=[as_answer(record) for record in records],
            total=total,
            offset=request.offset,
            limit=request.limit,
        )

    def patch(self, ns: str, trigger_id: str, request: UpdateTriggerRequest) -> TriggerModel:
        """Change schedule, description or status; what is planned follows from them."""
        given = request.model_fields_set
        with self._catalog.writing() as tx:
            record = found(tx, ns, trigger_id)
            trigger = trigger_of(record)
            if "description" in given:
                trigger = trigger.changed(description=request.description)
            if request.schedule_config is not None:
                trigger = self._rescheduled(tx, ns, trigger, request.schedule_config)
            if request.status is not None and request.status != trigger.status:
                if request.status == "active":
                    trigger = self._resumed(tx, ns, trigger)
                else:
                    trigger = trigger.stopped(request.status)
            record = tx.replace(record_of(record, trigger))
            told = {"changed": sorted(given), "status": trigger.status}
            self._emit(tx, ns, "trigger.updated", "trigger", trigger_id, told)
        self.news.set()
        return as_answer(record)

    def delete(self, ns: str, trigger_id: str) -> None:
        """Remove a trigger; its history and what it started stay."""
        with self._catalog.writing() as tx:
            record = found(tx, ns, trigger_id)
            gone = trigger_of(record).stopped("disabled").changed(deleted=True)
            tx.replace(record_of(record, gone))
            self._emit(tx, ns, "trigger.deleted", "trigger", trigger_id, {})

    def pause(self, ns: str, trigger_id: str) -> TriggerModel:
        """Let it start nothing until it is resumed."""
        with self._catalog.writing() as tx:
            record = found(tx, ns, trigger_id)
            if record.status == "paused":
                return as_answer(record)
            if record.status != "active":
                raise ConflictError(f"{trigger_id} is {record.status}, expected active")
            record = tx.replace(record_of(record, trigger_of(record).stopped("paused")))
            self._emit(tx, ns, "trigger.paused", "trigger", trigger_id, {})
            return as_answer(record)

    def resume(self, ns: str, trigger_id: str) -> TriggerModel:
        """Plan its next time from now on; failures are forgotten."""
        with self._catalog.writing() as tx:
            record = found(tx, ns, trigger_id)
            if record.status == "active":
                return as_answer(record)
            trigger = self._resumed(tx, ns, trigger_of(record))
            record = tx.replace(record_of(record, trigger))
            self._emit(tx, ns, "trigger.resumed", "trigger", trigger_id, {})
        self.news.set()
        return as_answer(record)

    def rotate_secret(self, ns: str, trigger_id: str) -> TriggerSecret:
        """Sign questions by a new secret; the one before signs beside it for a day."""
        secret, now = new_secret(), self._catalog.clock()
        with self._catalog.writing() as tx:
            record = found(tx, ns, trigger_id)
            trigger = trigger_of(record)
            kept = rotated(trigger.secrets, secret, now)
            tx.replace(replace(record, body={**record.body, "secrets": kept}))
        return TriggerSecret(trigger_id=trigger_id, secret=secret, previous_until=now + BOTH_FOR)

    def history(
        self, ns: str, trigger_id: str, request: TriggerHistoryRequest
    ) -> TriggerHistoryResponse:
        """Return what became of each time that it was due, the newest first."""
        with self._catalog.reading() as tx:
            found(tx, ns, trigger_id)
            items, total = read_entries(
                *(tx, ns, trigger_id),
                offset=request.offset,
                limit=request.limit,
                status=request.status_filter,
            )
        return TriggerHistoryResponse(
            trigger_id=trigger_id,
            executions=items,
            total=total,
            offset=request.offset,
            limit=request.limit,
        )

    def run_now(self, ns: str, trigger_id: str) -> TriggerExecutionHistoryItem:
        """Start what it is for, whatever its schedule and condition; what is planned stays."""
        with self._catalog.writing() as tx:
            record = found(tx, ns, trigger_id)
            time = Time(self._catalog.clock(), None)
            entry = self.firing.start(tx, record, trigger_of(record), time)
        self.clusters.wake()
        return as_item(entry)

    def finished(self, tx: Transaction, execution: Record) -> None:
        """Take in that an execution is over; it is not live any more in this transaction."""
        self.firing.finished(tx, execution, self._catalog.clock())

    def documents_changed(
        self, tx: Transaction, ns: str, collection_id: str, event_type: EventType, count: int
    ) -> None:
        """Count what happened to a collection, in the transaction in which it does."""
        now = self._catalog.clock()
        wanted = {
            "trigger_type": "event",
            "schedule_config.collection_id": collection_id,
            "schedule_config.event_type": event_type,
        }
        for record in _all(tx, ns, Query(filters=_equal(wanted), status="active", limit=1000)):
            trigger = trigger_of(record)
            trigger = trigger.changed(event_counter=trigger.event_counter + count)
            if trigger.next_scheduled_at is None:
                trigger = trigger.changed(next_scheduled_at=trigger.due_after(now))
                self.news.set()  # the loop waits for its turn, which comes after the commit
            tx.replace(record_of(record, trigger))

    def cluster_gone(self, tx: Transaction, ns: str, cluster_id: str) -> Ids:
        """Disable the triggers of a definition that is deleted in this transaction.

        Returns
        -------
        list of str
            Their ids.
        """
        told = {"status": "disabled", "reason": f"{cluster_id} was deleted"}
        disabled = []
        for record in _all(tx, ns, Query(parent=cluster_id, limit=1000)):
            if record.status in {"active", "paused", "failed"}:
                stopped = trigger_of(record).stopped("disabled", told["reason"])
                tx.replace(record_of(record, stopped))
                self._emit(tx, ns, "trigger.updated", "trigger", record.id, told)
                disabled.append(record.id)
        return disabled

    def heard(
        self,
        tx: Transaction,
        ns: str,
        event_type: str,
        subject_type: str,
        subject_id: str,
        metadata: Mapping[str, Any],
    ) -> None:
        """Take in an event of the service; those that documents came by are counted."""
        if event_type != "collection.documents.written":
            return
        added, replaced = metadata.get("added", 0), metadata.get("replaced", 0)
        counts: dict[EventType, int] = {
            "documents_added": added,
            "documents_updated": replaced,
            "batch_completed": int(added + replaced > 0),
        }
        for kind, count in counts.items():
            if count:
                self.documents_changed(tx, ns, subject_id, kind, count)

    def _checked(self, tx: Transaction, ns: str, schedule: AnySchedule) -> dict[str, Any]:
        """Return a schedule as it is kept, where it can be."""
        check_schedule(schedule)
        config: dict[str, Any] = schedule.model_dump(mode="json")
        if isinstance(schedule, CustomSchedule):
            self.asks.check(schedule.url, path="schedule_config.url")
        if isinstance(schedule, EventSchedule):
            try:  # events name collections by their ids
                found = self.clusters.collection_id(tx, ns, schedule.collection_id)
            except NotFoundError as error:
                where = ["schedule_config", "collection_id"]
                raise InvalidError(error.message, loc=where) from error
            config["collection_id"] = found
        return config

    def _check_quota(self, tx: Transaction, ns: str) -> None:
        if tx.summary(ns, KIND, Query(status="active")).count >= MOST_ACTIVE:
            raise ConflictError(
                f"{ns} has {MOST_ACTIVE} active triggers, which is the most",
                hint="pause or delete one",
            )

    def _resumed(self, tx: Transaction, ns: str, trigger: Trigger) -> Trigger:
        self._check_quota(tx, ns)
        self.clusters.config_of(tx, ns, trigger.cluster_id)
        now = self._catalog.clock()
        active = trigger.changed(status="active", anchor=now, consecutive_failures=0)
        return _planned(active, now)

    def _rescheduled(
        self, tx: Transaction, ns: str, trigger: Trigger, given: Mapping[str, Any]
    ) -> Trigger:
        before, now = trigger.schedule_config, self._catalog.clock()
        schedule = read_schedule(trigger.trigger_type, unmasked(given, before))
        config = self._checked(tx, ns, schedule)
        check_joins(schedule, trigger.mode, trigger.execution_config)
        if any(config.get(name) != before.get(name) for name in ("event_type", "collection_id")):
            trigger = trigger.changed(event_counter=0)  # it counts something else
        return _planned(with_secret(trigger.changed(schedule_config=config, anchor=now)), now)


def _planned(trigger: Trigger, now: datetime) -> Trigger:
    return trigger.changed(next_scheduled_at=trigger.due_after(now))


def _equal(wanted: dict[str, str]) -> Filters:
    conditions = tuple(Condition(field=name, value=value) for name, value in wanted.items())
    return Filters(AND=conditions, case_sensitive=True)


def _all(tx: Transaction, ns: str, query: Query) -> Sequence[Record]:
    return tx.page(ns, KIND, query).records
