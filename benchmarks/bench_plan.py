"""What plans say beside what runs take: bytes and seconds of every stage, each in a fresh process.

All algorithms, steps, kinds of display coordinates and divisions, samples and filters, matrices in
memory and on disk. A stage is right when its peak of memory is within 0.75 to 1.3 of the plan. The
process takes most of a small stage, so those of half a gigabyte and more are counted by themselves.

    python benchmarks/bench_plan.py                   all, some twenty minutes
    python benchmarks/bench_plan.py --only optics     those of this name
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cases import CASES
from harness import Session, cli, option_parser
from render import table
from stages import TITLES, stage_rows

COLUMNS = ("seconds", "predicted_seconds", "held_mb", "predicted_mb", "least_ratio", "most_ratio")
LEAST, MOST = 0.75, 1.3  # of the plan, what a stage may take
LARGE_BYTES = 500_000_000
LATE = 3.0  # times the predicted seconds, or their share, that is told
SHORT_S = 1.0  # stages that take less are not told of

KMEANS = ("--algorithm", "kmeans", "--param", "n_clusters=50", "--param", "n_init=1")


FIRST_CLASSES = json.dumps(
    {"field": "label", "operator": "in", "value": [str(n) for n in range(12)]}
)


def algorithm(name: str, **params: Any) -> tuple[str, ...]:
    """Return the options that choose an algorithm."""
    return "--algorithm", name, *_params("--param", params)


def steps(*names: str, **params: Any) -> tuple[str, ...]:
    """Return the options of k-means on rows that these steps prepare."""
    return (*KMEANS, "--steps", ",".join(names), *_params("--step-param", params))


def _params(option: str, params: Mapping[str, Any]) -> list[str]:
    words = (f"{name.replace('__', '.')}={value}" for name, value in params.items())
    return [word for each in words for word in (option, each)]


def config(name: str) -> tuple[str, ...]:
    """Return the option that reads one of `CONFIGS`."""
    return "--config", f"{{scratch}}/{name}.json"


def _vectors(**settings: Any) -> dict[str, Any]:
    kmeans = {"clustering_method": "kmeans", "algorithm_params": {"n_clusters": 50, "n_init": 1}}
    return {"vector_config": kmeans | settings}


CONFIGS: dict[str, dict[str, Any]] = {
    "attribute": {
        "cluster_type": "attribute",
        "attribute_config": {"attributes": ["label"]},
    },
    "sampled": _vectors(sample_size=50_000, sample_mode="fit_then_assign"),
    **{
        f"display_{method}": _vectors(dimension_reduction={"method": method})
        for method in ("pca", "umap", "tsne")
    },
    "landmarks": _vectors(dimension_reduction={"method": "umap", "max_landmarks": 20_000}),
}

# name, workload, options
JOBS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("default", "banking77", ()),
    ("default", "clinc150", ()),
    ("default", "fashion_mnist", ()),
    ("default", "tail_50k", ()),
    ("kmeans", "plain_500k", (*KMEANS, "--storage", "memory")),
    ("kmeans, whitening", "plain_500k", (*steps("whitening"), "--storage", "memory")),
    ("kmeans, whitening, on disk", "plain_500k", (*steps("whitening"), "--storage", "disk")),
    ("kmeans, k=1000", "tail_200k", algorithm("kmeans", n_clusters=1000, n_init=1)),
    ("kmeans, cosine", "tail_200k", algorithm("kmeans", n_clusters=100, metric="cosine")),
    ("kmeans, ten starts", "heavy_tail_100k", algorithm("kmeans", n_clusters=100)),
    (
        "kmeans, cosine, on disk",
        "tail_200k",
        (*algorithm("kmeans", n_clusters=100, metric="cosine"), "--storage", "disk"),
    ),
    ("gaussian_mixture", "tail_200k", algorithm("gaussian_mixture", n_components=10)),
    (
        "gaussian_mixture, diag",
        "heavy_tail_100k",
        algorithm("gaussian_mixture", n_components=50, covariance_type="diag"),
    ),
    (
        "gaussian_mixture, diag, on disk",
        "heavy_tail_100k",
        (
            *algorithm("gaussian_mixture", n_components=50, covariance_type="diag"),
            *("--storage", "disk"),
        ),
    ),
    ("dbscan", "tail_50k", algorithm("dbscan", eps=1.0, min_samples=5)),
    ("dbscan, cosine", "tail_50k", algorithm("dbscan", eps=0.4, metric="cosine")),
    ("hdbscan", "tail_20k", algorithm("hdbscan")),
    ("hdbscan", "tail_50k", algorithm("hdbscan", min_cluster_size=50)),
    ("agglomerative, ward", "tail_20k", algorithm("agglomerative", n_clusters=50)),
    (
        "agglomerative, average",
        "tail_20k",
        algorithm("agglomerative", n_clusters=50, linkage="average"),
    ),
    (
        "agglomerative, single",
        "tail_20k",
        algorithm("agglomerative", n_clusters=50, linkage="single"),
    ),
    ("agglomerative, ward", "tail_200k", algorithm("agglomerative", n_clusters=50)),
    ("spectral", "tail_5k", algorithm("spectral", n_clusters=50)),
    ("spectral", "tail_50k", algorithm("spectral", n_clusters=50)),
    (
        "spectral, neighbours",
        "tail_50k",
        algorithm("spectral", n_clusters=20, affinity="nearest_neighbors"),
    ),
    ("mean_shift", "tail_5k", algorithm("mean_shift")),
    ("mean_shift", "tail_50k", algorithm("mean_shift")),
    ("optics", "tail_20k", algorithm("optics", min_samples=5)),
    ("optics", "tail_50k", algorithm("optics", min_samples=5)),
    ("pca", "heavy_tail_100k", steps("pca", pca__n_components=128)),
    ("pca", "plain_500k", (*steps("pca", pca__n_components=50), "--storage", "memory")),
    ("center", "heavy_tail_100k", steps("center")),
    ("l2_normalize", "heavy_tail_100k", steps("center", "l2_normalize")),
    ("remove_top_components", "heavy_tail_100k", steps("remove_top_components")),
    ("conditioning", "heavy_tail_100k", steps("conditioning")),
    ("whitening", "fashion_mnist", steps("whitening")),
    ("umap", "tail_50k", steps("umap", umap__n_components=5)),
    ("umap", "tail_200k", steps("umap", umap__n_components=10)),
    ("umap, on disk", "tail_200k", (*steps("umap", umap__n_components=10), "--storage", "disk")),
    ("display, pca", "tail_200k", config("display_pca")),
    ("display, umap", "tail_50k", config("display_umap")),
    ("display, landmarks", "tail_200k", config("landmarks")),
    ("display, tsne", "tail_50k", config("display_tsne")),
    ("hierarchy", "tail_50k", (*KMEANS, "--hierarchical")),
    ("hierarchy", "heavy_tail_100k", (*KMEANS, "--hierarchical")),
    ("hierarchy of hdbscan", "banking77", (*algorithm("hdbscan"), "--hierarchical")),
    ("sampled", "plain_500k", config("sampled")),
    ("filtered", "plain_500k", (*KMEANS, "--filter", FIRST_CLASSES)),
    ("attribute", "heavy_tail_100k", config("attribute")),
)


def main() -> None:
    """Run the jobs, one at a time, and say how many stages were as planned."""
    parser = option_parser(__doc__, repeats=1)
    parser.add_argument("--resume", action="store_true", help="go on with the newest result")
    chosen = parser.parse_args()
    only, chosen.only = chosen.only, ""
    chosen.cases = list(dict.fromkeys(case for _, case, _ in JOBS))
    with Session("plan", COLUMNS, chosen) as session:
        for name, definition in CONFIGS.items():
            (session.scratch / f"{name}.json").write_text(json.dumps(definition))
        for name, case, words in sorted(JOBS, key=lambda job: chosen.cases.index(job[1])):
            if re.search(only, name):
                _complete(session.measure(CASES[case], cli(name, *words, "--device", "cpu")))
        rows = session.result["rows"]
        print(table(TITLES, [cells for row in rows for cells in stage_rows(row)]))
        print(f"\n{summary(rows)}\n")


def _complete(row: dict[str, Any] | None) -> None:
    """Add what the stages say."""
    if not row or row["error"]:
        return
    stages, values = row["stages"], row["values"]
    ratios = [stage["peak_bytes"] / stage["planned_bytes"] for stage in _planned(stages)]
    values["held_mb"] = max(stage["peak_bytes"] for stage in stages) / 1e6
    values["predicted_mb"] = max(stage["planned_bytes"] for stage in _planned(stages)) / 1e6
    values["predicted_seconds"] = sum(stage["planned_seconds"] or 0 for stage in stages)
    values["least_ratio"], values["most_ratio"] = min(ratios), max(ratios)


def _planned(stages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (stage for stage in stages if stage["planned_bytes"] and not stage.get("reused"))


def summary(rows: list[dict[str, Any]]) -> str:
    """Say how many stages took what was planned, and which did not."""
    found = [
        (f"{row['case']}, {row['subject']}: {stage['name']}", stage)
        for row in rows
        for stage in _planned(row["stages"])
    ]
    large = [each for each in found if each[1]["peak_bytes"] >= LARGE_BYTES]
    lines = [_counted("stages", found), _counted("of half a gigabyte and more", large)]
    lines += [f"- {_beside(name, stage)}" for name, stage in found if not _is_right(stage)]
    for name, stage in found:
        seconds, planned = stage["seconds"], stage["planned_seconds"]
        if (
            planned
            and max(seconds, planned) > SHORT_S
            and not (1 / LATE < seconds / planned < LATE)
        ):
            lines.append(f"- {name}: {seconds:.1f} s, {planned:.1f} s predicted")
    return "\n".join(lines)


def _is_right(stage: Mapping[str, Any]) -> bool:
    return LEAST <= stage["peak_bytes"] / stage["planned_bytes"] <= MOST


def _counted(what: str, found: list[tuple[str, dict[str, Any]]]) -> str:
    right = sum(_is_right(stage) for _, stage in found)
    ratios = sorted(stage["peak_bytes"] / stage["planned_bytes"] for _, stage in found)
    ends = f", from {ratios[0]:.2f} to {ratios[-1]:.2f} of the plan" if ratios else ""
    return f"{right} of {len(found)} {what} within {LEAST} to {MOST} of their plan{ends}"


def _beside(name: str, stage: Mapping[str, Any]) -> str:
    peak, planned = stage["peak_bytes"], stage["planned_bytes"]
    return f"{name}: {peak / 1e6:.0f} MB, {planned / 1e6:.0f} MB predicted, {peak / planned:.2f}"


if __name__ == "__main__":
    main()
