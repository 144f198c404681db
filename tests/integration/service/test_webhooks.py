"""Webhooks over HTTP: made, shown without what is secret, changed, tried, and removed."""

from __future__ import annotations

import json
import logging
import time

import pytest
from standardwebhooks import Webhook

from tests.helpers.receivers import receiving
from tests.helpers.serving import serving

ROOT = "/v1/organizations/webhooks"
MASK = "********"


@pytest.fixture(scope="module")
def server(tmp_path_factory, authority):
    root = tmp_path_factory.mktemp("webhooks")
    settings = {"outbound_hosts": ("localhost",), "outbound_ca_file": authority.file}
    with serving(root, max_jobs=0, **settings) as (client, service):
        client.post("/v1/namespaces", json={"namespace_id": "other"})
        yield client, service


@pytest.fixture
def client(server):
    client = server[0]
    yield client
    for each in client.post(f"{ROOT}/list", json={}).json()["results"]:
        client.delete(f"{ROOT}/{each['webhook_id']}")


def given(url="https://example.com/a", **fields):
    config = {"url": url, "headers": fields.pop("headers", {}), **fields.pop("configs", {})}
    channels = [{"channel": "webhook", "configs": config}]
    types = ["cluster.created", "trigger.fired"]
    return {"webhook_name": "hook", "event_types": types, "channels": channels} | fields


def made(client, **fields):
    answer = client.post(ROOT, json=given(**fields))
    assert answer.status_code == 201, answer.text
    return answer.json()


def problem(answer):
    assert answer.status_code == 422, answer.text
    (found,) = answer.json()["detail"]
    return ".".join(map(str, found["loc"])), found["msg"]


def eventually(read, wanted):
    until = time.monotonic() + 60
    while not wanted(found := read()):
        assert time.monotonic() < until, found
        time.sleep(0.05)
    return found


def test_a_webhook_is_made_shown_changed_and_removed(client):
    new = made(
        client, headers={"Authorization": "Bearer canary"}, url="https://example.com/a?k=canary"
    )
    assert new["secret"].startswith("whsec_")
    assert new["webhook_id"].startswith("wh_")
    assert len(new["webhook_id"]) == 19
    assert (new["is_active"], new["disabled_reason"]) == (True, None)
    shown = client.get(f"{ROOT}/hook").json()
    assert shown == client.get(f"{ROOT}/{new['webhook_id']}").json()
    assert shown == {name: value for name, value in new.items() if name != "secret"}
    config = shown["channels"][0]["configs"]
    assert config["url"] == f"https://example.com/a?{MASK}"
    assert config["headers"] == {"Authorization": MASK}
    assert config["timeout"] == 10.0
    answer = client.put(
        f"{ROOT}/hook", json=shown | {"webhook_name": "renamed", "is_active": False}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["channels"] == shown["channels"]
    assert client.get(f"{ROOT}/hook").status_code == 404
    assert client.get(f"{ROOT}/renamed").json()["is_active"] is False
    assert client.delete(f"{ROOT}/renamed").status_code == 204
    assert client.delete(f"{ROOT}/renamed").status_code == 404
    assert client.get(f"{ROOT}/{new['webhook_id']}").status_code == 404


def test_lists_have_filters_and_pages(client):
    for n in range(5):
        types = ["cluster.created"] if n % 2 else ["taxonomy.created"]
        made(client, webhook_name=f"h{n}", event_types=types, is_active=n != 0)

    def names(body, query=""):
        answer = client.post(f"{ROOT}/list{query}", json=body).json()
        return [each["webhook_name"] for each in answer["results"]], answer

    assert names({})[0] == ["h0", "h1", "h2", "h3", "h4"]
    assert names({"event_type": "cluster.created"})[0] == ["h1", "h3"]
    assert names({"is_active": False})[0] == ["h0"]
    first, answer = names({}, "?limit=2&include_total=true")
    assert (first, answer["total"], answer["pagination"]["total"]) == (["h0", "h1"], 5, 5)
    second, answer = names({}, answer["pagination"]["next_page"])
    third, answer = names({}, answer["pagination"]["next_page"])
    assert (second, third) == (["h2", "h3"], ["h4"])
    assert answer["pagination"]["next_cursor"] is None
    assert client.post(f"{ROOT}/list?cursor=x", json={}).status_code == 422


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"url": "http://example.com"}, "channels.0.configs.url", "http is not allowed"),
        ({"url": "https://10.0.0.1/a"}, "channels.0.configs.url", "not in the open internet"),
        ({"url": "https://a:b@example.com"}, "channels.0.configs.url", "no address"),
        ({"url": "https://example.com:22"}, "channels.0.configs.url", "got port 22"),
        ({"headers": {"Host": "x"}}, "channels.0.configs.headers", "no header of this name"),
        ({"headers": {"webhook-id": "x"}}, "channels.0.configs.headers", "no header"),
        ({"headers": {"a b": "x"}}, "channels.0.configs.headers", "no header"),
        ({"headers": {"a": "x\r\ny: z"}}, "channels.0.configs.headers", "visible ASCII"),
        ({"headers": {"a": MASK}}, "channels.0.configs.headers", "there is none"),
        ({"url": f"https://example.com/?{MASK}"}, "channels.0.configs.url", "there is none"),
        ({"configs": {"timeout": 11}}, "channels.0.configs.timeout", "less than"),
        (
            {"configs": {"payload_template": {"a": ["{{secret}}"]}}},
            "channels.0.configs.payload_template",
            "no event has the field secret",
        ),
        ({"event_types": ["cluster.exploded"]}, "event_types.0", "Input should be"),
        ({"event_types": []}, "event_types", "at least 1"),
        ({"channels": []}, "channels", "at least 1"),
        ({"webhook_id": "wh_0123456789abcdef"}, "webhook_id", "the service gives the id"),
        ({"secret": "whsec_x"}, "secret", "no such field"),
        (
            {"channels": [{"channel": "email", "configs": {"to_addresses": ["a@example.com"]}}]},
            "channels.0.channel",
            "sends no mail",
        ),
        (
            {
                "channels": [
                    {
                        "channel": "slack",
                        "configs": {"webhook_url": "https://h.example/x", "blocks_template": "{}"},
                    }
                ]
            },
            "channels.0.configs.blocks_template",
            "no list in JSON",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client, change, where, what):
    path, message = problem(client.post(ROOT, json=given(**change)))
    assert path == f"body.{where}"
    assert what in message


def test_the_other_name_of_an_event_means_the_same(client):
    new = made(client, event_types=["cluster.completed", "cluster.execution.completed"])
    assert new["event_types"] == ["cluster.execution.completed"]


def test_numbers_of_a_template_are_those_of_json(client):
    text = json.dumps(given(configs={"payload_template": {"a": 1.5}})).replace("1.5", "1e999")
    headers = {"Content-Type": "application/json"}
    path, message = problem(client.post(ROOT, content=text, headers=headers))
    assert path == "body.channels.0.configs.payload_template"
    assert "not finite" in message


def test_names_are_taken_once_and_requests_under_a_key_done_once(client):
    headers = {"Idempotency-Key": "one"}
    first = client.post(ROOT, json=given(), headers=headers)
    again = client.post(ROOT, json=given(), headers=headers)
    assert (first.status_code, again.status_code) == (201, 409)
    assert again.json()["error"]["type"] == "SpentError"  # the secret is not kept
    assert client.post(ROOT, json=given()).status_code == 409
    made(client, webhook_name="second")
    assert client.put(f"{ROOT}/second", json=given()).status_code == 409
    assert client.post(f"{ROOT}/", json=given(webhook_name="third")).status_code == 201


def test_there_is_an_end_to_webhooks(client):
    for n in range(50):
        made(client, webhook_name=f"h{n}")
    assert client.post(ROOT, json=given()).status_code == 409


def test_a_kept_secret_goes_to_no_other_address(client):
    made(client, headers={"X-Key": "canary"})
    shown = client.get(f"{ROOT}/hook").json()
    shown["channels"][0]["configs"]["url"] = "https://elsewhere.example/a"
    assert problem(client.put(f"{ROOT}/hook", json=shown))[0] == "body.channels.0.configs.headers"


def test_other_namespaces_and_scopes(client):
    new = made(client)
    other = {"X-Namespace": "other"}
    for path in ("hook", new["webhook_id"], f"{new['webhook_id']}/deliveries"):
        assert client.get(f"{ROOT}/{path}", headers=other).status_code == 404
    for path in ("test", "secret/rotate", "deliveries/redeliver"):
        assert client.post(f"{ROOT}/hook/{path}", headers=other).status_code == 404
    assert client.post(f"{ROOT}/list", json={}, headers=other).json()["results"] == []
    token = client.post("/v1/tokens", json={"scopes": ["run"]}).json()["token"]
    runs = {"Authorization": f"Bearer {token}"}
    assert client.get(f"{ROOT}/hook", headers=runs).status_code == 200
    assert client.post(ROOT, json=given(), headers=runs).status_code == 403
    assert client.delete(f"{ROOT}/hook", headers=runs).status_code == 403
    assert client.post(f"{ROOT}/hook/secret/rotate", headers=runs).status_code == 403


def test_what_happens_to_definitions_is_told(server, client, authority, monkeypatch):
    monkeypatch.setattr(server[1].definitions, "_check_features", lambda *_: None)
    with receiving(lambda call: 200, authority.context("localhost")) as receiver:
        types = ["cluster.created", "cluster.updated", "cluster.deleted"]
        made(client, url=receiver.url(name="localhost"), event_types=types)
        body = {"cluster_name": "c", "collection_ids": ["col_1"], "algorithm": "kmeans"}
        cluster = client.post("/v1/clusters", json=body).json()["cluster_id"]
        client.patch(f"/v1/clusters/{cluster}", json={"cluster_name": "d"})
        client.delete(f"/v1/clusters/{cluster}")
        eventually(lambda: receiver.accepted, lambda calls: len(calls) == 3)
    told = [json.loads(call.body) for call in receiver.accepted]
    assert {event["event_type"] for event in told} == set(types)
    assert [event["subject"] for event in told] == [{"type": "cluster", "id": cluster}] * 3


def test_messages_arrive_by_the_server_itself_and_nothing_secret_is_said(client, authority, caplog):
    caplog.set_level(logging.DEBUG)
    said = []
    with receiving(
        lambda call: 200 if len(receiver.calls) > 1 else 500, authority.context("localhost")
    ) as receiver:
        receiver.reply = b"canary"
        url = receiver.url("/a?k=canary", name="localhost")
        new = made(client, url=url, headers={"X-Key": "canary"})
        secret = new.pop("secret")
        ping = client.post(f"{ROOT}/hook/test")
        assert ping.status_code == 202
        (delivery,) = ping.json()["deliveries"]
        path = f"{ROOT}/hook/deliveries/{delivery['delivery_id']}"
        tried = eventually(lambda: client.get(path).json(), lambda it: it["attempt_count"])
        assert (tried["status"], tried["attempts"][0]["status_code"]) == ("pending", 500)
        assert tried["next_attempt_at"]
        again = client.post(f"{path}/redeliver")
        assert again.status_code == 200
        eventually(lambda: client.get(path).json(), lambda it: it["status"] == "delivered")
        listed = client.get(f"{ROOT}/hook/deliveries?status=delivered").json()
        posted = client.post(f"{ROOT}/hook/deliveries", json={"status": "dead"}).json()
        assert (listed["total"], posted["total"], len(listed["results"])) == (1, 0, 1)
        assert client.post(f"{ROOT}/hook/deliveries/redeliver").json() == {"redelivered": 0}
        assert client.get(f"{ROOT}/hook/deliveries/dlv_0").status_code == 404
        rotated = client.post(f"{ROOT}/hook/secret/rotate").json()
        said = [new, tried, again.json(), listed, client.get(f"{ROOT}/hook").json()]
    for call in receiver.calls:
        assert call.headers["x-key"] == "canary"
        assert Webhook(secret).verify(call.body, call.headers)["event_type"] == "ping"
    written = json.dumps(said) + caplog.text
    for hidden in ("canary", secret, rotated["secret"]):
        assert hidden not in written
