"""gpucluster's default beside its peers: quality, seconds cold and warm, memory, growth.

    python benchmarks/peers.py              measures
    python benchmarks/peers.py --write      puts the newest result into README.md
    python benchmarks/peers.py --check      fails when README.md shows another one

Ours is ``gpucluster run data.parquet`` without options on every set, and sees no label. The
peers are as their users call them: unseeded, so that they use all cores.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import graphs
import pipelines
from cases import CASES, REAL, TAILS, Case, real_path, write_part
from harness import HERE, Session, Subject, call, check_cases, cli, option_parser
from machine import UNSET, faiss_core_types
from peers_table import in_readme, newest

COLUMNS = {
    "sets": (
        *("clusters", "noise", "ami", "ari", "purity"),
        *("seconds", "warm_s", "spread", "peak_mb"),
    ),
    "graph": ("recall", "first_s", "again_s", "base_mb", "peak_mb"),
    "growth": ("warm_s", "exponent", "clusters", "noise", "ami", "peak_mb"),
}
SETS = ("digits", *REAL, "tail_20k", "loose_20k")
WARM_UP_ROWS = 13_000  # fewer compare all pairs: ours below 11,500, umap-learn below 4096
GRAPH_ROWS = 10_000  # smaller sets say nothing about a search
DEFAULT = "gpucluster run"
TOLD = "(told the true k)"
UMAP5 = {"n_components": 5, "n_neighbors": 15}
UMAP50 = {"n_components": 50, "n_neighbors": 30}
GRAPHS = {
    "gpucluster": "ours",
    "pynndescent": "pynndescent",
    "EVoC's graph": "evoc",
    "faiss, flat": "faiss_flat",
    "faiss, IVF": "faiss_ivf",
    "faiss, HNSW": "faiss_hnsw",
    "faiss, NN-descent": "faiss_nn_descent",
    "usearch": "usearch",
}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = option_parser(__doc__, repeats=3)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="CASE", dest="cases")
    parser.add_argument("--tables", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument(
        "--growth-limit",
        type=float,
        default=1800,
        metavar="S",
        help="longest time of one process of the growth table; larger sizes are then left out",
    )
    parser.add_argument(
        "--growth-rows", type=int, default=max(TAILS.values()), metavar="N", help="largest size"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the newest result: measure what is missing, failed or was disturbed",
    )
    parser.add_argument("--write", action="store_true", help="write README.md; measure nothing")
    parser.add_argument("--check", action="store_true", help="compare README.md; measure nothing")
    parsed = parser.parse_args()
    check_cases(parser, parsed.cases)
    return parsed


def peer(
    name: str,
    function: str,
    small: str,
    env: Mapping[str, str | None],
    **settings: Any,
) -> Subject:
    """Return a function of `pipelines` as a subject, cold and warm."""
    cold = call(name, getattr(pipelines, function), env=env, data="{data}", **settings)
    again = call(name, pipelines.warm, function=function, data="{data}", small=small, **settings)
    return Subject(name, cold.command, env, warm=again.command)


def default(small: str) -> Subject:
    """Return ours: the command when cold, the same through Python when warm."""
    env = {"OPENBLAS_CORETYPE": None}
    python = peer(DEFAULT, "default", small, env)
    return Subject(DEFAULT, cli(DEFAULT).command, env, warm=python.warm)


def bertopic(small: str, size: int) -> Subject:
    """Return the chain of BERTopic."""
    hdbscan = {"min_cluster_size": size, "min_samples": size}
    name = f"BERTopic's chain, min_cluster_size {size}"
    return peer(name, "chain", small, {"OPENBLAS_CORETYPE": None}, umap=UMAP5, hdbscan=hdbscan)


def growing(small: str) -> Iterator[Subject]:
    """Yield what is measured at all sizes."""
    yield default(small)
    yield peer("EVoC", "evoc", small, {"OPENBLAS_CORETYPE": None})
    yield bertopic(small, 10)


def subjects(case: Case, small: str, faiss_env: Mapping[str, str | None]) -> Iterator[Subject]:
    """Yield what is measured on a set."""
    env: dict[str, str | None] = {"OPENBLAS_CORETYPE": None}  # numpy's chooses well by itself
    yield default(small)
    yield bertopic(small, 10)
    yield bertopic(small, 50)
    yield peer(
        "umap-learn 50-D + hdbscan",
        "chain",
        small,
        env,
        umap=UMAP50,
        hdbscan={"min_cluster_size": 50, "min_samples": 5},
        prediction_data=False,
    )
    yield peer(
        "umap-learn 5-D + fast_hdbscan",
        "fast_chain",
        small,
        env,
        umap=UMAP5,
        hdbscan={"min_cluster_size": 10, "min_samples": 10},
    )
    yield peer("EVoC", "evoc", small, env)
    told: dict[str, Any] = {"seed": "{seed}", "n_clusters": case.n_classes}
    yield peer(f"k-means, gpucluster {TOLD}", "our_kmeans", small, env, n_init=1, **told)
    yield peer(f"k-means, scikit-learn {TOLD}", "sklearn_kmeans", small, env, n_init=1, **told)
    yield peer(f"k-means, faiss {TOLD}", "faiss_kmeans", small, faiss_env, **told)
    yield peer(f"k-means, superkmeans {TOLD}", "super_kmeans", small, env, **told)


def warm_up_file(session: Session, case: Case) -> str:
    """Write the rows that a process clusters before it is measured; return where."""
    name = f"small-{case.name}.parquet"
    if not (session.scratch / name).exists():
        data = str(session.data(case))
        session.aside(write_part, session.scratch, data=data, n_samples=WARM_UP_ROWS, name=name)
    return f"{{scratch}}/{name}"


def measure_sets(session: Session, faiss_env: Mapping[str, str | None]) -> None:
    """Measure every subject on every set."""
    for case in session.cases:
        for subject in subjects(case, warm_up_file(session, case), faiss_env):
            session.measure(case, subject, table="sets")


def measure_graphs(session: Session, faiss_env: Mapping[str, str | None]) -> None:
    """Compare lists of neighbours with the exact ones."""
    for case in session.cases:
        if case.n_samples < GRAPH_ROWS:
            continue
        folder = session.scratch / f"exact-{case.name}"
        folder.mkdir()
        session.aside(graphs.exact, folder, data=str(session.data(case)))
        for name, library in GRAPHS.items():
            env = faiss_env if library.startswith("faiss") else {"OPENBLAS_CORETYPE": None}
            subject = call(
                name,
                graphs.timed,
                env=env,
                library=library,
                data="{data}",
                folder=f"{{scratch}}/{folder.name}",
            )
            session.measure(case, subject, table="graph")


def measure_growth(session: Session) -> None:
    """Measure at growing sizes, warm: compilation would hide how the time grows."""
    chosen = session.chosen
    before: dict[str, tuple[Case, float]] = {}
    stopped: dict[str, str] = {}
    for case in (CASES[name] for name, n_rows in TAILS.items() if n_rows <= chosen.growth_rows):
        for both in growing(warm_up_file(session, case)):
            subject = Subject(both.name, both.warm, both.env)
            if subject.name in stopped:
                session.leave_out(case, subject, stopped[subject.name], table="growth")
                continue
            limit_s = chosen.growth_limit
            row = session.measure(case, subject, table="growth", limit_s=limit_s)
            if row is None:
                continue
            if row["error"]:
                stopped[subject.name] = f"{case.n_samples:,} rows: {row['error']}"
                continue
            if subject.name in before:
                smaller, seconds = before[subject.name]
                ratio = row["values"]["warm_s"] / seconds
                grown = case.n_samples / smaller.n_samples
                row["values"]["exponent"] = math.log(ratio) / math.log(grown)
                session.save()
            before[subject.name] = case, row["values"]["warm_s"]


def main() -> int:
    """Measure, or see to the table in README.md."""
    chosen = arguments()
    if chosen.check or chosen.write:
        found = newest(chosen.results)
        result = json.loads(found.read_text(encoding="utf-8")) if found else None
        return in_readme(HERE.parent / "README.md", result, write=chosen.write)
    for case in (CASES[name] for name in chosen.cases):
        if case.is_file:
            real_path(case)  # what is missing is said before hours of work
    with Session("peers", COLUMNS, chosen) as session:
        if not session.result.get("faiss_core_types"):
            session.result["faiss_core_types"] = faiss_core_types()
        fastest = next(iter(session.result["faiss_core_types"]), UNSET)
        faiss_env = {"OPENBLAS_CORETYPE": None if fastest == UNSET else fastest}
        if "sets" in chosen.tables:
            measure_sets(session, faiss_env)
        if "graph" in chosen.tables:
            measure_graphs(session, faiss_env)
        if "growth" in chosen.tables:
            measure_growth(session)
    return 0


if __name__ == "__main__":
    sys.exit(main())
