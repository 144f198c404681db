"""What happens is written down with what it happens to, and sent afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from gpucluster.service.catalog.port import Record, Transaction, utc_now
from gpucluster.service.identifiers import new_id

EVENT: Final = "event"  # kind of the records; each is there until it is on its way


def new_event(
    ns: str,
    event_type: str,
    subject_type: str,
    subject_id: str,
    metadata: Mapping[str, Any],
    now: datetime,
) -> dict[str, Any]:
    """Return what is sent of something that happened.

    Parameters
    ----------
    ns : str
    event_type : str
        Such as ``cluster.created``.
    subject_type : str
        Such as ``cluster``.
    subject_id : str
    metadata : mapping
        JSON values; whoever gets the event reads them.
    now : datetime
    """
    return {
        "event_id": new_id("event"),
        "event_type": event_type,
        "occurred_at": now.isoformat(),
        "namespace_id": ns,
        "subject": {"type": subject_type, "id": subject_id},
        "metadata": dict(metadata),
    }


def emit(
    transaction: Transaction,
    ns: str,
    event_type: str,
    subject_type: str,
    subject_id: str,
    metadata: Mapping[str, Any],
    *,
    now: datetime | None = None,
) -> str:
    """Write down what happened, in the transaction in which it does, and return the event's id.

    Parameters
    ----------
    transaction : Transaction
    ns : str
    event_type : str
    subject_type : str
    subject_id : str
    metadata : mapping
    now : datetime, optional
        The catalog's time, where it is not that of this machine.
    """
    moment = now or utc_now()
    event = new_event(ns, event_type, subject_type, subject_id, metadata, moment)
    record = Record(ns=ns, kind=EVENT, id=event["event_id"], body=event, due_at=moment)
    return transaction.create(record).id
