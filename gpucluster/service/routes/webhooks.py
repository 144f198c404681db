"""Webhooks, and what became of the events that were sent to them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import Query as Parameter

from gpucluster.service.calls import Administers, Reads, Runs
from gpucluster.service.catalog.port import Page
from gpucluster.service.paging import Pages, Paging
from gpucluster.service.refusals import InvalidError
from gpucluster.service.webhooks.deliveries import delivery
from gpucluster.wire import webhooks as wire
from gpucluster.wire.base import ListRequest

router = APIRouter(prefix="/v1/organizations/webhooks", tags=["webhooks"])


@router.post("", status_code=201)
@router.post("/", status_code=201, include_in_schema=False)
def create_webhook(body: wire.WebhookInput, call: Administers) -> wire.WebhookCreated:
    """Make a webhook; its secret is in this answer and nowhere else."""
    call.is_secret = True
    return call.service.webhooks.create(call.ns, call.new_id("webhook"), body)


@router.post("/list")
def list_webhooks(
    body: wire.ListWebhooksRequest, pages: Pages, call: Reads
) -> wire.ListWebhooksResponse:
    """List webhooks, the oldest first."""
    every = call.service.webhooks.matching(
        call.ns, event_type=body.event_type, is_active=body.is_active
    )
    begin = _begin(pages)
    end = begin + pages.limit
    page = Page([], str(end) if end < len(every) else None)
    return wire.ListWebhooksResponse(
        results=every[begin:end],
        pagination=pages.answer(page, len(every)),
        total=len(every),
    )


@router.get("/{identifier}")
def get_webhook(identifier: str, call: Reads) -> wire.WebhookOutput:
    """Show a webhook, by its id or its name."""
    return call.service.webhooks.get(call.ns, identifier)


@router.put("/{identifier}")
def update_webhook(
    identifier: str, body: wire.WebhookInput, call: Administers
) -> wire.WebhookOutput:
    """Write a webhook anew; its secret stays."""
    return call.service.webhooks.update(call.ns, identifier, body)


@router.delete("/{identifier}", status_code=204)
def delete_webhook(identifier: str, call: Administers) -> None:
    """Remove a webhook with its deliveries."""
    call.service.webhooks.delete(call.ns, identifier)


@router.post("/{identifier}/secret/rotate")
def rotate_secret(identifier: str, call: Administers) -> wire.SecretAnswer:
    """Give a webhook another secret; the one before signs beside it for a day."""
    call.is_secret = True
    return call.service.webhooks.rotate_secret(call.ns, identifier)


@router.post("/{identifier}/test", status_code=202)
def ping_webhook(identifier: str, call: Runs) -> wire.PingAnswer:
    """Send the event ``ping`` to each channel of a webhook."""
    records = call.service.webhooks.ping(call.ns, identifier)
    return wire.PingAnswer(deliveries=[delivery(record) for record in records])


@router.get("/{identifier}/deliveries")
def show_deliveries(
    identifier: str,
    pages: Pages,
    call: Reads,
    status: Annotated[
        wire.DeliveryStatus | None, Parameter(description="Those of this status alone.")
    ] = None,
) -> wire.ListDeliveriesResponse:
    """List deliveries, the newest first."""
    return list_deliveries(identifier, wire.ListDeliveriesRequest(status=status), pages, call)


@router.post("/{identifier}/deliveries")
def list_deliveries(
    identifier: str, body: wire.ListDeliveriesRequest, pages: Pages, call: Reads
) -> wire.ListDeliveriesResponse:
    """List deliveries, the newest first."""
    query = pages.query(ListRequest(), status=body.status)
    page, total = call.service.deliveries.page(call.ns, identifier, query)
    return wire.ListDeliveriesResponse(
        results=[delivery(record) for record in page.records],
        pagination=pages.answer(page, total),
        total=total,
    )


@router.post("/{identifier}/deliveries/redeliver")
def redeliver_dead(identifier: str, call: Runs) -> wire.RedeliverAnswer:
    """Send all events again that were given up."""
    count = call.service.deliveries.redeliver_dead(call.ns, identifier)
    return wire.RedeliverAnswer(redelivered=count)


@router.get("/{identifier}/deliveries/{delivery_id}")
def get_delivery(identifier: str, delivery_id: str, call: Reads) -> wire.DeliveryOutput:
    """Show a delivery."""
    return call.service.deliveries.get(call.ns, identifier, delivery_id)


@router.post("/{identifier}/deliveries/{delivery_id}/redeliver")
def redeliver(identifier: str, delivery_id: str, call: Runs) -> wire.DeliveryOutput:
    """Send an event again, whatever became of it."""
    return call.service.deliveries.redeliver(call.ns, identifier, delivery_id)


def _begin(pages: Paging) -> int:
    """Return where a page of a list begins that is short enough to be read whole."""
    if pages.cursor is None:
        return pages.offset
    if not (pages.cursor.isascii() and pages.cursor.isdigit()) or len(pages.cursor) > 9:
        raise InvalidError("this is no cursor of this list", loc=["query", "cursor"])
    return int(pages.cursor)
