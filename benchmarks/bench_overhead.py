"""What the engine costs over the bare library calls that it makes: at most 10 % is the aim.

Bare: the same graph, the same umap-learn call, the same hdbscan call, from the Parquet file to
an ``.npy``. The labels must be the same ones, or there is no comparison. What the engine does
more: it checks rows, measures quality, keeps checkpoints, writes a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cases import Case, read_vectors
from harness import Session, Subject, call, options

COLUMNS = (
    "clusters",
    "ami",
    "ari_reference",
    "seconds",
    "spread",
    "cpu_seconds",
    "overhead",
    "peak_mb",
)
DENSITY = {"min_cluster_size": 50, "min_samples": 5}


class Clock:
    """The steps of a bare run, as the manifest names them."""

    def __init__(self) -> None:
        self.stages: list[dict[str, Any]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a step."""
        begun = time.perf_counter()
        yield
        self.stages.append({"name": name, "seconds": time.perf_counter() - begun})


def bare_density(out: Path, data: str) -> dict[str, Any]:
    """Call umap-learn and hdbscan as the engine does, without the engine."""
    clock = Clock()
    with clock.stage("load"):
        import numpy as np

        from gpucluster.ops.normalize import unit_rows

        # twice, as the engine does: a layout depends on the last bit of its input
        X = unit_rows(unit_rows(read_vectors(data)))
    with clock.stage("prepare.0.umap"):
        from umap import UMAP as UmapLearn

        from gpucluster.ops.neighbors import nearest_neighbors
        from gpucluster.preprocess import UMAP

        step = UMAP()
        graph = nearest_neighbors(X, step.n_neighbors, random_state=step.random_state)
        layout = UmapLearn(
            n_components=step.n_components,
            n_neighbors=step.n_neighbors,
            min_dist=step.min_dist,
            metric=step.metric,
            random_state=step.random_state,
            n_jobs=1,
            init=step._start(X),
            precomputed_knn=(graph.rows.astype(np.int64), graph.sqdist / 2),
        ).fit_transform(X)
    with clock.stage("cluster"):
        from hdbscan import HDBSCAN

        model = HDBSCAN(
            algorithm="boruvka_kdtree", approx_min_span_tree=False, core_dist_n_jobs=1, **DENSITY
        ).fit(layout)
    with clock.stage("write"):
        np.save(out / "labels.npy", model.labels_)
    return {"stages": clock.stages}


def bare_kmeans(out: Path, data: str, n_clusters: int) -> dict[str, Any]:
    """Call our k-means, without the engine."""
    clock = Clock()
    with clock.stage("load"):
        import numpy as np

        from gpucluster.ops.normalize import unit_rows

        X = unit_rows(read_vectors(data))
    with clock.stage("cluster"):
        from gpucluster.algorithms import KMeans

        labels = KMeans(n_clusters=n_clusters).fit(X).labels_
    with clock.stage("write"):
        np.save(out / "labels.npy", labels)
    return {"stages": clock.stages}


def engine(out: Path, data: str, algorithm: str, params: dict[str, Any], steps: list[Any]) -> None:
    """Do the same with the engine."""
    import gpucluster

    gpucluster.cluster(
        data,
        algorithm=algorithm,
        algorithm_params=params,
        preprocessing_steps=steps,
        out=out,
        device="cpu",
    )


def same_labels(values: Any) -> str | None:
    """Say so when the two did not compute the same."""
    agreement = values.get("ari_reference", 1.0)
    return None if agreement == 1 else f"not the same computation: ARI {agreement:.4f}"


def pairs(case: Case) -> Iterator[tuple[Subject, Subject]]:
    """Yield a bare subject, and the engine doing the same."""
    yield (
        call("bare UMAP + HDBSCAN", bare_density, data="{data}"),
        call(
            "engine, UMAP + HDBSCAN",
            engine,
            data="{data}",
            algorithm="hdbscan",
            params=DENSITY,
            steps=[{"method": "umap"}],
        ),
    )
    params = {"n_clusters": case.n_classes}
    yield (
        call("bare k-means", bare_kmeans, data="{data}", n_clusters=case.n_classes),
        call("engine, k-means", engine, data="{data}", algorithm="kmeans", params=params, steps=[]),
    )


def main() -> None:
    """Measure both ways on every case."""
    with Session("overhead", COLUMNS, options(__doc__, repeats=5)) as session:
        labels = session.scratch / "labels.npy"
        for case in session.cases:
            for bare, ours in pairs(case):
                labels.unlink(missing_ok=True)
                alone = session.measure(case, bare, keep_labels=labels)
                within = session.measure(case, ours, check=same_labels, reference=labels)
                if alone and within and not alone["error"] and not within["error"]:
                    ratio = within["values"]["seconds"] / alone["values"]["seconds"]
                    within["values"]["overhead"] = ratio - 1


if __name__ == "__main__":
    main()
