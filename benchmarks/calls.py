"""The calls that bench_algorithms.py compares, one library each.

A function here imports its library and returns the call: a function of the matrix that
returns ``labels`` and facts. The first call of a process is timed from before the import,
because some libraries import lazily and others do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Call = Callable[[Any], dict[str, Any]]


def kmeans_ours(first: Any, n_iter: int) -> Call:
    """Ours; `first` are the rows that its seed draws."""
    from gpucluster.algorithms import KMeans

    model = KMeans(n_clusters=len(first), init="random", max_iter=n_iter, n_init=1, tol=0)

    def fit(X: Any) -> dict[str, Any]:
        found = model.fit(X)
        return {
            "labels": found.labels_,
            "inertia": found.info["inertia"],
            "n_iter": found.info["n_iter"],
        }

    return fit


def kmeans_sklearn(first: Any, n_iter: int) -> Call:
    """scikit-learn's, from the same rows."""
    from sklearn.cluster import KMeans

    def fit(X: Any) -> dict[str, Any]:
        model = KMeans(len(first), init=first, n_init=1, max_iter=n_iter, tol=0).fit(X)
        return {"labels": model.labels_, "inertia": float(model.inertia_), "n_iter": model.n_iter_}

    return fit


def kmeans_faiss(first: Any, n_iter: int) -> Call:
    """faiss's, from the same rows, on all rows instead of 256 for each cluster."""
    import faiss
    import numpy as np

    def fit(X: Any) -> dict[str, Any]:
        model = faiss.Kmeans(
            X.shape[1], len(first), niter=n_iter, nredo=1, max_points_per_centroid=len(X)
        )
        model.train(X, init_centroids=first)
        sqdist, labels = model.index.search(X, 1)
        inertia = float(sqdist.sum(dtype=np.float64))
        return {"labels": labels[:, 0].astype(np.int32), "inertia": inertia, "n_iter": n_iter}

    return fit


def kmeans_rest_ours(
    n_clusters: int, n_init: int, random_state: str, batch_size: int | None = None
) -> Call:
    """Ours, from its own first centres until they rest, or have settled by batches."""
    from gpucluster.algorithms import KMeans

    model = KMeans(
        n_clusters=n_clusters,
        n_init=n_init,
        random_state=int(random_state),
        batch_size=batch_size,
    )

    def fit(X: Any) -> dict[str, Any]:
        found = model.fit(X)
        return {
            "labels": found.labels_,
            "inertia": found.info["inertia"],
            "n_iter": found.info["n_iter"],
        }

    return fit


def kmeans_rest_sklearn(
    n_clusters: int, n_init: int, random_state: str, batch_size: int | None = None
) -> Call:
    """scikit-learn's lloyd from its own first centres until they rest, or its mini-batches."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    common = {"n_init": n_init, "random_state": int(random_state)}
    if batch_size is None:
        model = KMeans(n_clusters, algorithm="lloyd", **common)
    else:
        model = MiniBatchKMeans(n_clusters, batch_size=batch_size, **common)

    def fit(X: Any) -> dict[str, Any]:
        model.fit(X)
        return {"labels": model.labels_, "inertia": float(model.inertia_), "n_iter": model.n_iter_}

    return fit


def hdbscan_ours(min_cluster_size: int, min_samples: int) -> Call:
    """Ours, exact."""
    from gpucluster.algorithms import HDBSCAN

    model = HDBSCAN(min_cluster_size=min_cluster_size, min_samples=min_samples)
    return lambda X: {"labels": model.fit(X).labels_}


def hdbscan_contrib(min_cluster_size: int, min_samples: int) -> Call:
    """Use the hdbscan package as it comes: its spanning tree may be approximate."""
    from hdbscan import HDBSCAN

    model = HDBSCAN(min_cluster_size=min_cluster_size, min_samples=min_samples)
    return lambda X: {"labels": model.fit_predict(X)}


def hdbscan_fast_hdbscan(min_cluster_size: int, min_samples: int) -> Call:
    """Use fast_hdbscan as it comes: above 30 dimensions its graph is approximate."""
    from fast_hdbscan import HDBSCAN

    model = HDBSCAN(min_cluster_size=min_cluster_size, min_samples=min_samples)
    return lambda X: {"labels": model.fit_predict(X)}


def hdbscan_sklearn(min_cluster_size: int, min_samples: int) -> Call:
    """scikit-learn's, which counts the row itself in min_samples."""
    from sklearn.cluster import HDBSCAN

    model = HDBSCAN(
        min_cluster_size=min_cluster_size, min_samples=min_samples + 1, n_jobs=-1, copy=False
    )
    return lambda X: {"labels": model.fit_predict(X)}


def dbscan_ours(eps: float, min_samples: int) -> Call:
    """Ours: border rows belong to their nearest core."""
    from gpucluster.algorithms import DBSCAN

    model = DBSCAN(eps=eps, min_samples=min_samples)

    def fit(X: Any) -> dict[str, Any]:
        found = model.fit(X)
        return {"labels": found.labels_, "n_core": found.info["n_core"]}

    return fit


def dbscan_sklearn(eps: float, min_samples: int) -> Call:
    """scikit-learn's: border rows belong to the first core that is met."""
    from sklearn.cluster import DBSCAN

    def fit(X: Any) -> dict[str, Any]:
        model = DBSCAN(eps=eps, min_samples=min_samples, n_jobs=-1).fit(X)
        return {"labels": model.labels_, "n_core": len(model.core_sample_indices_)}

    return fit


def silhouette_ours(truth: Any, n_rows: int | None = None) -> Call:
    """Ours: closed form, with every other metric of a run beside."""
    from gpucluster.algorithms import canonical_labels
    from gpucluster.metrics.quality import measure

    labels = canonical_labels(truth[:n_rows])
    return lambda X: {"silhouette": measure(X[:n_rows], labels).metrics["silhouette_score"]}


def silhouette_sklearn(truth: Any, n_rows: int | None = None, sample: int | None = None) -> Call:
    """scikit-learn's: pairwise, over all rows or between those of a sample."""
    from sklearn.metrics import silhouette_score

    def fit(X: Any) -> dict[str, Any]:
        value = silhouette_score(
            X[:n_rows], truth[:n_rows], metric="cosine", sample_size=sample, random_state=0
        )
        return {"silhouette": float(value)}

    return fit


def silhouette_sampled(truth: Any) -> Call:
    """scikit-learn's, from 1000 rows."""
    return silhouette_sklearn(truth, sample=1000)
