"""Events arrive: at receivers over TLS that fail half the time, after deaths, and next day."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import standardwebhooks.webhooks as reference
from standardwebhooks import Webhook, WebhookVerificationError

from gpucluster.service.catalog import open_catalog
from gpucluster.service.catalog.port import Query, utc_now
from gpucluster.service.identifiers import new_id
from gpucluster.service.outbound import Outbound, OutboundSettings
from gpucluster.service.refusals import ConflictError
from gpucluster.service.webhooks import Deliverer, Deliveries, Webhooks, emit
from gpucluster.service.webhooks.deliverer import HOLD
from gpucluster.service.webhooks.deliveries import delivery
from gpucluster.service.webhooks.records import OUTLET
from gpucluster.service.webhooks.schedule import DELAYS_S, KEEP_DEAD, KEEP_DELIVERED
from gpucluster.wire.webhooks import WebhookInput
from tests.helpers import postgres
from tests.helpers.clocks import FakeClock
from tests.helpers.receivers import NAME, Authority, receiving

TYPES = (
    *("cluster.created", "cluster.updated", "cluster.deleted", "cluster.execution.completed"),
    *("trigger.created", "trigger.updated", "trigger.fired", "taxonomy.created"),
    *("taxonomy.updated", "taxonomy.deleted"),
)
FAILURES = ("hang", "drip", "drip header", *(500, 503, 404, "reset", "redirect") * 3)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


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
        configs = {"url": url, "timeout": 0.25} | configs
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


@pytest.fixture
def house(authority: Authority, tmp_path: Path):
    house = House(authority, tmp_path)
    yield house
    house.close()


def verify(call, secret: str, monkeypatch: pytest.MonkeyPatch, at: datetime | None = None):
    """Read a message as receivers do, at the time when it was sent."""
    moment = at or datetime.fromtimestamp(int(call.headers["webhook-timestamp"]), UTC)

    class Then(datetime):
        @classmethod
        def now(cls, tz=None):
            return moment

    monkeypatch.setattr(reference, "datetime", Then)
    return Webhook(secret).verify(call.body, call.headers)


def only(found):
    (one,) = found
    return one


def test_an_event_is_sent_signed_and_as_documented(authority, tmp_path):
    house = House(authority, tmp_path, utc_now)
    with receiving(lambda call: 204, authority.context(NAME)) as receiver:
        webhook = house.webhook(receiver.url("/a"), headers={"X-Own": "yes"})
        event_id = house.emit(run_id="run_1")
        house.emit("alert.created")  # not asked for
        house.emit(ns="other")
        house.step()
    call = only(receiver.calls)
    event = Webhook(webhook.secret).verify(call.body, call.headers)
    assert event == {
        "event_id": event_id,
        "event_type": TYPES[0],
        "occurred_at": event["occurred_at"],
        "namespace_id": "ns",
        "subject": {"type": "cluster", "id": "clust_1"},
        "metadata": {"run_id": "run_1"},
    }
    assert abs(datetime.fromisoformat(event["occurred_at"]) - utc_now()) < timedelta(minutes=5)
    assert call.headers["webhook-id"] == event_id
    assert call.headers["content-type"] == "application/json"
    assert call.headers["x-own"] == "yes"
    done = only(house.found("hook"))
    assert (done.status, done.attempt_count, done.next_attempt_at) == ("delivered", 1, None)
    assert (done.attempts[0].status_code, done.attempts[0].error) == (204, None)
    assert done.event == event
    house.close()
    tampered = call.body.replace(b"run_1", b"run_2")
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook.secret).verify(tampered, call.headers)


@pytest.mark.slow
def test_each_of_500_events_arrives_at_receivers_that_fail_half_the_time(
    house, authority, monkeypatch
):
    fate = Random(11)
    decide = lambda call: 200 if fate.random() < 0.5 else fate.choice(FAILURES)  # noqa: E731
    began = house.clock.now
    with receiving(decide, authority.context(NAME)) as receiver:
        hooks = [house.webhook(receiver.url(f"/{kind}"), kind, name=kind) for kind in TYPES]
        sent = {kind: {house.emit(kind, n=n) for n in range(50)} for kind in TYPES}
        house.pass_time(began + timedelta(hours=25), tick_s=20)
    accepted = Counter(call.headers["webhook-id"] for call in receiver.accepted)
    for kind, hook in zip(TYPES, hooks, strict=True):
        assert house.statuses(hook.webhook_id) == {"delivered": 50}
        calls = [call for call in receiver.calls if call.path == f"/{kind}"]
        assert {call.headers["webhook-id"] for call in calls} == sent[kind]
        for call in calls:
            event = verify(call, hook.secret, monkeypatch)
            assert event["event_id"] == call.headers["webhook-id"]
    assert set(accepted) == set().union(*sent.values())
    bodies = {}
    for call in receiver.calls:
        assert bodies.setdefault(call.headers["webhook-id"], call.body) == call.body
    assert len(bodies) == 500


def test_a_receiver_that_never_answers_has_dead_letters_next_day_which_can_be_sent_again(
    house, authority
):
    is_back = False
    began = house.clock.now
    with receiving(lambda call: 200 if is_back else 500, authority.context(NAME)) as receiver:
        hook = house.webhook(receiver.url())
        ids = [house.emit(n=n) for n in range(3)]
        house.pass_time(began + timedelta(hours=23, minutes=59))
        assert house.statuses("hook") == {"pending": 3}
        house.pass_time(began + timedelta(hours=24, minutes=10))
        assert house.statuses("hook") == {"dead": 3}
        tries = Counter(call.headers["webhook-id"] for call in receiver.calls)
        assert set(tries) == set(ids)
        assert all(len(DELAYS_S) < count < 20 for count in tries.values())
        dead = house.found("hook", "dead")
        assert len(dead) == 3
        assert {each.error for each in dead[0].attempts} == {"answered with 500"}
        last = dead[0].attempts[-1].attempted_at
        assert timedelta(hours=24) <= last - began < timedelta(hours=24, minutes=5)

        house.step()
        assert len(receiver.calls) == sum(tries.values())  # given up
        is_back = True
        one = house.deliveries.redeliver("ns", "hook", dead[0].delivery_id)
        assert (one.status, one.attempt_count) == ("pending", dead[0].attempt_count)
        house.step()
        assert house.statuses("hook") == {"dead": 2, "delivered": 1}
        assert house.deliveries.redeliver_dead("ns", hook.webhook_name) == 2
        house.step()
        assert house.statuses("hook") == {"delivered": 3}
    assert {call.headers["webhook-id"] for call in receiver.accepted} == set(ids)


def test_tries_follow_the_schedule(house, authority):
    times = []
    with receiving(
        lambda call: times.append(house.clock.now) or 500, authority.context(NAME)
    ) as it:
        house.webhook(it.url())
        house.emit()
        house.pass_time(house.clock.now + timedelta(hours=30))
    gaps = [(b - a).total_seconds() for a, b in pairwise(times)]
    expected = [*DELAYS_S, *[DELAYS_S[-1]] * len(gaps)]
    for gap, delay in zip(gaps[:-1], expected, strict=False):
        assert 0.8 * delay <= gap <= 1.2 * delay + 64  # and the pause of the receiver
    assert times[-1] - times[0] == timedelta(hours=24)


def test_a_receiver_that_is_gone_disables_its_webhook(house, authority):
    with receiving(lambda call: 410, authority.context(NAME)) as receiver:
        hook = house.webhook(receiver.url())
        house.emit(n=1)
        house.emit(n=2)
        house.pass_time(house.clock.now + timedelta(hours=1))
        house.emit(n=3)
        house.pass_time(house.clock.now + timedelta(hours=1))
    assert len(receiver.calls) == 1
    shown = house.webhooks.get("ns", "hook")
    assert not shown.is_active
    assert shown.disabled_reason == "the receiver of channel 0 answered 410 Gone"
    assert house.statuses("hook") == {"dead": 1, "pending": 1}
    for refused in (
        lambda: house.deliveries.redeliver_dead("ns", "hook"),
        lambda: house.webhooks.ping("ns", "hook"),
    ):
        with pytest.raises(ConflictError, match="not active"):
            refused()

    again = shown.model_dump(mode="json") | {"is_active": True}
    assert house.webhooks.update("ns", "hook", WebhookInput(**again)).disabled_reason is None
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        again["channels"][0]["configs"]["url"] = receiver.url()
        house.webhooks.update("ns", hook.webhook_id, WebhookInput(**again))
        house.step()
        assert house.statuses("hook") == {"dead": 1, "delivered": 1}


def test_a_slow_receiver_holds_up_nobody_else(house, authority):
    slow = {f"/{n}" for n in range(8)}  # as many as there are threads
    with receiving(
        lambda call: "hang" if call.path in slow else 200, authority.context(NAME)
    ) as receiver:
        for path in (*slow, "/quick"):
            house.webhook(receiver.url(path), name=path)
        for _ in range(20):
            house.emit()
        began = house.clock.now
        while house.statuses("/quick")["delivered"] < 20:
            assert house.clock.now - began < timedelta(seconds=5)
            house.deliverer.step()
            house.clock.advance(seconds=0.1)
    calls = Counter(call.path for call in receiver.calls)
    assert calls.pop("/quick") == 20
    assert max(calls.values()) <= 3


def test_who_dies_before_any_step_leaves_its_work_to_the_next(house, authority):
    """A transaction that fails is a death before it; a call that is lost, one after it."""
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        house.webhook(receiver.url())
        for n in range(30):
            ids = {house.emit(n=n, m=m) for m in range(3)}
            calls = len(receiver.calls)
            died = _die_at(house, n)
            house.clock.advance(seconds=HOLD.total_seconds() + 1)
            house.deliverer = house.new_deliverer()
            house.pass_time(house.clock.now + 2 * HOLD)
            made = [call.headers["webhook-id"] for call in receiver.calls[calls:]]
            assert set(made) == ids
            assert len(made) <= len(ids) + 1  # what was sent and not written down
            if not died:
                break
        else:
            pytest.fail("it never ran to its end")
    assert n > 8
    assert set(house.statuses("hook")) == {"delivered"}


def _die_at(house: House, n: int) -> bool:
    """Run a deliverer whose n-th transaction fails, as all after it, and say whether one did."""
    catalog, count = house.catalog, 0

    class Dying:
        clock = catalog.clock
        reading = catalog.reading

        def writing(self):
            nonlocal count
            count += 1
            if count > n:
                raise KeyError  # as nothing that is expected
            return catalog.writing()

    deliverer = Deliverer(Dying(), house.outbound, Random(1))
    try:
        while deliverer.step():
            pass
    except KeyError:
        return True
    finally:
        deliverer.stop()
    return False


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_two_deliverers_share_the_work(authority, tmp_path, database):
    with ExitStack() as stack:
        url = None if database == "sqlite" else stack.enter_context(postgres.serving()).url
        house = House(authority, tmp_path, url=url)
        stack.callback(house.close)
        _share(house, authority)


def _share(house: House, authority: Authority) -> None:
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        hooks = [house.webhook(receiver.url(f"/{n}"), name=f"h{n}") for n in range(4)]
        ids = {house.emit(n=n) for n in range(25)}
        others = [Deliverer(house.catalog, house.outbound) for _ in range(2)]
        for each in others:
            each.start()
        while any(house.statuses(hook.webhook_id)["delivered"] < 25 for hook in hooks):
            receiver.closing.wait(0.02)
        for each in others:
            each.stop()
    made = Counter((call.path, call.headers["webhook-id"]) for call in receiver.calls)
    assert set(made) == {(f"/{n}", each) for n in range(4) for each in ids}
    assert set(made.values()) == {1}


def test_both_secrets_sign_for_a_day_after_a_rotation(house, authority, monkeypatch):
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        hook = house.webhook(receiver.url())
        first = hook.secret
        rotated = house.webhooks.rotate_secret("ns", "hook")
        second = rotated.secret
        assert rotated.previous_until == house.clock.now + timedelta(hours=24)
        house.emit()
        house.step()
        for secret in (first, second):
            verify(receiver.calls[0], secret, monkeypatch)
        house.clock.advance(hours=24)
        house.emit()
        house.step()
        verify(receiver.calls[1], second, monkeypatch)
        with pytest.raises(WebhookVerificationError):
            verify(receiver.calls[1], first, monkeypatch)
        third = house.webhooks.rotate_secret("ns", "hook").secret
        house.emit()
        house.step()
        assert len(receiver.calls[2].headers["webhook-signature"].split()) == 2
        verify(receiver.calls[2], third, monkeypatch)
        verify(receiver.calls[2], second, monkeypatch)


def test_an_old_message_is_refused_by_receivers(house, authority, monkeypatch):
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        hook = house.webhook(receiver.url())
        house.emit()
        house.step()
    late = house.clock.now + timedelta(minutes=6)
    with pytest.raises(WebhookVerificationError, match="too old"):
        verify(receiver.calls[0], hook.secret, monkeypatch, late)


def test_a_webhook_of_several_channels_repeats_none_that_answered(house, authority):
    with receiving(
        lambda call: 500 if call.path == "/b" and len(receiver.calls) < 4 else 200,
        authority.context(NAME),
    ) as receiver:
        channels = [
            {
                "channel": "webhook",
                "configs": {
                    "url": receiver.url("/a"),
                    "payload_template": {"what": "{{event_type}}", "n": "{{metadata.n}}"},
                },
            },
            {"channel": "webhook", "configs": {"url": receiver.url("/b")}},
            {
                "channel": "slack",
                "configs": {
                    "webhook_url": receiver.url("/slack"),
                    "username": "bot",
                    "blocks_template": '[{"type": "section", "text": "{{subject.id}} is there"}]',
                },
            },
        ]
        given = {"webhook_name": "hook", "event_types": [TYPES[0]], "channels": channels}
        house.webhooks.create("ns", new_id("webhook"), WebhookInput.model_validate(given))
        house.emit(n=7)
        house.pass_time(house.clock.now + timedelta(minutes=5))
    paths = Counter(call.path for call in receiver.calls)
    assert (paths["/a"], paths["/slack"]) == (1, 1)
    assert paths["/b"] > 1
    bodies = {call.path: json.loads(call.body) for call in receiver.accepted}
    assert bodies["/a"] == {"what": TYPES[0], "n": 7}
    assert bodies["/slack"] == {
        "text": f"{TYPES[0]}: cluster clust_1",
        "username": "bot",
        "blocks": [{"type": "section", "text": "clust_1 is there"}],
    }


def test_who_asks_for_another_try_during_one_gets_it(house, authority):
    def decide(call):
        if len(receiver.calls) == 1:
            house.deliveries.redeliver("ns", "hook", only(house.found("hook")).delivery_id)
            return 500
        return 200

    with receiving(decide, authority.context(NAME)) as receiver:
        house.webhook(receiver.url(), timeout=10)
        house.emit()
        house.pass_time(house.clock.now + timedelta(seconds=4))
    assert len(receiver.calls) == 2
    done = only(house.found("hook"))
    assert (done.status, done.attempt_count) == ("delivered", 1)  # the first was overtaken


def test_a_delivery_whose_channel_is_gone_is_given_up(house, authority):
    with receiving(
        lambda call: 500 if call.path == "/b" else 200, authority.context(NAME)
    ) as receiver:
        house.webhook(receiver.url("/a"))
        shown = house.webhooks.get("ns", "hook").model_dump(mode="json")
        (one,) = shown["channels"]
        second = {**one, "configs": {**one["configs"], "url": receiver.url("/b")}}
        house.webhooks.update("ns", "hook", WebhookInput(**{**shown, "channels": [one, second]}))
        house.emit()
        house.step()
        house.webhooks.update("ns", "hook", WebhookInput(**shown))
        house.pass_time(house.clock.now + timedelta(hours=25))
    assert Counter(call.path for call in receiver.calls) == {"/a": 1, "/b": 1}
    dead = only(house.found("hook", "dead"))
    assert (dead.channel_index, dead.attempts[-1].error) == (1, "its channel is gone")


def test_a_ping_goes_to_one_webhook(house, authority):
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        hook = house.webhook(receiver.url("/a"))
        house.webhook(receiver.url("/b"), name="other")
        house.webhooks.ping("ns", "hook")
        house.step()
    event = json.loads(only(receiver.calls).body)
    assert (receiver.calls[0].path, event["event_type"]) == ("/a", "ping")
    assert event["subject"] == {"type": "webhook", "id": hook.webhook_id}


def test_what_was_delivered_is_forgotten_after_a_week_and_dead_letters_later(house, authority):
    with receiving(
        lambda call: 200 if b'"n":1' in call.body else 500, authority.context(NAME)
    ) as it:
        house.webhook(it.url())
        house.emit(n=1)
        house.emit(n=2)
        began = house.clock.now
        house.pass_time(began + KEEP_DELIVERED - timedelta(hours=1))
        assert house.statuses("hook") == {"delivered": 1, "dead": 1}
        house.pass_time(began + KEEP_DELIVERED + timedelta(hours=1))
        assert house.statuses("hook") == {"dead": 1}
        house.pass_time(began + KEEP_DEAD + timedelta(days=2))
        assert house.statuses("hook") == {}
    assert {kind for kind, _ in house.records()} == {"webhook", "webhook_outlet"}


def test_a_webhook_is_removed_with_its_deliveries(house, authority):
    with receiving(lambda call: 500, authority.context(NAME)) as receiver:
        house.webhook(receiver.url())
        house.emit()
        house.step()
        house.webhooks.delete("ns", "hook")
        house.emit()
        house.pass_time(house.clock.now + timedelta(hours=1))
    assert len(receiver.calls) == 1
    assert house.records() == []


@pytest.mark.parametrize("behaviour", [200, 500, "reset", "redirect", "endless", 410])
def test_secrets_of_a_webhook_are_nowhere_but_in_its_calls(house, authority, caplog, behaviour):
    caplog.set_level(logging.DEBUG)
    with receiving(lambda call: behaviour, authority.context(NAME)) as receiver:
        receiver.reply = b"you sent canary"
        hook = house.webhook(
            receiver.url("/a?token=canary"),
            headers={"Authorization": "Bearer canary", "X-Key": "canary"},
        )
        slack = {
            "webhook_name": "slack",
            "event_types": list(TYPES),
            "channels": [
                {"channel": "slack", "configs": {"webhook_url": receiver.url("/T0/canary")}}
            ],
        }
        made = house.webhooks.create("ns", new_id("webhook"), WebhookInput.model_validate(slack))
        house.emit()
        house.step()
        assert len(receiver.calls) == 2
    answers = [
        made.model_dump_json(exclude={"secret"}),
        hook.model_dump_json(exclude={"secret"}),
        *(each.model_dump_json() for each in house.webhooks.matching("ns")),
        house.webhooks.update(
            "ns", "hook", WebhookInput(**house.webhooks.get("ns", "hook").model_dump(mode="json"))
        ).model_dump_json(),
        *(each.model_dump_json() for name in ("hook", "slack") for each in house.found(name)),
    ]
    kept = [body for kind, body in house.records() if kind != OUTLET]
    written = "\n".join([*answers, repr(kept), caplog.text])
    assert "canary" not in written
    assert hook.secret not in written
    assert made.secret not in written
    assert receiver.calls[0].headers  # and they were sent
    assert any("canary" in call.headers.get("authorization", "") for call in receiver.calls)
