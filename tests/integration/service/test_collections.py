"""Collections over a socket: made, filled, read, clustered, removed."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import quote

import httpx2
import pyarrow as pa
import pytest

from gpucluster.places import place
from gpucluster.service.app import make_app
from gpucluster.service.catalog.port import Query
from gpucluster.service.collections.creating import Draft
from gpucluster.service.collections.incoming import Limits
from gpucluster.service.collections.uploads import given_documents
from gpucluster.service.settings import ServiceSettings
from gpucluster.service.wiring import Service
from gpucluster.wire.collections import CreateCollectionRequest
from tests.helpers.documents import DIM, TEXT, documents, write_lines, write_table
from tests.helpers.serving import ended, serving

PARQUET, NDJSON = "application/vnd.apache.parquet", "application/x-ndjson"
FEATURES = {TEXT: {"dim": DIM}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def server(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("service") / "root"
    with serving(root, import_roots=(str(files),), max_upload_bytes=1 << 20) as found:
        yield found


@pytest.fixture
def client(server):
    return server[0]


def made(client, **fields):
    answer = client.post("/v1/collections", json={"features": FEATURES, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def path_of(collection, *more):
    return "/".join(["/v1/collections", collection["collection_id"], *more])


def send(client, collection, rows, **query):
    path = path_of(collection, "documents")
    return client.post(path, json={"documents": rows}, params=query)


def test_a_collection_is_made_filled_and_read(client):
    collection = made(client, collection_name="products", description="All of them")
    assert (collection["version"], collection["num_documents"]) == (1, 0)
    assert collection["features"][TEXT]["column"] == "text_embedding"
    answer = send(client, collection, documents(*range(30), kind="a"))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "collection_id": collection["collection_id"],
        "version": 2,
        "num_documents": 30,
        "added": 30,
        "replaced": 0,
        "skipped": 0,
    }
    shown = client.get("/v1/collections/products").json()
    assert (shown["version"], shown["num_documents"]) == (2, 30)
    assert shown["columns"] == {"number": "int64", "kind": "string"}
    listed = client.post("/v1/collections/list", json={"search": "produ"}).json()
    assert [each["collection_id"] for each in listed["results"]] == [collection["collection_id"]]
    assert listed["stats"] == {"total_collections": 1, "total_documents": 30}


def test_a_collection_that_a_server_died_over_is_made_by_the_next_try(server):
    client, service = server
    body = {"collection_id": "col_died", "features": FEATURES}
    asked = CreateCollectionRequest.model_validate(body)
    versions = service.collections.versions_of("default", "col_died")
    draft = Draft(collection_id="col_died", features=asked.features)
    service.collections._make(versions, draft, None)  # and no record
    other = client.post("/v1/collections", json={**body, "text_column": "text"})
    assert other.status_code == 409
    assert made(client, **body)["version"] == 1
    data = service.settings.place / versions.folder / "data"
    assert len(list(data.iterdir())) == 1


@pytest.mark.parametrize("kind", ["empty", "of files"])
def test_a_collection_whose_server_died_before_it_answered_is_found_again(server, files, kind):
    """The second try under a key gets the collection that the first one has made."""
    client, service = server
    body = {"collection_id": f"col_{kind.replace(' ', '_')}", "features": FEATURES}
    if kind == "of files":
        path = write_table(files / "named.parquet", 3)
        body |= {"source": {"paths": [str(path)]}}
    key, other = ({"Idempotency-Key": f"{kind} {n}"} for n in range(2))
    first = client.post("/v1/collections", json=body, headers=key)
    assert first.status_code == 201, first.text
    with service.catalog.writing() as tx:  # as it was when the server died
        answer = tx.page("default", "idempotency", Query(limit=1)).records[0]
        tx.delete("default", "idempotency", answer.id)
    assert client.post("/v1/collections", json=body, headers=other).status_code == 409
    assert client.post("/v1/collections", json=body).status_code == 409
    again = client.post("/v1/collections", json=body, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())


def test_pages_of_documents(client):
    collection = made(client)
    send(client, collection, documents(*range(25), kind="a"))
    path, found, cursor = path_of(collection, "documents/list"), [], None
    body = {"filters": {"number": 3}}
    (only,) = client.post(path, json=body).json()["results"]
    assert only == {"document_id": "doc-3", "number": 3, "kind": "a"}
    body = {"sort": {"field": "number", "direction": "desc"}, "fields": ["number"]}
    while True:
        query = {"limit": 10, "include_total": True, **({"cursor": cursor} if cursor else {})}
        answer = client.post(path, json=body, params=query).json()
        found += [each["number"] for each in answer["results"]]
        assert answer["total_count"] == 25
        cursor = answer["pagination"]["next_cursor"]
        if cursor is None:
            break
    assert found == list(range(24, -1, -1))
    facets = client.post(path_of(collection, "documents/facets"), json={"fields": ["kind"]}).json()
    assert facets["facets"]["kind"]["values"] == [{"value": "a", "count": 25}]


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_lines_of_json_are_uploaded(client, files, encoding):
    collection = made(client)
    content = write_lines(files / "x", documents(*range(7))).read_bytes()
    if encoding == "gzip":
        content = gzip.compress(content)
    elif encoding == "zstd":
        content = pa.compress(content, "zstd", asbytes=True)
    headers = {"Content-Type": NDJSON, "Content-Encoding": encoding}
    path = path_of(collection, "documents")
    answer = client.post(path, content=content, headers=headers)
    assert answer.json()["added"] == 7, answer.text


def test_parquet_is_uploaded_once_under_its_key(client, files):
    collection = made(client)
    content = write_table(files / "up", 9, kind=["a"] * 9).read_bytes()
    headers = {"Content-Type": PARQUET, "Idempotency-Key": "once"}
    path = path_of(collection, "documents")
    answers = [client.post(path, content=content, headers=headers).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["version"] == 2
    assert client.get(path_of(collection)).json()["num_documents"] == 9
    other = client.post(path, content=content + b"PAR1", headers=headers)
    assert other.status_code == 422
    without = client.post(path, content=content, headers={"Content-Type": PARQUET})
    assert without.status_code == 422
    assert "9 ids are in" in without.json()["detail"][0]["msg"]
    query = {"on_duplicate": "replace", "expected_version": 1}
    late = client.post(path, content=content, headers={"Content-Type": PARQUET}, params=query)
    assert late.status_code == 409
    assert late.json()["error"]["details"]["version"] == 2
    query["expected_version"] = 2
    again = client.post(path, content=content, headers={"Content-Type": PARQUET}, params=query)
    assert (again.json()["replaced"], again.json()["num_documents"]) == (9, 9)


def test_the_same_request_at_once_is_done_once(client):
    collection = made(client)
    ready = threading.Barrier(6)

    def send_one(_):
        ready.wait()
        headers = {"Idempotency-Key": "same"}
        body = {"documents": documents(1, 2)}
        return client.post(path_of(collection, "documents"), json=body, headers=headers)

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(send_one, range(6)))
    assert {answer.text for answer in answers} == {answers[0].text}
    assert client.get(path_of(collection)).json()["num_documents"] == 2


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/csv"}, b"a,b", 422),
        ({"Content-Type": "application/octet-stream"}, b"a,b", 422),
        ({"Content-Type": NDJSON, "Content-Encoding": "br"}, b"{}", 422),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"{}", 422),
        ({"Content-Type": "application/json"}, b"{", 422),
        ({"Content-Type": "application/json"}, b'{"documents": []}', 422),
        ({"Content-Type": "application/json"}, b'{"document": [{}]}', 422),
        ({"Content-Type": PARQUET}, b"PAR1 and no more", 422),
        ({"Content-Type": PARQUET}, b"x" * (1 << 20) + b"x", 413),
    ],
)
def test_what_is_no_upload(client, headers, content, status):
    collection = made(client)
    answer = client.post(path_of(collection, "documents"), content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert "/proc" not in answer.text
    assert client.get(path_of(collection)).json()["version"] == 1


def test_an_upload_without_a_length_ends_at_the_limit(client):
    collection = made(client)

    def parts():
        for _ in range(40):
            yield b"x" * (1 << 16)

    try:
        answer = client.post(
            path_of(collection, "documents"), content=parts(), headers={"Content-Type": NDJSON}
        )
    except httpx2.TransportError:  # the server answers before it has read all, and hangs up
        return
    assert answer.status_code == 413


def test_an_upload_that_is_broken_off_is_no_error_of_the_service(server, client, caplog):
    path = path_of(made(client), "documents")
    parts = [
        {"type": "http.request", "body": b"PAR1", "more_body": True},
        {"type": "http.disconnect"},
    ]
    headers = {"authorization": client.headers["Authorization"], "content-type": PARQUET}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    sent = []

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(make_app(server[1])(scope, receive, send))
    assert (parts, sent[0]["status"]) == ([], 400)
    assert caplog.records == []


def test_documents_are_streamed(client):
    collection = made(client)
    send(client, collection, documents(*range(20), note=None))
    path = path_of(collection, "documents/data")
    lines = client.post(path, json={"filters": {"number": 7}}).text.splitlines()
    assert [json.loads(line)["document_id"] for line in lines] == ["doc-7"]
    headers = {"Accept": "application/vnd.apache.arrow.stream"}
    answer = client.post(path, json={"include_vectors": True}, headers=headers)
    table = pa.ipc.open_stream(io.BytesIO(answer.content)).read_all()
    assert table["number"].to_pylist() == list(range(20))
    assert table.schema.field("text_embedding").type == pa.list_(pa.float32(), DIM)
    assert client.post(path, json={"fields": ["nothing"]}).status_code == 422
    assert client.post(path, json={"version": 9}).status_code == 404


def test_documents_are_meant_by_elements_of_their_lists(client):
    collection = made(client)
    tags = [["Red", "big"], ["blue"], [], None, ["red"]]
    scores = [[1, 2], [3], None, [], [2, 2]]
    rows = documents(*range(5))
    for row, tag, score in zip(rows, tags, scores, strict=True):
        row |= {"tags": tag, "scores": score}
    assert send(client, collection, rows).is_success
    path = path_of(collection, "documents")

    def meant(operator, value, field="tags"):
        filters = {"AND": [{"field": field, "operator": operator, "value": value}]}
        body = {"filters": filters}
        listed = client.post(f"{path}/list", json=body)
        assert listed.status_code == 200, listed.text
        numbers = [each["number"] for each in listed.json()["results"]]
        lines = client.post(f"{path}/data", json=body).text.splitlines()
        assert [json.loads(line)["number"] for line in lines] == numbers
        counted = client.post(f"{path}/facets", json={"fields": ["number"], **body}).json()
        assert counted["facets"]["number"]["distinct"] == len(numbers)
        return numbers

    assert meant("contains", "red") == [0, 4]
    assert meant("in", ["blue", "big"]) == [0, 1]
    assert meant("nin", ["blue", "big"]) == [2, 3, 4]
    assert meant("contains", 2, "scores") == [0, 4]
    assert (meant("exists", True), meant("is_null", True)) == ([0, 1, 2, 4], [3])
    problem = client.post(f"{path}/list", json={"filters": {"tags": "red"}}).json()["detail"][0]
    assert problem["loc"] == ["body", "filters"]
    assert "contains finds an element" in problem["msg"]
    gone = {"filters": {"AND": [{"field": "tags", "operator": "contains", "value": "red"}]}}
    assert client.post(f"{path}/delete", json=gone).json()["removed"] == 2


def test_one_document_by_its_id(client):
    collection = made(client)
    rows = documents(1)
    rows[0]["document_id"] = odd = "a/b c?d=%2e#e"
    send(client, collection, rows)
    path = path_of(collection, "documents", quote(odd))
    found = client.get(path, params={"include_vectors": True})
    assert found.json() == {"document_id": odd, "text_embedding": [1, 1, 2, 3], "number": 1}
    assert client.get(path_of(collection, "documents/none")).status_code == 404


def test_documents_are_deleted(client):
    collection = made(client)
    send(client, collection, documents(*range(10)))
    path = path_of(collection, "documents/delete")
    answer = client.post(path, json={"document_ids": ["doc-1", "none"]}).json()
    assert (answer["removed"], answer["num_documents"], answer["version"]) == (1, 9, 3)
    filters = {"AND": [{"field": "number", "operator": "gte", "value": 5}]}
    assert client.post(path, json={"filters": filters}).json()["removed"] == 5
    for wrong in ({}, {"document_ids": ["a"], "filters": filters}, {"document_ids": []}):
        assert client.post(path, json=wrong).status_code == 422
    late = client.post(path, json={"document_ids": ["doc-2"], "expected_version": 1})
    assert late.status_code == 409
    shown = client.get(path_of(collection, "versions"), params={"limit": 3}).json()
    assert [each["version"] for each in shown["results"]] == [4, 3, 2]
    assert shown["next_before"] == 2
    older = client.get(path_of(collection, "versions"), params={"before": 2}).json()
    assert [each["made_by"] for each in older["results"]] == ["create"]
    assert client.get(path_of(collection, "versions/2")).json()["num_documents"] == 10
    assert client.get(path_of(collection, "versions/5")).status_code == 404


def test_ids_and_names_are_taken_once(client):
    made(client, collection_id="col_mine", collection_name="mine")
    for again in ({"collection_id": "col_mine"}, {"collection_name": "mine"}):
        answer = client.post("/v1/collections", json={"features": FEATURES, **again})
        assert answer.status_code == 409, answer.text
    for wrong in ("mine", "col_", "col_../x", "col_a/b", "col_" + "a" * 100):
        body = {"features": FEATURES, "collection_id": wrong}
        assert client.post("/v1/collections", json=body).status_code == 422
    patched = client.patch("/v1/collections/col_mine", json={"collection_name": "ours"}).json()
    assert patched["collection_name"] == "ours"
    assert client.get("/v1/collections/mine").status_code == 404
    other = made(client, collection_name="mine")
    taken = client.patch(path_of(other), json={"collection_name": "ours"})
    assert taken.status_code == 409


def test_a_collection_is_deleted_and_its_files_stay_unless_they_go(client, server):
    folder = place(server[1].settings.root) / "ns/default/collections/col_gone"
    for kept in (True, False):
        send(client, made(client, collection_id="col_gone"), documents(1))
        query = {"delete_artifacts": not kept}
        assert client.delete("/v1/collections/col_gone", params=query).status_code == 200
        assert client.get("/v1/collections/col_gone").status_code == 404
        assert folder.exists() == kept
        if kept:
            body = {"features": FEATURES, "collection_id": "col_gone"}
            assert client.post("/v1/collections", json=body).status_code == 409
            query = {"delete_artifacts": True}
            assert client.delete("/v1/collections/col_gone", params=query).status_code == 200
    assert client.delete("/v1/collections/col_gone").status_code == 404


def test_a_collection_of_another_namespace_is_not_there(client):
    collection = made(client)
    client.post("/v1/namespaces", json={"namespace_id": "other"})
    headers = {"X-Namespace": "other"}
    for method, path, body in (
        ("GET", path_of(collection), None),
        ("GET", path_of(collection, "versions"), None),
        ("POST", path_of(collection, "documents/list"), {}),
        ("POST", path_of(collection, "documents/data"), {}),
        ("POST", path_of(collection, "documents"), {"documents": documents(1)}),
        ("POST", path_of(collection, "documents/delete"), {"document_ids": ["a"]}),
        ("POST", path_of(collection, "compact"), None),
        ("DELETE", path_of(collection), None),
    ):
        assert client.request(method, path, json=body, headers=headers).status_code == 404
    same = client.post("/v1/collections", headers=headers, json={
        "features": FEATURES, "collection_id": collection["collection_id"]})  # fmt: skip
    assert same.status_code == 201


def test_a_collection_is_clustered(client):
    collection = made(client)
    rows = documents(*range(60))
    for row in rows:
        row["text_embedding"] = [row["number"] % 3 * 10.0, 1.0, row["number"] / 60, 2.0]
    send(client, collection, rows)
    body = {
        "collection_ids": [collection["collection_id"]],
        "vector_config": {
            "feature_uri": TEXT,
            "clustering_method": "kmeans",
            "algorithm_params": {"n_clusters": 3},
        },
    }
    cluster = client.post("/v1/clusters", json=body)
    assert cluster.status_code == 200, cluster.text
    path = f"/v1/clusters/{cluster.json()['cluster_id']}"
    task = client.post(f"{path}/execute", json={}).json()
    assert ended(client, task["task_id"])["status"] == "COMPLETED"
    latest = client.get(f"{path}/executions").json()["latest"]
    assert (latest["num_clusters"], latest["num_points"]) == (3, 60)
    wrong = {**body, "vector_config": {**body["vector_config"], "feature_uri": TEXT + "x"}}
    assert client.post("/v1/clusters", json=wrong).status_code == 422
    assert client.post("/v1/clusters", json={**body, "collection_ids": ["col_none"]}).status_code \
        == 422  # fmt: skip


def test_small_files_are_put_together(client):
    collection = made(client)
    for n in range(4):
        send(client, collection, documents(n, **{f"only_{n}": n}))
    assert client.get(path_of(collection)).json()["num_files"] == 4
    answer = client.post(path_of(collection, "compact")).json()
    assert (answer["version"], answer["num_documents"]) == (6, 4)
    assert client.get(path_of(collection)).json()["num_files"] == 1
    found = client.post(path_of(collection, "documents/list"), json={}).json()["results"]
    assert [each["only_2"] for each in found] == [None, None, 2, None]
    assert client.post(path_of(collection, "compact")).json()["version"] == 6


def test_whoever_listens_hears_of_every_append_once(tmp_path):
    heard = []
    with serving(tmp_path / "root", max_jobs=0) as (client, service):
        service.collections.noting._emit = lambda tx, ns, *told: heard.append(told)
        collection = made(client)
        ready = threading.Barrier(6)

        def send_some(who):
            ready.wait()
            for _ in range(2):
                headers = {"Idempotency-Key": f"k{who}", "Content-Type": NDJSON}
                content = "".join(json.dumps(row) + "\n" for row in documents(who))
                path = path_of(collection, "documents")
                client.post(path, content=content, headers=headers).raise_for_status()

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(send_some, range(6)))
        assert client.get(path_of(collection)).json()["version"] == 7
    written = [told[-1] for told in heard if told[0] == "collection.documents.written"]
    assert sorted(each["version"] for each in written) == [2, 3, 4, 5, 6, 7]
    assert {each["added"] for each in written} == {1}


@pytest.fixture
def told(tmp_path):
    """A service that nobody serves, and what it tells."""
    heard = []
    service = Service(
        ServiceSettings(root=str(tmp_path / "root"), admin_token="a-token-for-everything")
    )
    service.collections.noting._emit = lambda tx, ns, *told: heard.append(told)
    service.collections.create(
        "default", "col_a", CreateCollectionRequest.model_validate({"features": FEATURES}), "task_a"
    )
    yield service, heard
    service.catalog.close()


def append(library, *numbers):
    return library.append(
        "default", "col_a", lambda version: given_documents(documents(*numbers), version, Limits())
    )


def versions_told(heard):
    return [(event, metadata["version"]) for event, _, _, metadata in heard]


class Died(BaseException):
    """What a server does."""


def die_before_noting(service, change):
    def die(*_):
        raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.collections.noting, "note", die)
        with pytest.raises(Died):
            change()


def test_what_a_server_published_and_died_over_is_told_with_what_comes_next(told):
    service, heard = told
    library = service.collections
    die_before_noting(service, lambda: append(library, 1, 2))
    die_before_noting(service, lambda: library.remove("default", "col_a", document_ids=["doc-1"]))
    append(library, 3)
    written, updated = "collection.documents.written", "collection.updated"
    assert versions_told(heard) == [(written, 2), (updated, 3), (written, 4)]
    assert [m.get("added") for *_, m in heard] == [2, None, 1]
    assert heard[1][-1]["removed"] == 1
    assert library.get("default", "col_a").body["num_documents"] == 2


def test_what_a_server_died_over_is_told_although_nothing_comes_next(told):
    service, heard = told
    die_before_noting(service, lambda: append(service.collections, 1, 2))
    look = service.collections.noting.look
    assert not look()  # it may still be at it
    now = service.catalog.clock()
    service.catalog.clock = lambda: now + timedelta(minutes=16)
    assert look()
    assert not look()
    assert versions_told(heard) == [("collection.documents.written", 2)]


def test_a_version_that_is_noted_after_a_later_one_is_told_once(told):
    service, heard = told
    library, noted = service.collections, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.noting, "note", lambda *given: noted.append(given))
        append(library, 1)
        append(library, 2)
    for given in reversed(noted):
        library.noting.note(*given)
    assert versions_told(heard) == [("collection.documents.written", n) for n in (2, 3)]


def test_nothing_is_made_of_what_a_removal_left(client, server, tmp_path):
    collection = made(client)
    own = {"collection_id": collection["collection_id"]}
    send(client, collection, documents(1))
    service = server[1]
    with service.catalog.writing() as tx:  # all that was done before the server died
        tx.delete("default", "collection", own["collection_id"])
    folder = service.collections.versions_of("default", own["collection_id"]).path(1)
    folder.unlink()
    again = {**own, "features": FEATURES}
    refused = client.post("/v1/collections", json=again)
    assert refused.status_code == 409
    assert "delete_artifacts" in refused.text
    removed = client.delete(path_of(collection), params={"delete_artifacts": True})
    assert removed.status_code == 200
    assert client.post("/v1/collections", json=again).json()["num_documents"] == 0


def test_files_stay_while_a_task_works_with_them(tmp_path):
    with serving(tmp_path / "root", max_jobs=0) as (client, _):
        collection = made(client, collection_name="documents")
        send(client, collection, documents(*range(9)))
        vectors = {"feature_uri": TEXT, "clustering_method": "kmeans"}
        body = {"collection_ids": ["documents"], "vector_config": vectors}
        cluster = client.post("/v1/clusters", json=body).json()["cluster_id"]
        task = client.post(f"/v1/clusters/{cluster}/execute", json={}).json()["task_id"]
        path, gone = path_of(collection), {"delete_artifacts": True}
        refused = client.delete(path, params=gone)
        assert refused.status_code == 409
        assert task in refused.text
        assert client.get(path).status_code == 200
        assert client.delete(f"/v1/tasks/{task}").is_success
        assert client.delete(path, params=gone).status_code == 200
