"""What follows from a task is done, or noted, where no other task is let in."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.helpers.serving import ended, serving
from tests.helpers.shop import COLLECTIONS, made, stock

NAME = "col_products"


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path / "root", max_queued=1, triggers=False) as found:
        stock(found[0], {NAME: 60})
        yield found


def defined(client, **more):
    uri = COLLECTIONS[NAME][0]
    config = {"feature_uri": uri, "clustering_method": "kmeans"}
    config["algorithm_params"] = {"n_clusters": 3}
    body = {"collection_ids": [NAME], "vector_config": config, **more}
    answer = client.post("/v1/clusters", json=body)
    assert answer.is_success, answer.text
    return answer.json()["cluster_id"]


def run(client, cluster_id):
    answer = client.post(f"/v1/clusters/{cluster_id}/execute", json={})
    assert answer.is_success, answer.text
    done = ended(client, answer.json()["task_id"])
    assert done["status"].startswith("COMPLETED"), done
    return done


def test_documents_are_enriched_after_a_run(server):
    client, _ = server
    run(client, defined(client, enrich_source_collection=True))
    tasks = client.post("/v1/tasks/list", json={}).json()["results"]
    (enriching,) = [t for t in tasks if t["task_type"] == "api_collections_documents_enrich"]
    assert ended(client, enriching["task_id"])["status"] == "COMPLETED"


def test_a_check_ends_although_nothing_can_be_started(server):
    client, service = server
    cluster_id = defined(client)
    run(client, cluster_id)
    path = f"/v1/collections/{NAME}/documents"
    client.post(path, json={"documents": made(NAME, 30, start=60)}).raise_for_status()
    schedule = {"condition_type": "drift", "threshold": 0, "min_new_rows": 1}
    body = {"trigger_type": "conditional", "schedule_config": schedule, "cluster_id": cluster_id}
    trigger = client.post("/v1/clusters/triggers", json=body).json()["trigger_id"]
    now = service.catalog.clock()
    service.catalog.clock = lambda: now + timedelta(hours=2)
    assert service._trigger_loop.step()
    tasks = client.post("/v1/tasks/list", json={}).json()["results"]
    assert ended(client, tasks[0]["task_id"])["status"].startswith("COMPLETED")
    history = client.post(f"/v1/clusters/triggers/{trigger}/history", json={}).json()
    skipped, checked = history["executions"]
    assert (skipped["status"], checked["status"]) == ("skipped", "checked")
    assert "tasks wait or run already" in skipped["error"]
    assert checked["check"]["fired"] is True


def test_documents_that_joined_a_taxonomy_are_enriched(server):
    client, _ = server
    cluster_id = defined(client)
    run(client, cluster_id)
    body = {"taxonomy_name": "kinds", "force": True}
    client.post(f"/v1/clusters/{cluster_id}/promote", json=body).raise_for_status()
    body = {"collection_id": NAME, "enrich": True}
    applied = client.post("/v1/taxonomies/kinds/apply", json=body).json()
    assert ended(client, applied["task_id"])["status"] == "COMPLETED"
    (newest, *_) = client.post("/v1/tasks/list", json={}).json()["results"]
    assert newest["task_type"] == "api_collections_documents_enrich"
    assert ended(client, newest["task_id"])["status"] == "COMPLETED"
