"""Imports and write-backs are tasks: seen on the way, stopped, killed, and none leaves anything."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path

import pytest
from qdrant_client import models

from gpucluster.errors import GpuclusterError
from gpucluster.events import CancelToken, ignore
from gpucluster.service.catalog.port import Query
from gpucluster.service.jobs.importing import import_documents
from gpucluster.service.refusals import ForbiddenError
from tests.helpers.documents import DIM, TEXT, documents, write_lines, write_table
from tests.helpers.points import serving_points
from tests.helpers.serving import SECONDS, Killable, ended, serving, workers_of

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
SECRET, OTHER = "canary-of-the-points", "canary-of-another-source"
N = 1_100  # three pages
SCROLL, UPDATE = "points/scroll", "points/batch"
FEATURES = {TEXT: {"column": "emb", "dim": DIM}}
SHOP = {"url_env": "GPUCLUSTER_SOURCE_URL", "api_key_env": "GPUCLUSTER_SOURCE_KEY"}


@pytest.fixture(scope="module")
def qdrant():
    with serving_points(SECRET) as found:
        size = models.VectorParams(size=DIM, distance=models.Distance.DOT)
        found.store.create_collection("shop", {"emb": size})
        found.store.upsert("shop", [
            models.PointStruct(id=row, vector={"emb": [row, 1, 2, 3]}, payload={"n": row})
            for row in range(N)
        ])  # fmt: skip
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def server(tmp_path_factory, files, qdrant):
    """A server, its client, and what it tells of collections."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GPUCLUSTER_SOURCE_URL", qdrant.url)
        patched.setenv("GPUCLUSTER_SOURCE_KEY", SECRET)
        patched.setenv("GPUCLUSTER_SOURCE_OTHER", OTHER)
        root = tmp_path_factory.mktemp("imports") / "root"
        with serving(root, import_roots=(str(files),)) as (client, service):
            yield client, service


@pytest.fixture
def heard(server, monkeypatch):
    """What is told of collections meanwhile."""
    told, service = [], server[1]
    for part in (service.collections, service.collections.noting):
        monkeypatch.setattr(part, "_emit", lambda *event: told.append((event[4], event[2])))
    return lambda collection_id: [event for about, event in told if about == collection_id]


@pytest.fixture
def client(server):
    return server[0]


@pytest.fixture(scope="module")
def shop(server):
    """The points, imported."""
    return made(server[0], qdrant_body())


def qdrant_body(**fields):
    return {"features": FEATURES, "source": {"qdrant": {**SHOP, "collection": "shop"}}, **fields}


def copies(*paths, **fields):
    source = {"paths": [str(path) for path in paths], "copy": True}
    return {"features": {TEXT: {"dim": DIM}}, "source": source, **fields}


def begun(client, body, query=""):
    answer = client.post(f"/v1/collections{query}", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def made(client, body):
    collection = begun(client, body, "?wait=true")
    assert collection["status"] == "READY", collection
    return collection


def shown(client, collection):
    return client.get(f"/v1/collections/{collection['collection_id']}").json()


def progress(client, task_id, done):
    """Return how far a task is, once it is that far."""
    until = time.monotonic() + SECONDS
    while True:
        task = client.get(f"/v1/tasks/{task_id}").json()
        assert task["status"] in {"PENDING", "IN_PROGRESS"}, task
        seen = task["additional_data"].get("progress", {"done": -1})
        if seen["done"] >= done:
            return seen
        assert time.monotonic() < until, task
        time.sleep(0.05)


def told_to_stop(client, task_id):
    """Cancel a task, and wait until its process was told, with the second word about progress."""
    assert client.delete(f"/v1/tasks/{task_id}").status_code == 200
    until = time.monotonic() + SECONDS
    times = set()
    while len(times) < 3:
        times.add(client.get(f"/v1/tasks/{task_id}").json()["updated_at"])
        assert time.monotonic() < until
        time.sleep(0.05)


def killed(server):
    """Kill the process that works."""
    (worker,) = workers_of(server)
    os.kill(worker, signal.SIGKILL)


def below(service, collection):
    """Return the files of a collection, hidden ones too."""
    versions = service.collections.versions_of("default", collection["collection_id"])
    folder = service.settings.place / versions.folder
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_import_is_seen_stopped_and_made_anew(client, server, qdrant, heard):
    service = server[1]
    qdrant.gate.hold(SCROLL)
    body = qdrant_body(collection_id="col_stopped")
    collection = begun(client, body)
    path, task_id = "/v1/collections/col_stopped", collection["task_id"]
    try:
        seen = []
        for done in (512, 1024, N, N + 512):  # once for the types of fields, once with vectors
            qdrant.gate.release(SCROLL)
            seen.append(progress(client, task_id, done))
        (worker,) = workers_of(os.getpid())
        variables = Path(f"/proc/{worker}/environ").read_bytes()
        for name, body_ in (
            ("documents/list", {}),
            ("documents", {"documents": documents(1)}),
            ("documents/data", {}),
            ("write-back", {"columns": ["n"]}),
            ("compact", None),
        ):
            refused = client.post(f"{path}/{name}", json=body_)
            assert refused.status_code == 409, refused.text
            assert refused.json()["error"]["details"]["task_id"] == task_id
            assert "wait for that task" in refused.text
        kmeans = {"clustering_method": "kmeans", "algorithm_params": {"n_clusters": 2}}
        definition = {"collection_ids": ["col_stopped"], "vector_config": kmeans}
        cluster = client.post("/v1/clusters", json=definition)
        assert cluster.status_code == 200, cluster.text
        execute = f"/v1/clusters/{cluster.json()['cluster_id']}/execute"
        assert task_id in client.post(execute, json={}).text
        assert client.delete(path).status_code == 409
        told_to_stop(client, task_id)
    finally:
        qdrant.gate.open(SCROLL)
    assert [each.pop("done") for each in seen] == [512, 1024, N, N + 512]
    assert seen == 4 * [{"stage": "import", "total": 2 * N, "unit": "rows"}]
    assert SECRET.encode() in variables
    assert OTHER.encode() not in variables
    assert ended(client, task_id)["status"] == "CANCELED"
    assert shown(client, collection)["status"] == "CANCELED"
    assert below(service, collection) == []
    gone = client.post(f"{path}/documents/list", json={})
    assert gone.status_code == 409
    assert "was canceled" in gone.text
    assert client.delete(path).status_code == 200
    assert heard("col_stopped") == []
    again = made(client, body)
    assert (again["num_documents"], again["version"], again["columns"]) == (N, 1, {"n": "int64"})
    assert heard("col_stopped") == ["collection.created"]


def test_a_killed_import_of_points_begins_again_and_ends(client, qdrant, heard):
    qdrant.gate.hold(SCROLL)
    key = {"Idempotency-Key": uuid.uuid4().hex}
    answers = [client.post("/v1/collections", json=qdrant_body(), headers=key) for _ in range(2)]
    collection = answers[0].json()
    assert answers[1].json() == collection
    try:
        qdrant.gate.release(SCROLL)
        progress(client, collection["task_id"], 512)
        killed(os.getpid())
    finally:
        qdrant.gate.open(SCROLL)
    assert ended(client, collection["task_id"])["status"] == "COMPLETED"
    found = shown(client, collection)
    assert (found["status"], found["num_documents"], found["num_files"]) == ("READY", N, 1)
    assert heard(collection["collection_id"]) == ["collection.created"]


def test_a_bad_row_in_the_third_file_leaves_nothing(client, server, files, heard):
    folder = files / uuid.uuid4().hex
    folder.mkdir()
    write_table(folder / "a.parquet", 5)
    write_lines(folder / "b.jsonl", documents(*range(5, 8)))
    bad = {"document_id": "bad", "text_embedding": [1.0, 2.0]}
    write_lines(folder / "c.jsonl", [*documents(8), bad])
    body = copies(folder, collection_id="col_bad")
    failed = begun(client, body, "?wait=true")
    assert failed["status"] == "FAILED"
    assert "bad has 2 values, 4 expected" in failed["error"]
    assert ended(client, failed["task_id"])["error"] == failed["error"]
    assert below(server[1], failed) == []
    refused = client.post("/v1/collections/col_bad/documents", json={"documents": documents(1)})
    assert refused.status_code == 409
    assert failed["error"] in refused.text
    assert client.delete("/v1/collections/col_bad?delete_artifacts=true").status_code == 200
    (folder / "c.jsonl").unlink()
    assert made(client, body)["num_documents"] == 8
    assert heard("col_bad") == ["collection.created"]


def test_what_can_be_refused_at_once_is(client, files, monkeypatch):
    monkeypatch.setenv("GPUCLUSTER_SOURCE_BROKEN", f"http://{SECRET} /")
    write_lines(files / "x.txt", documents(1))
    before = client.post("/v1/tasks/list", json={}).json()["total_count"]
    missing = {**SHOP, "collection": "none"}
    nobody = {**SHOP, "url_env": "GPUCLUSTER_SOURCE_NOBODY", "collection": "shop"}
    broken = {"url_env": "GPUCLUSTER_SOURCE_BROKEN", "collection": "shop"}
    for body, status in (
        (copies(files / "x.txt"), 422),
        (copies(files / "none.parquet"), 422),
        (copies("/etc/passwd"), 403),
        (qdrant_body(source={"qdrant": missing}), 422),
        (qdrant_body(source={"qdrant": nobody}), 422),
        (qdrant_body(source={"qdrant": broken}), 422),
    ):
        answer = client.post("/v1/collections", json={**body, "collection_id": "col_refused"})
        assert answer.status_code == status, answer.text
        assert SECRET not in answer.text
    assert client.get("/v1/collections/col_refused").status_code == 404
    assert client.post("/v1/tasks/list", json={}).json()["total_count"] == before


def test_a_write_back_goes_on_after_a_kill_and_stops_when_it_is_told(client, qdrant, shop):
    path = f"/v1/collections/{shop['collection_id']}/write-back"
    for how, status in (("kill", "COMPLETED"), ("cancel", "CANCELED")):
        qdrant.gate.hold(UPDATE)
        task = client.post(path, json={"columns": ["n"]}).json()
        try:
            qdrant.gate.release(UPDATE)
            seen = progress(client, task["task_id"], 512)
            if how == "kill":
                killed(os.getpid())
            else:
                told_to_stop(client, task["task_id"])
        finally:
            qdrant.gate.open(UPDATE)
        assert seen == {"stage": "write back", "done": 512, "total": N, "unit": "documents"}
        done = ended(client, task["task_id"])
        assert done["status"] == status, done
        if how == "kill":
            assert done["additional_data"]["result"] == {"updated": N, "missing": 0}
    for columns in (["none"], ["emb"]):
        assert client.post(path, json={"columns": columns}).status_code == 422


@pytest.mark.parametrize("dies", [False, True])
def test_what_tries_have_left_goes_when_the_task_is_stopped_between_them(tmp_path, dies):
    """A server that dies between the end of the task and its files removes them later."""
    write_table(tmp_path / "x.parquet", 3)
    with serving(tmp_path / "root", import_roots=(str(tmp_path),), max_jobs=0) as (client, service):
        collection = begun(client, copies(tmp_path / "x.parquet"))
        versions = service.collections.versions_of("default", collection["collection_id"])
        left = service.settings.place / f"{versions.folder}/data/{collection['task_id']}/x.parquet"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"of an earlier try")
        if dies:
            service.tasks.followers.clear()
        client.delete(f"/v1/tasks/{collection['task_id']}")
        assert shown(client, collection)["status"] == "CANCELED"
        assert left.exists() is dies
        while service.collections.imports.look():
            pass
        assert not left.exists()
        path = f"/v1/collections/{collection['collection_id']}"
        assert client.delete(path).status_code == 200
        assert client.delete(path).status_code == 404


def test_a_link_that_is_put_in_the_place_of_a_file_leads_nowhere(tmp_path):
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
    path, secret = (write_table(tmp_path / f"{each}/x.parquet", 3) for each in ("open", "closed"))
    roots = (str(path.parent),)
    with serving(tmp_path / "root", import_roots=roots, max_jobs=0) as (client, service):
        collection = begun(client, copies(path))
        args = service.tasks.get("default", collection["task_id"]).body["job"]["args"]
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(ForbiddenError, match="does not lie where"):
        import_documents(args, ignore, CancelToken())


def test_an_import_that_a_server_died_over_before_it_answered_is_found_again(tmp_path):
    """The second try under a key gets the collection that the first one has made."""
    write_table(tmp_path / "x.parquet", 3)
    with serving(tmp_path / "root", import_roots=(str(tmp_path),), max_jobs=0) as (client, service):
        key = {"Idempotency-Key": uuid.uuid4().hex}
        body = copies(tmp_path / "x.parquet", collection_id="col_named")
        first = client.post("/v1/collections", json=body, headers=key).json()
        with service.catalog.writing() as tx:  # as it was when the server died
            (answer,) = tx.page("default", "idempotency", Query()).records
            tx.delete("default", "idempotency", answer.id)
        again = client.post("/v1/collections", json=body, headers=key)
        assert (again.status_code, again.json()) == (201, first)
        assert client.post("/v1/collections", json=body).status_code == 409


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"document_id": "c", "text_embedding": [1, 2, 3, 4], "n": "x"}, "b.jsonl: the values of"),
        ({"document_id": "c", "text_embedding": "none"}, "b.jsonl line 2: text_embedding is no"),
    ],
)
def test_the_file_is_named_that_stops_an_import(tmp_path, row, said):
    write_lines(tmp_path / "a.jsonl", documents(0))
    good = {"document_id": "b", "text_embedding": [1, 2, 3, 4], "n": 1}
    write_lines(tmp_path / "b.jsonl", [good, row])
    with serving(tmp_path / "root", import_roots=(str(tmp_path),), max_jobs=0) as (client, service):
        collection = begun(client, copies(tmp_path / "*.jsonl"))
        args = service.tasks.get("default", collection["task_id"]).body["job"]["args"]
        with pytest.raises(GpuclusterError, match=said):
            import_documents(args, ignore, CancelToken())


def test_a_version_that_was_published_holds_though_the_task_was_stopped_after_that(tmp_path):
    """As where the process was killed between the two, and the task canceled before the next."""
    path, told = write_table(tmp_path / "x.parquet", 3), []
    with serving(tmp_path / "root", import_roots=(str(tmp_path),), max_jobs=0) as (client, service):
        service.collections.noting._emit = lambda *event: told.append(event[2])
        collection = begun(client, copies(path))
        args = service.tasks.get("default", collection["task_id"]).body["job"]["args"]
        import_documents(args, ignore, CancelToken())
        client.delete(f"/v1/tasks/{collection['task_id']}")
        found = shown(client, collection)
        assert (found["status"], found["num_documents"], found["error"]) == ("READY", 3, None)
        assert not service.collections.imports.look()
        documents_ = f"/v1/collections/{collection['collection_id']}/documents/list"
        assert len(client.post(documents_, json={}).json()["results"]) == 3
    assert told == ["collection.created"]


def test_imports_of_several_files_end_right_though_worker_and_server_are_killed(tmp_path):
    n_files, n_rows = 5, 8_000
    for n in range(n_files):
        rows = documents(*range(n * n_rows, (n + 1) * n_rows))
        write_lines(tmp_path / f"{n}.jsonl", rows)
    options = ("--import-roots", str(tmp_path), "--hold-s", "2")
    server = Killable(tmp_path / "root", *options)
    client = server.start()
    collection = begun(client, copies(tmp_path / "*.jsonl", collection_id="col_killed"))
    data = tmp_path / "root/ns/default/collections/col_killed/data" / collection["task_id"]
    first = finished(data, 1)
    killed(server.process.pid)
    second = finished(data, 3)
    assert first.items() <= second.items()
    server.stop(signal.SIGKILL)
    client = server.start()
    try:
        done = ended(client, collection["task_id"])
        assert done["status"] == "COMPLETED", done
        found = shown(client, collection)
        assert (found["status"], found["version"]) == ("READY", 1)
        assert found["num_documents"] == n_files * n_rows
        assert second.items() <= finished(data, n_files).items()  # none was copied again
        assert len([*data.rglob("*"), *data.rglob(".*")]) == n_files  # and nothing else is there
        last = f"doc-{n_files * n_rows - 1}"
        assert client.get(f"/v1/collections/col_killed/documents/{last}").status_code == 200
    finally:
        server.stop()


def finished(data, n):
    """Return at least so many finished files, and what changes when one is written anew."""
    until = time.monotonic() + SECONDS
    while True:
        found = {path: path.stat().st_mtime_ns for path in data.glob("*.parquet")}
        if len(found) >= n:
            return found
        assert time.monotonic() < until, found
        time.sleep(0.01)


def test_nothing_that_is_kept_holds_a_secret(client, server, shop):
    for collection in client.post("/v1/collections/list", json={}).json()["results"]:
        assert SECRET not in str(collection)
    for path in server[1].settings.place.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert SECRET.encode() not in content
            assert OTHER.encode() not in content
