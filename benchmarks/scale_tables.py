"""The tables of docs/scale.md: the model, beside plans and beside what was measured.

python benchmarks/scale_tables.py           prints them
python benchmarks/scale_tables.py --write   puts them into the page; --check compares
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import render
from scale_density import Graph, by_lists, by_pairs, is_sensible, joined, tree
from scale_machines import MACHINES, TWO_CORES, Estimate, Machine
from scale_model import (
    Job,
    driver_bytes,
    host_bytes,
    is_resident,
    iteration,
    run,
    tree_bytes,
    worker_bytes,
)

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "scale.md"
END = "<!-- scale:end -->"
NOTE = "<!-- Written by benchmarks/scale_tables.py --write. Do not edit. -->"
ROWS = (10_000_000, 100_000_000, 1_000_000_000)
PLANNED = ((10_000, 100), (100_000, 316), (1_000_000, 1000))
UNITS = {"s": 60.0, "min": 60.0, "h": 24.0, "days": math.inf}
STAGES = {  # of a plan and of a manifest: what the model calls them
    "load": "load",
    "prepare.0.whitening": "whitening",
    "cluster": "k-means",
    "measure": "measure",
    "calibrate": "calibrate",
    "write": "write",
}


def duration(seconds: float) -> str:
    """Return seconds in the unit that people would use, to two digits or three."""
    for unit, longest in UNITS.items():
        if seconds < longest:
            return f"{seconds:.2g} {unit}" if seconds < 10 else f"{seconds:,.0f} {unit}"
        seconds /= longest
    raise AssertionError


def size(n_bytes: float) -> str:
    """Return bytes as MB, GB or TB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"


def cell(found: Estimate) -> str:
    """Return what a stage takes, and what it waits for."""
    return f"{duration(found.seconds)}, {found.bottleneck}"


def total(job: Job, machine: Machine, *, spread: bool = False) -> Estimate:
    """Return what all stages take, and what they wait for longest."""
    found = run(job, machine, spread=spread).values()
    blamed: dict[str, float] = {}
    for each in found:
        blamed[each.bottleneck] = blamed.get(each.bottleneck, 0.0) + each.seconds
    return Estimate(sum(blamed.values()), max(blamed, key=lambda name: blamed[name]))


def jobs(n_rows: int) -> tuple[Job, Job]:
    """Return the two problems of each size: a thousand clusters, and the root of the rows."""
    return Job(n_rows, 1000), Job(n_rows, math.isqrt(n_rows))


def rates() -> str:
    """Return what the machines are."""
    titles = ["machine", "nodes", "products", "memory", "PCIe", "network", "storage", "memory of"]
    rows = []
    for each in (TWO_CORES, *MACHINES):
        shown = (each.pcie_bytes, each.network_bytes)
        room = f"{size(each.host_room)} a node" if each.host_room else "-"
        if each.n_gpus:
            room += f", {size(each.device_room)} a GPU"
        rows.append(
            [
                each.name,
                f"{each.n_nodes} of {each.n_cores} cores",
                f"{each.product_flop / 1e12:.3g} TFLOP/s",
                f"{size(each.memory_bytes)}/s",
                *("-" if math.isinf(rate) else f"{size(rate)}/s" for rate in shown),
                f"{size(each.read_bytes)}/s, {size(each.written_bytes)}/s",
                room,
            ]
        )
    return render.table(titles, rows)


def sizes() -> str:
    """Return bytes and operations of each problem."""
    titles = ["rows", "clusters", "input", "a matrix", "first process", "a search", "centres out"]
    titles += ["sums in", "to one of 8 nodes", "worker of 64", "rows stay on"]
    rows = []
    for job in (each for n_rows in ROWS for each in jobs(n_rows)):
        stay = [each.name for each in MACHINES if each.n_gpus and is_resident(job, each)]
        rows.append(
            [
                f"{job.n_rows:,}",
                f"{job.n_clusters:,}",
                size(job.input_bytes),
                size(job.matrix_bytes),
                size(driver_bytes(job)),
                f"{job.search_flop:.2g} FLOP",
                size(job.centers_bytes),
                size(job.sums_bytes),
                size(tree_bytes(job, MACHINES[-1])),
                size(worker_bytes(job, MACHINES[-1])),
                f"{stay[0]} or more" if stay else "none",
            ]
        )
    return render.table(titles, rows)


def seconds() -> str:
    """Return a table for each problem: stages, machines, and what they wait for."""
    parts = []
    for job in (each for n_rows in ROWS for each in jobs(n_rows)):
        found = {machine.name: run(job, machine) for machine in MACHINES}
        rows = [
            [stage, *(cell(each[stage]) for each in found.values())] for stage in STAGES.values()
        ]
        for name, ask in ASKED.items():
            rows.append([name, *(cell(ask(job, machine)) for machine in MACHINES)])
        table = render.table(["stage", *found], rows)
        parts.append(f"{job.n_rows:,} x {job.n_features}, {job.n_clusters:,} clusters:\n\n{table}")
    return "\n\n".join(parts)


ASKED: dict[str, Callable[[Job, Machine], Estimate]] = {
    "of k-means, an iteration": iteration,
    "**all**": total,
    "all, if every stage were shared": lambda job, machine: total(job, machine, spread=True),
}


def density() -> str:
    """Return what graphs and trees take, and whether they are worth it."""
    titles = ["rows", "machine", "all pairs", "lists", "tree", "sensible", "sample, rest joined"]
    rows = []
    for n_rows in (1_000_000, *ROWS):
        graph = Graph(n_rows)
        for machine in MACHINES:
            found = {"pairs": by_pairs(graph, machine), "lists": by_lists(graph, machine)}
            good = [
                name for name, each in found.items() if is_sensible(graph, each.seconds, machine)
            ]
            rest = joined(n_rows, 1000, graph.n_features, machine)
            rows.append(
                [
                    f"{n_rows:,}",
                    machine.name,
                    *map(cell, found.values()),
                    f"{duration(tree(graph, machine).seconds)}, {size(graph.tree_bytes)}",
                    " or ".join(good) or "no",
                    cell(rest) if rest.seconds else "-",
                ]
            )
    return render.table(titles, rows)


def plans() -> str:
    """Return the model beside the plan, for two cores."""
    titles = ["rows, clusters", "stage", "model s", "plan s", "model memory", "plan memory"]
    rows = []
    for n_rows, n_clusters in PLANNED:
        job = Job(n_rows, n_clusters)
        planned, ours = plan_of(job), run(job, TWO_CORES)
        for stage in planned.stages:
            found = ours[STAGES[stage.name]].seconds
            names = [f"{n_rows:,}, {n_clusters:,}", STAGES[stage.name]]
            rows.append([*names, f"{found:.1f}", f"{stage.seconds or 0:.1f}", "", ""])
        whole = [sum(each.seconds for each in ours.values()), planned.seconds or 0]
        peaks = [host_bytes(job), planned.peak_bytes]
        names = [f"{n_rows:,}, {n_clusters:,}", "**all**"]
        rows.append([*names, *(f"{each:.1f}" for each in whole), *map(size, peaks)])
    return render.table(titles, rows)


def plan_of(job: Job) -> Any:
    """Return the plan of a job in memory, for two cores of the reference."""
    from gpucluster.definition import ClusterDefinition
    from gpucluster.device.select import Decision
    from gpucluster.planner import make_plan

    definition = ClusterDefinition.parse(definition_of(job))
    with two_cores_of_the_reference():
        return make_plan(definition, job.n_rows, job.n_features, Decision("cpu", "cpu", ""))


def definition_of(job: Job) -> dict[str, Any]:
    """Return the definition that a job is the cost of."""
    settings = {"n_clusters": job.n_clusters, "n_init": 1, "max_iter": job.n_iter}
    return {
        "clustering_method": "kmeans",
        "algorithm_params": settings,
        "preprocessing_steps": [{"method": "whitening"}],
    }


@contextmanager
def two_cores_of_the_reference() -> Iterator[None]:
    """Let plans be those of the machine that costs were measured on, whatever this one is."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, GPUCLUSTER_STATE_DIR=folder),
        mock.patch("os.sched_getaffinity", return_value={0, 1}, create=True),
    ):
        yield


def disk() -> str:
    """Return the model beside the newest measurements of matrices on disk."""
    result = newest("disk")
    titles = ["data", "stage", "model s", "measured s", "model, of measured"]
    rows: list[Sequence[str]] = []
    for row in result["rows"] if result else ():
        if row["subject"] == "on disk" or row["error"]:
            continue  # its memory is that of the one before it
        limit = row["values"]["limit_gb"]
        n_rows = round(row["values"]["rows_s"] * row["values"]["seconds"])
        job = Job(n_rows, row["values"]["clusters"])
        machine = TWO_CORES if limit is None else replace(TWO_CORES, host_room=limit * 1e9)
        found = run(job, machine)
        name = f"{n_rows:,}, {job.n_clusters:,} clusters, {row['subject']}"
        measured = {STAGES[stage["name"]]: stage["seconds"] for stage in row["stages"]}
        pairs = [(stage, found[stage].seconds, took) for stage, took in measured.items()]
        whole = sum(each.seconds for each in found.values())
        pairs.append(("**all**", whole, sum(measured.values())))
        rows += [
            [name, stage, f"{model:.1f}", f"{took:.1f}", f"{model / took:.2f}"]
            for stage, model, took in pairs
        ]
    return render.table(titles, rows)


def measured() -> str:
    """Return the newest result of ``bench_scale.py``."""
    result = newest("scale")
    return "Not measured yet." if result is None else render.report(result)


def newest(name: str) -> Mapping[str, Any] | None:
    """Return the newest result of a benchmark."""
    path = max((HERE / "results").glob(f"{name}-????-??-??.json"), default=None)
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


SECTIONS: dict[str, Callable[[], str]] = {
    "rates": rates,
    "sizes": sizes,
    "seconds": seconds,
    "density": density,
    "plans": plans,
    "disk": disk,
    "measured": measured,
}


def in_page(text: str) -> str:
    """Return a page with each section between its marks.

    Raises
    ------
    SystemExit
        A mark is missing.
    """
    for name, section in SECTIONS.items():
        start = f"<!-- scale:{name} -->"
        before, found, rest = text.partition(f"{start}\n")
        _, end, after = rest.partition(f"{END}\n")
        if not (found and end):
            raise SystemExit(f"{PAGE.name} has no lines {start} and {END}")
        text = "".join((before, found, NOTE, "\n\n", section(), "\n\n", end, after))
    return text


def main() -> int:
    """Print the tables, write them into the page, or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    parser.add_argument("--check", action="store_true", help="1 where that is not current")
    chosen = parser.parse_args()
    if not (chosen.write or chosen.check):
        print("\n\n".join(f"{name}:\n\n{section()}" for name, section in SECTIONS.items()))
        return 0
    before = PAGE.read_text(encoding="utf-8")
    after = in_page(before)
    if chosen.write:
        PAGE.write_text(after, encoding="utf-8")
    elif after != before:
        print(f"{PAGE.name} is not current: benchmarks/scale_tables.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
