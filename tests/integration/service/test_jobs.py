"""Runs in processes of their own: progress, cancel, and servers that are killed."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.serving import Killable, ended, serving

URI = "mixpeek://text_extractor@v1/text_embedding"
KMEANS = {"clustering_method": "kmeans", "algorithm_params": {"n_clusters": 4}}


def documents(n=400, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 16)) + 4 * rng.normal(size=(4, 16))[np.arange(n) % 4]
    return [
        {"document_id": f"d{i}", "text": f"text {i % 4}", "embedding": row.round(3).tolist()}
        for i, row in enumerate(X)
    ]


def with_collection(client, name="col_docs", n=400):
    features = {URI: {"column": "embedding", "dim": 16}}
    made = client.post("/v1/collections", json={"collection_id": name, "features": features})
    assert made.status_code == 201, made.text
    path = f"/v1/collections/{name}/documents"
    added = client.post(path, json={"documents": documents(n)})
    assert added.is_success, added.text


def defined(client, name, *, collection_ids=("col_docs",), **config):
    body = {
        "cluster_name": name,
        "collection_ids": list(collection_ids),
        "vector_config": {"feature_uri": URI, **KMEANS, **config},
    }
    answer = client.post("/v1/clusters", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["cluster_id"]


def executed(client, cluster_id, **body):
    answer = client.post(f"/v1/clusters/{cluster_id}/execute", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("jobs") / "root") as (client, service):
        with_collection(client)
        yield client, service


@pytest.fixture
def client(server):
    return server[0]


def test_a_run_goes_from_pending_to_completed(client):
    cluster_id = defined(client, "plain")
    task = executed(client, cluster_id)
    assert task["status"] == "PENDING"
    done = ended(client, task["task_id"])
    run_id = done["outputs"][0]
    assert done["status"] == "COMPLETED"
    assert done["additional_data"]["result"]["num_clusters"] == 4
    found = client.get(f"/v1/clusters/{cluster_id}").json()
    assert (found["status"], found["last_run_id"]) == ("COMPLETED", run_id)
    assert found["latest_run"]["run_id"] == run_id
    run = client.get(f"/v1/clusters/{cluster_id}/executions/{run_id}").json()
    assert [each["num_members"] for each in run["centroids"]] == [100] * 4
    assert run["metrics"]["silhouette_score"] > 0.5
    check_what_is_kept(client, cluster_id, found)


def check_what_is_kept(client, cluster_id, shown):
    """A definition that was changed is answered as it is kept."""
    answer = client.patch(f"/v1/clusters/{cluster_id}", json={"description": "changed"})
    kept = answer.json()
    assert (kept["cluster_id"], kept["description"]) == (cluster_id, "changed")
    assert kept["collection_ids"] == ["col_docs"]
    assert kept["vector_config"]["clustering_method"] == "kmeans"
    assert kept["vector_config"]["algorithm_params"]["max_iter"] == 300  # a default
    assert (kept["task_id"], kept["last_run_id"]) == (
        shown["last_execution_task_id"],
        shown["last_run_id"],
    )
    stats, metrics = kept["cluster_stats"], shown["latest_run"]["metrics"]
    assert (stats["num_clusters"], stats["noise_points"]) == (4, 0)
    assert stats["silhouette_score"] == metrics["silhouette_score"]
    assert stats["extra"]["noise_ratio"] == metrics["noise_ratio"]
    assert kept["parquet_path"] == shown["latest_run"]["artifacts"]["path"]
    assert pq.read_table(kept["members_key"]).num_rows == 400


def test_members_are_streamed_as_lines_and_as_arrow(client):
    cluster_id = defined(client, "streamed")
    run_id = ended(client, executed(client, cluster_id)["task_id"])["outputs"][0]
    path = f"/v1/clusters/{cluster_id}/executions/{run_id}/data"
    asked = {"include_members": True, "columns": ["document_id", "cluster_id"]}
    lines = [json.loads(line) for line in client.post(path, json=asked).text.splitlines()]
    kinds = Counter(line.pop("type") for line in lines)
    assert kinds == {"centroid": 4, "member": 400}
    assert set(lines[-1]) == {"point_id", "document_id", "cluster_id"}
    accept = {"Accept": "application/vnd.apache.arrow.stream"}
    buffer = pa.py_buffer(client.post(path, json=asked, headers=accept).content)
    reader = pa.BufferReader(buffer)
    centroids = pa.ipc.open_stream(reader).read_all()
    members = pa.ipc.open_stream(reader).read_all()
    assert centroids.num_rows == 4
    assert members.column_names == asked["columns"]
    ids = [line["document_id"] for line in lines if "document_id" in line]
    assert members["document_id"].to_pylist() == ids
    part = client.post(path, json={**asked, "offset": 390, "limit": 5, "include_centroids": False})
    assert [json.loads(each)["document_id"] for each in part.text.splitlines()] == ids[390:395]
    wrong = client.post(path, json={**asked, "columns": ["nope"]})
    assert wrong.status_code == 422
    latest = client.get(f"/v1/clusters/{cluster_id}/data?include_members=true&limit=1")
    assert latest.text.count('"type":"member"') == 1


def test_clusters_say_how_they_were_found_and_come_in_parts(client):
    cluster_id = defined(client, "shown", dimension_reduction={"method": "pca"})
    run_id = ended(client, executed(client, cluster_id)["task_id"])["outputs"][0]
    path = f"/v1/clusters/{cluster_id}/executions/{run_id}"
    run = client.get(path, params={"limit": 2, "offset": 1, "namespace": "default"}).json()
    assert [each["cluster_id"] for each in run["centroids"]] == ["cl_1", "cl_2"]
    assert (run["num_centroids"], run["next_offset"]) == (4, 3)
    rest = client.get(path, params={"offset": 3}).json()
    assert [each["cluster_id"] for each in rest["centroids"]] == ["cl_3"]
    assert rest["next_offset"] is None
    assert client.get(path, params={"limit": 10_001}).status_code == 422
    shown = client.get(f"{path}/artifacts?namespace=default").json()["centroids"]
    lines = client.get(f"{path}/data?namespace=default").text.splitlines()
    assert [json.loads(line) for line in lines] == [{"type": "centroid", **e} for e in shown]
    for each in shown:
        assert (each["reduction_method"], each["parameters"]["n_clusters"]) == ("pca", 4)
        assert each["parameters"]["max_iter"] == 300
        assert each["created_at"].startswith("20")
    accept = {"Accept": "application/vnd.apache.arrow.stream"}
    table = pa.ipc.open_stream(client.get(f"{path}/data", headers=accept).content).read_all()
    told = [json.loads(text) for text in table["parameters"].to_pylist()]
    assert told == [each["parameters"] for each in shown]


def test_a_definition_keeps_the_counts_of_its_clustering(client):
    with_collection(client, "col_grown", 200)
    cluster_id = defined(client, "grown", collection_ids=["col_grown"])

    def counted(n_new=0, **body):
        new = [{**row, "document_id": f"{n_new}-{n}"} for n, row in enumerate(documents(200))]
        if n_new:
            sent = {"documents": new[:n_new]}
            assert client.post("/v1/collections/col_grown/documents", json=sent).is_success
        task = ended(client, executed(client, cluster_id, **body)["task_id"])
        assert task["status"] == "COMPLETED", task
        found = client.get(f"/v1/clusters/{cluster_id}").json()
        assert found["last_run_id"] == task["outputs"][0]
        assert found["num_clusters"] == 4
        return (
            found["num_documents_clustered"],
            found["num_documents_joined"],
            found["clustering_run_id"] == found["last_run_id"],
        )

    joining = {"mode": "assign", "assignment_threshold": -1}
    assert counted() == (200, 0, True)
    assert counted(10, **joining) == (200, 10, False)
    assert counted(5, **joining, update=True) == (200, 15, False)  # all that are new
    assert counted(3, **joining) == (200, 18, False)  # those since, on top
    assert counted(**joining, scope="all") == (200, 18, False)
    assert counted() == (218, 0, True)


def test_one_run_of_a_definition_is_live_at_a_time(client):
    cluster_id = defined(client, "alone")
    task = executed(client, cluster_id)
    refused = client.post(f"/v1/clusters/{cluster_id}/execute", json={})
    assert refused.status_code == 409
    assert refused.json()["error"]["details"]["run_id"] == task["outputs"][0]
    ended(client, task["task_id"])
    ended(client, executed(client, cluster_id)["task_id"])


def test_new_documents_join_the_latest_full_run(client):
    cluster_id = defined(client, "joined")
    refused = client.post(f"/v1/clusters/{cluster_id}/execute", json={"mode": "assign"})
    assert refused.status_code == 409
    assert refused.json()["error"]["type"] == "NoModelError"
    full = ended(client, executed(client, cluster_id)["task_id"])["outputs"][0]
    task = executed(client, cluster_id, mode="assign", scope="all", assignment_threshold="auto")
    ended(client, task["task_id"])
    run = client.get(f"/v1/clusters/{cluster_id}/executions/{task['outputs'][0]}").json()
    assert (run["mode"], run["base_run_id"], run["status"]) == ("assign", full, "completed")
    assert run["drift"] is not None


def test_a_run_that_cannot_be_says_why(client):
    cluster_id = defined(client, "impossible", algorithm_params={"n_clusters": 4000})
    done = ended(client, executed(client, cluster_id)["task_id"])
    assert done["status"] == "FAILED"
    assert "4,000" in done["error"] or "4000" in done["error"]
    found = client.get(f"/v1/clusters/{cluster_id}").json()
    assert found["status"] == "FAILED"
    assert found["latest_run"]["error_message"] == done["error"]
    again = client.post(f"/v1/clusters/{cluster_id}/execute", json={})
    assert again.status_code == 200  # nothing is live any more
    ended(client, again.json()["task_id"])


def test_what_waits_is_canceled_at_once_and_what_runs_soon(client):
    slow = defined(client, "slow", algorithm_params={"n_clusters": 50, "n_init": 1000})
    later = defined(client, "later")
    running, waiting = executed(client, slow), executed(client, later)
    until = time.monotonic() + 30
    while client.get(f"/v1/tasks/{running['task_id']}").json()["status"] == "PENDING":
        assert time.monotonic() < until
        time.sleep(0.05)
    gone = client.post(f"/v1/clusters/{later}/executions/{waiting['outputs'][0]}/cancel")
    assert gone.json()["status"] == "canceled"
    assert client.delete(f"/v1/tasks/{running['task_id']}").status_code == 200
    assert ended(client, running["task_id"])["status"] == "CANCELED"
    again = client.post(f"/v1/clusters/{slow}/executions/{running['outputs'][0]}/cancel")
    assert again.status_code == 409
    assert client.get(f"/v1/clusters/{slow}").json()["status"] == "CANCELED"


def test_a_task_is_followed_by_server_sent_events(client):
    task = executed(client, defined(client, "followed"))
    with client.stream("GET", f"/v1/tasks/{task['task_id']}/events") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert '"status":"COMPLETED"' in lines[-1]


def test_a_deleted_definition_takes_its_live_run_along(client):
    cluster_id = defined(client, "deleted", algorithm_params={"n_clusters": 50, "n_init": 1000})
    task = executed(client, cluster_id)
    refused = client.delete(f"/v1/clusters/{cluster_id}?delete_artifacts=true")
    assert refused.status_code == 409
    answer = client.delete(f"/v1/clusters/{cluster_id}").json()
    assert answer["canceled_run_ids"] == task["outputs"]
    assert ended(client, task["task_id"])["status"] == "CANCELED"
    assert client.get(f"/v1/clusters/{cluster_id}").status_code == 404


def test_files_of_a_deleted_definition_stay_unless_they_are_to_go(server):
    client, service = server
    for delete in (False, True):
        cluster_id = defined(client, f"files-{delete}")
        run_id = ended(client, executed(client, cluster_id)["task_id"])["outputs"][0]
        folder = service.executions.folder("default", cluster_id) / run_id
        assert folder.is_dir()
        answer = client.delete(f"/v1/clusters/{cluster_id}?delete_artifacts={delete}").json()
        assert answer["artifacts_deleted"] is delete
        assert folder.is_dir() is not delete


def test_an_order_to_stop_gives_runs_back_and_the_next_server_ends_them(tmp_path):
    server = Killable(tmp_path / "root")
    client = server.start()
    with_collection(client)
    task = executed(client, defined(client, "given-back"))
    assert server.stop(signal.SIGTERM) in {0, 143}
    client = server.start()
    try:
        assert ended(client, task["task_id"])["status"] == "COMPLETED"
    finally:
        server.stop()


def test_ten_runs_end_well_though_the_server_is_killed_again_and_again(tmp_path, catalog_url):
    """SIGKILL at random times, five times; the runs are what they are without it."""
    server = Killable(
        tmp_path / "root", "--hold-s", "2", "--max-jobs", "2", "--catalog", catalog_url
    )
    client = server.start()
    with_collection(client)
    clusters = [
        defined(client, f"run-{k}", algorithm_params={"n_clusters": k}) for k in range(2, 12)
    ]
    tasks = [executed(client, cluster_id) for cluster_id in clusters]
    chance = random.Random(7)
    for _ in range(5):
        time.sleep(chance.uniform(0.2, 2.5))
        server.stop(signal.SIGKILL)
        client = server.start()
    try:
        for k, cluster_id, task in zip(range(2, 12), clusters, tasks, strict=True):
            done = ended(client, task["task_id"], seconds=120)
            assert done["status"] == "COMPLETED", done
            history = client.get(f"/v1/clusters/{cluster_id}/executions").json()
            assert history["total_count"] == 1
            assert (history["status"], history["num_clusters"]) == ("completed", k)
            assert client.get(f"/v1/clusters/{cluster_id}").json()["status"] == "COMPLETED"
    finally:
        assert server.stop() in {0, 143}


def test_servers_on_one_root_share_its_file(tmp_path):
    """One works and the other only answers; both change the same things at once."""
    with (
        serving(tmp_path / "root", max_jobs=0) as (first, _),
        serving(tmp_path / "root") as (second, _),
    ):
        with_collection(first, n=40)
        with ThreadPoolExecutor(4) as threads:
            body = {
                "cluster_name": "once",
                "collection_ids": ["col_docs"],
                "vector_config": {"feature_uri": URI, **KMEANS},
            }
            asked = [
                threads.submit(client.post, "/v1/clusters", json=body)
                for client in (first, second) * 4
            ]
        made = [each.result() for each in asked]
        assert Counter(each.status_code for each in made) == {200: 1, 409: 7}
        task = executed(first, "once")
        refused = second.post("/v1/clusters/once/execute", json={})
        assert refused.status_code == 409, refused.text
        assert ended(first, task["task_id"])["status"] == "COMPLETED"
        assert first.get("/v1/clusters/once").json() == second.get("/v1/clusters/once").json()
