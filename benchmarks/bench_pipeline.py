"""From a file to labels: gpucluster, the chain that BERTopic runs, EVoC, and k-means.

Every row is a whole process, imports and compilation included. Ours leaves a run on disk, the
others an ``.npy`` of labels; all read the vectors from the same Parquet file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cases import Case, read_unit_vectors, read_vectors
from harness import Session, Subject, call, cli, options

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


def ours(out: Path, data: str, seed: str, umap: dict[str, Any], hdbscan: dict[str, Any]) -> None:
    """Cluster with the settings of a chain, through the Python door."""
    import gpucluster

    run = gpucluster.cluster(
        data,
        algorithm="hdbscan",
        algorithm_params=hdbscan,
        preprocessing_steps=[{"method": "umap", **umap}],
        random_state=int(seed),
        out=out,
    )
    assert run.labels_.ndim == 1


def chain(out: Path, data: str, seed: str, umap: dict[str, Any], hdbscan: dict[str, Any]) -> None:
    """Cluster as BERTopic does: umap-learn, then the hdbscan package."""
    import numpy as np
    from hdbscan import HDBSCAN
    from umap import UMAP

    X = read_vectors(data)
    reducer = UMAP(min_dist=0.0, metric="cosine", random_state=int(seed), **umap)
    layout = reducer.fit_transform(X)
    model = HDBSCAN(
        metric="euclidean", cluster_selection_method="eom", prediction_data=True, **hdbscan
    )
    np.save(out / "labels.npy", model.fit_predict(layout))


def evoc(out: Path, data: str, seed: str) -> None:
    """Cluster with EVoC as it comes, seeded."""
    import numpy as np
    from evoc import EVoC

    np.save(out / "labels.npy", EVoC(random_state=int(seed)).fit_predict(read_vectors(data)))


def sklearn_kmeans(out: Path, data: str, seed: str, n_clusters: int, n_init: int) -> None:
    """Cluster the unit vectors with scikit-learn's k-means."""
    import numpy as np
    from sklearn.cluster import KMeans

    model = KMeans(n_clusters=n_clusters, n_init=n_init, random_state=int(seed))
    np.save(out / "labels.npy", model.fit(read_unit_vectors(data)).labels_)


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
