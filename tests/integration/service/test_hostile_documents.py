"""Whatever is asked of documents is answered, or refused: never an error of the service."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from tests.helpers.documents import DIM, TEXT, documents
from tests.helpers.serving import serving

TEXTS = ["\ud800", "\x00", "", " ", "é" * 300, "a" * 501, "%2e%2e", "../x", "'; DROP", "m", "m.x",
         "m.x.y", "tags", "text_embedding", "document_id", "_id", "number", ".", "m."]  # fmt: skip
VALUES = [None, True, -(2**70), 2**63, 1e308, "\ud800", "x", [], ["x", 1], {}, [[1]], 0.5]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("hostile") / "root", max_jobs=0) as (client, _):
        made = client.post("/v1/collections", json={
            "features": {TEXT: {"dim": DIM}}, "collection_id": "col_a"})  # fmt: skip
        assert made.status_code == 201
        rows = documents(*range(5), tags=["a"], m={"x": 1}, flag=True, score=0.5)
        assert client.post(f"{PATH}", json={"documents": rows}).status_code == 200
        yield client


PATH = "/v1/collections/col_a/documents"


def ask(client, path, body, **query):
    headers = {"Content-Type": "application/json"}
    answer = client.post(path, content=json.dumps(body).encode(), headers=headers, params=query)
    assert answer.status_code in {200, 404, 409, 422}, (path, body, answer.text)
    return answer


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_anywhere(client, text):
    for body in (
        {"search": text},
        {"fields": [text]},
        {"sort": {"field": text, "direction": "desc"}},
        {"filters": {"AND": [{"field": text, "operator": "exists"}]}},
        {"filters": {text: text}},
        *({"filters": {"AND": [{"field": "document_id", "operator": operator, "value": text}]}}
          for operator in ("eq", "in", "contains", "regex", "text", "gt", "starts_with")),
    ):  # fmt: skip
        ask(client, f"{PATH}/list", body)
        ask(client, f"{PATH}/data", {k: v for k, v in body.items() if k != "sort"})
    ask(client, f"{PATH}/facets", {"fields": [text]})
    ask(client, f"{PATH}/facets", {"fields": ["number"], "search": text})
    ask(client, f"{PATH}/delete", {"document_ids": [text, "none"]})
    ask(client, f"{PATH}/list", {}, cursor=text.encode("utf-8", "replace").decode())
    name = quote(text.encode("utf-8", "replace"))
    for path in (f"{PATH}/{name}", f"/v1/collections/{name}/versions", f"/v1/collections/{name}"):
        assert client.get(path).status_code in {200, 400, 404, 405, 307}
    for method in ("PATCH", "DELETE"):
        answer = client.request(method, f"/v1/collections/{name}", json={})
        assert answer.status_code in {200, 404, 405, 422, 307}


@pytest.mark.parametrize("field", ["number", "flag", "score", "tags", "m", "m.x", "document_id"])
def test_any_value_for_any_field(client, field):
    for operator in ("eq", "ne", "gt", "in", "nin", "contains", "regex", "is_null"):
        for value in VALUES:
            condition = {"field": field, "operator": operator, "value": value}
            ask(client, f"{PATH}/list", {"filters": {"AND": [condition]}})
            ask(client, f"{PATH}/list", {"filters": {"NOT": [condition]}})


@pytest.mark.parametrize("value", [*VALUES, *TEXTS])
def test_any_document(client, value):
    for row in (
        {"document_id": value},
        {"document_id": "x", "number": value},
        {"document_id": "x", "text_embedding": value},
        {"document_id": "x", TEXT: [value] * DIM},
        {"document_id": "x", "m": value, "tags": value},
        *([{"document_id": "x", value: 1}] if isinstance(value, str) else []),
    ):
        ask(client, PATH, {"documents": [row, {"document_id": "doc-0"}]})  # which is there


def test_there_is_no_more_than_there_was(client):
    found = ask(client, f"{PATH}/list", {}).json()
    assert len(found["results"]) == 5
