"""Webhooks, and what became of the events that were sent to them."""

from __future__ import annotations

from gpucluster.client.calls import Call, Items
from gpucluster.client.endpoints import Group, ManyWith, One, OneWith, every, part
from gpucluster.client.sessions import D
from gpucluster.wire import webhooks as wire

ROOT = "/v1/organizations/webhooks"


class Webhooks(Group[D]):
    """Webhooks; each is named by its id or its name."""

    @OneWith(wire.WebhookInput)
    def create(self, body: wire.WebhookInput) -> Call[wire.WebhookCreated]:
        """Make a webhook; its secret is in this answer and nowhere else."""
        return Call("POST", ROOT, wire.WebhookCreated, body)

    @One
    def get(self, webhook: str) -> Call[wire.WebhookOutput]:
        """Show a webhook."""
        return Call("GET", _path(webhook), wire.WebhookOutput)

    @OneWith(wire.WebhookInput)
    def replace(self, body: wire.WebhookInput, webhook: str) -> Call[wire.WebhookOutput]:
        """Write a webhook anew; its secret stays."""
        return Call("PUT", _path(webhook), wire.WebhookOutput, body)

    @One
    def delete(self, webhook: str) -> Call[None]:
        """Remove a webhook with its deliveries."""
        return Call("DELETE", _path(webhook), type(None))

    @ManyWith(wire.ListWebhooksRequest)
    def list(self, body: wire.ListWebhooksRequest) -> Items[wire.WebhookOutput]:
        """List webhooks, the oldest first."""
        return every(self._session, Call("POST", f"{ROOT}/list", wire.ListWebhooksResponse, body))

    @One
    def rotate_secret(self, webhook: str) -> Call[wire.SecretAnswer]:
        """Give a webhook another secret; the one before signs beside it for a day."""
        return Call("POST", f"{_path(webhook)}/secret/rotate", wire.SecretAnswer)

    @One
    def ping(self, webhook: str) -> Call[wire.PingAnswer]:
        """Send the event ``ping`` to each channel of a webhook."""
        return Call("POST", f"{_path(webhook)}/test", wire.PingAnswer)

    @ManyWith(wire.ListDeliveriesRequest)
    def deliveries(
        self, body: wire.ListDeliveriesRequest, webhook: str
    ) -> Items[wire.DeliveryOutput]:
        """List deliveries, the newest first."""
        path = f"{_path(webhook)}/deliveries"
        return every(self._session, Call("POST", path, wire.ListDeliveriesResponse, body))

    @One
    def delivery(self, webhook: str, delivery_id: str) -> Call[wire.DeliveryOutput]:
        """Show a delivery."""
        return Call("GET", _delivery(webhook, delivery_id), wire.DeliveryOutput)

    @One
    def redeliver(self, webhook: str, delivery_id: str) -> Call[wire.DeliveryOutput]:
        """Send an event again, whatever became of it."""
        path = f"{_delivery(webhook, delivery_id)}/redeliver"
        return Call("POST", path, wire.DeliveryOutput)

    @One
    def redeliver_dead(self, webhook: str) -> Call[wire.RedeliverAnswer]:
        """Send all events again that were given up."""
        return Call("POST", f"{_path(webhook)}/deliveries/redeliver", wire.RedeliverAnswer)


def _path(webhook: str) -> str:
    return f"{ROOT}/{part(webhook)}"


def _delivery(webhook: str, delivery_id: str) -> str:
    return f"{_path(webhook)}/deliveries/{part(delivery_id)}"
