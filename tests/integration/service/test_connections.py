"""Documents come from a real PostgreSQL with pgvector, and from Qdrant; what is found goes back."""

from __future__ import annotations

import uuid

import numpy as np
import psycopg
import pytest
from qdrant_client import models

from gpucluster.service.collections.data import write_data
from gpucluster.service.collections.publishing import publish
from tests.helpers import postgres
from tests.helpers.documents import DIM, TEXT
from tests.helpers.points import serving_points
from tests.helpers.serving import serving

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
SECRET = "canary-secret"


@pytest.fixture(scope="module")
def database():
    with postgres.serving(postgres.with_vectors()) as found:
        with psycopg.connect(found.url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
        yield found.url


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service") / "root") as found:
        yield found


@pytest.fixture
def client(server):
    return server[0]


@pytest.fixture
def table(database, monkeypatch):
    name = f"t{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("GPUCLUSTER_SOURCE_SHOP", database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            f"CREATE TABLE {name} (sku bigint PRIMARY KEY, emb vector({DIM}), half halfvec(2), "
            'title text, price numeric, tags text[], at timestamptz, "odd ""name" uuid)'
        )
        with connection.cursor().copy(f"COPY {name} FROM STDIN") as copy:
            for row in range(1_000):
                vector = None if row == 7 else str([row / 10, 1, 2, 3])
                half, at = str([row % 3, 1]), "2026-01-31T12:00:00Z"
                id_ = uuid.UUID(int=row)
                fields = [row, vector, half, f"Title {row}", row / 4, ["a", None], at, id_]
                copy.write_row(fields)
    return name


def body_of(table, **fields):
    return {
        "features": {TEXT: {"column": "emb", "dim": DIM}},
        "id_column": "sku",
        "source": {"pgvector": {"dsn_env": "GPUCLUSTER_SOURCE_SHOP", "table": table}},
        **fields,
    }


def made(client, body):
    answer = client.post("/v1/collections?wait=true", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "READY", answer.text
    return answer.json()


def written_back(client, path, **body):
    answer = client.post(f"{path}/write-back?wait=true", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["task_type"] == "api_collections_export"
    return answer.json()["additional_data"]["result"]


def label(server, collection):
    """Give all documents a column, as an enrichment does."""
    library = server[1].collections
    opened = library.open("default", collection["collection_id"])
    from tests.helpers.documents import everything

    table = everything(opened.versions).append_column(
        "cluster_id", [[f"cl_{n % 2}" for n in range(opened.version.n_rows)]]
    )
    (old,) = opened.version.files
    file = write_data(
        library._store, opened.versions.folder, table.schema, table.to_batches(), "sku"
    )
    publish(
        opened.versions, {old.name: file}, columns=["cluster_id"], run_id="run_a",
        expected=opened.version, now=opened.version.created_at,
    )  # fmt: skip


def test_a_table_becomes_a_collection_and_gets_what_is_found(client, server, table, database):
    collection = made(client, body_of(table))
    assert collection["num_documents"] == 1_000
    assert collection["columns"] == {
        "title": "string",
        "price": "double",
        "tags": "list<item: string>",
        "at": "timestamp[us, tz=UTC]",
        'odd "name': "string",
    }
    path = f"/v1/collections/{collection['collection_id']}"
    found = client.get(f"{path}/documents/3", params={"include_vectors": True}).json()
    assert found["title"] == "Title 3"
    assert found["tags"] == ["a", None]
    assert found['odd "name'] == str(uuid.UUID(int=3))
    np.testing.assert_allclose(found["emb"], [0.3, 1, 2, 3], rtol=1e-6)
    assert client.get(f"{path}/documents/7", params={"include_vectors": True}).json()["emb"] is None
    label(server, collection)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"DELETE FROM {table} WHERE sku < 10")
        body = {"columns": ["cluster_id"]}
        refused = client.post(f"{path}/write-back", json=body)
        assert refused.status_code == 422
        assert "add_columns" in refused.text
        for _ in range(2):
            done = written_back(client, path, **body, add_columns=True)
            assert done == {"updated": 990, "missing": 10}
        rows = connection.execute(f"SELECT sku, cluster_id FROM {table}").fetchall()
        assert {cluster_id for sku, cluster_id in rows if sku % 2} == {"cl_1"}
        assert len(rows) == 990


def test_a_halfvec_and_a_choice_of_columns(client, table):
    body = body_of(table, features={TEXT: {"column": "half", "dim": 2}})
    body["source"]["pgvector"]["payload"] = ["title"]
    assert list(made(client, body)["columns"]) == ["title"]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"table": "nowhere"}, 422, "no table nowhere"),
        ({"table": 'x"; DROP TABLE y; --'}, 422, "no table"),
        ({"payload": ["nothing"]}, 422, "no column nothing"),
        ({"dsn_env": "GPUCLUSTER_SOURCE_OTHER"}, 422, "no variable GPUCLUSTER_SOURCE_OTHER"),
        ({"dsn_env": "PATH"}, 422, "pattern"),
        ({"dsn_env": "GPUCLUSTER_SOURCE_BROKEN"}, 503, "does not answer"),
    ],
)
def test_what_is_no_table(client, table, monkeypatch, change, status, said):
    broken = f"postgresql://user:{SECRET}@127.0.0.1:9/none"
    monkeypatch.setenv("GPUCLUSTER_SOURCE_BROKEN", broken)
    body = body_of(table)
    body["source"]["pgvector"] |= change
    answer = client.post("/v1/collections", json=body)
    assert answer.status_code == status, answer.text
    assert said in answer.text
    assert SECRET not in answer.text


def test_columns_that_are_no_vectors(client, table):
    for column, said in (("title", "a vector or halfvec expected"), ("none", "no column none")):
        body = body_of(table, features={TEXT: {"column": column, "dim": DIM}})
        answer = client.post("/v1/collections", json=body)
        assert answer.status_code == 422
        assert said in answer.text
    wrong = client.post("/v1/collections?wait=true", json=body_of(table, features={
        TEXT: {"column": "emb", "dim": 5}})).json()  # fmt: skip
    assert wrong["status"] == "FAILED"
    assert "4 values, 5 expected" in wrong["error"]


@pytest.fixture(scope="module")
def qdrant():
    with serving_points(SECRET) as found:
        yield found


@pytest.fixture(params=["named", "unnamed"])
def points(request, qdrant, monkeypatch):
    size = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    is_named = request.param == "named"
    name = f"shop-{request.param}-{uuid.uuid4().hex[:8]}"
    qdrant.store.create_collection(name, {"emb": size} if is_named else size)
    qdrant.store.upsert(name, [
        models.PointStruct(
            id=row if row % 2 else str(uuid.UUID(int=row)),
            vector={"emb": [row, 1, 2, 3]} if is_named else [row, 1, 2, 3],
            payload={"title": f"Title {row}", "n": row, **({"late": True} if row > 900 else {})},
        )
        for row in range(1_100)
    ])  # fmt: skip
    monkeypatch.setenv("GPUCLUSTER_SOURCE_URL", qdrant.url)
    monkeypatch.setenv("GPUCLUSTER_SOURCE_KEY", SECRET)
    return name


def test_points_become_a_collection_and_get_what_is_found(client, server, qdrant, points):
    source = {
        "url_env": "GPUCLUSTER_SOURCE_URL",
        "api_key_env": "GPUCLUSTER_SOURCE_KEY",
        "collection": points,
    }
    body = {
        "features": {TEXT: {"column": "emb", "dim": DIM}},
        "id_column": "sku",
        "source": {"qdrant": source},
    }
    collection = made(client, body)
    assert SECRET not in str(collection)
    assert collection["source"] == {"qdrant": source}
    assert collection["num_documents"] == 1_100
    assert collection["columns"] == {"title": "string", "n": "int64", "late": "bool"}
    path = f"/v1/collections/{collection['collection_id']}"
    found = client.get(f"{path}/documents/3", params={"include_vectors": True}).json()
    unit = np.array([3, 1, 2, 3]) / np.linalg.norm([3, 1, 2, 3])  # as Qdrant keeps it
    np.testing.assert_allclose(found["emb"], unit, rtol=1e-5)
    label(server, collection)
    qdrant.store.delete(points, [1, 3])
    done = written_back(client, path, columns=["cluster_id", "n"])
    assert done == {"updated": 1_098, "missing": 2}
    (point,) = qdrant.store.retrieve(points, [5])
    assert point.payload["title"] == "Title 5"
    assert point.payload["cluster_id"] in {"cl_0", "cl_1"}
    missing = client.post("/v1/collections", json={**body, "source": {
        "qdrant": {**source, "collection": "none"}}})  # fmt: skip
    assert missing.status_code == 422


def test_vectors_without_names_are_those_of_one_feature(client, points):
    several = {TEXT: {"column": "a", "dim": DIM}, f"{TEXT}2": {"column": "b", "dim": DIM}}
    source = {"url_env": "GPUCLUSTER_SOURCE_URL", "api_key_env": "GPUCLUSTER_SOURCE_KEY"}
    body = {"features": several, "source": {"qdrant": {**source, "collection": points}}}
    done = client.post("/v1/collections?wait=true", json=body).json()
    if points.startswith("shop-unnamed"):
        assert done["status"] == "FAILED"
        assert "have no names" in done["error"]
    else:
        assert done["status"] == "READY"  # with vectors that are null


def test_files_are_not_written_back_to(client):
    collection = made(client, {"features": {TEXT: {"dim": DIM}}})
    path = f"/v1/collections/{collection['collection_id']}/write-back"
    assert client.post(path, json={"columns": ["x"]}).status_code == 409
