"""Taxonomies over HTTP: promoted, shown, versioned, cloned, applied, removed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gpucluster.taxonomy import StoredTaxonomy
from tests.helpers.serving import ended, serving
from tests.helpers.shop import made, stock, stranger
from tests.helpers.stocked import COLLECTION, DEFINITION

N = 90
LATER = "col_later"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A server, a definition with a run, and a collection of documents that came later."""
    with serving(tmp_path_factory.mktemp("taxonomies") / "root", max_jobs=2) as (client, service):
        stock(client, {COLLECTION: N})
        uri = DEFINITION["vector_config"]["feature_uri"]
        features = {uri: {"column": "text_embedding", "dim": 16}}
        body = {"collection_id": LATER, "features": features}
        assert client.post("/v1/collections", json=body).status_code == 201
        later = [*made(COLLECTION, 30, start=N), stranger(COLLECTION)]
        path = f"/v1/collections/{LATER}/documents"
        assert client.post(path, json={"documents": later}).is_success
        cluster_id = defined(client, "archetypes", 20)
        run_id = executed(client, cluster_id)
        yield SimpleNamespace(client=client, service=service, cluster_id=cluster_id, run_id=run_id)


def defined(client, name, k, **config):
    params = {"n_clusters": k, "n_init": 5}
    config = {**DEFINITION["vector_config"], "algorithm_params": params, **config}
    answer = client.post(
        "/v1/clusters", json={**DEFINITION, "cluster_name": name, "vector_config": config}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["cluster_id"]


def executed(client, cluster_id):
    task = client.post(f"/v1/clusters/{cluster_id}/execute", json={}).json()
    found = ended(client, task["task_id"])
    assert found["status"] == "COMPLETED", found
    return found["outputs"][0]


def promoted(shop, name, **body):
    answer = shop.client.post(
        f"/v1/clusters/{shop.cluster_id}/promote", json={"taxonomy_name": name, **body}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def applied(shop, taxonomy_id, **body):
    path = f"/v1/taxonomies/{taxonomy_id}"
    task = shop.client.post(f"{path}/apply?wait=true", json={"collection_id": LATER, **body})
    assert task.json()["status"] == "COMPLETED", task.text
    run_id = task.json()["outputs"][0]
    return shop.client.get(f"{path}/applications/{run_id}").json()


def nodes_of(shop, taxonomy_id, **params):
    answer = shop.client.get(f"/v1/taxonomies/{taxonomy_id}/nodes", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_clusters_become_nodes(shop):
    made_of = promoted(shop, "all", description="of all", metadata={"for": "tests"})
    assert made_of["taxonomy_id"].startswith("tax_")
    assert (made_of["version"], made_of["versions"], made_of["num_nodes"]) == (1, [1], 20)
    assert (made_of["cluster_id"], made_of["source_run_id"]) == (shop.cluster_id, shop.run_id)
    config = made_of["config"]
    assert (config["inference_strategy"], config["cluster_ids"]) == ("cluster", [shop.cluster_id])
    assert config["cluster_overlap_threshold"] is None
    assert (made_of["retriever_id"], made_of["input_mappings"]) == (None, None)
    assert (made_of["description"], made_of["metadata"]) == ("of all", {"for": "tests"})
    found = nodes_of(shop, made_of["taxonomy_id"])
    assert len({node["node_id"] for node in found["nodes"]}) == 20
    assert not any("centroid_vector" in node for node in found["nodes"])
    with_vectors = nodes_of(shop, "all", include_vectors=True)  # by its name too
    assert all(len(node["centroid_vector"]) == 16 for node in with_vectors["nodes"])


def test_chosen_clusters_become_nodes(shop):
    made_of = promoted(shop, "two", cluster_ids=["cl_0", "cl_3"], run_id=shop.run_id)
    assert made_of["num_nodes"] == 2


def test_documents_join_the_nearest_node_or_none(shop):
    taxonomy_id = promoted(shop, "joined")["taxonomy_id"]
    found = applied(shop, taxonomy_id, threshold=0.5)
    assert (found["status"], found["num_documents"], found["num_joined"]) == ("completed", 31, 30)
    path = f"/v1/taxonomies/{taxonomy_id}/applications"
    data = shop.client.get(
        f"{path}/{found['run_id']}/data?include_members=true&include_centroids=false"
    )
    lines = data.text.splitlines()
    assert len(lines) == 31
    assert [line for line in lines if '"stranger"' in line and '"cluster_id":"-1"' in line]
    listed = shop.client.post(f"{path}/list", json={}).json()
    assert [each["run_id"] for each in listed["results"]] == [found["run_id"]]


def test_what_joined_is_written_into_copies(shop):
    taxonomy_id = promoted(shop, "written")["taxonomy_id"]
    found = applied(shop, taxonomy_id, threshold=0.5, target_collection_id="col_classified")
    tasks = {"task_type": "api_collections_documents_enrich"}
    waiting = shop.client.post("/v1/tasks/list", json=tasks).json()["results"]
    for each in waiting:
        assert ended(shop.client, each["task_id"])["status"] == "COMPLETED"
    path = "/v1/collections/col_classified/documents"
    rows = shop.client.post(f"{path}/list", json={}).json()["results"]
    known = {node["node_id"] for node in nodes_of(shop, taxonomy_id)["nodes"]}
    assert {row["node_id"] for row in rows} <= {*known, "-1"}
    assert sum(row["node_id"] == "-1" for row in rows) == 1
    counted = shop.client.post(f"{path}/facets", json={"fields": ["node_id"]}).json()
    facet = counted["facets"]["node_id"]
    assert sum(value["count"] for value in facet["values"]) + facet["other_count"] == 31
    assert found["num_joined"] == 30


def test_versions_stay_as_they_are(shop):
    taxonomy_id = promoted(shop, "versions", cluster_ids=["cl_0"])["taxonomy_id"]
    before = nodes_of(shop, taxonomy_id)
    path = f"/v1/taxonomies/{taxonomy_id}"
    answer = shop.client.post(f"{path}/versions", json={"cluster_id": shop.cluster_id})
    assert (answer.status_code, answer.json()["version"]) == (200, 2), answer.text
    assert nodes_of(shop, taxonomy_id, version=1) == before
    assert nodes_of(shop, taxonomy_id)["version"] == 2
    listed = shop.client.get(f"{path}/versions").json()
    assert [each["version"] for each in listed["results"]] == [2, 1]
    assert [each["num_nodes"] for each in listed["results"]] == [20, 1]
    page = shop.client.get(f"{path}/versions?limit=1&offset=1").json()
    assert [each["version"] for each in page["results"]] == [1]
    assert applied(shop, taxonomy_id, version=1)["version"] == 1
    assert shop.client.get(f"{path}?version=1").json()["num_nodes"] == 1
    assert shop.client.get(f"{path}?version=3").status_code == 404


def test_names_change_and_copies_go_their_own_way(shop):
    taxonomy_id = promoted(shop, "before")["taxonomy_id"]
    path = f"/v1/taxonomies/{taxonomy_id}"
    answer = shop.client.patch(path, json={"taxonomy_name": "after", "metadata": {"a": 1}})
    assert (answer.status_code, answer.json()["taxonomy_name"]) == (200, "after")
    assert shop.client.get("/v1/taxonomies/after").json()["metadata"] == {"a": 1}
    assert shop.client.get("/v1/taxonomies/before").status_code == 404
    copied = shop.client.post(f"{path}/clone", json={"taxonomy_name": "copy"})
    assert copied.status_code == 201, copied.text
    copy = copied.json()["taxonomy"]
    assert copied.json()["source_taxonomy_id"] == taxonomy_id
    assert (copy["num_nodes"], copy["taxonomy_name"]) == (20, "copy")
    assert shop.client.delete(path).status_code == 200
    assert shop.client.get(path).status_code == 404
    assert nodes_of(shop, "copy")["nodes"]
    assert shop.client.get(f"{path}/nodes").status_code == 404


def test_what_two_change_at_once_is_kept_of_both(shop, monkeypatch):
    taxonomy_id = promoted(shop, "one of two")["taxonomy_id"]
    path, usual = f"/v1/taxonomies/{taxonomy_id}", StoredTaxonomy.patch

    def slow(self, **given):
        changed = usual(self, **given)
        if "name" in given:  # the other one begins later, and is done earlier
            assert shop.client.patch(path, json={"metadata": {"b": 2}}).is_success
        return changed

    monkeypatch.setattr(StoredTaxonomy, "patch", slow)
    answer = shop.client.patch(path, json={"taxonomy_name": "of both"})
    assert (answer.status_code, answer.json()["metadata"]) == (200, {"b": 2})
    shown = shop.client.get("/v1/taxonomies/of both").json()
    assert (shown["taxonomy_id"], shown["metadata"]) == (taxonomy_id, {"b": 2})
    assert shop.client.delete(path).is_success


def test_a_promotion_that_is_noted_late_takes_nothing_back(shop):
    taxonomy_id = promoted(shop, "early", cluster_ids=["cl_0"])["taxonomy_id"]
    path = f"/v1/taxonomies/{taxonomy_id}"
    asked = {"filters": {"task_type": "api_taxonomies_create"}}
    task_id = shop.client.post("/v1/tasks/list", json=asked).json()["results"][0]["task_id"]
    task = shop.service.tasks.get("default", task_id)
    assert promoted(shop, "early")["version"] == 2
    assert shop.client.patch(path, json={"taxonomy_name": "late"}).is_success
    before = shop.client.get(path).json()
    outcome = {"ok": True, "result": task.body["data"]["result"]}
    with shop.service.catalog.writing() as tx:
        shop.service.tasks.finishers["promote"](tx, task, outcome)
    after = shop.client.get(path).json()
    assert after == before
    assert (after["taxonomy_name"], after["version"], after["versions"]) == ("late", 2, [1, 2])
    assert shop.client.delete(path).is_success


def test_taxonomies_are_listed(shop):
    promoted(shop, "listed one")
    body = {"search": "listed"}
    found = shop.client.post("/v1/taxonomies/list", json=body).json()
    assert [each["taxonomy_name"] for each in found["results"]] == ["listed one"]
    assert found["stats"]["total_taxonomies"] == found["total_count"] == 1
    assert found["stats"]["taxonomies_with_retrievers"] == 0


def test_the_published_forms(shop):
    config = {"cluster_ids": [shop.cluster_id], "inference_strategy": "cluster"}
    body = {"taxonomy_name": "published", "config": config}
    answer = shop.client.post("/v1/taxonomies", json=body)
    assert answer.status_code == 200, answer.text
    path = f"/v1/taxonomies/execute/{answer.json()['taxonomy_id']}"
    joined = shop.client.post(path, json={"source_collection_id": LATER})
    assert joined.status_code == 200, joined.text
    assert joined.json()["stats"] == {"processed_docs": 31, "batches": 1, "errors": 0}


def test_nodes_lie_in_nodes(shop):
    config = {"hierarchical": True, "min_split_size": 20}
    cluster_id = defined(shop.client, "nested", 2, **config)
    run_id = executed(shop.client, cluster_id)
    answer = shop.client.post(f"/v1/clusters/{cluster_id}/promote", json={"taxonomy_name": "tree"})
    assert answer.status_code == 200, answer.text
    rows = {node["node_id"]: node for node in nodes_of(shop, "tree")["nodes"]}
    path = f"/v1/clusters/{cluster_id}/executions/{run_id}"
    clusters = shop.client.get(path).json()["centroids"]
    assert len(rows) == len(clusters)
    inner = [node for node in rows.values() if node["parent_node_id"] is not None]
    assert len(inner) == sum(each["parent_cluster_id"] is not None for each in clusters)
    assert all(node["parent_node_id"] in rows for node in inner)
    assert answer.json()["taxonomy_type"] == ("hierarchical" if inner else "flat")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "taxonomy_name"),
        ({"taxonomy_name": "x", "cluster_ids": ["cl_99"]}, 409, "cl_99"),
        ({"taxonomy_name": "x", "run_id": "run_none"}, 404, "run_none"),
        ({"taxonomy_name": "x", "min_stability": 0.5}, 409, "stab"),
        ({"taxonomy_name": "x", "threshold": 2}, 422, "threshold"),
        ({"taxonomy_name": "x", "nodes": []}, 422, "no such field"),
    ],
)
def test_what_cannot_be_promoted_is_refused(shop, body, status, words):
    answer = shop.client.post(f"/v1/clusters/{shop.cluster_id}/promote", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert shop.client.get("/v1/taxonomies/x").status_code == 404


def test_a_definition_without_a_run_has_nothing_to_promote(shop):
    cluster_id = defined(shop.client, "never-run", 2)
    path = f"/v1/clusters/{cluster_id}/promote"
    answer = shop.client.post(path, json={"taxonomy_name": "y"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "NoModelError")
    other = shop.client.post("/v1/clusters/none/promote", json={"taxonomy_name": "y"})
    assert other.status_code == 404


def test_what_cannot_be_applied_is_refused(shop):
    taxonomy_id = promoted(shop, "refusing")["taxonomy_id"]
    path = f"/v1/taxonomies/{taxonomy_id}"
    for body, status in (
        ({}, 422),
        ({"collection_id": "col_none"}, 404),
        ({"collection_id": LATER, "version": 7}, 404),
        ({"collection_id": LATER, "threshold": "some"}, 422),
    ):
        answer = shop.client.post(f"{path}/apply", json=body)
        assert answer.status_code == status, (body, answer.text)
    body = {"collection_id": LATER}
    assert shop.client.post("/v1/taxonomies/none/apply", json=body).status_code == 404
    assert shop.client.get(f"{path}/applications/run_none").status_code == 404
    promoted(shop, "refused name")
    taken = shop.client.patch(path, json={"taxonomy_name": "refused name"})
    assert taken.status_code == 409
