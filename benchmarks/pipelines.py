"""From a Parquet file to labels on disk: one function for each library that is compared.

A function gets a folder, the file and its settings, and leaves ``labels.npy`` or a run in the
folder. It imports what it needs, so that a fresh process pays for it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from cases import read_unit_vectors, read_vectors


def default(out: Path, data: str) -> None:
    """Do what ``gpucluster run`` does without options."""
    import gpucluster

    gpucluster.cluster(data, out=out)


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


def chain(
    out: Path,
    data: str,
    umap: dict[str, Any],
    hdbscan: dict[str, Any],
    seed: str | None = None,
    *,
    prediction_data: bool = True,
) -> None:
    """Cluster as BERTopic does: umap-learn, then the hdbscan package.

    Without a seed, which BERTopic does not set either, umap-learn uses all cores.
    """
    import numpy as np
    from hdbscan import HDBSCAN

    layout = _layout(read_vectors(data), umap, seed)
    model = HDBSCAN(
        metric="euclidean",
        cluster_selection_method="eom",
        prediction_data=prediction_data,
        **hdbscan,
    )
    np.save(out / "labels.npy", model.fit_predict(layout))


def fast_chain(out: Path, data: str, umap: dict[str, Any], hdbscan: dict[str, Any]) -> None:
    """Cluster with umap-learn, then fast_hdbscan."""
    import numpy as np
    from fast_hdbscan import HDBSCAN

    layout = _layout(read_vectors(data), umap, None)
    np.save(out / "labels.npy", HDBSCAN(**hdbscan).fit_predict(layout))


def _layout(X: Any, settings: dict[str, Any], seed: str | None) -> Any:
    from umap import UMAP

    random_state = None if seed is None else int(seed)
    reducer = UMAP(min_dist=0.0, metric="cosine", random_state=random_state, **settings)
    return reducer.fit_transform(X)


def evoc(out: Path, data: str, seed: str | None = None) -> None:
    """Cluster with EVoC as it comes; a seed makes parts of it use one core."""
    import numpy as np
    from evoc import EVoC

    model = EVoC() if seed is None else EVoC(random_state=int(seed))
    np.save(out / "labels.npy", model.fit_predict(read_vectors(data)))


def our_kmeans(out: Path, data: str, seed: str, n_clusters: int, n_init: int) -> None:
    """Cluster the unit vectors with our k-means."""
    import numpy as np

    from gpucluster.algorithms import KMeans

    model = KMeans(n_clusters=n_clusters, n_init=n_init, random_state=int(seed))
    np.save(out / "labels.npy", model.fit(read_unit_vectors(data)).labels_)


def sklearn_kmeans(out: Path, data: str, seed: str, n_clusters: int, n_init: int) -> None:
    """Cluster the unit vectors with scikit-learn's k-means."""
    import numpy as np
    from sklearn.cluster import KMeans

    model = KMeans(n_clusters=n_clusters, n_init=n_init, random_state=int(seed))
    np.save(out / "labels.npy", model.fit(read_unit_vectors(data)).labels_)


def faiss_kmeans(out: Path, data: str, seed: str, n_clusters: int) -> None:
    """Cluster the unit vectors with faiss's k-means, on all rows instead of 256 a cluster."""
    import faiss
    import numpy as np

    X = read_unit_vectors(data)
    model = faiss.Kmeans(
        X.shape[1],
        n_clusters,
        seed=int(seed),
        min_points_per_centroid=1,
        max_points_per_centroid=len(X),
    )
    model.train(X)
    _, labels = model.index.search(X, 1)
    np.save(out / "labels.npy", labels[:, 0].astype(np.int32))


def super_kmeans(out: Path, data: str, seed: str, n_clusters: int) -> None:
    """Cluster the unit vectors with SuperKMeans as it comes: trained on a part of the rows."""
    import numpy as np
    from superkmeans import SuperKMeans

    X = read_unit_vectors(data)
    model = SuperKMeans(n_clusters, X.shape[1], seed=int(seed))
    centroids = model.train(X)
    np.save(out / "labels.npy", np.asarray(model.assign(X, centroids)).astype(np.int32))


def warm(out: Path, function: str, data: str, small: str, **arguments: Any) -> dict[str, Any]:
    """Call a function of this module on a small file, then on `data`; return what that took."""
    fit = globals()[function]
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        fit(Path(folder), data=small, **arguments)
    begun, cpu_begun = time.perf_counter(), time.process_time()
    fit(out, data=data, **arguments)
    return {
        "warm_s": time.perf_counter() - begun,
        "warm_cpu_s": time.process_time() - cpu_begun,
    }
