"""Definitions over several features of their documents."""

from __future__ import annotations

import json

import pytest

from tests.helpers.serving import ended, serving
from tests.integration.service.test_jobs import URI, documents, executed

OTHER = "mixpeek://image_extractor@v1/embedding"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("features") / "root") as (client, _):
        features = {
            URI: {"column": "embedding", "dim": 16},
            OTHER: {"column": "other", "dim": 16},
        }
        made = {"collection_id": "col_docs", "features": features}
        assert client.post("/v1/collections", json=made).status_code == 201
        rows = [{**row, "other": row["embedding"][::-1]} for row in documents(200)]
        path = "/v1/collections/col_docs/documents"
        assert client.post(path, json={"documents": rows}).is_success
        yield client


def run_of(client, **body):
    answer = client.post("/v1/clusters", json={"collection_ids": ["col_docs"], **body})
    assert answer.status_code == 200, answer.text
    cluster_id = answer.json()["cluster_id"]
    task = ended(client, executed(client, cluster_id)["task_id"])
    assert task["status"] == "COMPLETED", task
    return cluster_id, task["outputs"][0]


def config(**settings):
    kmeans = {"clustering_method": "kmeans", "algorithm_params": {"n_clusters": 4}}
    return {"feature_uris": [URI, OTHER], **kmeans, **settings}


def test_runs_of_all_features_are_shown(client):
    each = config(output_strategy="per_feature", multi_feature_strategy="independent")
    cluster_id, run_id = run_of(client, vector_config=each)
    path = f"/v1/clusters/{cluster_id}/executions"
    assert client.get(f"{path}/{run_id}").json()["related"] == [f"{run_id}-2"]
    own = client.get(f"{path}/{run_id}-2").json()
    assert (own["run_id"], own["num_centroids"], own["status"]) == (f"{run_id}-2", 4, "completed")
    assert own["metrics"] != client.get(f"{path}/{run_id}").json()["metrics"]
    left = client.get(f"{path}/{run_id}-2/artifacts").json()
    assert (left["run_id"], left["num_members"], len(left["centroids"])) == (f"{run_id}-2", 200, 4)
    lines = client.get(f"{path}/{run_id}-2/data?include_members=true").text.splitlines()
    assert sum(json.loads(line)["type"] == "member" for line in lines) == 200
    for name in (f"{run_id}-3", f"{run_id}-", "-2"):
        assert client.get(f"{path}/{name}/artifacts").status_code == 404
        assert client.get(f"{path}/{name}").status_code == 404


def test_the_run_of_any_feature_is_written_promoted_and_joined(client):
    each = config(output_strategy="per_feature", multi_feature_strategy="independent")
    cluster_id, run_id = run_of(client, vector_config=each)
    second = f"{run_id}-2"
    path = f"/v1/clusters/{cluster_id}"
    own = {"source_field": "cluster_id", "target_field": "image_cluster"}
    written = client.post(f"{path}/enrich", json={"run_id": second, "field_mappings": [own]})
    assert (written.status_code, written.json()["run_ids"]) == (200, [second]), written.text
    first = client.post(f"{path}/enrich", json={"run_id": run_id, "fields": ["cluster_id"]})
    assert first.status_code == 200, first.text
    shown = client.get("/v1/collections/col_docs").json()
    assert {"image_cluster", "cluster_id"} <= set(shown["columns"])  # side by side
    several = {"clustering_ids": [second], "source_collection_id": "col_docs"}
    assert client.post("/v1/clusters/enrich", json=several).json()["run_ids"] == [second]
    made = client.post(f"{path}/promote", json={"taxonomy_name": "images", "run_id": second})
    assert (made.status_code, made.json()["source_run_id"]) == (200, second), made.text
    joining = {"mode": "assign", "source_run_id": second, "scope": "all"}
    task = ended(client, executed(client, cluster_id, **joining)["task_id"])
    joined = client.get(f"{path}/executions/{task['outputs'][0]}").json()
    assert (joined["status"], joined["base_run_id"]) == ("completed", second), joined
    for name in (f"{run_id}-3", "-2"):
        body = {"taxonomy_name": "none", "run_id": name}
        assert client.post(f"{path}/promote", json=body).status_code in {404, 422}


def test_weights_that_were_learned_are_shown_in_the_definition(client):
    learning = {"max_iterations": 5}
    weighted = config(multi_feature_strategy="weighted", weight_learning_config=learning)
    cluster_id, _ = run_of(client, vector_config=weighted)
    found = client.get(f"/v1/clusters/{cluster_id}").json()
    assert set(found["learned_weights"]) == {URI, OTHER}
    assert 0 < found["learning_quality_score"] <= 1


def test_groups_of_attributes_say_by_which_feature_they_are_measured(client):
    groups = {"cluster_type": "attribute", "attribute_config": {"attributes": ["text"]}}
    refused = client.post("/v1/clusters", json={"collection_ids": ["col_docs"], **groups})
    assert refused.status_code == 422
    assert "2 features" in refused.json()["detail"][0]["msg"]
    cluster_id, _ = run_of(client, **groups, vector_config={"feature_uris": [OTHER]})
    found = client.get(f"/v1/clusters/{cluster_id}").json()
    assert (found["algorithm"], found["num_clusters"]) == ("attribute_based", 4)
    check_that_nothing_joins(client, cluster_id)
    kept = client.patch(f"/v1/clusters/{cluster_id}", json={"metadata": {"a": 1}}).json()
    assert (kept["vector_config"], kept["metadata"]) == (None, {"a": 1})
    assert kept["attribute_config"]["attributes"] == ["text"]


def check_that_nothing_joins(client, cluster_id):
    """Groups are refused to be joined at once, by whoever asks."""
    path, drift = "/v1/clusters/triggers", {"condition_type": "drift", "threshold": 0.1}
    clock = {"trigger_type": "interval", "schedule_config": {"interval_seconds": 3600}}
    looking = {"trigger_type": "conditional", "schedule_config": drift}
    own = {"cluster_id": cluster_id}
    for answer, where in (
        (client.post(f"/v1/clusters/{cluster_id}/execute", json={"mode": "assign"}), ["mode"]),
        (client.post(path, json={**clock, **own, "mode": "assign"}), ["mode"]),
        (client.post(path, json={**looking, **own}), ["schedule_config", "condition_type"]),
    ):
        assert answer.status_code == 422, answer.text
        (problem,) = answer.json()["detail"]
        assert problem["loc"] == ["body", *where]
        assert "mode full" in problem["msg"]
    assert client.post(path, json={**clock, **own}).status_code == 201
