"""Single calls: k-means, HDBSCAN, DBSCAN and silhouette, ours beside other libraries.

Same vectors, same settings, same first centres. A fresh process each; the call is made twice:
the first one pays for imports and compilation, the next one does not. The answers are compared
before the times are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import calls
from cases import Case, read_truth, read_unit_vectors
from harness import Check, Session, Subject, call, options

COLUMNS = (
    *("clusters", "noise", "ami", "ari", "ari_reference", "inertia", "n_iter", "n_core"),
    *("silhouette", "first_s", "again_s", "first_cpu_s", "base_mb", "peak_mb", "blas"),
)
AGAIN_LIMIT_S = 60  # a longer call is made once: compilation no longer matters
DENSITY = {"min_cluster_size": 50, "min_samples": 5}
ITERATIONS = 25
SAMPLE_ROWS = 6000


def prepare(out: Path, data: str, n_clusters: int) -> dict[str, Any]:
    """Save what the calls take: vectors, layouts, first centres, true classes, and radii."""
    import numpy as np
    from machine import core_type

    from gpucluster.algorithms import canonical_labels
    from gpucluster.events import Reporter
    from gpucluster.ops.seeding import first_centers
    from gpucluster.preprocess import UMAP

    X = read_unit_vectors(data)
    inputs = {"vectors": X}
    for n_components in (5, 50):
        step = UMAP(n_components=n_components)
        inputs[f"layout{n_components}"] = step.fit(X, "cpu", Reporter()).arrays["layout"]
    stream = np.random.default_rng(42)
    inputs["first"] = first_centers(X, n_clusters, "random", stream, Reporter())
    codes = np.asarray(read_truth(data).dictionary_encode().indices)
    inputs["truth"] = canonical_labels(codes)
    for name, array in inputs.items():
        np.save(out / f"{name}.npy", array)
    return {
        "core_type": core_type(),
        "eps": {name: _radius(inputs[name]) for name in ("vectors", "layout5")},
    }


def _radius(X: Any) -> float:
    """Return the median distance to the tenth neighbour, of 1000 rows."""
    import numpy as np
    from sklearn.neighbors import NearestNeighbors

    drawn = np.random.default_rng(0).choice(len(X), min(1000, len(X)), replace=False)
    distances, _ = NearestNeighbors(n_neighbors=11).fit(X).kneighbors(X[np.sort(drawn)])
    return float(np.median(distances[:, 10]))


def timed(
    out: Path, library: str, folder: str, matrix: str, arrays: list[str], **settings: Any
) -> dict[str, Any]:
    """Make one call, and the same once more; return its facts and how long both took."""
    import numpy as np
    from machine import blas

    from gpucluster.device.memory import PeakMemory

    X = np.load(Path(folder, f"{matrix}.npy"))
    loaded = {name: np.load(Path(folder, f"{name}.npy")) for name in arrays}
    base_bytes = PeakMemory().read()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    fit: calls.Call = getattr(calls, library)(**loaded, **settings)
    facts = fit(X)
    first_s, first_cpu_s = time.perf_counter() - begun, time.process_time() - cpu_begun
    again_s = None
    if first_s < AGAIN_LIMIT_S:
        begun = time.perf_counter()
        fit(X)
        again_s = time.perf_counter() - begun
    labels = facts.pop("labels", None)
    if labels is not None:
        np.save(out / "labels.npy", labels)
    return {
        **facts,
        "first_s": first_s,
        "first_cpu_s": first_cpu_s,
        "again_s": again_s,
        "base_mb": base_bytes / 1e6,
        "blas": "; ".join(blas()),
        "no_labels": labels is None,
    }


@dataclass(frozen=True)
class Group:
    """One problem for several libraries, ours first.

    `functions` of `calls` get the `matrix`, the `settings` and saved `arrays`. The libraries
    must agree in the fact `agree_in`, where it is named.
    """

    name: str
    functions: tuple[str, ...]
    matrix: str = "vectors"
    settings: Mapping[str, Any] = field(default_factory=dict)
    arrays: tuple[str, ...] = ()
    agree_in: str | None = None

    def subjects(self, folder: str, core_type: str) -> Iterator[Subject]:
        """Yield the calls; faiss twice, because its BLAS may choose slow kernels by itself."""
        for function in self.functions:
            library = function.partition("_")[2]
            # every BLAS chooses for itself, whatever the shell says: one state for all libraries
            environments: dict[str, dict[str, str | None]] = {library: {"OPENBLAS_CORETYPE": None}}
            if library == "faiss":
                tuned = f"{library}, OPENBLAS_CORETYPE={core_type}"
                environments[tuned] = {"OPENBLAS_CORETYPE": core_type}
            for name, env in environments.items():
                yield call(
                    f"{self.name}: {name}",
                    timed,
                    env=env,
                    library=function,
                    folder=folder,
                    matrix=self.matrix,
                    arrays=list(self.arrays),
                    **self.settings,
                )


def groups(case: Case, eps: Mapping[str, float]) -> Iterator[Group]:
    """Yield the problems of a case."""
    yield Group(
        f"k-means, k={case.n_classes}, {ITERATIONS} iterations",
        ("kmeans_ours", "kmeans_sklearn", "kmeans_faiss"),
        settings={"n_iter": ITERATIONS},
        arrays=("first",),
        agree_in="inertia",
    )
    for matrix in ("layout5", "layout50", "vectors"):
        yield Group(
            f"HDBSCAN of {matrix}",
            ("hdbscan_ours", "hdbscan_contrib", "hdbscan_fast_hdbscan", "hdbscan_sklearn"),
            matrix,
            settings=DENSITY,
        )
    for matrix, radius in eps.items():
        yield Group(
            f"DBSCAN of {matrix}, eps {radius:.3g}",
            ("dbscan_ours", "dbscan_sklearn"),
            matrix,
            settings={"eps": radius, "min_samples": 10},
            agree_in="n_core",
        )
    yield Group(
        f"silhouette of the truth, {SAMPLE_ROWS} rows",
        ("silhouette_ours", "silhouette_sklearn"),
        settings={"n_rows": SAMPLE_ROWS},
        arrays=("truth",),
        agree_in="silhouette",
    )
    yield Group(
        "silhouette of the truth, all rows",
        ("silhouette_ours", "silhouette_sampled"),
        arrays=("truth",),
    )


def agreement(fact: str | None, ours: Mapping[str, Any]) -> Check | None:
    """Return a check that a fact is within 0.1 % of ours, where there is one to compare."""
    if fact is None or fact not in ours:
        return None
    expected = ours[fact]

    def check(values: Mapping[str, Any]) -> str | None:
        if abs(values[fact] - expected) <= 1e-3 * abs(expected):
            return None
        return f"another answer: {fact} {values[fact]:.6g}, ours {expected:.6g}"

    return check


def main() -> None:
    """Measure every library in every group."""
    with Session("algorithms", COLUMNS, options(__doc__, repeats=1)) as session:
        for case in session.cases:
            inputs = session.scratch / case.name
            inputs.mkdir()
            data = str(session.data(case))
            facts = session.aside(prepare, inputs, data=data, n_clusters=case.n_classes)
            for group in groups(case, facts["eps"]):
                labels = inputs / "labels.npy"
                labels.unlink(missing_ok=True)
                folder = f"{{scratch}}/{case.name}"
                ours, *others = group.subjects(folder, facts["core_type"])
                first = session.measure(case, ours, keep_labels=labels)
                check = agreement(group.agree_in, first["values"] if first else {})
                for subject in others:
                    session.measure(case, subject, check=check, reference=labels)


if __name__ == "__main__":
    main()
