"""From a file to labels: gpucluster, the chain that BERTopic runs, EVoC, and k-means.

Every row is a whole process, imports and compilation included. Ours leaves a run on disk, the
others an ``.npy`` of labels; all read the vectors from the same Parquet file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness import Session, Subject, call, cli, options
from pipelines import chain, evoc, ours, sklearn_kmeans

if TYPE_CHECKING:
    from cases import Case

COLUMNS = (
    "clusters",
    "noise",
    "ami",
    "ami_range",
    "ari",
    "purity",
    "seconds",
    "spread",
    "cpu_seconds",
    "peak_mb",
)
CHAINS = {
    "UMAP 5-D": {
        "umap": {"n_components": 5, "n_neighbors": 15},
        "hdbscan": {"min_cluster_size": 10, "min_samples": 10},
    },
    "UMAP 50-D": {
        "umap": {"n_components": 50, "n_neighbors": 30},
        "hdbscan": {"min_cluster_size": 50, "min_samples": 5},
    },
}
FIRST_EVER = {"NUMBA_CACHE_DIR": "{out}/compiled"}
FIRST_EVER_ROWS = 20_000  # compiling takes as long on larger sets


def subjects(case: Case) -> Iterator[Subject]:
    """Yield what is measured on a case."""
    given: dict[str, Any] = {"data": "{data}", "seed": "{seed}"}
    seeded = ("--random-state", "{seed}")
    yield cli("gpucluster run", *seeded)
    for name, settings in CHAINS.items():
        yield call(f"gpucluster, {name}", ours, **given, **settings)
        yield call(f"umap-learn + hdbscan, {name}", chain, **given, **settings)
    yield call("EVoC", evoc, **given)
    if case.n_samples < FIRST_EVER_ROWS:
        yield cli("gpucluster run, nothing compiled yet", *seeded, env=FIRST_EVER)
        yield call("EVoC, nothing compiled yet", evoc, **given, env=FIRST_EVER)
    for n_init in (1, 10):
        name = f"k-means, true k, n_init={n_init}"
        params = ("--param", f"n_clusters={case.n_classes}", "--param", f"n_init={n_init}")
        yield cli(f"gpucluster run, {name}", *seeded, "--algorithm", "kmeans", *params)
        yield call(
            f"scikit-learn, {name}",
            sklearn_kmeans,
            **given,
            n_clusters=case.n_classes,
            n_init=n_init,
        )


def main() -> None:
    """Measure every subject on every case."""
    with Session("pipeline", COLUMNS, options(__doc__)) as session:
        for case in session.cases:
            for subject in subjects(case):
                session.measure(case, subject)


if __name__ == "__main__":
    main()
