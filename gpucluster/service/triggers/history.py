"""What became of each time that a trigger was due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from gpucluster.service.catalog.port import Query, Record, Transaction
from gpucluster.wire.triggers import TriggerExecutionHistoryItem

KIND = "trigger_history"
LIVE = ("pending", "checking")


def write_entry(
    tx: Transaction,
    ns: str,
    trigger_id: str,
    number: int,
    *,
    status: str,
    triggered_at: datetime,
    scheduled_at: datetime | None,
    job_id: str | None = None,
    error: str | None = None,
    check: Mapping[str, Any] | None = None,
) -> Record:
    """Add an entry.

    Parameters
    ----------
    tx : Transaction
    ns, trigger_id : str
    number : int
        How many the trigger has; so nobody can write the same one twice.
    status : str
    triggered_at : datetime
        Now.
    scheduled_at : datetime, optional
        When it was due.
    job_id : str, optional
        What was started.
    error : str, optional
        Why nothing was.
    check : mapping, optional
        Numbers of a condition.

    Returns
    -------
    Record
    """
    body = TriggerExecutionHistoryItem(
        job_id=job_id,
        triggered_at=triggered_at,
        scheduled_at=scheduled_at,
        status=status,
        error=error,
        check=None if check is None else dict(check),
    )
    entry = Record(
        ns=ns,
        kind=KIND,
        id=f"{trigger_id}.{number:09d}",
        name=job_id,
        parent=trigger_id,
        status=status,
        body=body.model_dump(mode="json"),
    )
    return tx.create(entry)


def find_live(tx: Transaction, ns: str, job_id: str) -> Record | None:
    """Return the entry that waits for an execution; None where none does."""
    entry = tx.find(ns, KIND, job_id)
    return entry if entry is not None and entry.status in LIVE else None


def settle_entry(tx: Transaction, entry: Record, status: str, **facts: Any) -> None:
    """Write into an entry what came of its execution."""
    body = {**entry.body, "status": status, **facts}
    tx.replace(replace(entry, body=body, status=status))


def read_entries(
    tx: Transaction, ns: str, trigger_id: str, *, offset: int, limit: int, status: str | None
) -> tuple[list[TriggerExecutionHistoryItem], int]:
    """Return a page of the history of a trigger, the newest first, and how long it is."""
    query = Query(parent=trigger_id, status=status, sort="id", offset=offset, limit=limit)
    items = [as_item(record) for record in tx.page(ns, KIND, query).records]
    return items, tx.summary(ns, KIND, query).count


def as_item(entry: Record) -> TriggerExecutionHistoryItem:
    """Return what is shown of an entry."""
    return TriggerExecutionHistoryItem.model_validate(entry.body)
