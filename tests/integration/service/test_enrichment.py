"""What runs know, written into documents over HTTP: in place, into copies, undone, and killed."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time

import pytest

from gpucluster.artifacts import LocalStore, Run
from gpucluster.service.jobs.host import MAX_DEATHS
from tests.helpers.serving import ended, serving, workers_of
from tests.helpers.shop import made, stock
from tests.helpers.stocked import DEFINITION

COLLECTION = "col_ad_scripts"
LIST = f"/v1/collections/{COLLECTION}/documents/list?limit=1000"
N = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("enrichment") / "root", max_jobs=2) as (client, service):
        stock(client, {COLLECTION: N})
        yield client, service


@pytest.fixture
def client(server):
    return server[0]


@pytest.fixture(scope="module")
def done(server):
    """A definition, and a completed run of it."""
    return executed(server[0], "usual")


def executed(client, name, n_clusters=3, **more):
    params = {"n_clusters": n_clusters, "n_init": 1}
    config = {**DEFINITION["vector_config"], "algorithm_params": params}
    body = {**DEFINITION, "cluster_name": name, "vector_config": config, **more}
    answer = client.post("/v1/clusters", json=body)
    assert answer.is_success, answer.text
    cluster_id = answer.json()["cluster_id"]
    return cluster_id, run_again(client, cluster_id)


def run_again(client, cluster_id):
    task = client.post(f"/v1/clusters/{cluster_id}/execute", json={}).json()
    found = ended(client, task["task_id"])
    assert found["status"] == "COMPLETED", found
    return found["outputs"][0]


def enriched(client, cluster_id, **body):
    answer = client.post(f"/v1/clusters/{cluster_id}/enrich", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "COMPLETED"
    return answer.json()


def members(client, cluster_id, run_id):
    path = f"/v1/clusters/{cluster_id}/executions/{run_id}/artifacts"
    rows = client.get(f"{path}?include_members=true&limit=10000").json()["members"]
    return {row["document_id"]: row["cluster_id"] for row in rows}


def documents(client, collection=COLLECTION, **body):
    answer = client.post(f"/v1/collections/{collection}/documents/list?limit=1000", json=body)
    assert answer.status_code == 200, answer.text
    return {row["document_id"]: row for row in answer.json()["results"]}


def test_documents_get_columns_that_are_filtered_counted_and_taken_away(client, done):
    cluster_id, run_id = done
    said = enriched(client, cluster_id, fields=["cluster_id", "distance_to_centroid"])
    assert (said["processed"], said["enriched"], said["failed"]) == (N, N, 0)
    assert said["collections"][0]["columns"] == ["cluster_id", "distance_to_centroid"]
    placed = members(client, cluster_id, run_id)
    found = documents(client)
    assert {key: row["cluster_id"] for key, row in found.items()} == placed
    assert all(0 <= row["distance_to_centroid"] <= 2 for row in found.values())
    first = [key for key, cluster in placed.items() if cluster == "cl_0"]
    near = {"field": "distance_to_centroid", "operator": "lt", "value": 2}
    only = {"AND": [{"field": "cluster_id", "operator": "eq", "value": "cl_0"}, near]}
    assert set(documents(client, filters=only)) == set(first)
    facets = f"/v1/collections/{COLLECTION}/documents/facets"
    counted = client.post(facets, json={"fields": ["cluster_id"]}).json()["facets"]["cluster_id"]
    assert sum(row["count"] for row in counted["values"]) == N
    assert {row["value"]: row["count"] for row in counted["values"]}["cl_0"] == len(first)
    undone = client.delete(f"/v1/collections/{COLLECTION}/enrichments/{run_id}")
    assert undone.status_code == 200, undone.text
    assert not any("cluster_id" in row for row in documents(client).values())
    again = client.delete(f"/v1/collections/{COLLECTION}/enrichments/{run_id}")
    assert again.status_code == 404


def test_copies_go_to_a_collection_of_their_own(client, done):
    cluster_id, run_id = done
    before = client.get(f"/v1/collections/{COLLECTION}").json()["version"]
    for _ in range(2):  # the same again is the same
        said = enriched(
            *(client, cluster_id), target_collection_id="col_copies", fields=["cluster_id"]
        )
        assert said["collections"][0]["collection_id"] == "col_copies"
        copies = documents(client, "col_copies")
        assert {k: v["cluster_id"] for k, v in copies.items()} == members(
            client, cluster_id, run_id
        )
    assert client.get(f"/v1/collections/{COLLECTION}").json()["version"] == before
    shown = client.get(f"/v1/clusters/{cluster_id}").json()
    assert "col_copies" in shown["output_collection_ids"]
    assert shown["enrichment"]["run_id"] == run_id
    body = {**DEFINITION, "collection_ids": ["col_copies"]}
    assert client.post("/v1/clusters", json=body).status_code == 200  # as any other collection


def test_columns_have_the_names_that_mappings_say(client, done):
    cluster_id, _ = done
    mappings = [
        {"source_field": "cluster_id", "target_field": "topic"},
        {"source_field": "member_count", "target_field": "topic_size"},
    ]
    enriched(client, cluster_id, field_mappings=mappings, target_collection_id="col_mapped")
    found = documents(client, "col_mapped")
    sizes = {}
    for row in found.values():
        sizes[row["topic"]] = sizes.get(row["topic"], 0) + 1
    assert all(row["topic_size"] == sizes[row["topic"]] for row in found.values())


def test_several_runs_stand_side_by_side_in_the_published_form(client, done):
    other, _ = executed(client, "other", n_clusters=2)
    body = {
        "clustering_ids": [done[0], other],
        "source_collection_id": COLLECTION,
        "target_collection_id": "col_both",
    }
    answer = client.post("/v1/clusters/enrich", json=body)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["status"], said["failed"]) == ("COMPLETED", 0)
    assert len(said["run_ids"]) == 2
    row = documents(client, "col_both")["doc_0"]
    assert {"usual_cluster_id", "other_cluster_id"} <= row.keys()


def test_definitions_may_enrich_by_themselves(client):
    mapping = {"source_field": "cluster_id", "target_field": "own_topic"}
    cluster_id, run_id = executed(
        client,
        "by-itself",
        enrich_source_collection=True,
        source_enrichment_config={"field_mappings": [mapping]},
    )
    until = time.monotonic() + 60
    while client.get(f"/v1/clusters/{cluster_id}").json()["enrichment"] is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    found = documents(client)
    assert {key: row["own_topic"] for key, row in found.items()} == members(
        client, cluster_id, run_id
    )


def test_no_file_is_read_while_others_wait_to_write(server, monkeypatch):
    """A run that enriches, and documents that join a taxonomy and get its nodes."""
    client, service = server
    one_thread_writes, read = service.catalog._thread, []

    def watched(usual):
        def reading(*args):
            if getattr(one_thread_writes, "writes", False):
                read.append(args[1:])
            return usual(*args)

        return reading

    for name in ("open", "read_bytes", "exists", "list"):
        monkeypatch.setattr(LocalStore, name, watched(getattr(LocalStore, name)))
    monkeypatch.setattr(Run, "open", watched(Run.open))
    cluster_id, run_id = executed(client, "watched", enrich_source_collection=True)
    path = f"/v1/clusters/{cluster_id}/promote"
    made_of = client.post(path, json={"taxonomy_name": "watched"}).json()
    applied = client.post(
        f"/v1/taxonomies/{made_of['taxonomy_id']}/apply?wait=true",
        json={"collection_id": COLLECTION, "target_collection_id": "col_watched"},
    )
    assert applied.json()["status"] == "COMPLETED"
    statuses = ["PENDING", "IN_PROGRESS"]
    live = {"filters": {"field": "status", "operator": "in", "value": statuses}}
    until = time.monotonic() + 60
    while client.post("/v1/tasks/list", json=live).json()["results"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert client.get("/v1/collections/col_watched").json()["num_documents"] == N
    assert read == []
    gone = client.delete(f"/v1/collections/{COLLECTION}/enrichments/{run_id}")
    assert gone.is_success, gone.text


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"run_id": "run_none"}, 404, "run_none"),
        ({"fields": ["clusterid"]}, 422, "cluster_id"),
        ({"fields": ["label"]}, 409, "has no label"),
        ({"target_collection_id": COLLECTION}, 409, "is what is read"),
        ({"fields": ["cluster_id"], "no_such": 1}, 422, "no such field"),
        ({"target_collection_id": "products"}, 422, "col_"),
        ({"batch_size": 0}, 422, "batch_size"),
        (
            {"field_mappings": [{"source_field": "cluster_id", "target_field": "headline"}]},
            409,
            "overwrite",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(client, done, body, status, words):
    before = client.get(f"/v1/collections/{COLLECTION}").json()["version"]
    answer = client.post(f"/v1/clusters/{done[0]}/enrich", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert client.get(f"/v1/collections/{COLLECTION}").json()["version"] == before


def test_a_definition_without_a_run_has_nothing_to_write(client):
    body = {**DEFINITION, "cluster_name": "never-run"}
    cluster_id = client.post("/v1/clusters", json=body).json()["cluster_id"]
    answer = client.post(f"/v1/clusters/{cluster_id}/enrich", json={})
    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "NoModelError")
    assert client.post("/v1/clusters/none/enrich", json={}).status_code == 404


def test_readers_see_no_column_or_all_though_who_writes_is_killed(tmp_path):
    """SIGKILL at random moments, again and again; in the end all documents are enriched."""
    n, fields = 20_000, ("cluster_id", "distance_to_centroid")
    with serving(tmp_path / "root") as (client, _):
        stock(client, {COLLECTION: 10})
        for start in range(10, n, 5000):
            later = made(COLLECTION, min(5000, n - start), start=start)
            path = f"/v1/collections/{COLLECTION}/documents"
            assert client.post(path, json={"documents": later}).is_success
        cluster_id, run_id = executed(client, "killed")
        placed = members_by_stream(client, cluster_id, run_id)
        chance, seen, over, killed = random.Random(11), set(), threading.Event(), 0
        reader = threading.Thread(target=watch, args=(client, over, seen, set(fields)))
        reader.start()
        try:
            for _ in range(3):
                path = f"/v1/clusters/{cluster_id}/enrich?wait=false"
                answer = client.post(path, json={"fields": fields})
                task_id = answer.json()["task_ids"][0]
                for _ in range(MAX_DEATHS - 1):
                    killed += kill_worker(client, task_id, chance.uniform(0.1, 1.0))
                assert ended(client, task_id, 120)["status"] == "COMPLETED"
                assert len(placed) == n
                assert streamed(client) == placed
                undone = client.delete(f"/v1/collections/{COLLECTION}/enrichments/{run_id}")
                assert undone.is_success, undone.text
        finally:
            over.set()
            reader.join()
        assert killed >= 3
        assert seen == {(), fields}


def watch(client, over, seen, fields):
    """Note which columns the documents of a page have, page after page."""
    while not over.is_set():
        for row in client.post(LIST, json={}).json()["results"]:
            seen.add(tuple(sorted(fields & row.keys())))


def kill_worker(client, task_id, pause):
    """Kill the process that works, some time after it began; whether there was one."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if client.get(f"/v1/tasks/{task_id}").json()["status"] not in {"PENDING", "IN_PROGRESS"}:
            return False
        workers = workers_of(os.getpid())
        if workers:
            time.sleep(pause)
            for pid in workers:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    return False
            return True
        time.sleep(0.01)
    return False


def members_by_stream(client, cluster_id, run_id):
    path = f"/v1/clusters/{cluster_id}/executions/{run_id}/data"
    params = {"include_members": "true", "include_centroids": "false"}
    lines = client.get(path, params=params).text.splitlines()
    return {row["document_id"]: row["cluster_id"] for row in map(json.loads, lines)}


def streamed(client):
    path = f"/v1/collections/{COLLECTION}/documents/data"
    lines = client.post(path, json={"fields": ["document_id", "cluster_id"]}).text.splitlines()
    return {row["document_id"]: row["cluster_id"] for row in map(json.loads, lines)}
