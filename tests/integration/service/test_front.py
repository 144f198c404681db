"""What happens before any endpoint: who may call, how much, and again under the same key."""

from __future__ import annotations

import asyncio
import base64
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import httpx2
import pytest

from gpucluster.errors import ConfigError
from gpucluster.service import once
from gpucluster.service.catalog import sqlite
from gpucluster.service.catalog.port import Query
from gpucluster.service.server import serve
from gpucluster.service.settings import ServiceSettings
from tests.helpers.serving import HEADERS, TOKEN, serving

TEMPLATE = {"template_name": "usual", "definition": {"algorithm": "kmeans"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("front"), max_jobs=0) as (client, service):
        yield client, service


@pytest.fixture
def client(server):
    return server[0]


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


def issued(client, **fields):
    answer = client.post("/v1/tokens", json=fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Basic abc", "Bearer gpc_x_y", "Bearer a b", "gpc"]
)
def test_without_a_valid_token_nothing_is_said(client, header):
    headers = {} if header is None else {"Authorization": header}
    answer = httpx2.get(client.base_url.join("/v1/namespaces"), headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    body = answer.json()
    assert (body["success"], body["status"]) == (False, 401)
    assert body["error"]["type"] == "UnauthorizedError"


def test_a_token_allows_its_scope_and_no_more(client):
    headers = bearer(issued(client, scopes=["read"])["token"])
    assert client.post("/v1/clusters/list", json={}, headers=headers).status_code == 200
    refused = client.post("/v1/clusters/templates", json=TEMPLATE, headers=headers)
    assert refused.status_code == 403
    assert "needs the scope run" in refused.json()["error"]["message"]
    assert client.post("/v1/tokens", json={}, headers=headers).status_code == 403


def test_a_token_of_one_namespace_sees_no_other(client):
    client.post("/v1/namespaces", json={"namespace_id": "team-a"})
    client.post("/v1/namespaces", json={"namespace_id": "team-b"})
    ours = bearer(issued(client, namespace="team-a", scopes=["run"])["token"])
    made = client.post("/v1/clusters/templates", json=TEMPLATE, headers=ours).json()["template_id"]
    answers = [
        client.get("/v1/namespaces", headers={**ours, "X-Namespace": name})
        for name in ("team-b", "nowhere")
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].json() == answers[1].json()  # nothing says which one is there
    path = f"/v1/clusters/templates/{made}"
    assert client.get(path, headers=ours).status_code == 200
    assert client.get(path, headers={"X-Namespace": "team-b"}).status_code == 404
    assert client.get(path, headers={"X-Namespace": "team-a"}).status_code == 200
    assert client.get(f"{path}?namespace=team-a").status_code == 200


def test_an_expired_and_a_revoked_token_end(server):
    client, _ = server
    past = issued(client, scopes=["read"], expires_at="2020-01-01T00:00:00Z")["token"]
    assert client.get("/v1/namespaces", headers=bearer(past)).status_code == 401
    token = issued(client, scopes=["read"])
    assert client.get("/v1/namespaces", headers=bearer(token["token"])).status_code == 200
    assert client.delete(f"/v1/tokens/{token['token_id']}").status_code == 200
    assert client.get("/v1/namespaces", headers=bearer(token["token"])).status_code == 401


def test_a_rotated_token_overlaps_with_the_one_before(client):
    first = issued(client, scopes=["read"])
    path = f"/v1/tokens/{first['token_id']}/rotate"
    second = client.post(path, json={"overlap_s": 0}).json()["token"]
    third = client.post(path, json={"overlap_s": 60}).json()["token"]
    codes = [
        client.get("/v1/namespaces", headers=bearer(text)).status_code
        for text in (first["token"], second, third)
    ]
    assert codes == [401, 200, 200]


def test_secrets_are_kept_as_digests(server, tmp_path_factory):
    client, service = server
    token = issued(client, scopes=["read"])["token"]
    secret = token.rpartition("_")[2]
    files = [path for path in service.settings.place.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert secret.encode() not in content
        assert TOKEN.encode() not in content
    assert secret not in client.get("/v1/tokens").text


def test_guessing_is_slowed_down(tmp_path):
    with serving(tmp_path, max_jobs=0) as (client, _):
        guesses = [
            client.get("/v1/namespaces", headers=bearer(f"guess-{number}")) for number in range(25)
        ]
        codes = [guess.status_code for guess in guesses]
        assert codes[:20] == [401] * 20
        assert codes[-1] == 429
        assert int(guesses[-1].headers["Retry-After"]) >= 1
        assert client.get("/v1/namespaces").status_code == 200  # who is known goes on


def test_without_tokens_only_local_names_are_answered(tmp_path):
    with serving(tmp_path, max_jobs=0, auth=False, admin_token=None) as (client, _):
        del client.headers["Authorization"]
        assert client.get("/v1/namespaces").status_code == 200
        answer = client.get("/v1/namespaces", headers={"Host": "rebound.example:80"})
        assert answer.status_code == 403


def test_every_answer_says_which_request_it_is_of(client):
    assert client.get("/v1/namespaces").headers["X-Request-Id"]
    given = client.get("/v1/nothing", headers={"X-Request-Id": "mine-7"})
    assert (given.status_code, given.headers["X-Request-Id"]) == (404, "mine-7")
    odd = client.get("/v1/namespaces", headers={"X-Request-Id": "a b<script>"})
    assert "<" not in odd.headers["X-Request-Id"]


def test_bodies_are_bounded(tmp_path):
    with serving(tmp_path, max_jobs=0, max_body_bytes=2048) as (client, _):
        large = {"search": "x" * 4096}
        assert client.post("/v1/clusters/list", json=large).status_code == 413

        def pieces():
            for _ in range(10):
                yield b"x" * 1024

        assert client.post("/v1/clusters/list", content=pieces()).status_code == 413
        for kind in ("application/octet-stream", "application/x-ndjson", "application/json", ""):
            for path in ("/v1/clusters/list", "/v1/collections/list", "/v1/collections/x/compact"):
                answer = client.post(path, content=b"x" * 4096, headers={"Content-Type": kind})
                assert answer.status_code == 413, (path, kind)
        answer = client.post("/v1/collections/x/documents", content=b"x" * 4096)
        assert "Content-Type" in answer.json()["error"]["details"]["hint"]
        deep = b'{"filters":' + b"[" * 200 + b"]" * 200 + b"}"
        answer = client.post("/v1/clusters/list", content=deep)
        assert answer.status_code == 422
        assert "deeper" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"nul", b"\xff\xfe", b"NaN"])
def test_what_is_no_request_is_422(client, content):
    answer = client.post("/v1/clusters", content=content)
    assert answer.status_code == 422
    assert all(set(problem) == {"loc", "msg", "type"} for problem in answer.json()["detail"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/clusters/list"),
        ("GET", "/v1/tasks/task_1"),
        ("POST", "/v1/collections/x/compact"),
        ("GET", "/v1/clusters/x/executions/run_1/artifacts"),
    ],
)
def test_an_unknown_parameter_is_refused_with_the_nearest(client, method, path):
    (problem,) = client.request(method, f"{path}?namespacce=default").json()["detail"]
    assert problem["loc"] == ["query", "namespacce"]
    assert "did you mean namespace?" in problem["msg"]
    known = client.request(method, f"{path}?namespace=default", json={})
    assert "namespace" not in known.text


def test_an_unknown_field_is_refused_with_the_nearest(client):
    problem = client.post("/v1/clusters/list", json={"filter": {}}).json()["detail"][0]
    assert problem["loc"] == ["body", "filter"]
    assert "did you mean filters?" in problem["msg"]


CRON = {"trigger_type": "cron", "cluster_id": "x"}
STEPS = {"collection_ids": ["col_x"], "algorithm": "kmeans"}
FILTER = {"AND": [{"OR": [{"field": "a", "opperator": "eq", "value": 1}]}]}
FILTERED = ["filters", "AND", 0, "OR", 0, "opperator"]
SLACK = [{"channel": "slack", "configs": {"webhok_url": "x"}}]
HOOK = {"webhook_name": "x", "event_types": ["cluster.created"]}
LONG = {"Idempotency-Key": "k" * 1000}


@pytest.mark.parametrize(
    ("path", "body", "loc", "words"),
    [
        ("clusters/list?limit=0", {}, ["query", "limit"], "greater than"),
        ("clusters/list?cursor=x", {}, ["query", "cursor"], "no cursor"),
        ("clusters/jobs/submit", {}, ["query", "cluster_id"], "required"),
        ("clusters/x/execute?wait=perhaps", {}, ["query", "wait"], "boolean"),
        ("collections/x/documents?on_duplicat=skip", {}, ["query", "on_duplicat"], "on_duplicate?"),
        ("collections/x/documents/list?offset=1", {}, ["query", "offset"], "by cursor"),
        ("clusters/list", {"filters": FILTER}, ["body", *FILTERED], "did you mean operator?"),
        ("clusters", {**STEPS, "filters": FILTER}, ["body", *FILTERED], "did you mean operator?"),
        ("clusters", {**STEPS, "preprocessing_steps": [{"method": "umap", "n_component": 2}]},
         ["body", "vector_config", "preprocessing_steps", 0, "n_component"], "n_components?"),
        ("clusters/triggers", {**CRON, "schedule_config": {"cron_expresion": "0 0 * * *"}},
         ["body", "schedule_config", "cron_expresion"], "did you mean cron_expression?"),
        ("clusters/triggers", {"trigger_type": "cronn"}, ["body", "trigger_type"], "'cron'"),
        ("clusters/triggers", {}, ["body", "trigger_type"], "required"),
        ("organizations/webhooks", {**HOOK, "channels": SLACK},
         ["body", "channels", 0, "configs", "webhok_url"], "did you mean webhook_url?"),
        ("clusters/x/execute", {"assignment_threshold": "some"},
         ["body", "assignment_threshold"], "number"),
    ],
)  # fmt: skip
def test_a_problem_is_named_where_it_was_written(client, path, body, loc, words):
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 422, answer.text
    problems = [each for each in answer.json()["detail"] if each["loc"] == loc]
    assert any(words in each["msg"].replace("Field required", "required") for each in problems)


def test_a_problem_of_a_header_or_the_path_is_named_there(client):
    body = {"namespace_id": "x"}
    answer = client.post("/v1/namespaces", json=body, headers=LONG)
    assert answer.json()["detail"][0]["loc"] == ["header", "Idempotency-Key"]
    answer = client.get("/v1/collections/x/versions/first")
    assert answer.json()["detail"][0]["loc"] == ["path", "version"]


def test_too_many_at_a_time_are_told_to_come_again(tmp_path):
    with serving(tmp_path, max_jobs=0, rate_per_s=5) as (client, _):
        answers = [client.get("/v1/namespaces") for _ in range(40)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert {answer.status_code for answer in answers} == {200, 429}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


def test_the_same_key_a_hundred_times_at_once_is_one_request(client):
    def send(_):
        with httpx2.Client(base_url=client.base_url, headers=client.headers, timeout=60) as own:
            return own.post(
                "/v1/clusters/templates",
                json={**TEMPLATE, "template_name": "once"},
                headers={"Idempotency-Key": "the-key"},
            )

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(100)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    listed = client.post("/v1/clusters/templates/list", json={"search": "once"}).json()
    assert listed["total_count"] == 1


def keep(client, name, key, **definition):
    body = {"template_name": name, "definition": definition or TEMPLATE["definition"]}
    return client.post("/v1/clusters/templates", json=body, headers={"Idempotency-Key": key})


def test_a_key_is_for_one_body(client):
    first, other = keep(client, "k1", "another"), keep(client, "k2", "another")
    assert (first.status_code, other.status_code) == (201, 422)
    assert "another body" in other.text
    again = keep(client, "k1", "another")
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"


def test_a_refusal_under_a_key_is_repeated(client):
    answers = [keep(client, "k3", "bad", nope=1) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert answers[0].text == answers[1].text


def test_an_answer_with_a_secret_is_not_kept(server):
    client, service = server
    headers = {"Idempotency-Key": "a-secret"}
    issued, again = (
        client.post("/v1/tokens", json={"scopes": ["read"]}, headers=headers) for _ in range(2)
    )
    assert (issued.status_code, again.status_code) == (201, 409)
    assert "held a secret" in again.json()["error"]["message"]
    with service.catalog.reading() as tx:
        kept = tx.page("default", once.KIND, Query(limit=1000)).records
    secret = issued.json()["token"].encode()
    bodies = [base64.b64decode(each.body["answer"]["body"]) for each in kept]
    assert bodies
    assert not [body for body in bodies if secret in body]


def test_old_answers_are_forgotten(server, monkeypatch):
    client, service = server
    monkeypatch.setattr(once, "KEPT", timedelta(0))
    keep(client, "short", "of-no-time")
    assert once.forget_answers(service.catalog) == 1
    assert once.forget_answers(service.catalog) == 0


def test_what_a_dead_server_left_under_a_key_is_done_once(server, monkeypatch):
    """The record says that somebody works on it, and what that made is there already."""
    client, service = server
    first = keep(client, "died", "of-a-dead-server")
    with service.catalog.writing() as tx:
        latest = tx.page("default", once.KIND, Query(limit=1)).records[0]
        tx.replace(replace(latest, body={**latest.body, "answer": None}))
    monkeypatch.setattr(once, "ABANDONED", timedelta(0))
    again = keep(client, "died", "of-a-dead-server")
    assert again.status_code == 201
    assert again.json()["template_id"] == first.json()["template_id"]


def test_a_full_disk_is_no_busy_catalog(tmp_path, monkeypatch):
    with serving(tmp_path, max_jobs=0) as (client, service):
        small = (*sqlite.SETTINGS, "PRAGMA max_page_count = 1")
        monkeypatch.setattr(sqlite, "SETTINGS", small)
        while service.catalog._idle:  # what is opened from now on is full
            service.catalog._idle.pop().close()
        for n in range(1000):
            body = TEMPLATE | {"template_name": f"{n}"}
            answer = client.post("/v1/clusters/templates", json=body)
            if answer.status_code >= 400:
                break
        assert (answer.status_code, answer.json()["error"]["type"]) == (507, "StoreError")


def test_a_port_that_is_taken_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = ServiceSettings(root=str(tmp_path), port=other.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot listen at 127.0.0.1"):
            serve(settings, print)


def test_a_thousand_clients_at_once_lose_nothing(tmp_path):
    """Each on a connection of its own, that makes something and reads it."""

    async def talk(client, number):
        body = TEMPLATE | {"template_name": f"load-{number}"}
        made = await client.post("/v1/clusters/templates", json=body)
        got = await client.get(f"/v1/clusters/templates/{made.json()['template_id']}")
        return made.status_code, got.status_code, got.json()["template_name"]

    async def all_talk(url):
        limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000)
        client = httpx2.AsyncClient(base_url=url, headers=HEADERS, timeout=120, limits=limits)
        async with client:
            return await asyncio.gather(*(talk(client, number) for number in range(1000)))

    with serving(tmp_path, max_jobs=0, rate_per_s=1e6) as (client, _):
        answers = asyncio.run(all_talk(str(client.base_url)))
        assert answers == [(201, 200, f"load-{number}") for number in range(1000)]


def test_more_requests_than_are_worked_on_at_a_time_are_told_to_come_again(tmp_path):
    async def all_ask(url):
        async with httpx2.AsyncClient(base_url=url, headers=HEADERS, timeout=120) as client:
            wanted = [client.get("/v1/namespaces") for _ in range(100)]
            return await asyncio.gather(*wanted)

    with serving(tmp_path, max_jobs=0, max_in_flight=5) as (client, _):
        answers = asyncio.run(all_ask(str(client.base_url)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
