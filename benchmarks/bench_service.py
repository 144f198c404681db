"""How the service answers: one definition at a steady rate, pages of many, and streams of members.

python benchmarks/bench_service.py
python benchmarks/bench_service.py --quick --results /tmp/trial    # small, to see that it works

The server runs on the first core and who asks on the second. Requests of a rate are sent when they
are due, whatever became of those before; their time counts from then. With ``--postgres URL`` the
pages come from there (an empty database), otherwise from one that is started for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import machine
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.definition import ClusterDefinition
from gpucluster.service.catalog import open_catalog
from gpucluster.service.catalog.port import Catalog, Record
from gpucluster.service.definitions import described

HERE = Path(__file__).parent
TOKEN = "a-token-of-the-benchmark"
URI = "gpucluster://random@v1/embedding"
ARROW = "application/vnd.apache.arrow.stream"
BODY = {
    "collection_ids": ["col_rows"],
    "vector_config": {
        "feature_uris": [URI],
        "clustering_method": "kmeans",
        "algorithm_params": {"n_clusters": 20, "n_init": 1, "max_iter": 5},
    },
}
STATUSES = ("COMPLETED",) * 90 + ("FAILED",) * 8 + ("CANCELED",) * 2


@dataclass(frozen=True)
class Server:
    """A server that answers, and its process."""

    client: httpx2.Client
    pid: int

    def peak_mb(self) -> float:
        """Return the most memory that it held since `forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6

    def forget_peak(self) -> None:
        """Let its peak begin with what it holds now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@contextmanager
def serving(root: Path, *options: str) -> Iterator[Server]:
    """Run a server on the first core."""
    own = {"GPUCLUSTER_SERVE_ADMIN_TOKEN": TOKEN, "GPUCLUSTER_SERVE_RATE_PER_S": "1000000"}
    command = ["taskset", "-c", "0", sys.executable, "-m", "gpucluster", "serve"]
    command += ["--root", str(root), "--port", "0", "--device", "cpu", *options]
    log = root.parent / f"{root.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **own})
    try:
        while (found := re.search(r"listening at (http://\S+)", log.read_text())) is None:
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.05)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx2.Client(base_url=found[1], headers=headers, timeout=600) as client:
            yield Server(client, process.pid)
    finally:
        process.terminate()
        process.wait()


def fill(catalog: Catalog, n_records: int) -> None:
    """Write definitions as the service does, 1,000 at a time."""
    definition = ClusterDefinition.parse(BODY)
    for start in range(0, n_records, 1_000):
        with catalog.writing() as transaction:
            for n in range(start, min(start + 1_000, n_records)):
                key, name = f"clust_{n:024x}", f"topics {n}"
                body = {**described("default", key, definition, BODY), "cluster_name": name}
                status = STATUSES[n % len(STATUSES)]
                transaction.create(
                    Record(
                        ns="default",
                        kind="cluster",
                        id=key,
                        name=name,
                        status=status,
                        body={**body, "num_documents_clustered": n},
                    )
                )


def steady(server: Server, path: str, rate: int, seconds: float) -> dict[str, Any]:
    """Return the times of requests that come at a rate."""
    n = round(rate * seconds)

    async def one(client: httpx2.AsyncClient, begun: float, number: int) -> float:
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        answer = await client.get(path)
        answer.raise_for_status()
        return time.perf_counter() - due

    async def every() -> list[float]:
        async with httpx2.AsyncClient(
            base_url=server.client.base_url, headers=server.client.headers, timeout=60
        ) as client:
            for _ in range(100):  # connections, and code that is compiled when first used
                await client.get(path)
            begun = time.perf_counter() + 0.1
            return await asyncio.gather(*(one(client, begun, number) for number in range(n)))

    took = 1e3 * np.array(asyncio.run(every()))
    return {"rate": rate, "requests": n, **_times(took)}


def pages(server: Server, n_records: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield how long pages of a long list take."""
    path = "/v1/clusters/list"
    far = server.client.post(f"{path}?limit=50&offset={n_records // 2}", json={}).json()
    cursor = far["pagination"]["next_cursor"]
    failed = {"AND": [{"field": "status", "operator": "eq", "value": "FAILED"}]}
    cases = {
        "first page": ("", {}),
        "behind the middle, by cursor": (f"&cursor={cursor}", {}),
        "search, a few match": ("", {"search": f"topics {n_records // 3}"}),
        "search, many match": ("", {"search": "topics"}),
        "a status of some": ("", {"filters": failed}),
        "first page, with the total": ("&include_total=true", {}),
    }
    for name, (query, body) in cases.items():
        took = []
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            answer = server.client.post(f"{path}?limit=50{query}", json=body)
            took.append(time.perf_counter() - begun)
            answer.raise_for_status()
        found = answer.json()
        yield {
            "page": name,
            "records": n_records,
            "results": len(found["results"]),
            "matching": found["total_count"],
            **_times(1e3 * np.array(took[1:])),
        }


def clustered(server: Server, folder: Path, n_rows: int) -> str:
    """Cluster rows of random numbers, and return the path of the run."""
    rng = np.random.default_rng(0)
    for start in range(0, n_rows, 500_000):
        n = min(500_000, n_rows - start)
        vectors = rng.normal(size=(n, 8)).astype(np.float32)
        table = pa.table(
            {
                "document_id": [f"doc_{row:08d}" for row in range(start, start + n)],
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8),
            }
        )
        pq.write_table(table, folder / f"{start:09d}.parquet")
    made = {
        "collection_id": "col_rows",
        "features": {URI: {"column": "embedding", "dim": 8}},
        "source": {"paths": [str(folder)]},
    }
    server.client.post("/v1/collections", json=made).raise_for_status()
    cluster_id = server.client.post("/v1/clusters", json=BODY).json()["cluster_id"]
    task = server.client.post(f"/v1/clusters/{cluster_id}/execute", json={}).json()
    while task["status"] in {"PENDING", "IN_PROGRESS"}:
        time.sleep(0.5)
        task = server.client.get(f"/v1/tasks/{task['task_id']}").json()
    if task["status"] != "COMPLETED":
        raise SystemExit(task["error"])
    return f"/v1/clusters/{cluster_id}/executions/{task['outputs'][0]}"


def streamed(server: Server, run: str, n_rows: int, accept: str) -> dict[str, Any]:
    """Return how fast the members of a run come, and what that takes of the server."""
    query = f"{run}/data?include_members=true&include_centroids=false"
    server.client.get(f"{query}&limit=1000", headers={"Accept": accept}).raise_for_status()
    server.forget_peak()
    before = server.peak_mb()
    begun, n_bytes, n_lines, kept = time.perf_counter(), 0, 0, []
    with server.client.stream("GET", query, headers={"Accept": accept}) as answer:
        answer.raise_for_status()
        for part in answer.iter_raw():
            n_bytes += len(part)
            if accept != ARROW:
                n_lines += part.count(b"\n")
            elif n_rows <= 1_000_000:
                kept.append(part)
    seconds = time.perf_counter() - begun
    peak = server.peak_mb()
    if kept:
        n_lines = sum(batch.num_rows for batch in pa.ipc.open_stream(b"".join(kept)))
    if n_lines not in {0, n_rows}:
        raise SystemExit(f"{n_lines} rows came, of {n_rows}")
    return {
        "stream": "Arrow IPC" if accept == ARROW else "JSON lines",
        "rows": n_rows,
        "seconds": round(seconds, 3),
        "mb": round(n_bytes / 1e6, 1),
        "mb_per_s": round(n_bytes / 1e6 / seconds, 1),
        "rows_per_s": round(n_rows / seconds),
        "before_mb": round(before, 1),
        "peak_mb": round(peak, 1),
    }


def _times(took: Any) -> dict[str, float]:
    p50, p99 = np.percentile(took, [50, 99])
    return {
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "max_ms": round(float(took.max()), 2),
    }


@contextmanager
def postgres(url: str | None) -> Iterator[str]:
    """Yield the address of an empty database."""
    if url is not None:
        yield url
        return
    sys.path.insert(0, str(HERE.parent))
    from tests.helpers.postgres import serving as running

    with running() as server:
        yield server.url


def measured(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each thing that is measured."""
    seconds, n_records, sizes = (2, 2_000, [20_000]) if given.quick else (20, 100_000, [])
    sizes = sizes or [1_000_000, 4_000_000]
    repeats = 3 if given.quick else 21
    with postgres(given.postgres) as database:
        for name, url in (("SQLite", f"sqlite:///{folder / 'catalog.sqlite'}"),
                          ("PostgreSQL", database)):  # fmt: skip
            catalog = open_catalog(url)
            fill(catalog, n_records)
            catalog.close()
            with serving(folder / name, "--catalog", url, "--max-jobs", "0") as server:
                one = f"/v1/clusters/clust_{n_records // 2:024x}"
                yield {"catalog": name, **steady(server, one, 200, seconds)}
                for row in pages(server, n_records, repeats):
                    yield {"catalog": name, **row}
    for n_rows in sizes:
        files, root = folder / f"rows-{n_rows}", folder / f"root-{n_rows}"
        files.mkdir()
        with serving(root, "--import-roots", str(files)) as server:
            run = clustered(server, files, n_rows)
        with serving(root, "--max-jobs", "0") as server:
            for accept in (ARROW, "application/x-ndjson"):
                yield streamed(server, run, n_rows, accept)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--postgres", help="address of an empty database")
    parser.add_argument("--quick", action="store_true", help="small; no result")
    given = parser.parse_args()
    os.sched_setaffinity(0, {1} if (os.cpu_count() or 1) > 1 else {0})
    recorded = machine.record()
    recorded["cores"] = os.cpu_count()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measured(given, Path(folder)):
            print(json.dumps(row), flush=True)
            rows.append(row)
    result = {
        "benchmark": "service",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": recorded,
        "rows": rows,
    }
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"service-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
