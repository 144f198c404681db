"""Two servers share a PostgreSQL and a folder, and are killed in turn."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpucluster.artifacts import open_store
from gpucluster.artifacts.run import Run
from gpucluster.service.catalog import open_catalog
from gpucluster.service.catalog.port import Catalog, Query, Record, utc_now
from gpucluster.service.collections.compacting import sweep
from gpucluster.service.collections.incoming import Limits
from gpucluster.service.collections.library import Library
from gpucluster.service.settings import ServiceSettings
from gpucluster.service.tasks import KIND as TASK
from gpucluster.service.tasks import Tasks
from gpucluster.service.triggers.record import KIND as TRIGGER
from gpucluster.service.triggers.record import record_of, trigger_of
from gpucluster.service.webhooks.events import EVENT
from gpucluster.service.webhooks.records import kind_of_deliveries
from gpucluster.service.wiring import Service
from gpucluster.wire.tasks import LIVE
from tests.helpers.documents import ids
from tests.helpers.faults import temporary_files
from tests.helpers.pairs import Pair, wait_for
from tests.helpers.receivers import receiving

NS = "default"
URI = "mixpeek://text_extractor@v1/text_embedding"
DIM, FIRST, BATCH = 8, 120, 10
DOCS, ENRICHED = "col_docs", "col_enriched"
SIZES = {"by_hand": 2, "enriches": 3, "on_time": 4, "on_documents": 5}  # clusters of definitions
KILLS = 6
MOST = 30  # turns of a client
LATER = timedelta(seconds=75)  # than what a server that dies may hold: triggers, deliveries
PRIVATE = {"outbound_hosts": "127.0.0.1", "outbound_http_hosts": "127.0.0.1"}
EVENTS = (
    *("collection.created", "collection.updated", "collection.documents.written"),
    *("cluster.created", "cluster.execution.started", "cluster.execution.completed"),
    *("cluster.execution.failed", "trigger.created", "trigger.fired"),
    *("trigger.execution.completed", "trigger.execution.failed"),
)

# what tells events of one kind about one thing apart
KEYS = {
    **dict.fromkeys(("collection.documents.written", "collection.updated"), "version"),
    **dict.fromkeys(("cluster.execution.started", "cluster.execution.completed"), "run_id"),
    **dict.fromkeys(("trigger.fired", "trigger.execution.completed"), "run_id"),
}


@dataclass
class Sent:
    """What servers have said that they did.

    Attributes
    ----------
    documents : dict
        Ids by collection.
    clusters : dict
        Ids of definitions by name.
    tasks : set
        Of executions that were asked for.
    due : list
        Times at which the trigger of times was due.
    """

    documents: dict[str, set[str]] = field(default_factory=dict)
    clusters: dict[str, str] = field(default_factory=dict)
    tasks: set[str] = field(default_factory=set)
    due: list[str] = field(default_factory=list)


class Client:
    """Somebody who asks until there is an answer.

    Parameters
    ----------
    pair : Pair
    sent : Sent
        Gets what was done.
    chance : random.Random
    """

    def __init__(self, pair: Pair, sent: Sent, chance: random.Random) -> None:
        self._pair = pair
        self._sent = sent
        self.chance = chance

    def ask(self, method: str, path: str, *also: int, **how: Any) -> Any:
        answer = self._pair.ask(self.chance, method, path, **how)
        assert answer.is_success or answer.status_code in also, answer.text
        return answer.json() if answer.is_success else None

    def collect(self, name: str, n: int) -> None:
        """Make a collection with documents; it may have been made, and the answer lost."""
        body = {"collection_id": name, "features": {URI: {"column": "embedding", "dim": DIM}}}
        if self.ask("POST", "/v1/collections", 409, json=body) is None:
            assert self.ask("GET", f"/v1/collections/{name}")["collection_id"] == name
        self.append(name, f"{name}-first", n)

    def append(self, name: str, prefix: str, n: int) -> None:
        rng = np.random.default_rng(self.chance.getrandbits(32))
        X = rng.normal(size=(n, DIM)) + 6 * np.eye(DIM)[np.arange(n) % 5]
        names = [f"{prefix}-{i}" for i in range(n)]
        rows = [
            {"document_id": each, "embedding": row.round(3).tolist()}
            for each, row in zip(names, X, strict=True)
        ]
        path = f"/v1/collections/{name}/documents"
        self.ask("POST", path, json={"documents": rows}, params={"on_duplicate": "skip"})
        self._sent.documents.setdefault(name, set()).update(names)

    def define(self, name: str, collection: str, n_clusters: int, **more: Any) -> str:
        config = {"clustering_method": "kmeans", "algorithm_params": {"n_clusters": n_clusters}}
        body = {
            "cluster_name": name,
            "collection_ids": [collection],
            "vector_config": {"feature_uri": URI, **config},
            **more,
        }
        made = self.ask("POST", "/v1/clusters", 409, json=body)
        found = made or self.ask("GET", f"/v1/clusters/{name}")
        self._sent.clusters[name] = found["cluster_id"]
        return found["cluster_id"]

    def execute(self, cluster: str) -> None:
        task = self.ask("POST", f"/v1/clusters/{cluster}/execute", 409, json={})
        if task is not None:  # otherwise it runs already
            self._sent.tasks.add(task["task_id"])

    def read(self, cluster: str) -> None:
        """Look at a definition, at its runs, and at documents."""
        found = self.ask("GET", f"/v1/clusters/{cluster}")
        assert found["status"] in {"PENDING", "IN_PROGRESS", "COMPLETED"}, found
        runs = self.ask("POST", f"/v1/clusters/{cluster}/executions/list", json={})["results"]
        assert sum(run["status"] in {"pending", "processing"} for run in runs) <= 1, runs
        path = f"/v1/collections/{DOCS}/documents/list"
        self.ask("POST", path, json={}, params={"limit": 50})


@pytest.mark.slow
def test_two_servers_that_are_killed_in_turn_lose_nothing_and_do_nothing_twice(
    tmp_path, postgres, monkeypatch
):
    seed = random.getrandbits(32)  # of the order of tests
    url, root = postgres.make_place(), tmp_path / "root"
    options = ["--catalog", url, "--hold-s", "2"]
    for name, host in PRIVATE.items():
        options += [f"--{name.replace('_', '-')}", host]
    sent = Sent()
    with (
        closing(open_catalog(url)) as catalog,
        receiving(lambda _: 200, None) as receiver,
        Pair(root, monkeypatch, *options) as pair,
    ):
        hook, triggers = _begin(Client(pair, sent, random.Random(seed)), receiver)
        _go_on(pair, sent, catalog, triggers["on_time"], seed)
        _settle(catalog, sent, pair)
        assert set(pair.stop()) <= {0, 143}, pair.said()
        wait_for(lambda: not pair.left(), lambda: f"{pair.left()} are left")
        _finish_later(root, url, hook)
        found = _found(root, catalog, sent)
        _check_tasks(found)
        _check_runs(found)
        _check_triggers(found, triggers)
        _check_collections(found)
        _check_events(found, receiver, hook)
        assert temporary_files(root) == []
        assert pair.left() == []


def _finish_later(root: Path, url: str, hook: str) -> None:
    """Let a server finish what the others have left, when nothing that they held is theirs."""
    catalog = open_catalog(url, clock=lambda: utc_now() + LATER)
    service = Service(ServiceSettings(root=str(root), device="cpu", **PRIVATE), catalog)
    service.start()
    try:
        wait_for(lambda: not _open_ends(catalog, hook), lambda: _open_ends(catalog, hook))
    finally:
        service.stop()


def _found(root: Path, catalog: Catalog, sent: Sent) -> SimpleNamespace:
    """Return what is there in the end."""
    histories = {
        each.id: [dict(entry.body) for entry in _records(catalog, "trigger_history", each.id)]
        for each in _records(catalog, TRIGGER)
    }
    return SimpleNamespace(
        root=root,
        catalog=catalog,
        sent=sent,
        executions=_records(catalog, "execution"),
        histories=histories,
        library=Library(root, catalog, Limits(), (), Tasks(catalog, 0), lambda *_: None),
    )


def _begin(client: Client, receiver: Any) -> tuple[str, dict[str, str]]:
    """Make what is worked on; return the ids of the webhook and, by name, of the triggers."""
    address = f"http://127.0.0.1:{receiver.port}/"
    body = {
        "webhook_name": "everything",
        "event_types": EVENTS,
        "channels": [{"channel": "webhook", "configs": {"url": address}}],
    }
    hook = client.ask("POST", "/v1/organizations/webhooks", json=body)["webhook_id"]
    client.collect(DOCS, FIRST)
    client.collect(ENRICHED, FIRST)
    schedules = {
        "on_time": ("interval", {"interval_seconds": 366 * 24 * 3600}),
        "on_documents": (
            "event",
            {
                "event_type": "documents_added",
                "event_threshold": 2 * BATCH,
                "collection_id": DOCS,
                "cooldown_seconds": 0,
            },
        ),
    }
    triggers = {}
    for name, n_clusters in SIZES.items():
        is_enriching = name == "enriches"
        collection = ENRICHED if is_enriching else DOCS
        more = {"enrich_source_collection": True} if is_enriching else {}
        cluster = client.define(name, collection, n_clusters, **more)
        if name in schedules:
            kind, schedule = schedules[name]
            body = {"trigger_type": kind, "cluster_id": cluster, "schedule_config": schedule}
            triggers[name] = client.ask("POST", "/v1/clusters/triggers", json=body)["trigger_id"]
    return hook, triggers


def _go_on(pair: Pair, sent: Sent, catalog: Catalog, trigger: str, seed: int) -> None:
    """Let clients work while servers are killed, for as long as they have something to do."""
    is_over = threading.Event()

    def fill(n: int) -> None:
        client = Client(pair, sent, random.Random(seed + n))
        for k in range(MOST):
            client.append(DOCS, f"{n}-{k}", BATCH)
            if k % 8 == 4:
                client.collect(f"col_{n}_{k}", 5)
            if is_over.wait(client.chance.uniform(0.1, 0.9)):
                return

    def run(n: int) -> None:
        client = Client(pair, sent, random.Random(seed + n))
        for k in range(MOST):
            name = client.chance.choice(["by_hand", "enriches"])
            client.execute(sent.clusters[name])
            client.read(sent.clusters[client.chance.choice(list(SIZES))])
            if k == 2:
                client.execute(client.define("late", DOCS, 4))
            if is_over.wait(client.chance.uniform(0.5, 1.5)):
                return

    def tick(n: int) -> None:
        """Let the time of an interval come: the least that it may have is longer than this."""
        client = Client(pair, sent, random.Random(seed + n))
        while not is_over.wait(1):
            now = utc_now()
            with catalog.writing() as tx:
                record = tx.get(NS, TRIGGER, trigger)
                planned = trigger_of(record)
                is_seen_to = planned.next_scheduled_at > now
                if is_seen_to:
                    tx.replace(record_of(record, planned.changed(next_scheduled_at=now)))
            if is_seen_to:
                sent.due.append(now)
                client.ask(
                    "PATCH", f"/v1/clusters/triggers/{trigger}", json={"description": str(now)}
                )

    def kill() -> None:
        chance = random.Random(seed)
        try:
            for n in range(KILLS):
                pair.kill(n % 2, chance, at_work=n % 3 > 0)
        finally:
            is_over.set()

    with ThreadPoolExecutor(5) as threads:
        work = [threads.submit(fill, 1), threads.submit(fill, 2), threads.submit(run, 3)]
        work += [threads.submit(tick, 4), threads.submit(kill)]
    for each in work:
        each.result()


def _settle(catalog: Catalog, sent: Sent, pair: Pair) -> None:
    """Wait until no task is left to the two."""

    def live() -> list[tuple[str, str | None]]:
        return [(each.id, each.status) for each in _records(catalog, TASK) if each.status in LIVE]

    wait_for(lambda: not live(), lambda: f"{live()} are live\n{pair.said()}", 90)


def _open_ends(catalog: Catalog, hook: str) -> list[Any]:
    """Return what somebody still has to see to."""
    with catalog.reading() as tx:
        triggers = tx.page(NS, TRIGGER, Query()).records
        pending = Query(status="pending", limit=1000)
        found = [*tx.page(NS, kind_of_deliveries(NS, hook), pending).records]
        found += tx.page(NS, EVENT, Query(limit=1000)).records
        for status in LIVE:
            found += tx.page(NS, TASK, Query(status=status)).records
    for each in triggers:  # a claim moves the time of the record, and not that of the trigger
        planned = trigger_of(each).next_scheduled_at
        if planned is not None and planned <= catalog.clock():
            found.append(each)
    return [(each.kind, each.id, each.status, each.due_at) for each in found]


def _records(catalog: Catalog, kind: str, parent: str | None = None) -> list[Record]:
    with catalog.reading() as tx:
        query = Query(limit=10_000, direction="asc", parent=parent)
        return list(tx.page(NS, kind, query).records)


def _check_tasks(found: Any) -> None:
    """What was asked for is done, and nothing of it has failed."""
    tasks = {each.id: each for each in _records(found.catalog, TASK)}
    wrong = [(each.id, each.status, each.body) for each in tasks.values()
             if each.status != "COMPLETED"]  # fmt: skip
    assert wrong == []
    assert tasks.keys() >= found.sent.tasks
    builds = {k for k, each in tasks.items() if each.body["task_type"] == "engine_cluster_build"}
    assert Counter(each.body["task_id"] for each in found.executions) == Counter(builds)


def _check_runs(found: Any) -> None:
    """Executions left runs that are whole; definitions say what came of them."""
    names = {cluster: name for name, cluster in found.sent.clusters.items()}
    for cluster in _records(found.catalog, "cluster"):
        runs = [each for each in found.executions if each.parent == cluster.id]
        n_clusters = {**SIZES, "late": 4}[names.pop(cluster.id)]
        for each in runs:
            assert (each.status, each.body["num_clusters"]) == ("completed", n_clusters)
            run = Run.open(each.body["artifacts"]["path"], verify=True)
            assert (run.run_id, run.num_clusters) == (each.id, n_clusters)
            assert run.manifest.counts.num_points == each.body["num_points"]
        folder = found.root / "ns" / NS / "clusters" / cluster.id
        assert {path.name for path in folder.iterdir()} == {each.id for each in runs}
        body = cluster.body
        assert (cluster.status, body["live_run_id"]) == ("COMPLETED", None)
        assert (body["num_executions"], body["last_run_id"]) == (len(runs), runs[-1].id)
    assert names == {}


def _check_triggers(found: Any, triggers: dict[str, str]) -> None:
    """Each time that one was due stands once in its history, and led to one execution at most."""
    for name, trigger in triggers.items():
        history = found.histories[trigger]
        times = Counter(entry["scheduled_at"] for entry in history)
        assert set(times.values()) == {1}, times
        assert {entry["status"] for entry in history} <= {"completed", "skipped"}, history
        started = Counter(entry["job_id"] for entry in history if entry["job_id"])
        runs = [each for each in found.executions if each.body["trigger_id"] == trigger]
        assert started == Counter(each.id for each in runs)
        assert {each.parent for each in runs} == {found.sent.clusters[name]}
    on_time = {entry["scheduled_at"] for entry in found.histories[triggers["on_time"]]}
    due = {each.isoformat().replace("+00:00", "Z") for each in found.sent.due}
    assert on_time == due


def _check_collections(found: Any) -> None:
    """Each document is there once, versions have no gaps, and nothing else lies there."""
    records = {each.id: each for each in _records(found.catalog, "collection")}
    assert records.keys() == found.sent.documents.keys()
    store = open_store(found.root)
    for name, record in records.items():
        opened = found.library.open(NS, name)
        numbers = opened.versions.numbers()
        assert numbers == list(range(1, len(numbers) + 1))
        assert record.body["version"] == numbers[-1]
        there = ids(opened.versions)
        assert Counter(there) == Counter(found.sent.documents[name])
        assert record.body["num_documents"] == len(there)
        sweep(store, opened.versions, timedelta(0))  # what `compact` does, a day earlier
        named = {Path(file.name).name for n in numbers for file in opened.versions.read(n).files}
        folder = found.root / opened.versions.folder / "data"
        assert {path.name for path in folder.iterdir()} == named


def _check_events(found: Any, receiver: Any, hook: str) -> None:
    """Each event arrived, under one id; what happened once was told as one event."""
    deliveries = _records(found.catalog, kind_of_deliveries(NS, hook))
    assert {each.status for each in deliveries} == {"delivered"}
    events = {each.body["event"]["event_id"]: each.body["event"] for each in deliveries}
    assert {call.headers["webhook-id"] for call in receiver.accepted} == events.keys()
    bodies: dict[str, set[bytes]] = {}
    for call in receiver.calls:
        bodies.setdefault(call.headers["webhook-id"], set()).add(call.body)
    assert {len(each) for each in bodies.values()} == {1}
    told = Counter(
        (
            each["event_type"],
            each["subject"]["id"],
            each["metadata"].get(KEYS.get(each["event_type"])),
        )
        for each in events.values()
    )
    expected = Counter(("cluster.created", each, None) for each in found.sent.clusters.values())
    for each in found.executions:
        cluster = each.parent
        expected["cluster.execution.started", cluster, each.id] += 1
        expected["cluster.execution.completed", cluster, each.id] += 1
        if each.body["trigger_id"] is not None:
            expected["trigger.fired", each.body["trigger_id"], each.id] += 1
            expected["trigger.execution.completed", each.body["trigger_id"], each.id] += 1
    for trigger in found.histories:
        expected["trigger.created", trigger, None] += 1
    for name in found.sent.documents:
        versions = found.library.open(NS, name).versions
        expected["collection.created", name, None] += 1
        for number in versions.numbers()[1:]:
            is_written = versions.read(number).made_by == "append"
            kind = "collection.documents.written" if is_written else "collection.updated"
            expected[kind, name, number] += 1
    assert told == expected
