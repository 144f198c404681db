"""Nearest centres on the CPU: which share of its matrix product a machine keeps for the answers.

All of a case is timed in one process, in turns: what others do to the machine meets all. `share`
and `of its shape` are medians of ratios within a turn, to the product of two squares of 4096 and
to that of 8192 rows with the centres. Rows are in memory as float32; those of unit length are
made before the time begins. `agreement` is the share of rows with the answer of float64; the rest
are near ties. faiss has the kernels of its OpenBLAS that are fastest here.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import Case
from harness import Session, call, option_parser
from machine import UNSET, faiss_core_types

COLUMNS = ("rate", "share", "shape_share", "seconds", "spread", "agreement")
PROBLEMS = ((200_000, 1000, 768), (200_000, 100, 384), (50_000, 10_000, 768))  # rows, centres, d
SQUARE, SHAPE_ROWS, EXACT_ROWS = 4096, 8192, 2048
PAUSE_S = 0.1  # idle threads of the library before spin for a while
PRODUCT, SHAPE = "sgemm, square", "sgemm, its shape"
FAISS = "faiss, IndexFlatIP.search"


def turns(
    _out: Path, n_rows: int, n_centers: int, n_features: int, n_turns: int, only: str, kernels: str
) -> dict[str, Any]:
    """Time all calls once in each turn; return their seconds, and how often each is right."""
    import numpy as np

    from gpucluster.ops.normalize import unit_rows

    drawn = np.random.default_rng(0)
    X = drawn.standard_normal((n_rows, n_features), np.float32)
    means = drawn.standard_normal((n_centers, n_features), np.float32) / np.float32(3)
    data = {
        "X": X,
        "unit": unit_rows(X),
        "means": means,
        "directions": unit_rows(means),
        "aside": unit_rows(means + np.float32(0.5)),  # as embeddings are, around a common mean
    }
    timed = {
        name: (function, flop, answer)
        for name, (function, flop, answer) in _calls(data, kernels).items()
        if answer is None or re.search(only, name)  # the products are what others are compared to
    }
    exact: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    agreement = {}
    for name, (function, _, answer) in timed.items():  # compiles, and fills caches
        found = function()
        if answer is not None:
            if answer not in exact:
                exact[answer] = _exact(data, answer)
            agreement[name] = float((found == exact[answer]).mean())
    for _ in range(n_turns):
        for name, (function, _, _) in timed.items():
            time.sleep(PAUSE_S)
            begun = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begun)
    flops = {name: flop for name, (_, flop, _) in timed.items()}
    return {"timed": seconds, "flops": flops, "right": agreement, "no_labels": True}


def _calls(data: dict[str, Any], kernels: str) -> dict[str, tuple[Callable[[], Any], int, Any]]:
    """Return what is timed by name: the call, its operations, and which answer it gives."""
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances_argmin

    from gpucluster.ops.assign import most_similar, nearest_center

    X, unit, means, directions, aside = data.values()
    left, right, out = (np.ones((SQUARE, SQUARE), np.float32) for _ in range(3))
    rows = X[:SHAPE_ROWS]
    scores = np.empty((len(rows), len(means)), np.float32)
    model = KMeans(len(means), init=means, n_init=1, max_iter=1).fit(means)
    model.cluster_centers_ = means
    flop = 2 * X.size * len(means)
    calls: dict[str, tuple[Callable[[], Any], int, Any]] = {
        PRODUCT: (lambda: np.matmul(left, right, out=out), 2 * SQUARE**3, None),
        SHAPE: (lambda: np.matmul(rows, means.T, out=scores), 2 * rows.size * len(means), None),
        "ours, most_similar": (lambda: most_similar(X, directions)[0], flop, "directions"),
        "ours, most_similar, common mean": (lambda: most_similar(X, aside)[0], flop, "aside"),
        "ours, nearest_center": (lambda: nearest_center(X, means), flop, "means"),
    }
    search = _faiss_search(directions, kernels)
    if search is not None:
        calls[FAISS] = (lambda: search(unit, 1)[1][:, 0], flop, "directions")
    name = "scikit-learn, pairwise_distances_argmin"
    calls[name] = (lambda: pairwise_distances_argmin(unit, directions), flop, "directions")
    calls["scikit-learn, KMeans.predict"] = (lambda: model.predict(X), flop, "means")
    return calls


def _faiss_search(directions: Any, kernels: str) -> Any:
    """Return the search of a flat index, or None without faiss.

    Its OpenBLAS reads the environment when it is loaded, those of numpy and SciPy have done so.
    """
    if kernels != UNSET:
        os.environ["OPENBLAS_CORETYPE"] = kernels
    try:
        import faiss
    except ImportError:
        return None
    finally:
        os.environ.pop("OPENBLAS_CORETYPE", None)
    index = faiss.IndexFlatIP(directions.shape[1])
    index.add(directions)
    return index.search


def _exact(data: dict[str, Any], answer: str) -> Any:
    """Return the nearest centre, or the direction with the largest cosine, in float64."""
    import numpy as np

    centers = data[answer].astype(np.float64)
    half_sqnorms = np.einsum("ij,ij->i", centers, centers) / 2
    if answer != "means":
        centers /= np.sqrt(2 * half_sqnorms)[:, None]
        half_sqnorms[:] = 0
    X = data["X"]
    return np.concatenate(
        [
            (X[start : start + EXACT_ROWS] @ centers.T - half_sqnorms).argmax(axis=1)
            for start in range(0, len(X), EXACT_ROWS)
        ]
    )


def rows_of(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each call that was timed, in place of one for their process."""
    facts = whole["values"]
    rows = []
    for name, seconds in facts["timed"].items():
        runs = []
        for turn, taken in enumerate(seconds):
            run = {"seconds": taken, "rate": facts["flops"][name] / taken / 1e9}
            for share, product in (("share", PRODUCT), ("shape_share", SHAPE)):
                best = facts["flops"][product] / facts["timed"][product][turn] / 1e9
                run[share] = run["rate"] / best
            runs.append(run)
        values = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        values["spread"] = (max(seconds) - min(seconds)) / values["seconds"]
        values["agreement"] = facts["right"].get(name)
        rows.append({**whole, "subject": name, "values": values, "runs": runs})
    return rows


def main() -> None:
    """Measure every problem."""
    parser = option_parser(__doc__, repeats=5)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of it; not a result")
    chosen = parser.parse_args()
    chosen.cases, only, chosen.only = [], chosen.only, ""
    if chosen.quick:
        chosen.repeats = min(chosen.repeats, 2)
    with Session("assign", COLUMNS, chosen) as session:
        tried = session.result["faiss_core_types"] = faiss_core_types()
        n_turns, chosen.repeats = chosen.repeats, 1  # one process makes them all
        for n_rows, n_centers, n_features in PROBLEMS:
            n_rows = n_rows // 50 if chosen.quick else n_rows  # noqa: PLW2901
            name = f"{n_rows:,} x {n_features}, k={n_centers:,}"
            case = Case(name, n_rows, n_features, n_centers, seed=0)
            (session.scratch / f"{name}.parquet").touch()  # the rows are drawn, not read
            shape = {"n_rows": n_rows, "n_centers": n_centers, "n_features": n_features}
            asked = {"n_turns": n_turns, "only": only, "kernels": next(iter(tried), UNSET)}
            env = {"OPENBLAS_CORETYPE": None}
            whole = session.measure(case, call("in turns", turns, env=env, **shape, **asked))
            if whole and not whole["error"]:
                at = session.result["rows"].index(whole)
                session.result["rows"][at:] = rows_of(whole)
            if not tried:
                session.leave_out(case, call(FAISS, turns), "faiss is not installed")


if __name__ == "__main__":
    main()
