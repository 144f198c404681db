"""What the catalog holds of webhooks.

A webhook has two records: one that is shown, and its *outlet*, with all that is secret: whom it
calls, and the secret that signs. The outlet is due when one of the deliveries is; those of each
webhook are a kind of their own, so that a long row of them holds up no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from gpucluster.service.catalog.port import Query, Record, Taken, Transaction
from gpucluster.service.identifiers import new_id
from gpucluster.service.webhooks.schedule import GIVE_UP_AFTER

WEBHOOK: Final = "webhook"
OUTLET: Final = "webhook_outlet"
MOST_WEBHOOKS: Final = 50  # of a namespace
_LONGEST_PAUSE: Final = 6  # as a power of two seconds

ACTIVE, INACTIVE = "active", "inactive"
PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"


def kind_of_deliveries(ns: str, webhook_id: str) -> str:
    """Return the kind of the deliveries of a webhook."""
    return f"delivery:{ns}:{webhook_id}"


def webhooks(transaction: Transaction, ns: str) -> list[Record]:
    """Return all webhooks of a namespace, the oldest first."""
    query = Query(limit=MOST_WEBHOOKS, direction="asc")
    return [*transaction.page(ns, WEBHOOK, query).records]


def deliver(
    transaction: Transaction,
    webhook: Record,
    event: Mapping[str, Any],
    channels: Iterable[int],
    now: datetime,
) -> list[Record]:
    """Put an event on its way to channels of a webhook, each of them once; return what is new.

    Parameters
    ----------
    transaction : Transaction
    webhook : Record
    event : mapping
    channels : iterable of int
    now : datetime
    """
    created = []
    for index in channels:
        key = f"{event['event_id']} {webhook.id} {index}"
        body: dict[str, Any] = {
            "event": dict(event),
            "channel_index": index,
            "attempts": [],
            "attempt_count": 0,
            "failures": 0,  # since it was last put on its way
            "give_up_at": (now + GIVE_UP_AFTER).isoformat(),
        }
        record = Record(
            ns=webhook.ns,
            kind=kind_of_deliveries(webhook.ns, webhook.id),
            id=new_id("delivery", key),
            body=body,
            status=PENDING,
            parent=webhook.id,
            due_at=now,
        )
        try:
            created.append(transaction.create(record))
        except Taken:
            continue
    wake(transaction, webhook.ns, webhook.id, now)
    return created


def wake(transaction: Transaction, ns: str, webhook_id: str, now: datetime) -> None:
    """Make an outlet due, though not before its pause is over."""
    outlet = transaction.get(ns, OUTLET, webhook_id)
    if outlet is None:
        return
    pause = outlet.body["paused_until"]
    due = max(now, datetime.fromisoformat(pause)) if pause else now
    if outlet.due_at is None or due < outlet.due_at:
        transaction.replace(replace(outlet, due_at=due))


def settle(
    transaction: Transaction, ns: str, webhook_id: str, now: datetime, *, failures: int = 0
) -> None:
    """Make an outlet due when its next delivery is, after a pause that grows with failures.

    Parameters
    ----------
    transaction : Transaction
    ns : str
    webhook_id : str
    now : datetime
    failures : int
        In a row.
    """
    outlet = transaction.get(ns, OUTLET, webhook_id)
    webhook = transaction.get(ns, WEBHOOK, webhook_id)
    if outlet is None or webhook is None:
        return
    pause = timedelta(seconds=2 ** min(failures, _LONGEST_PAUSE) if failures else 0)
    due = transaction.next_due(kind_of_deliveries(ns, webhook_id))
    if due is not None:  # behind others that have waited as well
        due = max(due, now + pause)
    body = {
        **outlet.body,
        "failures": failures,
        "paused_until": (now + pause).isoformat() if failures else None,
    }
    is_active = webhook.status == ACTIVE
    transaction.replace(replace(outlet, body=body, due_at=due if is_active else None))
