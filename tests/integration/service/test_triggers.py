"""Triggers over HTTP, and what they start in a service that clusters."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import httpx2
import numpy as np
import pytest
from standardwebhooks import Webhook

from gpucluster.service.catalog.port import utc_now
from gpucluster.service.outbound import Outbound, OutboundSettings
from gpucluster.service.outbound.signing import new_secret
from gpucluster.service.refusals import UnavailableError
from gpucluster.service.triggers import Asking
from gpucluster.service.triggers.port import Question
from tests.helpers.receivers import Authority, receiving
from tests.helpers.serving import serving

ROOT = "/v1/clusters/triggers"
URI = "mixpeek://text_extractor@v1/text_embedding"
HOURLY = {"interval_seconds": 3600}
SECONDS = 60


class Shifted:
    """The time of this machine, or later."""

    def __init__(self) -> None:
        self.by = timedelta()

    def __call__(self):
        return utc_now() + self.by


def documents(name, n, shift=0.0, dim=16):
    """Return documents in four groups, all of them shifted into one direction."""
    rng = np.random.default_rng(0)
    means = 4 * rng.normal(size=(4, dim))
    X = rng.normal(size=(n, dim)) + means[np.arange(n) % 4]
    X[:, 0] += shift
    rows = X.round(3).tolist()
    return [{"document_id": f"{name}{i}", "embedding": row} for i, row in enumerate(rows)]


def add(client, name, n, **more):
    body = {"documents": documents(name, n, **more)}
    added = client.post("/v1/collections/col_docs/documents", json=body)
    assert added.is_success, added.text


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("triggers") / "root") as (client, service):
        service.catalog.clock = Shifted()
        features = {URI: {"column": "embedding", "dim": 16}}
        given = {"collection_id": "col_docs", "collection_name": "docs", "features": features}
        made = client.post("/v1/collections", json=given)
        assert made.status_code == 201, made.text
        add(client, "a", 400)
        yield client, service


@pytest.fixture
def client(server):
    client = server[0]
    yield client
    for each in client.post(f"{ROOT}/list", json={}).json()["results"]:
        client.delete(f"{ROOT}/{each['trigger_id']}")


CONFIG = {
    "vector_config": {
        "feature_uri": URI,
        "clustering_method": "kmeans",
        "algorithm_params": {"n_clusters": 4},
    }
}


@pytest.fixture(scope="module")
def cluster(server):
    body = {"cluster_name": "topics", "collection_ids": ["col_docs"], **CONFIG}
    answer = server[0].post("/v1/clusters", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["cluster_id"]


def made(client, kind="interval", schedule=HOURLY, **fields):
    body = {"trigger_type": kind, "schedule_config": schedule, **fields}
    answer = client.post(ROOT, json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def history(client, trigger, **body):
    answer = client.post(f"{ROOT}/{trigger['trigger_id']}/history", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def settled(client, trigger, n):
    """Return the entries of a history, oldest first, once there are `n` and none is live."""
    until = time.monotonic() + SECONDS
    while True:
        entries = history(client, trigger)["executions"][::-1]
        if len(entries) >= n and not {"pending", "checking"} & {e["status"] for e in entries}:
            assert len(entries) == n
            return entries
        assert time.monotonic() < until, entries
        time.sleep(0.05)


def test_made_shown_changed_and_removed(client, cluster):
    trigger = made(client, cluster_id="topics", description="hourly")
    assert trigger.pop("secret") is None
    one = f"{ROOT}/{trigger['trigger_id']}"
    assert trigger["cluster_id"] == cluster  # a name is a name of something
    assert trigger["execution_config"]["collection_ids"] == ["col_docs"]
    assert client.get(one).json() == trigger
    listed = client.post(f"{ROOT}/list", json={"cluster_id": cluster}).json()
    assert (listed["results"], listed["total"]) == ([trigger], 1)
    changed = client.patch(one, json={"schedule_config": {"interval_seconds": 600}}).json()
    assert changed["schedule_config"]["interval_seconds"] == 600
    paused = client.post(f"{one}/pause").json()
    assert (paused["status"], paused["next_scheduled_at"]) == ("paused", None)
    resumed = client.post(f"{one}/resume").json()
    assert resumed["status"] == "active"
    assert resumed["next_scheduled_at"] > trigger["created_at"]
    assert history(client, trigger) == {
        "trigger_id": trigger["trigger_id"],
        "executions": [],
        "total": 0,
        "offset": 0,
        "limit": 50,
    }
    gone = client.delete(one)
    assert (gone.status_code, gone.content) == (204, b"")
    for answer in (client.get(one), client.delete(one), client.post(f"{one}/execute")):
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("body", "loc", "said"),
    [
        ({"trigger_type": "cron"}, "schedule_config", "required"),
        ({"trigger_type": "daily"}, "trigger_type", "'cron', 'interval', 'event', 'conditional'"),
        (
            {"trigger_type": "cron", "schedule_config": {"cron_expression": "0 0 31 2 *"}},
            "schedule_config.cron_expression",
            "no such day-of-month",
        ),
        (
            {"trigger_type": "interval", "schedule_config": {**HOURLY, "every": 3}},
            "schedule_config.every",
            "",
        ),
        (
            {
                "trigger_type": "event",
                "schedule_config": {"event_type": "documents_added", "collection_id": "none"},
            },
            "schedule_config.collection_id",
            "no collection none",
        ),
        (
            {
                "trigger_type": "conditional",
                "schedule_config": {"condition_type": "custom", "url": "https://127.0.0.1/x"},
            },
            "schedule_config.url",
            "",
        ),
        (
            {
                "trigger_type": "interval",
                "schedule_config": HOURLY,
                "execution_config": {"collection_ids": ["none"], "config": CONFIG},
            },
            "execution_config.collection_ids",
            "no collection none",
        ),
        (
            {
                "trigger_type": "interval",
                "schedule_config": HOURLY,
                "execution_config": {"collection_ids": ["docs"], "config": {"algorithmus": 1}},
            },
            "execution_config.config.algorithmus",
            "unknown setting",
        ),
        (
            {
                "trigger_type": "interval",
                "schedule_config": HOURLY,
                "execution_config": {"collection_ids": ["docs"], "config": {"collection_ids": []}},
            },
            "execution_config",
            "and not in it",
        ),
        (
            {"trigger_type": "interval", "schedule_config": HOURLY, "execution_config": {}},
            "execution_config.collection_ids",
            "required",
        ),
    ],
)
def test_what_is_wrong_is_named(client, cluster, body, loc, said):
    if "execution_config" not in body:
        body = {**body, "cluster_id": cluster}
    answer = client.post(ROOT, json=body)
    assert answer.status_code == 422, answer.text
    problem = answer.json()["detail"][0]
    assert ".".join(map(str, problem["loc"])).endswith(loc)
    assert said in problem["msg"]


def test_scopes_namespaces_and_keys(client, cluster):
    trigger = made(client, cluster_id=cluster)
    one = f"{ROOT}/{trigger['trigger_id']}"
    issued = client.post("/v1/tokens", json={"scopes": ["read"]}).json()["token"]
    reads = {"Authorization": f"Bearer {issued}"}
    assert client.get(one, headers=reads).status_code == 200
    assert client.post(f"{one}/execute", headers=reads).status_code == 403
    assert client.delete(one, headers=reads).status_code == 403
    client.post("/v1/namespaces", json={"namespace_id": "other"})
    elsewhere = {"X-Namespace": "other"}
    assert client.get(one, headers=elsewhere).status_code == 404
    assert client.post(f"{one}/pause", headers=elsewhere).status_code == 404
    body = {"trigger_type": "interval", "schedule_config": HOURLY, "cluster_id": cluster}
    answers = [client.post(ROOT, json=body, headers={"Idempotency-Key": "once"}) for _ in range(3)]
    assert len({answer.json()["trigger_id"] for answer in answers}) == 1


def test_run_now_clusters_and_the_history_tells(client, cluster):
    trigger = made(client, cluster_id=cluster, status="paused")
    started = client.post(f"/v1/triggers/{trigger['trigger_id']}/execute")
    assert started.status_code == 200, started.text
    again = client.post(f"{ROOT}/{trigger['trigger_id']}/execute")
    assert again.status_code == 409
    assert again.json()["error"]["details"]["run_id"] == started.json()["job_id"]
    (entry,) = settled(client, trigger, 1)
    assert entry["status"] == "completed"
    there = client.get("/v1/collections/docs").json()["num_documents"]
    assert (entry["num_clusters"], entry["num_documents"]) == (4, there)
    assert entry["execution_time_ms"] > 0
    run = client.get(f"/v1/clusters/{cluster}/executions/{entry['job_id']}").json()
    assert (run["trigger_id"], run["mode"]) == (trigger["trigger_id"], "full")
    shown = client.get(f"{ROOT}/{trigger['trigger_id']}").json()
    assert (shown["execution_count"], shown["last_execution_status"]) == (1, "completed")


def test_an_interval_starts_by_itself_with_a_definition_of_its_own(client):
    trigger = made(
        client,
        schedule={"interval_seconds": 300, "start_immediately": True},
        execution_config={"collection_ids": ["docs"], "config": CONFIG},
    )
    (entry,) = settled(client, trigger, 1)
    assert (entry["status"], entry["num_clusters"]) == ("completed", 4)
    defined = client.get(f"/v1/clusters/{trigger['cluster_id']}").json()
    assert defined["algorithm"] == "kmeans"
    removed = client.delete(f"/v1/clusters/{trigger['cluster_id']}").json()
    assert removed["disabled_trigger_ids"] == [trigger["trigger_id"]]
    assert client.get(f"{ROOT}/{trigger['trigger_id']}").json()["status"] == "disabled"


def test_documents_that_come_drift_and_are_clustered_anew(server, client, cluster):
    """Events count them, a check lets them join, and what it finds starts a full run."""
    _, service = server
    started = made(client, cluster_id=cluster, status="paused")
    client.post(f"{ROOT}/{started['trigger_id']}/execute")
    settled(client, started, 1)
    by_event = made(
        client,
        "event",
        {"event_type": "documents_added", "event_threshold": 80, "collection_id": "docs"},
        cluster_id=cluster,
        mode="assign",
    )
    by_drift = made(
        client,
        "conditional",
        {"condition_type": "drift", "threshold": 0.2, "check_interval_seconds": 60},
        cluster_id=cluster,
    )
    by_volume = made(
        client,
        "conditional",
        {"condition_type": "volume", "threshold": 9, "check_interval_seconds": 3600},
        cluster_id=cluster,
    )
    add(client, "b", 40, shift=40)
    assert client.get(f"{ROOT}/{by_event['trigger_id']}").json()["event_counter"] == 40
    add(client, "c", 40, shift=40)
    (entry,) = settled(client, by_event, 1)
    assert entry["status"] == "completed"
    run = client.get(f"/v1/clusters/{cluster}/executions/{entry['job_id']}").json()
    assert (run["mode"], run["num_points"]) == ("assign", 80)
    service.catalog.clock.by += timedelta(seconds=61)
    service.triggers.news.set()
    checked, full = settled(client, by_drift, 2)
    assert (checked["status"], checked["check"]["fired"]) == ("checked", True)
    assert checked["check"]["value"] == checked["check"]["cosine_drift"] >= 0.2
    assert checked["check"]["num_new"] == 80
    assert (full["status"], full["num_documents"]) == ("completed", 480)
    assert full["check"]["run_id"] == checked["job_id"]
    service.catalog.clock.by += timedelta(seconds=61)
    service.triggers.news.set()
    *_, looked = settled(client, by_drift, 3)  # nothing is new: a run of no documents
    assert looked["check"]["num_new"] == 0
    known = client.get(f"/v1/clusters/{cluster}").json()
    assert (known["last_run_id"], known["num_documents_clustered"]) == (full["job_id"], 480)
    artifacts = client.get(f"/v1/clusters/{cluster}/artifacts").json()
    assert artifacts["run_id"] == full["job_id"]
    by_quality = made(
        client,
        "conditional",
        {
            "condition_type": "quality",
            "metric": "noise_ratio",
            "threshold": 1.5,
            "check_interval_seconds": 60,
        },
        cluster_id=cluster,
    )
    service.catalog.clock.by += timedelta(seconds=3600)
    service.triggers.news.set()
    (entry,) = settled(client, by_quality, 1)
    assert entry["check"]["run_id"] == full["job_id"]
    (entry,) = settled(client, by_volume, 1)
    assert (entry["status"], entry["job_id"]) == ("checked", None)
    assert (entry["check"]["num_rows"], entry["check"]["num_rows_base"]) == (480, 480)


def test_the_description_tells_schedules_apart(client):
    described = httpx2.get(client.base_url.join("/openapi.json"), headers=client.headers).json()
    body = described["paths"][ROOT]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["schema"]["discriminator"]["mapping"]) == {
        "cron",
        "interval",
        "event",
        "conditional",
    }


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


SECRET = new_secret()


@pytest.fixture
def asking(authority) -> Asking:
    settings = OutboundSettings(allow_hosts=("localhost",), ca_file=authority.file)
    return Asking(Outbound(settings))


def question(url, body):
    return Question(url, body, "trig.1", [{"secret": SECRET, "until": None}], utc_now())


def test_an_address_is_asked_in_json_and_signed(asking, authority):
    with receiving(lambda _: 200, authority.context("localhost")) as receiver:
        receiver.reply = b'{"fire": true, "reason": "so"}'
        found = asking.ask(
            question(receiver.url(name="localhost"), {"trigger_id": "t", "threshold": 0.5})
        )
    assert found == {"fire": True, "reason": "so"}
    (call,) = receiver.calls
    assert json.loads(call.body) == {"trigger_id": "t", "threshold": 0.5}
    assert call.headers["content-type"] == "application/json"
    Webhook(SECRET).verify(call.body, call.headers)  # raises where it is not


@pytest.mark.parametrize(
    ("behaviour", "reply", "said"),
    [
        (500, b"{}", "answered 500"),
        ("redirect", b"", "answered 302"),
        ("reset", b"", "address of the condition"),
        (200, b"yes", "no JSON"),
        (200, b"[" * 50_000, "no JSON"),
    ],
)
def test_anything_else_is_no_answer(asking, authority, behaviour, reply, said):
    with receiving(lambda _: behaviour, authority.context("localhost")) as receiver:
        receiver.reply = reply
        with pytest.raises(UnavailableError, match=said):
            asking.ask(question(receiver.url(name="localhost"), {}))
