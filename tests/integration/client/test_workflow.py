"""Documents are sent, clustered, waited for and read, through the client alone."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpucluster.client import AsyncClient, Client
from gpucluster.client.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    TaskCanceledError,
    TaskFailedError,
    TaskPendingError,
)
from gpucluster.errors import ClientError, InputError, SourceNotFoundError
from tests.helpers.faulty import HALF_REPLY, LOST_REPLY, LOST_REQUEST
from tests.helpers.serving import TOKEN, serving
from tests.helpers.topics import documents as table_of

URI = "mixpeek://text_extractor@v1/text_embedding"
FEATURES = {URI: {"dim": 12, "column": "embedding"}}
KMEANS = {
    "feature_uri": URI,
    "clustering_method": "kmeans",
    "algorithm_params": {"n_clusters": 6, "n_init": 1},
}


def rows_of(batches):
    return pa.Table.from_batches(list(batches))


def plain(n_rows=60, seed=0):
    return table_of(n_rows, seed).select(["document_id", "text", "embedding"])


def test_copies_are_waited_for_and_an_import_that_fails_says_why(tmp_path):
    pq.write_table(plain(), tmp_path / "x.parquet")
    with (
        serving(tmp_path / "root", import_roots=(str(tmp_path),)) as (http, _),
        Client(str(http.base_url), TOKEN) as client,
    ):
        source = {"paths": [str(tmp_path / "x.parquet")], "copy": True}
        made = client.collections.create(collection_name="copies", features=FEATURES, source=source)
        assert (made.status, made.num_documents) == ("IMPORTING", 0)
        with pytest.raises(ConflictError, match=made.task_id):
            client.documents.get("copies", "x")
        done = client.collections.wait("copies")
        assert (done.status, done.num_documents, done.version) == ("READY", 60, 1)
        assert client.tasks.wait(done.task_id).additional_data["result"]["num_documents"] == 60
        with pytest.raises(ConflictError, match="came from no table"):
            client.collections.write_back("copies", columns=["text"])
        wrong = {URI: {"dim": 7, "column": "embedding"}}
        client.collections.create(collection_name="wrong", features=wrong, source=source)
        with pytest.raises(TaskFailedError, match="12 values, 7 expected"):
            client.collections.wait("wrong", timeout_s=60)


@pytest.fixture(scope="module")
def clustered(url):
    """A definition of 240 documents that was executed, and its run."""
    with Client(url, TOKEN) as client:
        collection = client.collections.create(collection_name="topics", features=FEATURES)
        added = client.documents.add("topics", table_of())
        assert (added.added, added.version) == (240, 2)
        made = client.clusters.create(
            cluster_name="by topic",
            collection_ids=[collection.collection_id],
            vector_config=KMEANS,
        )
        run = client.clusters.run("by topic")
        assert (run.status, run.num_clusters, run.num_points) == ("completed", 6, 240)
        assert len(run.centroids) == 6
        assert run.cluster_id == made.cluster_id
    return "by topic", run.run_id


def test_what_a_run_left(client, clustered):
    name, run_id = clustered
    assert client.clusters.get(name).status == "COMPLETED"
    assert run_id in [each.run_id for each in client.clusters.executions(name)]
    assert len(client.clusters.execution(name, run_id).centroids) == 6
    part = client.clusters.execution(name, run_id, limit=2, offset=1)
    assert [each.cluster_id for each in part.centroids] == ["cl_1", "cl_2"]
    assert (part.num_centroids, part.next_offset) == (6, 3)
    members = rows_of(client.clusters.members(name, run_id))
    assert members.num_rows == 240
    assert set(members["document_id"].to_pylist()) == {f"d0-{row}" for row in range(240)}
    few = client.clusters.members(name, run_id, columns=["cluster_id"], limit=7, offset=3)
    few = rows_of(few)
    assert few["cluster_id"].to_pylist() == members["cluster_id"].to_pylist()[3:10]
    assert few.column_names == ["cluster_id"]
    centroids = rows_of(client.clusters.centroids(name, run_id))
    shown = client.clusters.artifacts(name, run_id).centroids
    assert centroids["num_members"].to_pylist() == [each["num_members"] for each in shown]
    with pytest.raises(InvalidRequestError, match="no column nothing"):
        list(client.clusters.members(name, run_id, columns=["nothing"]))


def test_without_a_name_the_latest_run_is_meant(client, clustered):
    name, _ = clustered
    latest = next(each for each in client.clusters.executions(name) if each.status == "completed")
    assert client.clusters.artifacts(name).run_id == latest.run_id
    members = rows_of(client.clusters.members(name))
    assert members.equals(rows_of(client.clusters.members(name, latest.run_id)))


@pytest.mark.parametrize("what", ["members", "centroids"])
def test_a_stream_that_breaks_off_goes_on_with_the_next_row(
    client, broken, unlucky, clustered, what
):
    whole = rows_of(getattr(client.clusters, what)(*clustered))
    broken.script.extend([HALF_REPLY, LOST_REPLY, LOST_REQUEST, HALF_REPLY])
    pieced = rows_of(getattr(unlucky.clusters, what)(*clustered))
    assert pieced.equals(whole)
    assert len(broken.seen) >= 4


def test_new_documents_join(client, clustered):
    name, run_id = clustered
    client.documents.add("topics", table_of(30, seed=1))
    run = client.clusters.run(
        name, mode="assign", assignment_threshold="auto", source_run_id=run_id
    )
    assert (run.mode, run.base_run_id, run.num_points) == ("assign", run_id, 30)
    client.documents.delete("topics", document_ids=[f"d1-{row}" for row in range(30)])


@pytest.mark.parametrize("kind", ["table", "reader", "pandas", "pandas index", "polars", "dicts",
                                  "generator", "numpy", "parquet", "jsonl"])  # fmt: skip
def test_documents_of_any_kind(client, kind, tmp_path):
    table = plain()
    rows = table.to_pylist()
    if kind == "parquet":
        given = tmp_path / "a.parquet"
        pq.write_table(table, given)
    elif kind == "jsonl":
        given = tmp_path / "a.jsonl"
        pl.DataFrame(table).write_ndjson(given)
    else:
        given = {
            "table": lambda: table,
            "reader": table.to_reader,
            "pandas": table.to_pandas,
            "pandas index": lambda: table.to_pandas().set_index("document_id"),
            "polars": lambda: pl.DataFrame(table),
            "dicts": lambda: rows,
            "generator": lambda: iter(rows),
            "numpy": lambda: [{**row, "embedding": np.array(row["embedding"])} for row in rows],
        }[kind]()
    name = client.collections.create(features=FEATURES).collection_id
    assert client.documents.add(name, given).added == 60
    there = rows_of(client.documents.batches(name, include_vectors=True))
    assert there.column_names.count("document_id") == 1
    assert sorted(there.column_names) == sorted(table.column_names)
    assert there["document_id"].to_pylist() == table["document_id"].to_pylist()
    X = np.array(there["embedding"].to_pylist())
    np.testing.assert_allclose(X, np.array(table["embedding"].to_pylist()), rtol=1e-6)


@pytest.mark.parametrize("fault", [LOST_REQUEST, LOST_REPLY, HALF_REPLY])
@pytest.mark.parametrize("kind", ["table", "dicts"])
def test_documents_are_added_once(client, broken, unlucky, fault, kind):
    given = plain() if kind == "table" else plain().to_pylist()
    name = client.collections.create(features=FEATURES).collection_id
    broken.script.extend([fault, fault])
    assert unlucky.documents.add(name, given).added == 60
    assert len(broken.seen) == 3
    shown = client.collections.get(name)
    assert (shown.num_documents, shown.version) == (60, 2)


def test_what_can_be_read_once_is_sent_once(client, broken, unlucky):
    name = client.collections.create(features=FEATURES).collection_id
    broken.script.append(LOST_REQUEST)
    with pytest.raises(ClientError):
        unlucky.documents.add(name, iter(plain().to_pylist()))
    assert len(broken.seen) == 1
    assert client.collections.get(name).num_documents == 0


def test_what_is_no_upload(client, tmp_path):
    name = client.collections.create(features=FEATURES).collection_id
    for wrong in (tmp_path / "a.csv", {"document_id": "a"}, 3):
        with pytest.raises(InputError):
            client.documents.add(name, wrong)
    with pytest.raises(SourceNotFoundError):
        client.documents.add(name, tmp_path / "none.parquet")
    with pytest.raises(InvalidRequestError, match="no list of numbers"):
        client.documents.add(name, [{"document_id": "a", "embedding": "b"}])


def test_documents_are_listed_counted_shown_and_taken_away(client, monkeypatch):
    monkeypatch.setattr("gpucluster.client.endpoints.PAGE", 25)
    name = client.collections.create(features=FEATURES).collection_id
    client.documents.add(name, table_of(60))
    listed = list(client.documents.list(name, fields=["topic"]))
    assert [each["document_id"] for each in listed] == [f"d0-{row}" for row in range(60)]
    facets = client.documents.facets(name, fields=["topic"]).facets["topic"]
    assert sum(each.count for each in facets.values) == 60
    shown = client.documents.get(name, "d0-7", include_vectors=True)
    assert len(shown["embedding"]) == 12
    with pytest.raises(NotFoundError):
        client.documents.get(name, "none")
    removed = client.documents.delete(name, filters={"topic": facets.values[0].value})
    assert removed.removed == facets.values[0].count
    assert [each.made_by for each in client.collections.versions(name)][-1] == "create"
    client.documents.add(name, [{"document_id": "a/b?c", "embedding": [1.0] * 12}])
    assert client.documents.get(name, "a/b?c")["document_id"] == "a/b?c"
    with pytest.raises(ConflictError):
        client.documents.delete(name, document_ids=["a/b?c"], expected_version=1)
    assert client.collections.delete(name, delete_artifacts=True).artifacts_deleted


def test_a_task_that_fails_says_why(client):
    collection = client.collections.create(features=FEATURES)
    client.documents.add(collection.collection_id, plain(3))
    made = client.clusters.create(collection_ids=[collection.collection_id], vector_config=KMEANS)
    task = client.clusters.execute(made.cluster_id)
    with pytest.raises(TaskFailedError, match=task.task_id) as caught:
        client.tasks.wait(task)
    assert caught.value.task.error in str(caught.value)
    with pytest.raises(TaskFailedError):
        client.clusters.run(made.cluster_id)


def test_a_task_is_followed_to_its_end(client, broken, unlucky, clustered):
    task = client.clusters.execute(clustered[0])
    broken.script.extend([LOST_REQUEST, HALF_REPLY])
    seen = list(unlucky.tasks.follow(task))
    assert seen[-1].status == "COMPLETED"
    assert client.tasks.wait(task) == seen[-1]
    assert next(client.tasks.list(status="COMPLETED")).task_id == task.task_id


def test_waiting_has_an_end(tmp_path):
    with serving(tmp_path, max_jobs=0) as (http, _), Client(str(http.base_url), TOKEN) as client:
        made = client.collections.create(features=FEATURES)
        client.documents.add(made.collection_id, plain())
        cluster = client.clusters.create(collection_ids=[made.collection_id], vector_config=KMEANS)
        task = client.clusters.execute(cluster.cluster_id)
        with pytest.raises(TaskPendingError, match="PENDING"):
            client.tasks.wait(task, timeout_s=0.05)
        with pytest.raises(ConflictError, match="is being executed") as caught:
            client.clusters.execute(cluster.cluster_id)
        run_id = caught.value.details["run_id"]
        followed = threading.Thread(target=lambda: seen.extend(client.tasks.follow(task)))
        seen = []
        followed.start()
        assert client.clusters.cancel(cluster.cluster_id, run_id).status == "canceled"
        followed.join()
        assert seen[-1].status == "CANCELED"
        with pytest.raises(TaskCanceledError):
            client.tasks.wait(task)
        assert client.tasks.cancel(task).success


def test_all_of_it_awaited(url):
    async def work():
        async with AsyncClient(url, TOKEN) as client:
            made = await client.collections.create(features=FEATURES)
            await client.documents.add(made.collection_id, plain(120))
            cluster = await client.clusters.create(
                collection_ids=[made.collection_id], vector_config=KMEANS
            )
            task = await client.clusters.execute(cluster.cluster_id)
            seen = [each async for each in client.tasks.follow(task)]
            done = await client.tasks.wait(task)
            members = [each async for each in client.clusters.members(cluster.cluster_id)]
            listed = [
                each["document_id"] async for each in client.documents.list(made.collection_id)
            ]
            return seen, done, members, listed

    seen, done, members, listed = asyncio.run(work())
    assert seen[-1] == done
    assert rows_of(members).num_rows == len(listed) == 120


def test_clusters_become_columns_and_nodes(client, clustered, broken, unlucky):
    name, run_id = clustered
    enriched = client.clusters.enrich(name, run_id=run_id, fields=("cluster_id",))
    assert (enriched.status, enriched.enriched, enriched.failed) == ("COMPLETED", 240, 0)
    assert "cluster_id" in client.documents.get("topics", "d0-0")
    client.collections.undo_enrichment("topics", run_id)
    assert "cluster_id" not in client.documents.get("topics", "d0-0")
    broken.script.extend([LOST_REPLY, LOST_REQUEST])
    made = unlucky.clusters.promote(name, run_id=run_id, taxonomy_name="topics of today")
    assert (made.version, made.num_nodes) == (1, 6)
    assert [each.taxonomy_id for each in client.taxonomies.list()] == [made.taxonomy_id]
    assert client.taxonomies.get("topics of today") == made
    nodes = client.taxonomies.nodes(made.taxonomy_id).nodes
    task = client.tasks.wait(
        client.taxonomies.apply(made.taxonomy_id, collection_id=collection_id_of(client))
    )
    (applied,) = client.taxonomies.applications(made.taxonomy_id)
    assert applied.task_id == task.task_id
    joined = rows_of(client.taxonomies.members(made.taxonomy_id, applied.run_id))
    assert joined.num_rows == applied.num_documents == 240
    assert set(joined["cluster_id"].to_pylist()) <= {each["node_id"] for each in nodes} | {"-1"}
    second = client.taxonomies.create_version(
        made.taxonomy_id, cluster_id=name, run_id=run_id, threshold=0.5
    )
    assert second.version == 2
    assert [each.version for each in client.taxonomies.versions(made.taxonomy_id)] == [2, 1]
    assert client.taxonomies.delete(made.taxonomy_id).success


def collection_id_of(client):
    return client.collections.get("topics").collection_id


def test_webhooks(client):
    made = client.webhooks.create(
        webhook_name="ours",
        event_types=["cluster.created"],
        channels=[{"channel": "webhook", "configs": {"url": "https://example.com/hook"}}],
        is_active=False,
    )
    assert made.secret.startswith("whsec_")
    assert client.webhooks.get("ours").webhook_id == made.webhook_id
    assert [each.webhook_name for each in client.webhooks.list()] == ["ours"]
    assert client.webhooks.rotate_secret("ours").secret != made.secret
    assert list(client.webhooks.deliveries("ours")) == []
    assert client.webhooks.delete("ours") is None
    with pytest.raises(NotFoundError):
        client.webhooks.get("ours")


def test_triggers(client, clustered, monkeypatch):
    monkeypatch.setattr("gpucluster.client.triggers.PAGE", 2)
    cluster_id = client.clusters.get(clustered[0]).cluster_id
    made = [
        client.triggers.create(
            "interval",
            {"interval_seconds": 3600 + number},
            cluster_id=cluster_id,
            mode="assign",
        )
        for number in range(5)
    ]
    first = made[0]
    assert (first.mode, first.status, first.trigger_type) == ("assign", "active", "interval")
    assert client.triggers.get(first.trigger_id).model_dump() == first.model_dump(
        exclude={"secret"}
    )
    listed = [each.trigger_id for each in client.triggers.list(cluster_id=cluster_id)]
    assert sorted(listed) == sorted(each.trigger_id for each in made)
    assert client.triggers.pause(first.trigger_id).status == "paused"
    assert client.triggers.resume(first.trigger_id).status == "active"
    changed = client.triggers.update(first.trigger_id, description="each hour")
    assert changed.description == "each hour"
    assert list(client.triggers.history(first.trigger_id)) == []
    with pytest.raises(InvalidRequestError, match="interval_seconds"):
        client.triggers.create("interval", {"interval_seconds": 1}, cluster_id=cluster_id)
    for each in made:
        assert client.triggers.delete(each.trigger_id) is None
    with pytest.raises(NotFoundError):
        client.triggers.get(first.trigger_id)
