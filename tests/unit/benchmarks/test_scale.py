"""The model of docs/scale.md: its page is current, and it agrees with plans and measurements."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
MODULES = ("density", "machines", "model", "tables")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def python(*words):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS.parent), str(BENCHMARKS)])}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def scale():
    """Return the modules of the model."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield SimpleNamespace(
            **{name: importlib.import_module(f"scale_{name}") for name in MODULES}
        )
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def whole(found):
    return sum(each.seconds for each in found.values())


def test_the_page_is_current():
    done = python(BENCHMARKS / "scale_tables.py", "--check")
    assert done.returncode == 0, done.stderr


def test_a_page_without_marks_is_an_error(scale):
    with pytest.raises(SystemExit, match="has no lines <!-- scale:rates -->"):
        scale.tables.in_page("no marks\n")


@pytest.mark.parametrize(
    ("n_rows", "n_clusters", "factor"),
    [(10_000, 100, 6), (100_000, 316, 3), (1_000_000, 1000, 3), (1_000_000, 100, 3)],
)
def test_it_agrees_with_the_plan(scale, n_rows, n_clusters, factor):
    job = scale.model.Job(n_rows, n_clusters)
    plan = scale.tables.plan_of(job)
    assert [scale.tables.STAGES[each.name] for each in plan.stages] == list(
        scale.model.run(job, scale.machines.TWO_CORES)
    )
    near = 1.25 if n_rows > 10_000 else 1.4  # of few rows, most is the process itself
    assert plan.peak_bytes / near < scale.model.host_bytes(job) < plan.peak_bytes * near
    seconds = whole(scale.model.run(job, scale.machines.TWO_CORES))
    assert plan.seconds / factor < seconds < plan.seconds * factor


def test_plans_are_those_of_two_cores_whatever_is_here(scale, monkeypatch, tmp_path):
    job = scale.model.Job(100_000, 316)
    here = scale.tables.plan_of(job)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setenv("GPUCLUSTER_STATE_DIR", str(tmp_path))
    assert scale.tables.plan_of(job).peak_bytes == here.peak_bytes


def test_it_agrees_with_the_runs_on_disk(scale):
    wholes = [line for line in scale.tables.disk().splitlines() if "**all**" in line]
    assert wholes
    ratios = [float(line.split("|")[-2]) for line in wholes]
    assert all(0.5 < ratio < 2 for ratio in ratios), ratios


def test_a_piece_of_work_takes_as_long_as_what_is_slowest(scale):
    machine, need = scale.machines.MACHINES[-1], scale.machines.Need
    flop = machine.product_flop * machine.n_gpus * 3  # three seconds of all GPUs
    beside = machine.read_bytes  # one of the storage
    found = scale.machines.estimate([need(flop=flop, read=beside)], machine)
    assert (found.seconds, found.bottleneck) == (pytest.approx(3), "products")
    found = scale.machines.estimate([need(alone=True, flop=flop)], machine)
    assert found.seconds == pytest.approx(3 * machine.n_gpus)
    cpu = scale.machines.TWO_CORES  # where pages that are missing are waited for
    work = need(flop=cpu.product_flop, read=2 * cpu.read_bytes)
    found = scale.machines.estimate([work], cpu)
    assert (found.seconds, found.bottleneck) == (pytest.approx(3), "storage")


def test_sums_are_added_up_where_they_are(scale):
    count = scale.model.sums_sent
    assert count(128, 1, 1) == (1, 0)  # the result alone goes home
    assert count(8, 8, 1) == (8, 0)  # seven to the eighth, and home
    assert count(16, 2, 2) == (2, 1)  # each adds up its eight
    total, busiest = count(128, 64, 8)
    assert total >= 64
    assert busiest < 16  # not the 112 that leave their worker


def test_rows_stay_on_gpus_that_hold_them(scale):
    _, one, eight, many = scale.machines.MACHINES
    resident = {
        n_rows: [
            scale.model.is_resident(scale.model.Job(n_rows, 1000), each)
            for each in (one, eight, many)
        ]
        for n_rows in scale.tables.ROWS
    }
    assert list(resident.values()) == [[True] * 3, [False, True, True], [False, False, True]]


def test_what_is_slow_on_many_gpus_is_what_they_do_not_share(scale):
    job = scale.model.Job(1_000_000_000, 31_622)
    many = scale.machines.MACHINES[-1]
    assert scale.tables.total(job, many).bottleneck == "one process"
    assert scale.tables.total(job, many, spread=True).seconds < 3600
    assert scale.model.iteration(job, many).bottleneck == "products"
    seconds = [scale.model.run(job, each)["k-means"].seconds for each in scale.machines.MACHINES]
    assert seconds == sorted(seconds, reverse=True)


def test_exact_graphs_end_before_lists_do_and_both_before_a_billion(scale):
    one = scale.machines.MACHINES[1]

    def sensible(n_rows, way):
        graph = scale.density.Graph(n_rows)
        return scale.density.is_sensible(graph, way(graph, one).seconds, one)

    pairs, lists = scale.density.by_pairs, scale.density.by_lists
    assert sensible(10_000_000, pairs)
    assert not sensible(100_000_000, pairs)
    assert sensible(100_000_000, lists)
    assert not sensible(1_000_000_000, lists)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0184, "0.018 s"), (59.6, "60 s"), (90, "1.5 min"), (3600, "1 h"), (5e8, "5,787 days")],
)
def test_durations_are_said_as_people_do(scale, seconds, said):
    assert scale.tables.duration(seconds) == said


def test_a_way_with_another_result_has_no_time():
    code = (
        "from bench_scale import same_content\n"
        "check = same_content()\n"
        "print([check({'content': name}) for name in 'aab'])"
    )
    assert "[None, None, 'another result than the first one']" in python("-c", code).stdout


@pytest.mark.slow
def test_threads_and_workers_are_measured_and_have_one_result(tmp_path):
    write = "import sys, cases, pathlib; cases.write_synthetic(pathlib.Path(sys.argv[1]), 'smoke')"
    assert python("-c", write, tmp_path).returncode == 0
    facts = []
    for n_workers in (0, 2):
        out = tmp_path / str(n_workers)
        out.mkdir()
        asked = {"data": str(tmp_path / "smoke.parquet"), "n_clusters": 12, "n_workers": n_workers}
        done = python(BENCHMARKS / "child.py", "bench_scale:timed", json.dumps(asked), out)
        assert done.returncode == 0, done.stderr
        facts.append(json.loads((out / "facts.json").read_text(encoding="utf-8")))
    threads, workers = facts
    assert threads["content"] == workers["content"]
    assert set(threads["executors"]) == {"local"}
    assert "dask" in workers["executors"]
    assert {"sent_mb", "worker_mb"} <= workers.keys() - threads.keys()
    assert workers["kmeans_s"] <= workers["fit_s"]
