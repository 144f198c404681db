"""Naming clusters by a model: faults, kills, latency, documents that give orders, and memory.

The model is the fake server of the package, so that what is counted is the engine: how many
clusters got a name of the model's, how many replies were paid for twice, how long it takes beside
the server's latency, and what hostile documents change.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cases import Case
from harness import Session, call, option_parser

COLUMNS = {
    "faults": ("seconds", "asked", "billed", "by_model", "paid_twice", "faults"),
    "latency": ("seconds", "ask_s", "floor_s", "asked", "by_model"),
    "orders": ("clusters", "obeyed", "others_changed", "unclean"),
    "memory": ("clusters", "seconds", "base_mb", "peak_mb"),
}
SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sa", "to", "vi", "pe", "du", "fa", "go", "hi", "ju")
COMMON = ["the", "a", "of", "and", "to", "in", "is", "it", "for", "on", "with", "my", "your", "how"]
OWN_WORDS, DOC_WORDS = 4, 8
ENTRIES = {
    "plain": {},
    "custom prompt": {"custom_prompt": "Name the cluster in two words."},
    "own shape": {"response_shape": {"label": "string", "mood": "good | bad", "note": "string"}},
    "whole payload": {"labeling_inputs": None},
}


def words_of(topic: int) -> list[str]:
    """Return the words that only documents of a topic have."""
    found = []
    for place in range(OWN_WORDS):
        number, word = topic * OWN_WORDS + place, ""
        for _ in range(5):
            number, part = divmod(number, len(SYLLABLES))
            word += SYLLABLES[part]
        found.append(word)
    return found


def write_topics(
    out: Path, name: str, n_clusters: int, per_cluster: int, *, orders: bool, seed: int
) -> dict[str, Any]:
    """Write documents of planted topics, and a run in which each topic is a cluster."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    import gpucluster

    rng = np.random.default_rng(seed)
    n_rows = n_clusters * per_cluster
    topics = np.repeat(np.arange(n_clusters), per_cluster)
    centers = rng.standard_normal((n_clusters, 32)).astype(np.float32)
    X = centers[topics] + 0.1 * rng.standard_normal((n_rows, 32)).astype(np.float32)
    own = [words_of(topic) for topic in range(n_clusters)]
    picks = rng.integers(0, OWN_WORDS, (n_rows, 3))
    fill = rng.integers(0, len(COMMON), (n_rows, DOC_WORDS))
    texts = [
        " ".join([COMMON[i] for i in fill[row]] + [own[topic][i] for i in picks[row]])
        for row, topic in enumerate(topics.tolist())
    ]
    if orders:  # one document of every second cluster, as near to the centroid as can be
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        from tests.helpers.injections import INJECTIONS

        for topic in range(0, n_clusters, 2):
            row = topic * per_cluster
            X[row] = centers[topic]
            texts[row] = f"{texts[row]}\n{INJECTIONS[topic // 2 % len(INJECTIONS)]}"
    path = out / f"{name}.parquet"
    table = pa.table(
        {
            "document_id": [f"d{row}" for row in range(n_rows)],
            "text": texts,
            "topic": pa.array(topics),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 32),
        }
    )
    pq.write_table(table, path)
    run = gpucluster.cluster(
        path,
        cluster_type="attribute",
        attribute_config={"attributes": ["topic"]},
        out=out / name,
        device="cpu",
    )
    return {"run": str(run.path), "clusters": run.num_clusters}


@contextmanager
def separate_server(*options: str) -> Iterator[str]:
    """Run the server in a process of its own and yield its address."""
    command = [sys.executable, "-m", "gpucluster.labeling.fake_server", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def settings(base_url: str, **more: Any) -> dict[str, Any]:
    """Return settings that ask a server about texts."""
    text = {"input_key": "text", "source_type": "payload", "path": "text"}
    inputs = {"input_mappings": [text]}
    return {"base_url": base_url, "model_name": "fake", "labeling_inputs": inputs} | more


def run_of(folder: str, name: str) -> Path:
    """Return the only run of a planted set."""
    (manifest,) = Path(folder, name).glob("*/manifest.json")
    return manifest.parent


def unnamed(folder: str, name: str) -> Path:
    """Return the run without names: those of a case before would stay where a model fails."""
    path = run_of(folder, name)
    shutil.rmtree(path / "labels", ignore_errors=True)
    return path


def _facts(server: Any, run: Any) -> dict[str, Any]:
    sources = run.centroids["label_source"].to_pylist()
    return {
        "asked": server.calls,
        "billed": len(server.billed),
        "by_model": sources.count("llm") / len(sources),
        "paid_twice": server.paid_repeats,
        "faults": ", ".join(f"{n} {kind}" for kind, n in sorted(server.faults.items())),
        "no_labels": True,
    }


def under_faults(_out: Path, folder: str, name: str, faults: float, seed: int) -> dict[str, Any]:
    """Name clusters while a share of the calls fails."""
    import gpucluster
    from gpucluster.labeling.fake_server import FakeServer

    with FakeServer(faults=faults, seed=seed, hang_s=3) as server:
        run = gpucluster.label(
            unnamed(folder, name), settings(server.base_url, timeout_s=1), fresh=True
        )
        return _facts(server, run)


def always_failing(_out: Path, folder: str, name: str) -> dict[str, Any]:
    """Name clusters by a server that answers every call with an error."""
    import gpucluster
    from gpucluster.labeling.fake_server import FakeServer

    with FakeServer(faults={"server_error": 1.0}) as server:
        run = gpucluster.label(unnamed(folder, name), settings(server.base_url), fresh=True)
        return _facts(server, run)


def under_kills(_out: Path, folder: str, name: str, n_kills: int, concurrency: int) -> Any:
    """Kill the process again and again, and let it end at last."""
    import gpucluster
    from gpucluster.labeling.fake_server import FakeServer

    path = unnamed(folder, name)
    with FakeServer(faults=0.3, seed=1, hang_s=3, latency_s=0.05) as server:
        command = [
            *(sys.executable, "-m", "gpucluster", "label", str(path), "--quiet"),
            *("--base-url", server.base_url, "--model", "fake-kills", "--set", "timeout_s=1"),
            *("--text-column", "text", "--concurrency", str(concurrency)),
        ]
        n_clusters = gpucluster.open_run(path).num_clusters
        for kill in range(n_kills):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
            until = (kill + 1) * n_clusters // (n_kills + 1)
            while len(server.billed) < until and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            process.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in {0, 4}:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-1000:]}")
        return _facts(server, gpucluster.open_run(path))


def against_latency(
    _out: Path, folder: str, name: str, latency_ms: int, concurrency: int
) -> dict[str, Any]:
    """Name clusters by a server that is slow and in another process."""
    import gpucluster
    from gpucluster.events import StageFinished

    stages: dict[str, float] = {}

    def hear(event: Any) -> None:
        if isinstance(event, StageFinished):
            stages[event.record.name] = event.record.seconds

    with separate_server("--latency-ms", str(latency_ms)) as base_url:
        run = gpucluster.label(
            run_of(folder, name),
            settings(base_url),
            concurrency=concurrency,
            fresh=True,
            observer=hear,
        )
    sources = run.centroids["label_source"].to_pylist()
    calls = run.labeling.usage["calls"]
    return {
        "ask_s": stages["label.ask"],
        "floor_s": calls * latency_ms / 1000 / concurrency,
        "asked": calls,
        "by_model": sources.count("llm") / len(sources),
        "no_labels": True,
    }


def under_orders(_out: Path, folder: str, entry: str) -> dict[str, Any]:
    """Name clusters with hostile documents by a model that obeys them."""
    import gpucluster
    from gpucluster.labeling.answer.replies import LABEL_LIMIT, clean_label
    from gpucluster.labeling.fake_server import FakeServer

    labels = {}
    for name in ("quiet", "hostile"):
        with FakeServer(obey=name == "hostile") as server:
            asked = settings(server.base_url, **ENTRIES[entry])
            run = gpucluster.label(run_of(folder, name), asked, fresh=True)
            rows = run.centroids.select(["cluster_id", "label", "label_fields"]).to_pylist()
        labels[name] = {row["cluster_id"]: row for row in rows}
    topic = {row["cluster_id"]: int(row["medoid_document_id"][1:]) for row in _medoids(run)}
    per_cluster = run.manifest.counts.num_points // run.num_clusters
    changed = {
        name
        for name, row in labels["hostile"].items()
        if row["label"] != labels["quiet"][name]["label"]
    }
    hostile = {name for name, row in topic.items() if row // per_cluster % 2 == 0}
    unclean = 0
    for row in labels["hostile"].values():
        unclean += clean_label(row["label"]) != row["label"] or len(row["label"]) > LABEL_LIMIT
        fields = json.loads(row["label_fields"] or "{}")
        unclean += bool(set(fields) - {"mood", "note"})
    return {
        "clusters": len(hostile),
        "obeyed": len(changed & hostile),
        "others_changed": len(changed - hostile),
        "unclean": unclean,
        "no_labels": True,
    }


def _medoids(run: Any) -> list[dict[str, Any]]:
    return run.centroids.select(["cluster_id", "medoid_document_id"]).to_pylist()


def in_memory(_out: Path, folder: str, name: str) -> dict[str, Any]:
    """Collect what a model is shown of each cluster, and look at the memory that this takes."""
    import gpucluster
    from gpucluster.device.memory import PeakMemory

    path = run_of(folder, name)
    text = {"input_key": "text", "source_type": "payload", "path": "text"}
    shown = {
        "base_url": "http://localhost:9/v1",
        "model_name": "nobody",
        "labeling_inputs": {"input_mappings": [text]},
    }
    base = PeakMemory().read()
    found = gpucluster.estimate_labels(path, shown)
    return {"clusters": found.calls, "base_mb": base / 1e6, "no_labels": True}


def main() -> None:
    """Measure all of it."""
    parser = option_parser(__doc__, repeats=1)
    parser.add_argument("--quick", action="store_true", help="a tenth of it; not a result")
    chosen = parser.parse_args()
    chosen.cases = []
    scale = 10 if chosen.quick else 1
    with Session("labeling", COLUMNS, chosen) as session:

        def plant(name: str, n_clusters: int, per_cluster: int, *, orders: bool = False) -> Case:
            session.aside(
                write_topics,
                session.scratch,
                name=name,
                n_clusters=n_clusters,
                per_cluster=per_cluster,
                orders=orders,
                seed=0,
            )
            return Case(name, n_clusters * per_cluster, 32, n_clusters, seed=0)

        where = {"folder": "{scratch}"}
        case = plant("faulty", 600 // scale, 12)
        faulty = {**where, "name": case.name}
        for way in (
            call("no fault", under_faults, faults=0.0, seed=0, **faulty),
            call("30 % of calls fail", under_faults, faults=0.3, seed=0, **faulty),
            call("30 %, six SIGKILLs", under_kills, n_kills=6, concurrency=16, **faulty),
            call("every call fails", always_failing, **faulty),
        ):
            session.measure(case, way, table="faults")

        case = plant("slow", 1000 // scale, 12)
        way = call(
            "200 ms, 32 at a time",
            against_latency,
            latency_ms=200,
            concurrency=32,
            name=case.name,
            **where,
        )
        session.measure(case, way, table="latency")

        plant("quiet", 400 // scale, 12)
        case = plant("hostile", 400 // scale, 12, orders=True)
        for entry in ENTRIES:
            session.measure(case, call(entry, under_orders, entry=entry, **where), table="orders")

        for n_clusters in (1_000, 10_000, 100_000):
            case = plant(f"topics-{n_clusters}", n_clusters // scale, 10)
            way = call(f"{n_clusters // scale:,} clusters", in_memory, name=case.name, **where)
            session.measure(case, way, table="memory")


if __name__ == "__main__":
    main()
