"""Deliveries: what became of events, and another try."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from gpucluster.service.catalog.port import Catalog, Page, Query, Record
from gpucluster.service.refusals import NotFoundError
from gpucluster.service.webhooks.records import DEAD, PENDING, kind_of_deliveries, settle
from gpucluster.service.webhooks.registry import found, must_be_active
from gpucluster.service.webhooks.schedule import GIVE_UP_AFTER
from gpucluster.wire.webhooks import DeliveryOutput

_BATCH = 500


class Deliveries:
    """What became of the events of webhooks.

    Parameters
    ----------
    catalog : Catalog
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def page(self, ns: str, identifier: str, query: Query) -> tuple[Page, int]:
        """Return a page of deliveries, and how many there are on all pages.

        Parameters
        ----------
        ns : str
        identifier : str
            Id or name of the webhook.
        query : Query

        Raises
        ------
        NotFoundError
            There is no such webhook.
        """
        with self._catalog.reading() as transaction:
            kind = kind_of_deliveries(ns, found(transaction, ns, identifier).id)
            page = transaction.page(ns, kind, query)
            count = transaction.summary(ns, kind, query).count
        return page, count

    def get(self, ns: str, identifier: str, delivery_id: str) -> DeliveryOutput:
        """Return a delivery.

        Raises
        ------
        NotFoundError
            There is none, or no such webhook.
        """
        with self._catalog.reading() as transaction:
            kind = kind_of_deliveries(ns, found(transaction, ns, identifier).id)
            record = transaction.get(ns, kind, delivery_id)
        return delivery(_present(record, delivery_id))

    def redeliver(self, ns: str, identifier: str, delivery_id: str) -> DeliveryOutput:
        """Send the event of a delivery again, now and for another day, whatever became of it.

        Raises
        ------
        ConflictError
            The webhook is not active.
        NotFoundError
            There is none, or no such webhook.
        """
        now = self._catalog.clock()
        with self._catalog.writing() as transaction:
            webhook = found(transaction, ns, identifier)
            must_be_active(webhook)
            kind = kind_of_deliveries(ns, webhook.id)
            record = _present(transaction.get(ns, kind, delivery_id), delivery_id)
            again = transaction.replace(_again(record, now))
            settle(transaction, ns, webhook.id, now)
        return delivery(again)

    def redeliver_dead(self, ns: str, identifier: str) -> int:
        """Send all again that were given up, and return how many.

        Raises
        ------
        ConflictError
            The webhook is not active.
        NotFoundError
            There is no such webhook.
        """
        count = 0
        while True:
            now = self._catalog.clock()
            with self._catalog.writing() as transaction:
                webhook = found(transaction, ns, identifier)
                must_be_active(webhook)
                kind = kind_of_deliveries(ns, webhook.id)
                query = Query(status=DEAD, limit=_BATCH, direction="asc")
                some = transaction.page(ns, kind, query).records
                for record in some:
                    transaction.replace(_again(record, now))
                settle(transaction, ns, webhook.id, now)
            count += len(some)
            if len(some) < _BATCH:
                return count


def delivery(record: Record) -> DeliveryOutput:
    """Return a delivery as it is shown."""
    event = record.body["event"]
    return DeliveryOutput.model_validate(
        {
            **record.body,
            "delivery_id": record.id,
            "webhook_id": record.parent,
            "event_id": event["event_id"],
            "event_type": event["event_type"],
            "status": record.status,
            "next_attempt_at": record.due_at if record.status == PENDING else None,
            "created_at": record.created_at,
            "updated_at": record.updated_at,
        }
    )


def _again(record: Record, now: datetime) -> Record:
    body = {
        **record.body,
        "give_up_at": (now + GIVE_UP_AFTER).isoformat(),
        "failures": 0,
    }
    return replace(record, body=body, status=PENDING, due_at=now)


def _present(record: Record | None, delivery_id: str) -> Record:
    if record is None:
        raise NotFoundError(f"no delivery is called {delivery_id[:100]}")
    return record
