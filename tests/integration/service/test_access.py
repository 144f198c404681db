"""Every operation asks who calls, and for what; they are taken from the description of the API."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from gpucluster.service import front
from tests.helpers.serving import TOKEN, serving
from tests.helpers.stocked import COLLECTION, DEFINITION, fill, parameters_of

# what only shows something, beside GET
SHOWS = re.compile(r"POST .*(/list|/data|/facets|/history|/deliveries)$")
ADMINISTERS = re.compile(
    r"(POST|PUT|DELETE) /v1/(tokens|namespaces|organizations/webhooks)(/\{\w+\}|/list)?"
    r"(/rotate|/secret/rotate)?$|GET /v1/tokens$"
)
RULES = ("document_id", "version")  # names in paths that are no ids of their own


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A server with two namespaces: one has one of each thing, the other is of a stranger."""
    root = tmp_path_factory.mktemp("access") / "root"
    unlimited = SimpleNamespace(take=lambda _: None)  # wrong tokens of one address are few, usually
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(front, "Rate", lambda *_, **__: unlimited)
        yield from opened(root)


def opened(root):
    """Yield a server with its namespaces."""
    with serving(root) as (client, _):
        for name in ("own", "other"):
            client.post("/v1/namespaces", json={"namespace_id": name}).raise_for_status()
        client.headers["X-Namespace"] = "own"
        ids = fill(client)
        paths = client.get("/openapi.json").json()["paths"]
        operations = [(verb.upper(), path) for path in paths for verb in paths[path]]
        del client.headers["X-Namespace"]

        def issued(namespace, scope, **fields):
            body = {"namespace": namespace, "scopes": [scope], **fields}
            return client.post("/v1/tokens", json=body).json()["token"]

        yield SimpleNamespace(client=client, ids=ids, operations=operations, issued=issued)


def body_of(operation, ids):
    """Return a valid body, which names what `ids` say wherever one can be named."""
    cluster, run = ids["cluster_id"], ids["run_id"]
    hook = {"channel": "webhook", "configs": {"url": "https://hooks.example.com/x"}}
    schedule = {"trigger_type": "interval", "schedule_config": {"interval_seconds": 86400}}
    applying = {"collection_id": ids["collection_id"]}
    named = {"webhook_name": "another", "event_types": ["cluster.created"], "channels": [hook]}
    from_cluster = {"taxonomy_name": "another", "config": {"cluster_ids": [cluster]}}
    enriching = {"clustering_ids": [cluster], "source_collection_id": ids["collection_id"]}
    return {
        "POST /v1/namespaces": {"namespace_id": "another"},
        "POST /v1/tokens/{token_id}/rotate": {"overlap_s": 0},
        "POST /v1/clusters/enrich": enriching,
        "POST /v1/clusters/{cluster_identifier}/enrich": {"run_id": run},
        "POST /v1/clusters/{cluster_identifier}/promote": {"taxonomy_name": "another"},
        "POST /v1/taxonomies": from_cluster,
        "POST /v1/taxonomies/execute/{taxonomy_identifier}": {
            "source_collection_id": ids["collection_id"]
        },
        "POST /v1/taxonomies/{taxonomy_identifier}/versions": {"cluster_id": cluster},
        "POST /v1/taxonomies/{taxonomy_identifier}/clone": {"taxonomy_name": "another"},
        "POST /v1/taxonomies/{taxonomy_identifier}/apply": applying,
        "POST /v1/clusters/triggers": {"cluster_id": cluster, **schedule},
        "POST /v1/clusters": {**DEFINITION, "collection_ids": [ids["collection_id"]]},
        "POST /v1/clusters/templates": {"template_name": "another", "definition": {}},
        "POST /v1/collections/{collection_identifier}/write-back": {"columns": ["headline"]},
        "POST /v1/collections/{collection_identifier}/documents": {"documents": [{"a": 1}]},
        "POST /v1/collections/{collection_identifier}/documents/facets": {"fields": ["a"]},
        "POST /v1/collections/{collection_identifier}/documents/delete": {"document_ids": ["a"]},
        "POST /v1/collections": {"features": {"mixpeek://a@v1/b": {"column": "c", "dim": 2}}},
        "POST /v1/organizations/webhooks": named,
        "PUT /v1/organizations/webhooks/{identifier}": named,
    }.get(operation, {})


def sent(house, verb, path, token, ids, **headers):
    """Send a request as a caller; ids go into the path and into the body."""
    filled = path.format(**parameters_of(path, ids))
    has_body = verb in {"POST", "PUT", "PATCH"}
    query = "?cluster_id=" + ids["cluster_id"] if path.endswith("/jobs/submit") else ""
    content = {"json": body_of(f"{verb} {path}", ids)} if has_body else {}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = house.client.build_request(verb, filled + query, headers=headers, **content)
    if token is None:
        del request.headers["Authorization"]
    return house.client.send(request)


def never(ids):
    """Return ids of the same form that nothing ever had."""
    strange = {name: re.sub(r"[0-9a-f]{16,}$", "f" * 24, value) for name, value in ids.items()}
    return strange | {
        "collection_identifier": "col_never",
        "collection_id": "col_never",
        "document_id": "doc_never",
        "identifier": "wh_ffffffffffffffff",
    }


def wrong_ones(house, token, status, ids=None, only=lambda operation: True, **headers):
    """Return the operations that answer another status."""
    answers = {}
    for verb, path in house.operations:
        if only(f"{verb} {path}"):
            answer = sent(house, verb, path, token, ids or never(house.ids), **headers)
            answers[f"{verb} {path}"] = answer.status_code
    assert answers
    return {name: found for name, found in answers.items() if found != status}


def test_no_operation_is_open_to_who_has_no_token(house):
    assert len(house.operations) > 75
    assert not wrong_ones(house, None, 401, house.ids)


def test_no_operation_is_open_to_a_wrong_token(house):
    assert not wrong_ones(house, f"gpc_{house.ids['token_id']}_" + "0" * 64, 401, house.ids)


def test_a_token_that_ended_opens_nothing(house):
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    token = house.issued("own", "admin", expires_at=past)
    assert not wrong_ones(house, token, 401, house.ids)


def is_shown(operation):
    is_get = operation.startswith("GET ") and operation != "GET /v1/tokens"
    return is_get or SHOWS.match(operation) is not None


def test_reading_changes_nothing(house):
    token = house.issued("own", "read")
    assert not wrong_ones(house, token, 403, only=lambda name: not is_shown(name))
    opened = wrong_ones(house, token, 403, only=is_shown)
    assert len(opened) == sum(is_shown(" ".join(each)) for each in house.operations)


def test_running_administers_nothing(house):
    token = house.issued("own", "run")

    def administers(name):
        return ADMINISTERS.match(name) is not None and not is_shown(name)

    assert not wrong_ones(house, token, 403, only=administers)
    assert 403 not in wrong_ones(house, token, 0, only=lambda n: not administers(n)).values()


def test_what_is_in_another_namespace_is_as_if_it_never_was(house):
    """Ids that there are and ids that there never were get the same answer, to the letter."""
    token = house.issued("other", "admin")
    strange, wrong, n = never(house.ids), [], 0
    for verb, path in house.operations:
        real = sent(house, verb, path, token, house.ids)
        unreal = sent(house, verb, path, token, strange)
        text = real.text
        for name, value in house.ids.items():
            text = text.replace(value, strange[name]) if name not in RULES else text
        if (real.status_code, text) != (unreal.status_code, unreal.text) and (
            "{" in path or real.status_code >= 400
        ):
            wrong.append((verb, path, real.text, unreal.text))
        if "{" in path:
            n += 1
            if real.status_code != 404:
                wrong.append((verb, path, real.status_code, real.text))
        shown = {name for name, value in house.ids.items() if value in real.text}
        if real.is_success and shown - {*RULES, "collection_id", "collection_identifier"}:
            wrong.append((verb, path, shown))
    assert not wrong
    assert n > 55


def test_another_namespace_cannot_be_named(house):
    token = house.issued("other", "admin")
    assert not wrong_ones(house, token, 404, house.ids, **{"X-Namespace": "own"})
    real = sent(house, "GET", "/v1/namespaces", token, house.ids, **{"X-Namespace": "own"})
    unreal = sent(house, "GET", "/v1/namespaces", token, house.ids, **{"X-Namespace": "never"})
    assert real.text == unreal.text


def test_nothing_of_the_first_namespace_changed(house):
    """Goes last: all that others have tried came to nothing."""
    headers = {"X-Namespace": "own"}
    for verb, path in house.operations:
        if verb == "GET":
            answer = sent(house, verb, path, TOKEN, house.ids, **headers)
            assert answer.status_code == 200, (path, answer.text)
    listed = house.client.post("/v1/clusters/list", json={}, headers=headers).json()
    assert [each["cluster_name"] for each in listed["results"]] == ["kept"]
    found = house.client.get(f"/v1/collections/{COLLECTION}", headers=headers).json()
    assert found["num_documents"] == 60
