"""Secrets are driven through whatever can fail, and then looked for wherever something is kept.

What may hold one: the answer that makes it, and, of a webhook, the catalog, which signs with it and
sends its headers (docs/webhooks.md says so).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tests.helpers.gateways import providing
from tests.helpers.receivers import receiving
from tests.helpers.serving import TOKEN, Killable, ended
from tests.helpers.shop import stock
from tests.helpers.stocked import COLLECTION, DEFINITION

CANARY = "c4n4ry"
LLM_KEY = f"sk-{CANARY}-of-a-model"
HEADER = f"{CANARY}-of-a-header"
ADDRESS = f"{CANARY}-in-an-address"
PASSWORD = f"{CANARY}-of-a-database"
MADE = {"/v1/tokens", "/v1/organizations/webhooks"}  # whose answers hold the secret, once


class Witness:
    """Sends requests, and keeps all that is answered."""

    def __init__(self, client) -> None:
        self._client = client
        self.heard: list[tuple[str, str]] = []

    def __call__(self, method, path, **content):
        answer = self._client.request(method, path, **content)
        is_made = (path in MADE or path.endswith("/rotate")) and answer.is_success
        if not is_made:
            self.heard.append((f"{method} {path}", answer.text + str(answer.headers)))
        return answer


def hook(url, **configs):
    return {
        "webhook_name": f"hook at {len(url)} {len(configs)}",
        "event_types": ["cluster.execution.completed", "cluster.created"],
        "channels": [{"channel": "webhook", "configs": {"url": url, "timeout": 1, **configs}}],
    }


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def told(request, tmp_path_factory, authority):
    """A service that went through failures of all kinds, stopped; what it said and left."""
    root = tmp_path_factory.mktemp("secrets") / "root"
    url = None
    options = ["--outbound-hosts", "127.0.0.1", "--outbound-http-hosts", "127.0.0.1"]
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        url = server.make_place()
        options += ["--catalog", f"{url}&password={PASSWORD}"]
    with (
        providing(authority, key="another") as gateway,
        receiving(lambda call: 500, None) as receiver,
        pytest.MonkeyPatch.context() as patched,
    ):
        receiver.reply = f"no, {HEADER}".encode()  # as those do that show what they were sent
        environment = gateway.environment(authority)
        for name, value in {**environment, "OPENAI_API_KEY": LLM_KEY}.items():
            patched.setenv(name, value)
        process = Killable(root, *options)
        secrets = {"admin": TOKEN, "llm": LLM_KEY, "address": ADDRESS, "password": PASSWORD}
        try:
            ask = Witness(process.start())
            secrets |= everything(ask, process.client, receiver)
        finally:
            code = process.stop()
        assert code in {0, -signal.SIGTERM, 143}
    log = (root.parent / f"{root.name}.log").read_bytes()
    return SimpleNamespace(
        secrets=secrets, heard=ask.heard, root=root, log=log, url=url, calls=receiver.calls
    )


def everything(ask, client, receiver):
    """Go through what can fail, and return the secrets that were made on the way."""
    stock(client, {COLLECTION: 60})
    secrets = {"header": HEADER}
    for key in ({}, {"Idempotency-Key": "once"}):
        for _ in range(2):  # the second time an answer may be one that was kept
            answer = ask("POST", "/v1/tokens", json={"scopes": ["run"]}, headers=key)
            if answer.is_success:
                secrets[f"token {len(secrets)}"] = answer.json()["token"]
    issued = answer_of(ask("POST", "/v1/tokens", json={"scopes": ["admin"]}))
    secrets["token"] = issued["token"]
    rotated = ask("POST", f"/v1/tokens/{issued['token_id']}/rotate", json={})
    secrets["rotated"] = answer_of(rotated)["token"]
    address = f"http://127.0.0.1:{receiver.port}/"
    given = hook(address, headers={"X-Key": HEADER})
    made = answer_of(
        ask("POST", "/v1/organizations/webhooks", json=given, headers={"Idempotency-Key": "hook"})
    )
    secrets["webhook"] = made["secret"].removeprefix("whsec_")
    ask("POST", "/v1/organizations/webhooks", json=given, headers={"Idempotency-Key": "hook"})
    one = f"/v1/organizations/webhooks/{made['webhook_id']}"
    secrets["webhook rotated"] = answer_of(ask("POST", f"{one}/secret/rotate"))["secret"][6:]
    wrong_requests(ask, secrets, one, given)
    failing_runs(ask, client, f"{address}v1")
    failing_deliveries(ask, one)
    return secrets


def answer_of(answer):
    assert answer.is_success, answer.text
    return answer.json()


def wrong_requests(ask, secrets, one, given):
    """Send what is refused, with secrets where they belong and where they do not."""
    token = secrets["token"]
    url = f"https://user:{ADDRESS}@hooks.example.com/"
    for body in (
        given,  # the name is taken
        hook(url),
        hook(f"https://hooks.example.com/?key={ADDRESS}#{ADDRESS}", headers={"X": "a\nb" + HEADER}),
        hook("http://127.0.0.1:1/", headers={"X-Key": HEADER, "Host": HEADER}),
        hook("ftp://x/", headers={"X-Key": HEADER}, payload_template=7),
        {**given, "event_types": ["none"], "secret": secrets["webhook"]},
        {**given, "channels": [{"channel": "webhook", "configs": HEADER}]},
        {**given, "channels": HEADER},
        [HEADER],
    ):
        ask("POST", "/v1/organizations/webhooks", json=body)
        ask("PUT", one, json=body)
    ask("PUT", one, json={**given, "webhook_name": "hook"})
    for path in ("", "/deliveries"):
        ask("GET", one + path)
    ask("POST", "/v1/organizations/webhooks/list", json={})
    ask("GET", "/v1/tokens")
    broken = f'{{"token": "{token}", "x": {LLM_KEY}'
    for path in ("/v1/clusters", "/v1/tokens", "/v1/collections", "/v1/clusters/list"):
        ask("POST", path, content=broken, headers={"Content-Type": "application/json"})
        ask("POST", path, json={"scopes": token, "filters": token, "collection_ids": token})
    for wrong in (token + "0", token[:-1], f"Basic {token}", token.replace("_", "-")):
        ask("GET", "/v1/namespaces", headers={"Authorization": f"Bearer {wrong}"})
        ask("GET", "/v1/namespaces", headers={"Authorization": wrong})
    bad = {"base_url": f"https://user:{ADDRESS}@models.example.com/v1", "model_name": "m"}
    ask("POST", "/v1/clusters", json={**DEFINITION, "llm_labeling": bad})
    bad = {"base_url": f"https://models.example.com/v1?key={ADDRESS}", "model_name": "m"}
    ask("POST", "/v1/clusters", json={**DEFINITION, "llm_labeling": bad})


def failing_runs(ask, client, elsewhere):
    """Run what fails: a model that refuses the key and repeats it, and what cannot be computed."""
    failing = {"provider": "openai", "model_name": "gpt-4o-mini"}
    config = {**DEFINITION["vector_config"], "algorithm_params": {"n_clusters": 4000}}
    named = {**failing, "api_key_env": "GPUCLUSTER_SERVE_ADMIN_TOKEN"}
    named["base_url"] = elsewhere  # whose owner would like to have it
    for more in ({"llm_labeling": failing}, {"vector_config": config}, {"llm_labeling": named}):
        answer = ask("POST", "/v1/clusters", json={**DEFINITION, **more})
        if not answer.is_success:
            continue
        path = f"/v1/clusters/{answer.json()['cluster_id']}"
        task = answer_of(ask("POST", f"{path}/execute", json={}))
        ended(client, task["task_id"], 180)
        for shown in (f"/v1/tasks/{task['task_id']}", path, f"{path}/executions"):
            ask("GET", shown)
        ask("GET", f"{path}/executions/{task['outputs'][0]}")
        ask("GET", f"{path}/executions/{task['outputs'][0]}/data")


def failing_deliveries(ask, one):
    """Wait until a receiver refused something, and look at what is said of it."""
    ask("POST", f"{one}/test")
    until = time.monotonic() + 30
    while True:
        listed = answer_of(ask("GET", f"{one}/deliveries"))["results"]
        if any(each["attempt_count"] for each in listed):
            break
        assert time.monotonic() < until, listed
        time.sleep(0.1)
    for each in listed:
        ask("GET", f"{one}/deliveries/{each['delivery_id']}")


def files_below(root):
    return [path for path in root.rglob("*") if path.is_file()]


def rows_of(url):
    """Return all that a database holds, as text."""
    import psycopg

    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert tables
        return "\n".join(
            str(row)
            for (table,) in tables
            for row in connection.execute(f"SELECT t::text FROM {table} t").fetchall()
        )


def test_no_answer_holds_a_secret(told):
    assert len(told.heard) > 60
    found = {(name, path) for name, s in told.secrets.items() for path, t in told.heard if s in t}
    assert not found


def test_nobody_elsewhere_is_sent_a_secret(told):
    assert told.calls
    sent = [f"{call.path} {call.headers} {call.body!r}" for call in told.calls]
    own = {name: secret for name, secret in told.secrets.items() if name != "header"}
    assert not [name for name, secret in own.items() for text in sent if secret in text]
    assert {call.path for call in told.calls} == {"/"}


def test_no_log_holds_a_secret(told):
    assert b"listening at" in told.log
    assert told.log.count(b"request_id=") > 60
    assert not [name for name, secret in told.secrets.items() if secret.encode() in told.log]
    assert CANARY.encode() not in told.log


def test_no_file_holds_a_secret(told):
    may = {"webhook", "webhook rotated", "header"}  # of the catalog
    files = files_below(told.root)
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        found = {name for name, secret in told.secrets.items() if secret.encode() in content}
        assert found <= (may if path.name.startswith("catalog.sqlite") else set()), path


def test_the_catalog_holds_what_it_signs_with_and_no_other_secret(told):
    if told.url is None:
        names = ("catalog.sqlite", "catalog.sqlite-wal")
        parts = [path for path in files_below(told.root) if path.name in names]
        content = b"".join(path.read_bytes() for path in parts).decode("latin-1")
    else:
        content = rows_of(told.url)
    found = {name for name, secret in told.secrets.items() if secret in content}
    assert found <= {"webhook", "webhook rotated", "header"}
    assert "webhook rotated" in found  # so it would have been seen


@pytest.mark.parametrize(
    "catalog",
    [
        f"postgresql://user:{PASSWORD}@127.0.0.1:1/none?connect_timeout=2",
        f"postgresql://user:{PASSWORD}%zz@127.0.0.1:1/none",
        f"postgresql://user@127.0.0.1:1/none?password={PASSWORD}&sslmode=never",
        f"postgresql://user@127.0.0.1:1/none?passwort={PASSWORD}",
        f"mysql://user:{PASSWORD}@127.0.0.1/none",
    ],
)
def test_a_catalog_that_cannot_be_opened_is_told_without_its_password(tmp_path, catalog):
    command = [sys.executable, "-m", "gpucluster", "serve", "--debug", "--root"]
    environment = {
        **os.environ,
        "GPUCLUSTER_SERVE_CATALOG": catalog,
        "GPUCLUSTER_SERVE_ADMIN_TOKEN": f"{CANARY}-of-the-operator",
    }
    done = subprocess.run(
        [*command, str(tmp_path / "root"), "--port", "0"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "Usage" not in done.stderr
    assert "ConfigError" in done.stderr or "StoreError" in done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert not [path for path in files_below(tmp_path) if CANARY.encode() in path.read_bytes()]


def test_a_setting_that_is_wrong_is_told_without_the_others(tmp_path):
    command = [sys.executable, "-m", "gpucluster", "serve", "--debug", "--port", "99999999"]
    environment = {**os.environ, "GPUCLUSTER_SERVE_ADMIN_TOKEN": f"{CANARY}-of-the-operator"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "port" in done.stderr
    assert CANARY not in done.stdout + done.stderr
