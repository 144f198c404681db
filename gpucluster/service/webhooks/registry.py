"""Webhooks: made, shown, changed and removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpucluster.errors import ConfigError
from gpucluster.service.catalog.port import Catalog, Query, Record, Taken, Transaction
from gpucluster.service.outbound import Outbound
from gpucluster.service.outbound.signing import BOTH_FOR, new_secret, rotated
from gpucluster.service.refusals import ConflictError, NotFoundError
from gpucluster.service.webhooks.channels import check_channel
from gpucluster.service.webhooks.events import new_event
from gpucluster.service.webhooks.masks import masked, unmasked
from gpucluster.service.webhooks.records import (
    ACTIVE,
    INACTIVE,
    MOST_WEBHOOKS,
    OUTLET,
    WEBHOOK,
    deliver,
    kind_of_deliveries,
    settle,
    webhooks,
)
from gpucluster.wire.webhooks import (
    SecretAnswer,
    WebhookCreated,
    WebhookInput,
    WebhookOutput,
)

PING = "ping"  # the event of a test; it goes to whoever asks for it, whatever is subscribed to
_BATCH = 500


class Webhooks:
    """The webhooks of all namespaces.

    Parameters
    ----------
    catalog : Catalog
    outbound : Outbound
        Says which addresses may be called.
    """

    def __init__(self, catalog: Catalog, outbound: Outbound) -> None:
        self._catalog = catalog
        self._outbound = outbound

    def create(self, ns: str, webhook_id: str, given: WebhookInput) -> WebhookCreated:
        """Make a webhook; its secret is in this answer and in no other.

        Parameters
        ----------
        ns : str
        webhook_id : str
            One that is there belongs to the same request, which is sent again.
        given : WebhookInput

        Raises
        ------
        ConfigError
            Something of it is wrong.
        ConflictError
            There is one of this name.
        """
        if given.webhook_id is not None:
            raise ConfigError("the service gives the id of a new webhook", path="webhook_id")
        channels = self._channels(given, ())
        secret = new_secret()
        with self._catalog.writing() as transaction:
            there = transaction.get(ns, WEBHOOK, webhook_id)
            if there is not None:
                newest, *_ = _outlet(transaction, there).body["secrets"]
                return WebhookCreated(**dict(shown(there)), secret=newest["secret"])
            count = transaction.summary(ns, WEBHOOK, Query()).count
            if count >= MOST_WEBHOOKS:
                raise ConflictError(f"there are {count} webhooks, the most that there may be")
            record = _written(transaction, _webhook(ns, webhook_id, given, channels), is_new=True)
            body = {
                "secrets": [{"secret": secret, "until": None}],
                "channels": channels,
                "failures": 0,
                "paused_until": None,
            }
            transaction.create(Record(ns=ns, kind=OUTLET, id=webhook_id, body=body))
        return WebhookCreated(**dict(shown(record)), secret=secret)

    def get(self, ns: str, identifier: str) -> WebhookOutput:
        """Return a webhook, by its id or its name.

        Raises
        ------
        NotFoundError
            There is none.
        """
        with self._catalog.reading() as transaction:
            return shown(found(transaction, ns, identifier))

    def matching(
        self, ns: str, *, event_type: str | None = None, is_active: bool | None = None
    ) -> list[WebhookOutput]:
        """Return those that are meant, the oldest first."""
        with self._catalog.reading() as transaction:
            every = [shown(record) for record in webhooks(transaction, ns)]
        return [
            each
            for each in every
            if (event_type is None or event_type in each.event_types)
            and (is_active is None or is_active == each.is_active)
        ]

    def update(self, ns: str, identifier: str, given: WebhookInput) -> WebhookOutput:
        """Write a webhook anew; its secret stays, and what masks in it stand for.

        Deliveries under way go where it says from now on.

        Raises
        ------
        ConfigError, ConflictError, NotFoundError
            As `create` and `get`.
        """
        with self._catalog.writing() as transaction:
            record = found(transaction, ns, identifier)
            if given.webhook_id not in {None, record.id}:
                raise ConfigError("the id of a webhook cannot be changed", path="webhook_id")
            outlet = _outlet(transaction, record)
            channels = self._channels(given, outlet.body["channels"])
            anew = replace(_webhook(ns, record.id, given, channels), version=record.version)
            written = _written(transaction, anew, is_new=False)
            transaction.replace(replace(outlet, body={**outlet.body, "channels": channels}))
            settle(transaction, ns, record.id, self._catalog.clock())
        return shown(written)

    def delete(self, ns: str, identifier: str) -> None:
        """Remove a webhook with all its deliveries.

        Raises
        ------
        NotFoundError
            There is none.
        """
        while True:  # a transaction takes no longer for a webhook of a million deliveries
            with self._catalog.writing() as transaction:
                record = found(transaction, ns, identifier)
                kind = kind_of_deliveries(ns, record.id)
                some = transaction.page(ns, kind, Query(limit=_BATCH)).records
                for each in some:
                    transaction.delete(ns, kind, each.id)
                if len(some) < _BATCH:
                    transaction.delete(ns, OUTLET, record.id)
                    transaction.delete(ns, WEBHOOK, record.id)
                    return

    def rotate_secret(self, ns: str, identifier: str) -> SecretAnswer:
        """Give a webhook a new secret; the one before signs beside it for a day.

        Raises
        ------
        NotFoundError
            There is none.
        """
        secret, now = new_secret(), self._catalog.clock()
        with self._catalog.writing() as transaction:
            record = found(transaction, ns, identifier)
            outlet = _outlet(transaction, record)
            kept = rotated(outlet.body["secrets"], secret, now)
            transaction.replace(replace(outlet, body={**outlet.body, "secrets": kept}))
        return SecretAnswer(webhook_id=record.id, secret=secret, previous_until=now + BOTH_FOR)

    def ping(self, ns: str, identifier: str) -> list[Record]:
        """Put an event on its way that says nothing, and return its deliveries.

        Raises
        ------
        ConflictError
            The webhook is not active.
        NotFoundError
            There is none.
        """
        now = self._catalog.clock()
        with self._catalog.writing() as transaction:
            record = found(transaction, ns, identifier)
            must_be_active(record)
            event = new_event(ns, PING, WEBHOOK, record.id, {}, now)
            return deliver(transaction, record, event, range(len(record.body["channels"])), now)

    def _channels(
        self, given: WebhookInput, kept: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return channels with all that is secret, checked."""
        channels = []
        for index, each in enumerate(given.channels):
            path = f"channels.{index}"
            if each.channel == "email":
                hint = "Channels are webhook and slack"
                raise ConfigError("this service sends no mail", path=f"{path}.channel", hint=hint)
            channel = unmasked(each.model_dump(), kept, path=path)
            check_channel(channel, self._outbound, path=path)
            channels.append(channel)
        return channels


def found(transaction: Transaction, ns: str, identifier: str) -> Record:
    """Return the record of a webhook, by its id or its name.

    Raises
    ------
    NotFoundError
        There is none.
    """
    record = transaction.get(ns, WEBHOOK, identifier) or transaction.find(ns, WEBHOOK, identifier)
    if record is None:
        raise NotFoundError(f"no webhook is called {identifier[:200]}")
    return record


def must_be_active(record: Record) -> None:
    """Refuse what would not be sent."""
    if record.status != ACTIVE:
        raise ConflictError("the webhook is not active", hint="Write it with is_active: true first")


def shown(record: Record) -> WebhookOutput:
    """Return a webhook as it is shown."""
    return WebhookOutput.model_validate(
        {
            **record.body,
            "webhook_id": record.id,
            "webhook_name": record.name,
            "is_active": record.status == ACTIVE,
            "created_at": record.created_at,
            "updated_at": record.updated_at,
        }
    )


def _webhook(
    ns: str, webhook_id: str, given: WebhookInput, channels: Sequence[Mapping[str, Any]]
) -> Record:
    body = {
        "event_types": [*dict.fromkeys(given.event_types)],
        "channels": [masked(each) for each in channels],
        "disabled_reason": None,
    }
    status = ACTIVE if given.is_active else INACTIVE
    return Record(
        ns=ns, kind=WEBHOOK, id=webhook_id, body=body, name=given.webhook_name, status=status
    )


def _written(transaction: Transaction, record: Record, *, is_new: bool) -> Record:
    try:
        return transaction.create(record) if is_new else transaction.replace(record)
    except Taken:
        raise ConflictError(f"there is a webhook named {record.name}") from None


def _outlet(transaction: Transaction, webhook: Record) -> Record:
    outlet = transaction.get(webhook.ns, OUTLET, webhook.id)
    if outlet is None:
        raise NotFoundError(f"no webhook is called {webhook.name}")
    return outlet
