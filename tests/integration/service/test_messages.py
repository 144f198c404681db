"""What receivers get: signed messages, as documented, with nothing secret beside them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from datetime import datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from gpucluster.service.catalog.port import utc_now
from gpucluster.service.identifiers import new_id
from gpucluster.service.webhooks.records import OUTLET
from gpucluster.wire.webhooks import WebhookInput
from tests.helpers.deliveries import TYPES, House, only, verify
from tests.helpers.receivers import NAME, receiving


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


def test_a_ping_goes_to_one_webhook(house, authority):
    with receiving(lambda call: 200, authority.context(NAME)) as receiver:
        hook = house.webhook(receiver.url("/a"))
        house.webhook(receiver.url("/b"), name="other")
        house.webhooks.ping("ns", "hook")
        house.step()
    event = json.loads(only(receiver.calls).body)
    assert (receiver.calls[0].path, event["event_type"]) == ("/a", "ping")
    assert event["subject"] == {"type": "webhook", "id": hook.webhook_id}


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
