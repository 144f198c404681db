"""What operators of a server see of it, and what it does for them by itself."""

from __future__ import annotations

import json
import logging
import platform
import socket
import time
from datetime import timedelta

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpucluster import __version__
from gpucluster.errors import InternalError
from gpucluster.service import housekeeping, retention
from gpucluster.service.catalog import open_catalog
from gpucluster.service.jobs import host
from gpucluster.service.jobs.host import JobHost
from gpucluster.service.log import logged
from gpucluster.service.tasks import Job, Tasks
from tests.helpers.catalogs import Clock, record
from tests.helpers.serving import TOKEN, Killable, serving
from tests.helpers.shop import stock
from tests.helpers.stocked import COLLECTION, DEFINITION, fill

SECONDS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("operating") / "root") as (client, service):
        yield client, service, fill(client)


@pytest.fixture
def client(server):
    return server[0]


def scraped(client, **options):
    """Return all samples: names with their labels, and values."""
    answer = client.get("/metrics", **options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[(sample.name, *sorted(sample.labels.items()))] = sample.value
    return found


def value(found, name, **labels):
    return found.get((name, *sorted(labels.items())), 0.0)


# ---- is it there


def test_a_process_that_answers_is_healthy_and_one_with_its_catalog_ready(client):
    for path in ("/healthz", "/readyz"):
        answer = client.get(path, headers={"Authorization": "", "Host": "10.0.0.7:8765"})
        assert (answer.status_code, answer.json()) == (
            200,
            {"status": "ok", "version": __version__},
        )


def test_without_its_catalog_a_server_is_healthy_and_not_ready(tmp_path):
    with serving(tmp_path / "root", max_jobs=0, triggers=False, deliveries=False) as (client, _):
        catalog = tmp_path / "root" / "catalog.sqlite"
        catalog.rename(tmp_path / "elsewhere")
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "UnavailableError")
        assert int(answer.headers["Retry-After"]) >= 1
        (tmp_path / "elsewhere").rename(catalog)
        assert client.get("/readyz").status_code == 200


def test_probes_are_answered_while_there_is_too_much_to_do(tmp_path):
    with serving(tmp_path / "root", max_jobs=0, max_in_flight=1) as (client, _):
        address = client.base_url.host, client.base_url.port
        with socket.create_connection(address) as slow:
            head = f"POST /v1/clusters HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            slow.sendall(f"{head}Content-Length: 9\r\n\r\n{{".encode())
            until = time.monotonic() + SECONDS
            while client.get("/v1/namespaces").status_code != 429:
                assert time.monotonic() < until
            assert {client.get(path).status_code for path in ("/healthz", "/readyz")} == {200}


# ---- metrics


def test_metrics_count_requests_by_their_route(server):
    client, _, ids = server
    before = scraped(client)
    for name in (ids["cluster_id"], "kept", "never"):
        client.get(f"/v1/clusters/{name}")
    client.get("/v1/nowhere/at-all")
    client.request("BREW", "/v1/clusters/kept")
    client.get("/v1/clusters/kept", headers={"Authorization": "Bearer no"})
    after = scraped(client)

    def more(name, **labels):
        return value(after, name, **labels) - value(before, name, **labels)

    one = {"method": "GET", "route": "/v1/clusters/{cluster_identifier}"}
    assert more("gpucluster_http_requests_total", **one, status="200") == 2
    assert more("gpucluster_http_requests_total", **one, status="404") == 1
    assert more("gpucluster_http_request_seconds_count", **one) == 3
    assert more("gpucluster_http_request_seconds_bucket", **one, le="+Inf") == 3
    assert more("gpucluster_http_requests_total", method="GET", route="none", status="404") == 1
    assert more("gpucluster_http_requests_total", method="GET", route="none", status="401") == 1
    assert value(after, "gpucluster_http_requests_in_flight") == 1  # itself
    labels = {label for name in after for _, label in name[1:]}
    assert not [label for label in labels if any(str(each) in label for each in ids.values()
                if len(str(each)) > 8 and each != COLLECTION)]  # fmt: skip
    assert "BREW" not in labels


def test_metrics_tell_how_things_stand(server):
    client, service, _ = server
    before = scraped(client)
    assert value(before, "gpucluster_build_info", version=__version__,
                 python=platform.python_version()) == 1  # fmt: skip
    assert value(before, "process_resident_memory_bytes") > 50e6
    assert value(before, "gpucluster_catalog_up") == 1
    assert value(before, "gpucluster_job_places") == 1
    assert value(before, "gpucluster_tasks_ended_total", verb="cluster", status="COMPLETED") >= 1
    with service.catalog.writing() as tx:
        for ns in ("default", "elsewhere"):
            tx.create(record(f"task_{ns}", ns=ns, kind="task", status="PENDING",
                             due_at=service.catalog.clock() + timedelta(days=1),
                             body={"job": {"verb": "assign"}}))  # fmt: skip
    found = scraped(client)
    assert value(found, "gpucluster_tasks", verb="assign", status="PENDING") == 2
    assert value(found, "gpucluster_tasks_waiting") >= 2
    with service.catalog.writing() as tx:
        for ns in ("default", "elsewhere"):
            tx.delete(ns, "task", f"task_{ns}")
    assert value(scraped(client), "gpucluster_tasks", verb="assign", status="PENDING") == 0


def test_metrics_count_what_triggers_start_and_what_receivers_answer(server):
    client, _, ids = server
    before = scraped(client)
    started = client.post(f"/v1/clusters/triggers/{ids['trigger_id']}/execute", json={})
    assert started.is_success, started.text
    name, fired = (
        "gpucluster_trigger_times_total",
        {"trigger_type": "interval", "outcome": "fired"},
    )
    found = scraped(client)
    assert value(found, name, **fired) == value(before, name, **fired) + 1
    until = time.monotonic() + SECONDS
    while not value(found, "gpucluster_webhook_deliveries_total", outcome="failed"):
        assert time.monotonic() < until  # of a host that is not there
        time.sleep(0.05)
        found = scraped(client)


def test_openmetrics_is_spoken_to_who_asks_for_it(client):
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_metrics_are_for_tokens_of_all_namespaces(client):
    client.post("/v1/namespaces", json={"namespace_id": "watched"})

    def status(namespace, scope):
        body = {"namespace": namespace, "scopes": [scope]}
        token = client.post("/v1/tokens", json=body).json()["token"]
        headers = {"Authorization": f"Bearer {token}"}
        allowed = client.get("/v1/namespaces", headers=headers).status_code
        return client.get("/metrics", headers=headers).status_code, allowed != 403

    assert client.get("/metrics", headers={"Authorization": ""}).status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer gpc_x_y"}).status_code == 401
    assert status("*", "metrics") == (200, False)  # and nothing else
    assert status("*", "read") == (200, True)
    assert status("watched", "metrics") == (403, False)
    assert status("watched", "admin") == (403, True)


# ---- the log of requests


@pytest.mark.parametrize("form", ["json", "text"])
def test_each_request_is_a_line_without_anything_that_it_holds(tmp_path, form):
    process = Killable(tmp_path / "root", "--log-format", form, "--max-jobs", "0")
    client = process.start()
    try:
        client.get("/v1/clusters/a-name?search=c4n4ry", headers={"X-Request-Id": "mine"})
        client.get("/c4n4ry")
        client.get("/v1/namespaces", headers={"Authorization": "Bearer c4n4ry"})
        client.get("/healthz")
        assert client.get("/metrics").is_success
    finally:
        assert process.stop() in {0, -15, 143}
    log = (tmp_path / "root.log").read_text()
    assert "c4n4ry" not in log
    assert TOKEN not in log
    lines = [line for line in log.splitlines() if "request" in line]
    assert len(lines) == 3
    if form == "json":
        first, second, third = map(json.loads, lines)
        assert first.pop("ms") > 0
        assert first.pop("bytes") > 10
        assert first.pop("time").endswith("Z")
        assert first == {
            "level": "info",
            "logger": "gpucluster.service.observing",
            "message": "request",
            "method": "GET",
            "route": "/v1/clusters/{cluster_identifier}",
            "status": 422,  # there is no such parameter
            "namespace": "default",
            "token_id": "none",
            "request_id": "mine",
        }
        assert (second["route"], second["status"], second["namespace"]) == ("none", 404, None)
        assert (third["route"], third["status"], third["token_id"]) == ("none", 401, None)
    else:
        assert "method=GET route=/v1/clusters/{cluster_identifier} status=422 ms=" in lines[0]
        assert "namespace=default token_id=none request_id=mine" in lines[0]


@pytest.mark.parametrize("log_requests", [True, False])
def test_requests_need_not_be_logged(tmp_path, caplog, log_requests):
    caplog.set_level(logging.INFO, "gpucluster")
    options = {"max_jobs": 0, "triggers": False, "deliveries": False}
    with serving(tmp_path / "root", log_requests=log_requests, **options) as (client, _):
        client.get("/v1/clusters/a-name")
    said = [each for each in caplog.records if each.message == "request"]
    assert len(said) == log_requests


@pytest.mark.parametrize("error", [ZeroDivisionError, InternalError])
def test_an_error_of_the_service_is_logged_once_with_its_request(
    server, monkeypatch, caplog, error
):
    client, service, _ = server

    def failing(*_):
        raise error("a mistake")

    monkeypatch.setattr(service.definitions, "page", failing)
    answer = client.post("/v1/clusters/list", json={}, headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "InternalError")
    (said,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert (said.message, said.exc_info[0]) == ("request failed", error)
    assert said.fields["request_id"] == answer.headers["X-Request-Id"] == "mine"
    assert said.fields["route"] == "/v1/clusters/list"


def test_an_error_before_any_endpoint_is_answered_and_logged_as_others(server, monkeypatch, caplog):
    client, service, _ = server
    monkeypatch.setattr(service.tokens, "remembered", lambda _: 1 / 0)
    answer = client.get("/v1/clusters/kept")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "InternalError")
    (said,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert said.fields["request_id"] == answer.headers["X-Request-Id"]


def test_an_answer_that_ends_in_its_midst_is_logged_once_and_not_taken_for_whole(
    server, monkeypatch, capsys
):
    client, _, ids = server

    def failing(*_, **__):
        yield b"a line\n"
        raise ZeroDivisionError

    monkeypatch.setattr("gpucluster.service.streams.as_lines", failing)
    path = f"/v1/clusters/{ids['cluster_id']}/data"
    with logged("json", logging.ERROR):
        with pytest.raises(httpx2.RemoteProtocolError):
            client.get(path, headers={"X-Request-Id": "mine"})
        until = time.monotonic() + SECONDS
        while client.get("/metrics").text.count("in_flight 1.0") == 0:  # it is over
            assert time.monotonic() < until
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["message"], said["request_id"]) == ("request failed", "mine")
    assert said["exception"].endswith("ZeroDivisionError")


# ---- reads of documents


def test_more_reads_than_wait_are_told_to_come_again(server, monkeypatch):
    client, service, _ = server
    monkeypatch.setattr("gpucluster.service.readers.MOST_WAITING", 0)
    monkeypatch.setattr(service.readers, "_n_now", service.settings.max_reads)
    path = f"/v1/collections/{COLLECTION}/documents/list"
    refused = client.post(path, json={})
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "UnavailableError")
    assert int(refused.headers["Retry-After"]) >= 1
    assert client.get("/v1/clusters/kept").status_code == 200  # others are not held up
    monkeypatch.setattr(service.readers, "_n_now", 0)
    assert client.post(path, json={}).status_code == 200


# ---- what is not kept for ever


@pytest.fixture
def clock():
    return Clock()


def test_histories_go_after_a_time_and_nothing_else(tmp_path, clock):
    catalog = open_catalog(str(tmp_path / "catalog.sqlite"), clock=clock)
    kinds = {
        "task": ("COMPLETED", "PENDING"),
        "trigger_history": ("completed", "checking"),
        "event": (None, None),
        "execution": ("completed", "failed"),
        "cluster": (None, None),
        "delivery:a:wh_off": ("dead", "pending"),
        "delivery:a:wh_on": ("dead", "pending"),
    }
    with catalog.writing() as tx:
        tx.create(record("a", ns="", kind="namespace"))
        tx.create(record("wh_off", ns="a", kind="webhook", status="inactive"))
        tx.create(record("wh_on", ns="a", kind="webhook", status="active"))
    for age in ("old", "new"):
        with catalog.writing() as tx:
            for kind, statuses in kinds.items():
                for n, status in enumerate(statuses):
                    tx.create(record(f"{age}{n}", ns="a", kind=kind, status=status))
        clock.advance(timedelta(days=80).total_seconds())

    def do(days):
        for chore in retention.chores(catalog, days).values():
            while chore():
                pass

    def gone():
        with catalog.reading() as tx:
            return {
                f"{kind} {name}" for kind in kinds for name in ("old0", "old1", "new0", "new1")
                if tx.get("a", kind, name) is None
            }  # fmt: skip

    do(0)
    assert gone() == set()
    do(90)
    assert gone() == {
        "task old0", "trigger_history old0", "event old0", "event old1",
        "delivery:a:wh_off old0", "delivery:a:wh_off old1",
    }  # fmt: skip
    catalog.close()


def test_a_part_at_a_time_is_removed(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    catalog = open_catalog(str(tmp_path / "catalog.sqlite"), clock=clock)
    with catalog.writing() as tx:
        for n in range(5):
            tx.create(record(str(n), kind="task", status="FAILED"))
    clock.advance(86401)
    chore = retention.chores(catalog, 1)["old tasks are removed"]
    assert [chore(), chore(), chore()] == [True, True, False]
    catalog.close()


def test_a_server_removes_old_tasks_and_keeps_their_executions(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "PAUSE_S", 0.05)
    options = {"max_jobs": 0, "triggers": False, "deliveries": False}
    with serving(tmp_path / "root", retention_days=1e-6, **options) as (client, _):
        stock(client, {COLLECTION: 3})
        cluster = client.post("/v1/clusters", json=DEFINITION).json()["cluster_id"]
        task = client.post(f"/v1/clusters/{cluster}/execute", json={}).json()
        time.sleep(0.3)
        assert client.get(f"/v1/tasks/{task['task_id']}").status_code == 200  # it waits
        assert client.delete(f"/v1/tasks/{task['task_id']}").is_success
        until = time.monotonic() + SECONDS
        while client.get(f"/v1/tasks/{task['task_id']}").status_code != 404:
            assert time.monotonic() < until
            time.sleep(0.02)
        run = client.get(f"/v1/clusters/{cluster}/executions/{task['outputs'][0]}")
        assert run.json()["status"] == "canceled"


# ---- GPUs


class Stub:
    """Programs that say which GPU they see, until they are told to go on."""

    def __init__(self, folder):
        self.folder = folder
        self.program = folder / "python"
        self.program.write_text(
            "#!/bin/sh\nread job\n"
            f'echo "${{CUDA_VISIBLE_DEVICES-unset}}" > {folder}/$$.part\n'
            f"mv {folder}/$$.part {folder}/$$.saw\n"
            f"while [ ! -e {folder}/go ] && [ ! -e {folder}/$$.go ]; do sleep 0.02; done\n"
            'echo \'{"outcome": {"ok": true, "result": {}}}\'\n'
        )
        self.program.chmod(0o755)

    def saw(self):
        return {path.stem: path.read_text().strip() for path in self.folder.glob("*.saw")}

    def when(self, n):
        until = time.monotonic() + SECONDS
        while len(self.saw()) < n:
            assert time.monotonic() < until, self.saw()
            time.sleep(0.02)
        return self.saw()


@pytest.fixture
def stub(tmp_path, monkeypatch):
    made = Stub(tmp_path)
    monkeypatch.setattr(host.sys, "executable", str(made.program))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


@pytest.fixture
def working(tmp_path):
    """Begin to work on tasks whose devices are given."""
    catalog = open_catalog(str(tmp_path / "catalog.sqlite"))
    tasks, hosts = Tasks(catalog, 1000), []

    def begin(devices, **options):
        with catalog.writing() as tx:
            for n, device in enumerate(devices):
                args = {} if device is None else {"device": device}
                tasks.submit(tx, "n", f"task_{n}", "clustering", Job(verb="cluster", args=args))
        hosts.append(JobHost(catalog, tasks, hold=timedelta(seconds=60), **options))
        hosts[-1].start()
        return hosts[-1], tasks

    yield begin
    for each in hosts:
        each.stop()
    catalog.close()


def statuses(tasks, n):
    return [tasks.get("n", f"task_{i}").status for i in range(n)]


def test_each_job_on_a_gpu_has_one_and_the_next_waits_for_it(stub, working):
    jobs, tasks = working(["auto", "gpu", "auto", None, "cpu"], places=5, gpus=("GPU-a", "GPU-b"))
    seen = stub.when(4)
    assert sorted(seen.values()) == ["GPU-a", "GPU-b", "unset", "unset"]
    assert statuses(tasks, 5) == [*["IN_PROGRESS"] * 2, "PENDING", *["IN_PROGRESS"] * 2]
    assert (jobs.n_gpus, jobs.n_gpus_free, jobs.n_running, jobs.n_places) == (2, 0, 4, 5)
    (first,) = [name for name, gpu in seen.items() if gpu == "GPU-b"]
    (stub.folder / f"{first}.go").touch()
    after = stub.when(5)
    (last,) = after.keys() - seen.keys()
    assert after[last] == "GPU-b"  # whose job was over
    (stub.folder / "go").touch()
    until = time.monotonic() + SECONDS
    while statuses(tasks, 5) != ["COMPLETED"] * 5 or jobs.n_gpus_free < 2:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_without_gpus_jobs_take_places_alone(stub, working):
    _, tasks = working(["auto", "gpu", "auto"], places=2)
    assert sorted(stub.when(2).values()) == ["unset", "unset"]
    assert statuses(tasks, 3) == ["IN_PROGRESS", "IN_PROGRESS", "PENDING"]
    (stub.folder / "go").touch()
    stub.when(3)
