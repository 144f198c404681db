"""All eight algorithms at 5,000, 20,000, 70,000 and 200,000 rows, beside scikit-learn's.

The same unit vectors and the same settings on both sides, one call in a fresh process each: the
time is that of the call, with what it imports and compiles. scikit-learn is asked where it can
be expected to answer, and stopped at --limit-s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cases import Case, read_unit_vectors
from harness import Session, Subject, call, options

COLUMNS = (
    *("method", "fit_s", "fit_cpu_s", "planned_s", "added_mb", "planned_mb"),
    *("clusters", "noise", "ami", "ari_reference"),
)
CASES = ("fashion_5k", "fashion_20k", "fashion_mnist", "tail_200k")
SKLEARN_ROWS = {  # above them scikit-learn takes hours, or more memory than there is
    "kmeans": 200_000,
    "dbscan": 20_000,
    "hdbscan": 20_000,
    "agglomerative": 20_000,
    "spectral": 20_000,
    "gaussian_mixture": 20_000,
    "mean_shift": 5_000,
    "optics": 5_000,
}
PROBE_ROWS = 1000


def probe(out: Path, data: str, n_classes: int) -> dict[str, Any]:  # noqa: ARG001 - each call gets a folder
    """Return a radius and a bandwidth that suit the data, from a sample.

    The radius holds ten rows around the denser three tenths of them; the bandwidth holds half a
    cluster of mean size around the densest twentieth, because noise lies much farther apart.
    """
    import numpy as np
    from sklearn.neighbors import NearestNeighbors

    X = read_unit_vectors(data)
    drawn = np.random.default_rng(0).choice(len(X), min(PROBE_ROWS, len(X)), replace=False)
    sample = X[np.sort(drawn)]
    near, _ = NearestNeighbors(n_neighbors=11).fit(X).kneighbors(sample)
    half = len(sample) // (2 * n_classes)
    among, _ = NearestNeighbors(n_neighbors=half + 1).fit(sample).kneighbors(sample)
    return {
        "eps": float(np.quantile(near[:, 10], 0.3)),
        "bandwidth": float(np.quantile(among[:, half], 0.05)),
    }


def settings(case: Case, probed: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return the parameters of each algorithm, by our names."""
    k = case.n_classes
    dense = {"eps": probed["eps"], "min_samples": 10}
    return {
        "kmeans": {"n_clusters": k, "n_init": 1},
        "dbscan": dense,
        "hdbscan": {"min_cluster_size": 50, "min_samples": 5},
        "agglomerative": {"n_clusters": k, "linkage": "ward"},
        "spectral": {"n_clusters": k, "affinity": "nearest_neighbors", "n_neighbors": 10},
        "gaussian_mixture": {"n_components": k, "covariance_type": "full"},
        "mean_shift": {"bandwidth": probed["bandwidth"]},
        "optics": {**dense, "cluster_method": "dbscan"},
    }


def ours(out: Path, data: str, algorithm: str, params: dict[str, Any]) -> dict[str, Any]:
    """Fit one of our algorithms."""
    import warnings

    from gpucluster.algorithms import catalogue

    X = read_unit_vectors(data)
    model = catalogue()[algorithm].model_validate(params)
    planned = model.cost(*X.shape, "cpu")
    warnings.simplefilter("ignore")
    facts = _timed(lambda: model.fit(X))
    found = facts.pop("answer")
    _save(out, found.labels_)
    planned_mb = (planned.bytes + model.library_bytes) / 1e6
    return {**facts, "method": found.method, "planned_s": planned.seconds, "planned_mb": planned_mb}


def sklearn(out: Path, data: str, algorithm: str, params: dict[str, Any]) -> dict[str, Any]:
    """Fit scikit-learn's algorithm of that name."""
    import warnings

    X = read_unit_vectors(data)
    warnings.simplefilter("ignore")

    def fit() -> Any:
        from sklearn import cluster, mixture

        if algorithm == "gaussian_mixture":
            return mixture.GaussianMixture(**params, random_state=42).fit_predict(X)
        kinds = {
            "kmeans": (cluster.KMeans, {"random_state": 42}),
            "dbscan": (cluster.DBSCAN, {"n_jobs": -1}),
            # it counts the row itself
            "hdbscan": (cluster.HDBSCAN, {"min_samples": 6, "n_jobs": -1, "copy": False}),
            "agglomerative": (cluster.AgglomerativeClustering, {}),
            "spectral": (cluster.SpectralClustering, {"random_state": 42, "n_jobs": -1}),
            "mean_shift": (cluster.MeanShift, {"n_jobs": -1}),
            "optics": (cluster.OPTICS, {"n_jobs": -1, "algorithm": "kd_tree"}),
        }
        kind, more = kinds[algorithm]
        return kind(**{**params, **more}).fit_predict(X)

    facts = _timed(fit)
    _save(out, facts.pop("answer"))
    return {**facts, "method": "exact"}


def _timed(fit: Any) -> dict[str, Any]:
    """Return the answer of a call, its time, and by how much it raised the peak of memory."""
    from gpucluster.device.memory import PeakMemory

    peak = PeakMemory()
    peak.reset()
    before = peak.read()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    answer = fit()
    return {
        "answer": answer,
        "fit_s": time.perf_counter() - begun,
        "fit_cpu_s": time.process_time() - cpu_begun,
        "added_mb": (peak.read() - before) / 1e6,
    }


def _save(out: Path, labels: Any) -> None:
    import numpy as np

    np.save(out / "labels.npy", labels)


def subjects(
    case: Case, probed: Mapping[str, float]
) -> Iterator[tuple[str, Subject, Subject | None]]:
    """Yield ours and, where it can be asked, scikit-learn's."""
    for name, params in settings(case, probed).items():
        given = {"data": "{data}", "algorithm": name, "params": params}
        peer = None
        if case.n_samples <= SKLEARN_ROWS[name]:
            peer = call(f"{name}: scikit-learn", sklearn, **given)
        yield name, call(f"{name}: gpucluster", ours, **given), peer


def main() -> None:
    """Measure all algorithms on all cases."""
    chosen = options(__doc__, cases=CASES, repeats=1)
    with Session("eight", COLUMNS, chosen) as session:
        for case in session.cases:
            folder = session.scratch / f"probe-{case.name}"
            folder.mkdir()
            data = str(session.data(case))
            probed = session.aside(probe, folder, data=data, n_classes=case.n_classes)
            for name, subject, peer in subjects(case, probed):
                labels = folder / f"{name}.npy"
                session.measure(case, subject, keep_labels=labels)
                if peer is not None:
                    session.measure(case, peer, reference=labels)


if __name__ == "__main__":
    main()
