"""The same run by threads and by the workers of a Dask cluster: what a fleet costs and gains.

Whitening, k-means (three iterations, sqrt(n) clusters) and metrics on rows of 768 float16 values.
Workers have one thread each, and the process that starts the run has one too; so two workers
stand beside one, and one stands beside the plain run with one thread. A case is also run with
half its rows on one worker. All results of a case must be one, by the digest of their content.

    python benchmarks/bench_scale.py                        10k, 100k and 1,000,000 rows
    python benchmarks/bench_scale.py rows_20k --repeats 1   a trial
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cases import CASES
from harness import Check, Session, call, options

COLUMNS = (
    *("fit_s", "load_s", "whitening_s", "kmeans_s", "measure_s", "calibrate_s", "spread"),
    *("modelled_s", "predicted_seconds", "of_one_thread", "of_one_worker", "of_half"),
    *("start_s", "sent_mb", "modelled_mb", "worker_mb", "peak_mb"),
)
STAGES = {
    "load": "load_s",
    "prepare.0.whitening": "whitening_s",
    "cluster": "kmeans_s",
    "measure": "measure_s",
    "calibrate": "calibrate_s",
}
HALVES = {"rows_20k": "rows_10k", "rows_100k": "rows_50k", "rows_1m": "rows_500k"}
LONG = 500_000  # rows from which one repeat has to do
N_ITER = 3
PLAIN, ALONE, ONE, TWO = "2 threads", "1 thread", "dask, 1 worker", "dask, 2 workers"
HALF = "dask, 1 worker, half the rows"
WAYS: dict[str, dict[str, int]] = {
    PLAIN: {"n_threads": 2},
    ALONE: {},
    ONE: {"n_workers": 1},
    TWO: {"n_workers": 2},
    HALF: {"n_workers": 1},
}


def timed(
    out: Path, *, data: str, n_clusters: int, n_threads: int = 1, n_workers: int = 0
) -> dict[str, Any]:
    """Run once; return seconds by stage, and what went over the loopback device.

    Parameters
    ----------
    out : Path
        Gets the run.
    data : str
    n_clusters : int
    n_threads : int, default 1
        Of this process.
    n_workers : int, default 0
        Of one thread each; 0: none.
    """
    started = time.perf_counter()
    with _fleet(n_workers) as (address, pid):
        start_s = time.perf_counter() - started if address else None
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n_threads])
        import gpucluster  # not before: libraries ask how many cores there are

        begun, sent = time.perf_counter(), _over_loopback()
        run = gpucluster.cluster(
            data,
            out=out,
            device="cpu",
            clustering_method="kmeans",
            algorithm_params={"n_clusters": n_clusters, "n_init": 1, "max_iter": N_ITER},
            preprocessing_steps=[{"method": "whitening"}],
            executor="dask" if address else "local",
            scheduler=address,
        )
        taken = {STAGES[each.name]: each.seconds for each in run.manifest.stages[: len(STAGES)]}
        fit_s, sent = time.perf_counter() - begun, _over_loopback() - sent
        told = {"sent_mb": sent / 1e6, "worker_mb": _largest_child(pid)} if address else {}
        return {
            "fit_s": fit_s,
            **taken,
            "predicted_seconds": sum(each.planned_seconds or 0 for each in run.manifest.stages),
            "start_s": start_s,
            "content": run.manifest.content_sha256,
            "executors": [each.executor for each in run.manifest.stages],
            **told,
        }


@contextmanager
def _fleet(n_workers: int) -> Iterator[tuple[str | None, int]]:
    """Start the cluster that a run would start, but with one thread a worker.

    Yields its address, and the process that has started the workers.
    """
    if not n_workers:
        yield None, 0
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = {"n_workers": n_workers, "n_threads": 1, "folder": folder, "gpu": False}
        process = subprocess.Popen(
            [sys.executable, "-m", "gpucluster.device.dask_host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            yield json.loads(process.stdout.readline())["address"], process.pid
            # its input is closed on the way out, which ends it


def _over_loopback() -> int:
    """Return the bytes that all processes of this machine have sent to each other so far."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    (found,) = (line.split(":")[1].split() for line in lines if line.strip().startswith("lo:"))
    return int(found[8])


def _largest_child(pid: int) -> float:
    """Return the peak of the largest process that one has started, pages of files included."""
    largest = 0.0
    for path in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it has just ended
            lines = path.read_text(encoding="utf-8").splitlines()
            facts = dict(line.split(":", 1) for line in lines)
            if int(facts["PPid"]) == pid:
                largest = max(largest, 1024 * int(facts["VmHWM"].split()[0]))
    return largest / 1e6


def modelled(
    _: Path, *, n_rows: int, n_clusters: int, n_threads: int, n_workers: int
) -> dict[str, float | None]:
    """Return what the model says of a run by threads, and of what workers send."""
    from dataclasses import replace

    from scale_machines import TWO_CORES
    from scale_model import Job, run, sent_bytes

    job = Job(n_rows, n_clusters, n_iter=N_ITER)
    share = n_threads / TWO_CORES.n_cores
    machine = replace(TWO_CORES, n_cores=n_threads, product_flop=share * TWO_CORES.product_flop)
    return {
        "modelled_s": sum(each.seconds for each in run(job, machine).values()),
        "modelled_mb": sent_bytes(job, n_workers) / 1e6 if n_workers else None,
    }


def same_content() -> Check:
    """Return a check that the results of a case have one digest."""
    first: dict[str, str] = {}

    def check(values: Mapping[str, Any]) -> str | None:
        same = first.setdefault("content", values["content"]) == values["content"]
        return None if same else "another result than the first one"

    return check


def complete(found: Mapping[str, dict[str, Any] | None]) -> None:
    """Say how many times as fast each way is as those that it stands beside."""
    seconds = {
        name: row["values"]["fit_s"] for name, row in found.items() if row and not row["error"]
    }
    for name, column, base in (
        (PLAIN, "of_one_thread", ALONE),
        (ONE, "of_one_thread", ALONE),
        (TWO, "of_one_thread", ALONE),
        (TWO, "of_one_worker", ONE),
        (TWO, "of_half", HALF),
    ):
        row = found[name]
        if row and {name, base} <= seconds.keys():
            row["values"][column] = seconds[base] / seconds[name]


def main() -> None:
    """Measure each case in four ways, and half of it on one worker."""
    chosen = options(__doc__, cases=HALVES, repeats=3)
    if unknown := set(chosen.cases) - set(HALVES):
        raise SystemExit(f"{', '.join(unknown)}: expected some of {', '.join(HALVES)}")
    repeats = chosen.repeats
    with Session("scale", COLUMNS, chosen) as session:
        for case in session.cases:
            chosen.repeats = min(repeats, 1) if case.n_samples > LONG else repeats
            asked = {"data": "{data}", "n_clusters": math.isqrt(case.n_samples)}
            check, found = same_content(), {}
            for name, way in WAYS.items():
                where = case if name != HALF else CASES[HALVES[case.name]]
                whole = check if name != HALF else None
                row = session.measure(where, call(name, timed, **asked, **way), check=whole)
                found[name] = row
                if row and not row["error"]:
                    shape = {"n_rows": where.n_samples, "n_clusters": asked["n_clusters"]}
                    n_workers = way.get("n_workers", 0)
                    row["values"] |= session.aside(
                        *(modelled, session.scratch),
                        **shape,
                        n_threads=n_workers or way.get("n_threads", 1),
                        n_workers=n_workers,
                    )
            complete(found)
            session.save()
        chosen.repeats = repeats


if __name__ == "__main__":
    main()
