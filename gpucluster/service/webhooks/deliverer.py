"""The deliverer: takes events up, calls receivers, and tries again until they have answered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random, SystemRandom
from time import monotonic
from typing import Any, Final

from gpucluster.service.catalog.port import Catalog, Changed, Full, Record, Transaction
from gpucluster.service.counters import DELIVERIES
from gpucluster.service.outbound import Outbound, OutboundError
from gpucluster.service.webhooks.channels import message
from gpucluster.service.webhooks.events import EVENT
from gpucluster.service.webhooks.records import (
    ACTIVE,
    DEAD,
    DELIVERED,
    INACTIVE,
    OUTLET,
    PENDING,
    WEBHOOK,
    deliver,
    kind_of_deliveries,
    settle,
    webhooks,
)
from gpucluster.service.webhooks.schedule import KEEP_DEAD, KEEP_DELIVERED, next_attempt

HOLD: Final = timedelta(seconds=60)  # longer than a call may take, and a turn
TURN_S: Final = 20.0  # of one webhook, while its receiver answers well
LANES: Final = 8  # webhooks whose turn it is at once; each has one call at a time
POLL_S: Final = 1.0
KEPT_ATTEMPTS: Final = 20
_EVENTS: Final = 10  # in one transaction, each for up to 500 channels
_GONE: Final = 410

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a call led to."""

    attempt: Mapping[str, Any]
    is_delivered: bool
    is_gone: bool = False


class Deliverer:
    """Calls receivers in threads of its own, one call at a time for each webhook.

    Several, of several servers, may share a catalog. One that dies leaves its work to the others,
    after `HOLD`: what it had sent and not yet written down is sent again.

    Parameters
    ----------
    catalog : Catalog
    outbound : Outbound
    random : Random, optional
        By which delays vary.
    """

    def __init__(self, catalog: Catalog, outbound: Outbound, random: Random | None = None) -> None:
        self._catalog = catalog
        self._outbound = outbound
        self._random = random or SystemRandom()
        self._pool = ThreadPoolExecutor(LANES, thread_name_prefix="gpucluster-webhooks")
        self._busy: set[tuple[str, str]] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Deliver from now on."""
        self._thread = threading.Thread(target=self._run, name="gpucluster-deliverer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the calls that are being made."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._pool.shutdown()

    def step(self) -> bool:
        """Do all that is due now, once, and say whether there was anything."""
        is_any = self._take_events()
        lanes = self._take_outlets()
        wait(lanes)
        for lane in lanes:
            lane.result()
        return is_any or bool(lanes)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                is_any = self._take_events()
                self._take_outlets()
            except Full:  # as when a disk is; it may have room again
                is_any = False
            except Exception as error:  # noqa: BLE001 - what stops once must not stop for ever
                _log.error("deliveries are held up: %s", type(error).__name__)
                is_any = False
            if not is_any:
                self._stopping.wait(POLL_S)

    def _take_events(self) -> bool:
        """Make deliveries of events, and forget them: both or neither."""
        if not self._is_due(EVENT):
            return False
        now = self._catalog.clock()
        with self._catalog.writing() as transaction:
            events = transaction.claim(EVENT, hold=HOLD, limit=_EVENTS)
            known: dict[str, list[Record]] = {}
            for event in events:
                if event.ns not in known:
                    known[event.ns] = webhooks(transaction, event.ns)
                for webhook in known[event.ns]:
                    wanted = webhook.body["event_types"]
                    if webhook.status == ACTIVE and event.body["event_type"] in wanted:
                        channels = range(len(webhook.body["channels"]))
                        deliver(transaction, webhook, event.body, channels, now)
                transaction.delete(event.ns, EVENT, event.id)
        return bool(events)

    def _take_outlets(self) -> list[Future[None]]:
        """Begin the turn of webhooks that are due, as far as there are threads."""
        free = LANES - len(self._busy)
        if free <= 0 or not self._is_due(OUTLET):
            return []
        with self._catalog.writing() as transaction:
            outlets = transaction.claim(OUTLET, hold=HOLD, limit=free)
        lanes = []
        for outlet in outlets:
            key = outlet.ns, outlet.id
            if key not in self._busy:  # its turn ends with another look at what is due
                self._busy.add(key)
                lanes.append(self._pool.submit(self._serve, *key))
                lanes[-1].add_done_callback(_report)
        return lanes

    def _is_due(self, kind: str) -> bool:
        """Whether it is worth while to begin a transaction that writes."""
        with self._catalog.reading() as transaction:
            due = transaction.next_due(kind)
        return due is not None and due <= self._catalog.clock()

    def _serve(self, ns: str, webhook_id: str) -> None:
        """Call the receiver of one webhook for a turn, and say when the next one is."""
        with suppress(Full):  # it is due again after HOLD
            try:
                failures = self._turn(ns, webhook_id)
            finally:  # before the look at what is due: what comes after that finds it free
                self._busy.discard((ns, webhook_id))
            with self._catalog.writing() as transaction:
                settle(transaction, ns, webhook_id, self._catalog.clock(), failures=failures)

    def _turn(self, ns: str, webhook_id: str) -> int:
        """Call until the receiver fails or others should have the thread; return its failures."""
        until = monotonic() + TURN_S
        is_answering = False
        while monotonic() < until and not self._stopping.is_set():
            taken = self._take_delivery(ns, webhook_id)
            if taken is None:
                break
            outlet, delivery = taken
            outcome = self._call(outlet, delivery)
            self._write_down(delivery, outcome)
            if not outcome.is_delivered:
                return 1 if is_answering else outlet.body["failures"] + 1
            is_answering = True
        return 0

    def _take_delivery(self, ns: str, webhook_id: str) -> tuple[Record, Record] | None:
        """Return the outlet and a delivery that is due, and remove what was kept long enough."""
        kind = kind_of_deliveries(ns, webhook_id)
        with self._catalog.writing() as transaction:
            webhook = transaction.get(ns, WEBHOOK, webhook_id)
            outlet = transaction.get(ns, OUTLET, webhook_id)
            if webhook is None or outlet is None or webhook.status != ACTIVE:
                return None
            while claimed := transaction.claim(kind, hold=HOLD):
                if claimed[0].status == PENDING:
                    return outlet, claimed[0]
                transaction.delete(ns, kind, claimed[0].id)
        return None

    def _call(self, outlet: Record, delivery: Record) -> _Outcome:
        """Make a call, and say what it led to; nothing of the answer but its status is kept."""
        now, started = self._catalog.clock(), monotonic()
        index, event = delivery.body["channel_index"], delivery.body["event"]
        attempt: dict[str, Any] = {"attempted_at": now.isoformat(), "status_code": None}
        channels = outlet.body["channels"]
        if index >= len(channels):
            gone = {**attempt, "error": "its channel is gone", "elapsed_ms": 0}
            return _Outcome(gone, is_delivered=False)
        sent = message(channels[index], outlet.body["secrets"], event, now)
        status: int | None = None
        problem: str | None = None
        try:
            reply = self._outbound.post(sent.url, sent.body, sent.headers, sent.timeout_s)
        except OutboundError as error:
            problem = str(error)
        else:
            status = reply.status
            if not 200 <= status < 300:
                problem = f"answered with {status}"
        attempt |= {
            "status_code": status,
            "error": problem,
            "elapsed_ms": round(1000 * (monotonic() - started)),
        }
        _log.info("webhook %s: %s", outlet.id, problem or "delivered")
        return _Outcome(attempt, problem is None, status == _GONE)

    def _write_down(self, delivery: Record, outcome: _Outcome) -> None:
        """Record a call, unless somebody else has the delivery by now."""
        now = self._catalog.clock()
        after = self._after(delivery, outcome, now)
        DELIVERIES.labels("failed" if after.status == PENDING else after.status).inc()
        with suppress(Changed), self._catalog.writing() as transaction:
            transaction.replace(after)
        if outcome.is_gone:
            with self._catalog.writing() as transaction:
                _disable(transaction, delivery)

    def _after(self, delivery: Record, outcome: _Outcome, now: datetime) -> Record:
        """Return a delivery after a call."""
        body = delivery.body
        failures = body["failures"] + (not outcome.is_delivered)
        changed = {
            **body,
            "attempts": [*body["attempts"], outcome.attempt][-KEPT_ATTEMPTS:],
            "attempt_count": body["attempt_count"] + 1,
            "failures": failures,
        }
        if outcome.is_delivered:
            due = now + KEEP_DELIVERED
            return replace(delivery, body=changed, status=DELIVERED, due_at=due)
        give_up_at = datetime.fromisoformat(body["give_up_at"])
        again = None
        if not outcome.is_gone:
            again = next_attempt(failures, now, give_up_at, self._random)
        status = DEAD if again is None else PENDING
        return replace(delivery, body=changed, status=status, due_at=again or now + KEEP_DEAD)


def _report(lane: Future[None]) -> None:
    """Log what ended a turn; the message may hold what is secret, so its class must do."""
    error = lane.exception()
    if error is not None:
        _log.error("the turn of a webhook ended early: %s", type(error).__name__)


def _disable(transaction: Transaction, delivery: Record) -> None:
    """Stop a webhook whose receiver says that it will not be back."""
    webhook = transaction.get(delivery.ns, WEBHOOK, str(delivery.parent))
    if webhook is not None and webhook.status == ACTIVE:
        reason = f"the receiver of channel {delivery.body['channel_index']} answered 410 Gone"
        body = {**webhook.body, "disabled_reason": reason}
        transaction.replace(replace(webhook, body=body, status=INACTIVE))
