"""Events arrive: at receivers over TLS that fail half the time, after deaths, and next day."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from random import Random

import pytest

from gpucluster.service.refusals import ConflictError
from gpucluster.service.webhooks import Deliverer
from gpucluster.service.webhooks.deliverer import HOLD
from gpucluster.service.webhooks.schedule import DELAYS_S, KEEP_DEAD, KEEP_DELIVERED
from gpucluster.wire.webhooks import WebhookInput
from tests.helpers.deliveries import TYPES, House, only, verify
from tests.helpers.receivers import NAME, Authority, receiving

FAILURES = ("hang", "drip", "drip header", *(500, 503, 404, "reset", "redirect") * 3)


@pytest.mark.slow
def test_each_of_500_events_arrives_at_receivers_that_fail_half_the_time(
    house, authority, monkeypatch
):
    fate = Random(11)
    decide = lambda call: 200 if fate.random() < 0.5 else fate.choice(FAILURES)  # noqa: E731
    began = house.clock.now
    with receiving(decide, authority.context(NAME)) as receiver:
        hooks = [
            house.webhook(receiver.url(f"/{kind}"), kind, name=kind, timeout=0.25) for kind in TYPES
        ]
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
            house.webhook(receiver.url(path), name=path[1:], timeout=0.25 if path in slow else 10)
        for _ in range(20):
            house.emit()
        began = house.clock.now
        while house.statuses("quick")["delivered"] < 20:
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


def test_two_deliverers_share_the_work(authority, tmp_path, catalog_url):
    with closing(House(authority, tmp_path, url=catalog_url)) as house:
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


def test_who_asks_for_another_try_during_one_gets_it(house, authority):
    def decide(call):
        if len(receiver.calls) == 1:
            house.deliveries.redeliver("ns", "hook", only(house.found("hook")).delivery_id)
            return 500
        return 200

    with receiving(decide, authority.context(NAME)) as receiver:
        house.webhook(receiver.url())
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
