"""A service without its HTTP side, whose receivers are on loopback and whose clock is told."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import standardwebhooks.webhooks as reference
from standardwebhooks import Webhook

from gpucluster.service.catalog import open_catalog
from gpucluster.service.catalog.port import Query
from gpucluster.service.identifiers import new_id
from gpucluster.service.outbound import Outbound, OutboundSettings
from gpucluster.service.webhooks import Deliverer, Deliveries, Webhooks, emit
from gpucluster.service.webhooks.deliveries import delivery
from gpucluster.service.webhooks.records import OUTLET
from gpucluster.wire.webhooks import WebhookInput
from tests.helpers.clocks import FakeClock
from tests.helpers.receivers import NAME, Authority

TYPES = (
    *("cluster.created", "cluster.updated", "cluster.deleted", "cluster.execution.completed"),
    *("trigger.created", "trigger.updated", "trigger.fired", "taxonomy.created"),
    *("taxonomy.updated", "taxonomy.deleted"),
)


class House:
    """A service without its HTTP side: a catalog, its webhooks, and who delivers."""

    def __init__(self, authority: Authority, folder: Path, clock=None, url=None) -> None:
        self.clock = clock or FakeClock()
        self._file = folder / "catalog.sqlite"
        self.catalog = open_catalog(url or str(self._file), clock=self.clock)
        settings = OutboundSettings(allow_hosts=(NAME,), ca_file=authority.file)
        self.outbound = Outbound(settings, resolve=lambda host, port: ["127.0.0.1"])
        self.webhooks = Webhooks(self.catalog, self.outbound)
        self.deliveries = Deliveries(self.catalog)
        self.deliverer = self.new_deliverer()

    def new_deliverer(self) -> Deliverer:
        return Deliverer(self.catalog, self.outbound, Random(5))

    def webhook(self, url: str, *types: str, ns: str = "ns", name: str = "hook", **configs):
        configs = {"url": url} | configs
        given = {
            "webhook_name": name,
            "event_types": list(types or TYPES),
            "channels": [{"channel": "webhook", "configs": configs}],
        }
        return self.webhooks.create(ns, new_id("webhook"), WebhookInput.model_validate(given))

    def emit(self, event_type: str = TYPES[0], ns: str = "ns", **metadata) -> str:
        with self.catalog.writing() as transaction:
            return emit(
                transaction, ns, event_type, "cluster", "clust_1", metadata, now=self.clock()
            )

    def statuses(self, webhook_id: str, ns: str = "ns") -> Counter:
        return Counter(each.status for each in self.found(webhook_id, ns=ns))

    def found(self, webhook_id: str, status: str | None = None, ns: str = "ns") -> list:
        page, count = self.deliveries.page(ns, webhook_id, Query(limit=1000, status=status))
        assert len(page.records) == count
        return [delivery(record) for record in page.records]

    def records(self) -> list[tuple]:
        """Return kind and body of all that the catalog holds."""
        with closing(sqlite3.connect(self._file)) as connection:
            return connection.execute(
                "SELECT kind, body FROM gpucluster_records JOIN gpucluster_bodies USING (key)"
            ).fetchall()

    def close(self) -> None:
        self.deliverer.stop()
        self.catalog.close()

    def step(self) -> None:
        while self.deliverer.step():
            pass

    def pass_time(self, until: datetime, tick_s: float = 0) -> None:
        """Deliver, and go on to when something is due, until nothing is before a time."""
        while True:
            self.step()
            with self.catalog.reading() as transaction:
                due = transaction.next_due(OUTLET)
            if due is None or due > until:
                self.clock.now = max(until, self.clock.now)
                return
            self.clock.now = max(due, self.clock.now) + timedelta(seconds=tick_s)


def only(found):
    (one,) = found
    return one


def verify(call, secret: str, monkeypatch, at: datetime | None = None):
    """Read a message as receivers do, at the time when it was sent."""
    moment = at or datetime.fromtimestamp(int(call.headers["webhook-timestamp"]), UTC)

    class Then(datetime):
        @classmethod
        def now(cls, tz=None):
            return moment

    monkeypatch.setattr(reference, "datetime", Then)
    return Webhook(secret).verify(call.body, call.headers)
