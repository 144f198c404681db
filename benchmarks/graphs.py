"""Lists of nearest neighbours by cosine: one function for each library that is compared.

A function imports its library and returns the call: unit vectors to an array of rows. It asks
for one neighbour more than is compared, because most libraries list the row itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import read_unit_vectors

Call = Callable[[Any], Any]
N_NEIGHBORS = 15
ASKED = N_NEIGHBORS + 1
SAMPLED = 1000
AGAIN_LIMIT_S = 300  # a longer call is made once: compilation no longer matters
ROUNDING = 1e-6  # of a squared distance: equal texts are equally near


def ours() -> Call:
    """gpucluster's: exact, or above some 50,000 rows by inverted lists."""
    from gpucluster.ops.neighbors import nearest_neighbors

    return lambda X: nearest_neighbors(X, ASKED).rows


def pynndescent() -> Call:
    """Use pynndescent as it comes."""
    from pynndescent import NNDescent

    return lambda X: NNDescent(X, metric="cosine", n_neighbors=ASKED).neighbor_graph[0]


def evoc() -> Call:
    """EVoC's own nearest-neighbour descent."""
    from evoc.knn_graph import knn_graph

    return lambda X: knn_graph(X, n_neighbors=ASKED)[0]


def faiss_flat() -> Call:
    """faiss, exact."""
    import faiss

    def search(X: Any) -> Any:
        index = faiss.IndexFlatIP(X.shape[1])
        index.add(X)
        return index.search(X, ASKED)[1]

    return search


def faiss_ivf() -> Call:
    """faiss, inverted lists: the square root of the rows, times four; 32 of them are searched."""
    import faiss

    def search(X: Any) -> Any:
        n_lists = int(4 * len(X) ** 0.5)
        quantizer = faiss.IndexFlatIP(X.shape[1])
        index = faiss.IndexIVFFlat(quantizer, X.shape[1], n_lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1
        index.train(X)
        index.add(X)
        index.nprobe = 32
        return index.search(X, ASKED)[1]

    return search


def faiss_hnsw() -> Call:
    """faiss, hierarchical graph of 32 links, its other settings as they come but for the search."""
    import faiss

    def search(X: Any) -> Any:
        index = faiss.IndexHNSWFlat(X.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = 64
        index.add(X)
        return index.search(X, ASKED)[1]

    return search


def faiss_nn_descent() -> Call:
    """faiss, nearest-neighbour descent: the graph that it builds, without a search."""
    import faiss

    def search(X: Any) -> Any:
        index = faiss.IndexNNDescentFlat(X.shape[1], 2 * ASKED, faiss.METRIC_L2)
        index.add(X)
        graph = faiss.vector_to_array(index.nndescent.final_graph)
        return graph.reshape(len(X), -1)[:, :ASKED]

    return search


def usearch() -> Call:
    """Use usearch as it comes, in float32."""
    import numpy as np
    from usearch.index import Index

    def search(X: Any) -> Any:
        index = Index(ndim=X.shape[1], metric="cos", dtype="f32")
        index.add(np.arange(len(X)), X)
        return np.asarray(index.search(X, ASKED).keys).astype(np.int64)

    return search


def exact(out: Path, data: str) -> None:
    """Save the sampled rows, and how near their last neighbour is, in float64."""
    import numpy as np

    X = read_unit_vectors(data)
    drawn = np.random.default_rng(0).choice(len(X), min(SAMPLED, len(X)), replace=False)
    radii = np.empty(len(drawn))
    wide = X.astype(np.float64)
    for position, row in enumerate(drawn):
        sqdist = 2 - 2 * (wide @ wide[row])
        sqdist[row] = np.inf
        radii[position] = np.partition(sqdist, N_NEIGHBORS - 1)[N_NEIGHBORS - 1]
    np.savez(out / "exact.npz", drawn=drawn, radii=radii)


def recall(X: Any, rows: Any, drawn: Any, radii: Any) -> float:
    """Return the share of the nearest rows that is listed; equally near ones are as good."""
    import numpy as np

    found = 0
    for row, radius in zip(drawn, radii, strict=True):
        listed = list(dict.fromkeys(int(other) for other in rows[row] if other not in (row, -1)))
        near = X[listed[:N_NEIGHBORS]].astype(np.float64)
        sqdist = 2 - 2 * (near @ X[row].astype(np.float64))
        found += int((sqdist <= radius + ROUNDING).sum())
    return found / (len(drawn) * N_NEIGHBORS)


def timed(out: Path, library: str, data: str, folder: str) -> dict[str, Any]:  # noqa: ARG001 - each call gets a folder
    """Make the lists, and once more; return how long both took and how good they are."""
    import numpy as np
    from machine import blas

    from gpucluster.device.memory import PeakMemory

    X = read_unit_vectors(data)
    base_bytes = PeakMemory().read()
    begun = time.perf_counter()
    search: Call = globals()[library]()
    rows = search(X)
    first_s = time.perf_counter() - begun
    again_s = None
    if first_s < AGAIN_LIMIT_S:
        begun = time.perf_counter()
        rows = search(X)
        again_s = time.perf_counter() - begun
    with np.load(Path(folder, "exact.npz")) as known:
        share = recall(X, rows, known["drawn"], known["radii"])
    return {
        "first_s": first_s,
        "again_s": again_s,
        "recall": share,
        "base_mb": base_bytes / 1e6,
        "blas": "; ".join(blas()),
        "no_labels": True,
    }
