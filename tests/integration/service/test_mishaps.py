"""What is left where servers die at the wrong moment, places are few, or things go meanwhile."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from gpucluster.errors import Cancelled, ConfigError, RunLockedError, StoreError
from gpucluster.events import CancelToken
from gpucluster.service import once, streams
from gpucluster.service.jobs import host, work
from gpucluster.service.refusals import ConflictError
from gpucluster.service.server import serve
from gpucluster.service.settings import ServiceSettings
from gpucluster.taxonomy import StoredTaxonomy
from tests.helpers.serving import ended, serving
from tests.integration.service.test_jobs import defined, executed, with_collection


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("mishaps") / "root") as (client, service):
        with_collection(client)
        yield client, service


@pytest.fixture
def client(server):
    return server[0]


def done(client, cluster_id, **body):
    task = ended(client, executed(client, cluster_id, **body)["task_id"])
    assert task["status"] == "COMPLETED", task
    return task["outputs"][0]


def test_jobs_do_not_get_the_settings_of_the_server(server, monkeypatch):
    client, _ = server
    monkeypatch.setenv("GPUCLUSTER_SERVE_ADMIN_TOKEN", "secret")
    seen = []
    start = host.subprocess.Popen

    def starting(*args, **options):
        seen.append(options.get("env", os.environ))
        return start(*args, **options)

    monkeypatch.setattr(host.subprocess, "Popen", starting)
    done(client, defined(client, "without-secrets"))
    assert seen
    assert not [name for each in seen for name in each if name.startswith("GPUCLUSTER_SERVE_")]


def test_tasks_are_taken_up_again_after_the_database_was_away(server, monkeypatch):
    client, service = server
    failed = threading.Event()
    claimed = service.jobs._claimed

    def failing():
        if not failed.is_set():
            failed.set()
            raise StoreError("the database is away")
        return claimed()

    monkeypatch.setattr(service.jobs, "_claimed", failing)
    assert failed.wait(30)
    done(client, defined(client, "after-an-outage"))


def test_what_a_run_leads_to_is_begun_however_much_waits(tmp_path):
    with serving(tmp_path / "root", max_queued=1) as (client, _):
        with_collection(client)
        cluster = {
            "collection_ids": ["col_docs"],
            "vector_config": {"clustering_method": "kmeans", "algorithm_params": {"n_clusters": 4}},
            "enrich_source_collection": True,
        }
        cluster_id = client.post("/v1/clusters", json=cluster).json()["cluster_id"]
        done(client, cluster_id)
        listed = client.post("/v1/tasks/list", json={}).json()["results"]
        kinds = {task["task_type"]: task["task_id"] for task in listed}
        enriched = ended(client, kinds["api_collections_documents_enrich"])
        assert enriched["status"] == "COMPLETED", enriched


def test_a_task_whose_outcome_is_refused_fails_at_once(server, monkeypatch):
    """The taxonomy is made; the catalog has no place for it under that name."""
    client, service = server
    cluster_id = defined(client, "refused")
    done(client, cluster_id)
    end = service.tasks.finishers["promote"]

    def ending(tx, task, outcome):
        if outcome["ok"]:
            raise ConflictError("there is a taxonomy of that name already")
        return end(tx, task, outcome)

    monkeypatch.setitem(service.tasks.finishers, "promote", ending)
    answer = client.post(f"/v1/clusters/{cluster_id}/promote", json={"taxonomy_name": "no"})
    assert answer.status_code == 409
    assert "of that name" in answer.json()["error"]["message"]


def test_a_job_waits_for_the_process_that_had_its_run():
    """Its server fell silent, and somebody else took the task up; the process is not over yet."""
    held = iter([True, True, False])

    def verb(args, observer, cancel):
        if next(held):
            raise RunLockedError("in use by process 1")
        return {"run_id": args["run_id"]}

    token = CancelToken()
    assert work._done(verb, {"run_id": "r"}, None, token) == {"run_id": "r"}
    held = iter([True])
    token.cancel()
    with pytest.raises(Cancelled):
        work._done(verb, {"run_id": "r"}, None, token)


def test_rows_join_a_full_run_however_many_joined_since(server):
    client, service = server
    cluster_id = defined(client, "joined-often")
    full = done(client, cluster_id)
    with service.catalog.writing() as tx:
        found = tx.get("default", "execution", full)
        for number in range(201):
            body = {**found.body, "run_id": f"run_often{number}", "mode": "assign"}
            tx.create(replace(found, id=f"run_often{number}", body=body, version=0))
    run_id = done(client, cluster_id, mode="assign", scope="all")
    run = client.get(f"/v1/clusters/{cluster_id}/executions/{run_id}").json()
    assert run["base_run_id"] == full


def test_averages_are_of_runs_that_ended_well(server):
    client, service = server
    cluster_id = defined(client, "averaged")
    run_id = done(client, cluster_id)
    with service.catalog.writing() as tx:
        found = tx.get("default", "execution", run_id)
        own = found.body["execution_time_ms"]
        body = {**found.body, "run_id": "run_failed", "execution_time_ms": 10**9}
        tx.create(replace(found, id="run_failed", body=body, status="failed", version=0))
    stats = client.post(f"/v1/clusters/{cluster_id}/executions/list", json={}).json()["stats"]
    assert stats["total_executions"] == 2
    assert stats["avg_execution_time_ms"] == own
    assert stats["total_documents_clustered"] == 400


def test_a_taxonomy_whose_files_went_first_can_be_deleted(server):
    client, service = server
    cluster_id = defined(client, "half-deleted")
    done(client, cluster_id)
    made = client.post(f"/v1/clusters/{cluster_id}/promote", json={"taxonomy_name": "half"}).json()
    taxonomy_id = made["taxonomy_id"]
    StoredTaxonomy.open(service.taxonomies.folder("default") / taxonomy_id).delete()
    assert client.delete(f"/v1/taxonomies/{taxonomy_id}").status_code == 200
    assert client.get(f"/v1/taxonomies/{taxonomy_id}").status_code == 404


def test_files_that_a_deleted_definition_left_can_go_later(server):
    client, service = server
    cluster_id = defined(client, "deleted-twice")
    done(client, cluster_id)
    folder = service.executions.folder("default", cluster_id)
    assert client.delete(f"/v1/clusters/{cluster_id}").status_code == 200
    assert client.delete(f"/v1/clusters/{cluster_id}").status_code == 404
    assert folder.is_dir()
    path = f"/v1/clusters/{cluster_id}?delete_artifacts=true"
    assert client.delete(path).status_code == 200
    assert not folder.is_dir()
    assert client.delete(path).status_code == 404


def test_a_collection_that_was_deleted_stays_deleted_though_it_is_being_enriched(server):
    client, service = server
    with_collection(client, "col_going", 40)
    body = {
        "collection_ids": ["col_going"],
        "vector_config": {"clustering_method": "kmeans", "algorithm_params": {"n_clusters": 4}},
    }
    cluster_id = client.post("/v1/clusters", json=body).json()["cluster_id"]
    done(client, cluster_id)
    end, removed = service.tasks.finishers["enrich"], []

    def ending(tx, task, outcome):
        removed.append(tx.delete("default", "collection", "col_going"))
        return end(tx, task, outcome)

    service.tasks.finishers["enrich"] = ending
    try:
        client.post(f"/v1/clusters/{cluster_id}/enrich", json={})
    finally:
        service.tasks.finishers["enrich"] = end
    assert removed == [True]
    assert client.get("/v1/collections/col_going").status_code == 404


def test_columns_of_a_taxonomy_that_is_applied_again_take_the_place_of_the_earlier(server):
    client, _ = server
    with_collection(client, "col_sorted", 40)
    cluster_id = defined(client, "sorting")
    done(client, cluster_id)
    promoted = {"taxonomy_name": "sorted"}
    made = client.post(f"/v1/clusters/{cluster_id}/promote", json=promoted).json()
    for _ in range(2):
        asked = {"collection_id": "col_sorted", "enrich": True}
        path = f"/v1/taxonomies/{made['taxonomy_id']}/apply?wait=true"
        assert client.post(path, json=asked).json()["status"] == "COMPLETED"
        tasks = client.post("/v1/tasks/list", json={}).json()["results"]
        writing = next(t for t in tasks if t["task_type"] == "api_collections_documents_enrich")
        assert ended(client, writing["task_id"])["status"] == "COMPLETED"
    found = client.get("/v1/collections/col_sorted").json()
    assert [each["columns"] for each in found["enrichments"]] == [["node_id"]]


def test_who_was_overtaken_leaves_the_request_to_the_other(server, monkeypatch):
    _, service = server
    monkeypatch.setattr(once, "ABANDONED", timedelta(0))
    late = service.once._take_up("default", "a-key", "f")
    other = service.once._take_up("default", "a-key", "f")
    service.once.finish(late, None)
    service.once.finish(other, once.KeptAnswer(200, (), b"{}"))
    assert service.once._take_up("default", "a-key", "f") == once.KeptAnswer(200, (), b"{}")


def test_a_conflict_under_a_key_ends_when_what_it_was_with_does(server):
    client, service = server
    cluster_id = defined(client, "conflict")
    with service.catalog.writing() as tx:
        found = tx.get("default", "cluster", cluster_id)
        found = tx.replace(replace(found, body={**found.body, "live_run_id": "run_other"}))
    headers = {"Idempotency-Key": "conflict"}
    path = f"/v1/clusters/{cluster_id}/execute"
    assert client.post(path, json={}, headers=headers).status_code == 409
    with service.catalog.writing() as tx:
        tx.replace(replace(found, body={**found.body, "live_run_id": None}))
    first, again = (client.post(path, json={}, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["task_id"] == again.json()["task_id"]
    ended(client, first.json()["task_id"])


def test_a_refusal_of_what_would_have_had_a_secret_is_repeated_as_it_was(client):
    body = {"scopes": ["read"], "namespace": "nowhere"}
    answers = [
        client.post("/v1/tokens", json=body, headers={"Idempotency-Key": "refused-secret"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    hook = {
        "webhook_name": "bad",
        "event_types": ["cluster.created"],
        "channels": [{"channel": "webhook", "configs": {"url": "http://127.0.0.1/"}}],
    }
    path, headers = "/v1/organizations/webhooks", {"Idempotency-Key": "refused-webhook"}
    answers = [client.post(path, json=hook, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [422, 422]


def test_a_database_that_is_away_is_said_in_the_usual_form(server, monkeypatch):
    client, service = server

    def away(*_):
        raise StoreError("the database is away")

    monkeypatch.setattr(service.once, "_take_up", away)
    answer = client.post("/v1/clusters", json={}, headers={"Idempotency-Key": "away"})
    assert answer.status_code == 507
    assert answer.json()["error"]["message"] == "the database is away"


def test_more_vectors_than_one_answer_holds_are_streamed(client, monkeypatch):
    cluster_id = defined(client, "many-vectors")
    run_id = done(client, cluster_id)
    monkeypatch.setattr(streams, "MOST_VALUES", 63)  # of 4 clusters with 16
    path = f"/v1/clusters/{cluster_id}/executions/{run_id}"
    refused = client.get(f"{path}/artifacts")
    assert refused.status_code == 409
    assert "/data" in refused.json()["error"]["details"]["hint"]
    assert client.get(f"{path}/artifacts?include_centroids=false").status_code == 200
    assert client.get(f"{path}/data").text.count("centroid_vector") == 4
    monkeypatch.setattr(streams, "MOST_VALUES", 64)
    assert len(client.get(f"{path}/artifacts").json()["centroids"]) == 4


def test_a_port_that_is_taken_is_no_bug(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            serve(ServiceSettings(root=str(tmp_path / "root"), port=port), print)
    assert not (tmp_path / "root").exists()


def test_who_waits_is_answered_when_the_server_is_told_to_stop(tmp_path):
    with serving(tmp_path / "root", max_jobs=0) as (client, service):
        with_collection(client)
        cluster_id = defined(client, "never")
        answers = []
        path = f"/v1/clusters/{cluster_id}/execute?wait=true"
        asking = threading.Thread(target=lambda: answers.append(client.post(path, json={})))
        asking.start()
        while not client.post("/v1/tasks/list", json={}).json()["results"]:
            assert asking.is_alive()
        service.is_over.set()
        asking.join(30)
        assert [answer.json()["status"] for answer in answers] == ["PENDING"]
