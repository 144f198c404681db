"""A namespace with one of each thing, so that requests reach what lies behind a 404."""

from __future__ import annotations

from typing import Any

from tests.helpers.serving import ended
from tests.helpers.shop import made, stock
from tests.helpers.workflow import TEXT_URI

COLLECTION = "col_ad_scripts"
DEFINITION = {
    "collection_ids": [COLLECTION],
    "vector_config": {
        "feature_uri": TEXT_URI,
        "clustering_method": "kmeans",
        "algorithm_params": {"n_clusters": 3, "n_init": 1},
    },
}


def _made(client, path: str, body: dict, status: int = 200) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def fill(client, webhook_url: str = "https://hooks.example.com/x") -> dict[str, str]:
    """Make one of each thing, and return their ids by the names that paths have for them."""
    stock(client, {COLLECTION: 60})
    cluster = _made(client, "/v1/clusters", {"cluster_name": "kept", **DEFINITION})["cluster_id"]
    task = _made(client, f"/v1/clusters/{cluster}/execute", {})
    done = ended(client, task["task_id"])
    assert done["status"] == "COMPLETED", done
    run = done["outputs"][0]
    taxonomy = _made(client, f"/v1/clusters/{cluster}/promote", {"taxonomy_name": "kept"})
    taxonomy_id = taxonomy["taxonomy_id"]
    applied = _made(client, f"/v1/taxonomies/{taxonomy_id}/apply", {"collection_id": COLLECTION})
    assert ended(client, applied["task_id"])["status"] == "COMPLETED"
    listed = _made(client, f"/v1/taxonomies/{taxonomy_id}/applications/list", {})
    enriching = {"fields": ["cluster_id"], "run_id": run}
    _made(client, f"/v1/clusters/{cluster}/enrich", enriching)
    trigger = {
        "cluster_id": cluster,
        "trigger_type": "interval",
        "schedule_config": {"interval_seconds": 86400},
    }
    hook = {
        "webhook_name": "kept",
        "event_types": ["cluster.created"],
        "channels": [{"channel": "webhook", "configs": {"url": webhook_url}}],
    }
    webhook = _made(client, "/v1/organizations/webhooks", hook, 201)["webhook_id"]
    ping = _made(client, f"/v1/organizations/webhooks/{webhook}/test", {}, 202)
    template = {"template_name": "kept", "definition": {"algorithm": "kmeans"}}
    token = {"token_name": "kept", "namespace": client.headers.get("X-Namespace", "default")}
    return {
        "cluster_identifier": cluster,
        "cluster_id": cluster,
        "run_id": run,
        "application_id": listed["results"][0]["run_id"],
        "task_id": task["task_id"],
        "taxonomy_identifier": taxonomy_id,
        "trigger_id": _made(client, "/v1/clusters/triggers", trigger, 201)["trigger_id"],
        "identifier": webhook,
        "delivery_id": ping["deliveries"][0]["delivery_id"],
        "template_identifier": _made(client, "/v1/clusters/templates", template, 201)[
            "template_id"
        ],
        "token_id": _made(client, "/v1/tokens", token, 201)["token_id"],
        "collection_identifier": COLLECTION,
        "collection_id": COLLECTION,
        "document_id": made(COLLECTION, 1)[0]["document_id"],
        "version": "1",
    }


def parameters_of(path: str, ids: dict[str, str]) -> dict[str, str]:
    """Return the ids that belong in a path of the description of the API."""
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    own = {**ids, "run_id": ids["application_id"]} if "/applications/" in path else ids
    return {name: own[name] for name in names}
