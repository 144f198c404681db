"""The published workflow, command by command, with the bodies as they were published."""

from __future__ import annotations

import json
import os
import re
import time
from types import SimpleNamespace

import pytest

from tests.helpers.gateways import providing
from tests.helpers.receivers import receiving
from tests.helpers.serving import TOKEN, ended, serving
from tests.helpers.shop import COLLECTIONS, made, stock, stranger
from tests.helpers.workflow import MEDIA_URI, TEXT_URI, Caller, fragment

SIZES = {"col_products": 300, "col_videos": 600, "col_ad_scripts": 200, "col_ad_scenes": 200}
COMMANDS = ("product_topics", "content_hierarchy", "script_archetypes", "scene_themes")
CLUSTER_ID = re.compile(r"cl_\d+(_sub_\d+)*")
METRICS = {
    "silhouette_score": (-1, 1),
    "mean_cosine_to_centroid": (0, 1),
    "noise_ratio": (0, 1),
    "cluster_size_entropy": (0, 1),
    "should_recluster": (0, 1),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory, authority):
    """A server with the collections, for whose tasks the providers are where a proxy says."""
    root = tmp_path_factory.mktemp("workflow") / "root"
    local = {"outbound_hosts": "127.0.0.1", "outbound_http_hosts": "127.0.0.1"}
    with (
        providing(authority) as gateway,
        receiving(lambda _: 200, None) as receiver,
        pytest.MonkeyPatch.context() as patched,
    ):
        for name, value in gateway.environment(authority).items():
            patched.setenv(name, value)
        with serving(root, max_jobs=os.cpu_count() or 1, **local) as (client, service):
            client.post("/v1/namespaces", json={"namespace_id": "shop"}).raise_for_status()
            client.headers["X-Namespace"] = "shop"
            stock(client, SIZES)
            caller = Caller(str(client.base_url), TOKEN, "shop")
            yield SimpleNamespace(
                client=client,
                service=service,
                gateway=gateway,
                receiver=receiver,
                caller=caller,
            )


@pytest.fixture(scope="module")
def walked(shop):
    """What came of the published definitions: each is made, and executed."""
    caller = shop.caller
    hook = {
        "webhook_name": "jobs",
        "event_types": ["cluster.execution.completed"],
        "channels": [
            {"channel": "webhook", "configs": {"url": f"http://127.0.0.1:{shop.receiver.port}/"}}
        ],
    }
    assert caller.send("POST", "/v1/organizations/webhooks", hook)[0] == 201
    given, tasks, runs = {}, {}, {}
    for name in COMMANDS:
        status, given[name] = caller.published(name)
        assert status == 200, given[name]
    for name, answer in given.items():
        status, tasks[name] = caller.send("POST", f"/v1/clusters/{answer['cluster_id']}/execute")
        assert status == 200, tasks[name]
    for name, task in tasks.items():
        done = ended(shop.client, task["task_id"], 180)
        assert done["status"] == "COMPLETED", done
        runs[name] = done["outputs"][0]
    ids = {name: answer["cluster_id"] for name, answer in given.items()}
    return SimpleNamespace(given=given, ids=ids, runs=runs, tasks=tasks)


def centroids_of(shop, walked, name):
    path = f"/v1/clusters/{walked.ids[name]}/executions/{walked.runs[name]}/artifacts"
    status, found = shop.caller.send("GET", f"{path}?include_centroids=true")
    assert status == 200
    return {row["cluster_id"]: row for row in found["centroids"]}


def run_now(shop, body, **execute):
    """Define and execute, and return the id of both."""
    status, made_of = shop.caller.send("POST", "/v1/clusters", body)
    assert status == 200, made_of
    path = f"/v1/clusters/{made_of['cluster_id']}/execute"
    status, task = shop.caller.send("POST", path, execute)
    assert status == 200, task
    done = ended(shop.client, task["task_id"], 180)
    assert done["status"] == "COMPLETED", done
    return made_of["cluster_id"], done["outputs"][0]


def test_definitions_in_either_dialect_are_kept_as_what_they_say(walked):
    topics, scripts = walked.given["product_topics"], walked.given["script_archetypes"]
    assert topics["input_collections"] == ["col_products"]
    assert (topics["feature_uris"], topics["algorithm"]) == ([TEXT_URI], "hdbscan")
    assert topics["algorithm_params"]["min_cluster_size"] == 10
    assert topics["llm_labeling"]["model_name"] == "gpt-4o-mini"
    assert scripts["input_collections"] == ["col_ad_scripts"]
    assert (scripts["feature_uris"], scripts["algorithm"]) == ([TEXT_URI], "kmeans")
    assert scripts["algorithm_params"]["n_clusters"] == 20
    assert walked.given["scene_themes"]["feature_uris"] == [MEDIA_URI]
    assert all(answer["status"] == "PENDING" for answer in walked.given.values())


@pytest.mark.parametrize("name", ["whitening", "umap", "chained"])
def test_preprocessing_fragments_are_taken(shop, name):
    steps = fragment(name)
    body = {
        "collection_ids": ["col_products"],
        "vector_config": {"feature_uri": TEXT_URI, "clustering_method": "hdbscan", **steps},
    }
    status, answer = shop.caller.send("POST", "/v1/clusters", body)
    assert status == 200, answer
    kept = answer["definition"]["vector_config"]["preprocessing_steps"]
    assert kept == steps["preprocessing_steps"]


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("payload", "The shoe of kind"),
        ("nested_payload", "shoe "),
        ("blob", "https://cdn.example.com/shoe/"),
        ("literal", "Category: marketing videos"),
    ],
)
def test_input_mappings_reach_the_model(shop, name, seen):
    mappings = [fragment(name)]
    if name == "literal":  # context of something; alone it says nothing about a cluster
        mappings.append(fragment("payload"))
    before = len(shop.gateway.asked)
    inputs = {"labeling_inputs": {"input_mappings": mappings}}
    run_now(shop, scripts_of(3, {"provider": "openai", "model_name": "gpt-4o-mini", **inputs}))
    asked = [str(body["messages"]) for _, _, body in shop.gateway.asked[before:]]
    assert any(seen in text for text in asked)
    assert not any("Buy this" in text for text in asked)  # nothing else is sent


def scripts_of(k, labeling):
    return {
        "source_collection_ids": ["col_ad_scripts"],
        "feature_addresses": [TEXT_URI],
        "algorithm": "kmeans",
        "algorithm_config": {"num_clusters": k},
        "llm_labeling": labeling,
    }


def test_every_run_has_the_metrics_in_the_history(shop, walked):
    for name, cluster_id in walked.ids.items():
        status, history = shop.caller.send("GET", f"/v1/clusters/{cluster_id}/executions")
        assert status == 200
        runs = {each["run_id"]: each for each in history["results"]}  # others may have run it too
        run = runs[walked.runs[name]]
        assert run["status"] == "completed"
        for metric, (least, most) in METRICS.items():
            assert least <= run["metrics"][metric] <= most, metric
        assert run["metrics"]["should_recluster"] in {0, 1}


def test_clusters_have_names_summaries_and_keywords(shop, walked):
    for name in ("product_topics", "script_archetypes", "scene_themes"):
        rows = centroids_of(shop, walked, name)
        assert rows
        for cluster_id, row in rows.items():
            assert CLUSTER_ID.fullmatch(cluster_id)
            assert row["label"]
            assert row["summary"]
            assert row["keywords"]
            assert 0 <= row["min_cosine_similarity"] <= row["mean_cosine_similarity"] <= 1
            assert len(row["centroid_vector"]) == COLLECTIONS[f"col_{_of(name)}"][2]
            assert row["num_members"] > 0
    assert len(centroids_of(shop, walked, "script_archetypes")) == 20
    assert len(centroids_of(shop, walked, "scene_themes")) == 25


def _of(name):
    return {"product_topics": "products", "script_archetypes": "ad_scripts"}.get(name, "ad_scenes")


def test_models_see_what_is_mapped_and_nothing_else(shop, walked):
    asked = {model: [] for model in ("gpt-4o-mini", "gemini-2.5-flash-preview-04-17")}
    for host, _, body in shop.gateway.asked:
        if body["model"] in asked:
            asked[body["model"]].append((host, str(body["messages"])))
    scenes = asked["gemini-2.5-flash-preview-04-17"]
    assert {host for host, _ in scenes} == {"generativelanguage.googleapis.com"}
    assert all("'image_url': {'url': 'https://cdn.example.com/" in said for _, said in scenes)
    assert all("Buy this" in said and "for everybody" not in said for _, said in scenes)
    assert {host for host, _ in asked["gpt-4o-mini"]} == {"api.openai.com"}
    assert any("The shoe of kind" in said for _, said in asked["gpt-4o-mini"])


def test_clusters_within_clusters_say_where_they_belong(shop, walked):
    rows = centroids_of(shop, walked, "content_hierarchy")
    inner = [row for row in rows.values() if row["hierarchy_level"] > 0]
    assert inner, "nothing was divided"
    for row in inner:
        parent = rows[row["parent_cluster_id"]]
        assert row["cluster_id"] in parent["child_cluster_ids"]
        assert row["cluster_id"].startswith(parent["cluster_id"] + "_sub_")
        assert row["hierarchy_level"] == parent["hierarchy_level"] + 1 <= 2
    status, found = shop.caller.send("GET", f"/v1/clusters/{walked.ids['content_hierarchy']}")
    assert (status, found["hierarchy_detected"]) == (200, True)


def test_members_and_clusters_are_streamed(shop, walked):
    path = f"/v1/clusters/{walked.ids['product_topics']}/executions/{walked.runs['product_topics']}"
    status, found = shop.caller.send("GET", f"{path}/artifacts?include_members=true&limit=500")
    assert status == 200
    assert len(found["members"]) == SIZES["col_products"]
    for row in found["members"]:
        assert row["point_id"].startswith("doc_")
        assert row["cluster_id"] == "-1" or 0 <= row["cosine_similarity_to_centroid"] <= 1
    status, told = shop.caller.send("GET", f"{path}/data?include_members=true")
    kinds = [line["type"] for line in told["lines"]]
    assert kinds.count("member") == SIZES["col_products"]
    assert kinds.count("centroid") == len(centroids_of(shop, walked, "product_topics"))


def test_three_components_are_three_coordinates(shop):
    body = scripts_of(4, {"enabled": False}) | fragment("three_d")
    cluster_id, run_id = run_now(shop, body)
    path = f"/v1/clusters/{cluster_id}/executions/{run_id}/artifacts?include_members=true"
    _, found = shop.caller.send("GET", path)
    assert found["projection_method"] == "3d"
    assert all(isinstance(row[axis], float) for row in found["members"] for axis in "xyz")


def test_a_prompt_and_a_shape_of_ones_own(shop):
    own = fragment("custom_prompt")["llm_labeling"] | fragment("response_shape")["llm_labeling"]
    asked = len(shop.gateway.asked)
    cluster_id, run_id = run_now(shop, scripts_of(3, own))
    bodies = [body for _, _, body in shop.gateway.asked[asked:]]
    assert all("You are a creative strategist" in str(body["messages"][0]) for body in bodies)
    assert {body["model"] for body in bodies} == {"gpt-4o"}
    path = f"/v1/clusters/{cluster_id}/executions/{run_id}/artifacts"
    _, found = shop.caller.send("GET", path)
    for row in found["centroids"]:
        own = row["label_fields"]
        assert '"sentiment"' in own
        assert '"target_audience"' in own
    fields = {"source_field": "metadata.sentiment", "target_field": "sentiment"}
    body = {"field_mappings": [fields], "target_collection_id": "col_sentiments"}
    status, done = shop.caller.send("POST", f"/v1/clusters/{cluster_id}/enrich", body)
    assert status == 200, done
    path = "/v1/collections/col_sentiments/documents/list"
    _, listed = shop.caller.send("POST", path, {})
    seen = {row["sentiment"] for row in listed["results"]}
    assert seen <= {"positive", "negative", "neutral"}


def test_documents_that_came_later_are_assigned(shop, walked):
    path = "/v1/collections/col_ad_scripts/documents"
    later = made("col_ad_scripts", 40, start=SIZES["col_ad_scripts"])
    assert (
        shop.caller.send("POST", path, {"documents": [*later, stranger("col_ad_scripts")]})[0]
        == 200
    )
    cluster_id = walked.ids["script_archetypes"]
    status, task = shop.caller.published("assign", cluster_id)
    assert status == 200
    assert ended(shop.client, task["task_id"])["status"] == "COMPLETED"
    _, history = shop.caller.send("GET", f"/v1/clusters/{cluster_id}/executions")
    assert [run["mode"] for run in history["results"]] == ["assign", "full"]
    assert (history["run_id"], history["latest"]["base_run_id"]) == (
        task["outputs"][0],
        walked.runs["script_archetypes"],
    )
    path = f"/v1/clusters/{cluster_id}/executions/{task['outputs'][0]}/artifacts"
    _, found = shop.caller.send("GET", f"{path}?include_members=true")
    placed = {row["point_id"]: row["cluster_id"] for row in found["members"]}
    placed = {name: placed[name] for name in placed if not name.startswith("event_")}  # of triggers
    assert len(placed) == 41
    assert placed.pop("stranger") == "-1"
    assert all(CLUSTER_ID.fullmatch(cluster) for cluster in placed.values())


def test_enriched_documents_are_filtered_and_counted_by_cluster(shop, walked):
    status, done = shop.caller.published(
        "enrich", walked.ids["product_topics"], walked.runs["product_topics"]
    )
    assert status == 200, done
    assert (done["status"], done["processed"]) == ("COMPLETED", 300)
    base = "/v1/collections/col_products_enriched/documents"
    _, listed = shop.caller.send("POST", f"{base}/list?limit=500", {})
    assert len(listed["results"]) == 300
    rows = centroids_of(shop, walked, "product_topics")
    for document in listed["results"]:
        cluster = rows.get(document["cluster_id"])
        if cluster is not None:
            assert document["label"] == cluster["label"]
            assert document["summary"] == cluster["summary"]
            assert document["keywords"] == cluster["keywords"]
    _, counted = shop.caller.send("POST", f"{base}/facets", {"fields": ["cluster_id"]})
    counts = {row["value"]: row["count"] for row in counted["facets"]["cluster_id"]["values"]}
    assert counts == {name: row["num_members"] for name, row in rows.items() if name in counts}
    only = {"filters": {"AND": [{"field": "cluster_id", "operator": "eq", "value": "cl_0"}]}}
    _, found = shop.caller.send("POST", f"{base}/list?limit=500", only)
    assert len(found["results"]) == rows["cl_0"]["num_members"]
    _, shown = shop.caller.send("GET", f"/v1/clusters/{walked.ids['product_topics']}")
    assert shown["latest_run"]["run_id"] == walked.runs["product_topics"]
    assert shown["enrichment"]["run_id"] == walked.runs["product_topics"]
    assert shown["enrichment"]["status"] == "COMPLETED"


def test_definitions_are_searched_filtered_and_removed(shop, walked):
    _, found = shop.caller.send("POST", "/v1/clusters/list", {"search": "archetypes"})
    assert [row["cluster_name"] for row in found["results"]] == ["script_archetypes"]
    only = {"filters": {"AND": [{"field": "algorithm", "operator": "eq", "value": "hdbscan"}]}}
    _, found = shop.caller.send("POST", "/v1/clusters/list", only)
    assert {"product_topics", "content_hierarchy"} <= {r["cluster_name"] for r in found["results"]}
    assert {row["algorithm"] for row in found["results"]} == {"hdbscan"}
    assert found["total_count"] == found["stats"]["total_clusters"] == len(found["results"])
    assert found["stats"]["total_documents"] is None
    _, counted = shop.caller.send("POST", "/v1/clusters/list?include_total=true", only)
    n_documents = sum(row["num_documents_clustered"] or 0 for row in counted["results"])
    assert counted["stats"]["total_documents"] == n_documents > 0
    cluster_id, run_id = run_now(shop, scripts_of(2, {"enabled": False}))
    files = shop.service.executions.folder("shop", cluster_id) / run_id
    assert shop.caller.send("DELETE", f"/v1/clusters/{cluster_id}")[0] == 200
    assert shop.caller.send("GET", f"/v1/clusters/{cluster_id}")[0] == 404
    assert files.is_dir()


def test_a_run_is_submitted_and_polled(shop):
    _, kept = shop.caller.send("POST", "/v1/clusters", scripts_of(2, {"enabled": False}))
    path = f"/v1/clusters/{kept['cluster_id']}"
    status, task = shop.caller.send("POST", f"{path}/execute/submit", {"mode": "full"})
    assert (status, task["status"]) == (200, "PENDING")
    done = ended(shop.client, task["task_id"])
    assert done["outputs"][0].startswith("run_")
    _, run = shop.caller.send("GET", f"{path}/executions/{done['outputs'][0]}")
    assert run["status"] == "completed"


def test_a_sample_is_clustered_before_all_are(shop):
    body = scripts_of(4, {"enabled": False}) | {"sample_size": 100}
    cluster_id, run_id = run_now(shop, body)
    _, run = shop.caller.send("GET", f"/v1/clusters/{cluster_id}/executions/{run_id}")
    assert run["num_points"] == 100


def test_whoever_listens_is_told_that_jobs_are_done(shop, walked):
    until = time.monotonic() + 30
    told = {}
    while not set(walked.runs.values()) <= set(told):
        assert time.monotonic() < until, told
        for call in list(shop.receiver.accepted):
            event = json.loads(call.body)
            told[event["metadata"]["run_id"]] = event
        time.sleep(0.05)
    for name, run_id in walked.runs.items():
        assert told[run_id]["event_type"] == "cluster.execution.completed"
        assert told[run_id]["subject"]["id"] == walked.ids[name]


def test_clusters_become_the_nodes_of_a_taxonomy(shop, walked):
    path = f"/v1/clusters/{walked.ids['script_archetypes']}/promote"
    body = {"taxonomy_name": "archetypes", "run_id": walked.runs["script_archetypes"]}
    status, made_of = shop.caller.send("POST", path, body)
    assert status == 200, made_of
    _, found = shop.caller.send("GET", f"/v1/taxonomies/{made_of['taxonomy_id']}/nodes")
    assert len(found["nodes"]) == 20
    assert all(node["label"] for node in found["nodes"])


def test_triggers_execute_by_clock_and_by_event(shop):
    _, kept = shop.caller.send("POST", "/v1/clusters", scripts_of(2, {"enabled": False}))
    cluster_id = kept["cluster_id"]
    schedules = {
        "cron": {"cron_expression": "0 2 * * *", "timezone": "Europe/Berlin"},
        "interval": {"interval_seconds": 3600, "start_immediately": True},
        "event": {
            "event_type": "documents_added",
            "event_threshold": 5,
            "collection_id": "col_ad_scripts",
            "cooldown_seconds": 0,
        },
    }
    ids = {}
    for kind, schedule in schedules.items():
        body = {"cluster_id": cluster_id, "trigger_type": kind, "schedule_config": schedule}
        status, answer = shop.caller.send("POST", "/v1/clusters/triggers", body)
        assert (status, answer["status"]) == (201, "active"), answer
        ids[kind] = answer["trigger_id"]
    assert fired(shop, ids["interval"]) == 1
    path = "/v1/collections/col_ad_scripts/documents"
    later = [
        {**row, "document_id": f"event_{n}"} for n, row in enumerate(made("col_ad_scripts", 6))
    ]
    assert shop.caller.send("POST", path, {"documents": later})[0] == 200
    assert fired(shop, ids["event"]) == 1
    path = f"/v1/clusters/triggers/{ids['event']}"
    _, history = shop.caller.send("POST", f"{path}/history", {})
    assert history["executions"][0]["num_documents"] >= 206
    _, runs = shop.caller.send("GET", f"/v1/clusters/{cluster_id}/executions")
    assert {run["trigger_id"] for run in runs["results"]} == {ids["interval"], ids["event"]}
    assert shop.caller.send("POST", f"{path}/pause")[1]["status"] == "paused"
    for trigger_id in ids.values():
        assert shop.caller.send("DELETE", f"/v1/clusters/triggers/{trigger_id}")[0] == 204


def fired(shop, trigger_id):
    """Return how many executions a trigger started, once one of them is over."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        _, history = shop.caller.send("POST", f"/v1/clusters/triggers/{trigger_id}/history", {})
        if any(each["status"] == "completed" for each in history["executions"]):
            _, trigger = shop.caller.send("GET", f"/v1/clusters/triggers/{trigger_id}")
            return trigger["execution_count"]
        time.sleep(0.2)
    raise AssertionError(history)
