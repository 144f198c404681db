"""Each stage on CPU and GPU in `gpu.py`: what comes out, beside a stated tolerance.

Without a GPU the second one is what runs on a GPU, on numpy, where there is that: see `TWO_WAYS`.
Elsewhere both are the same code, which shows that the way to these numbers works and no more: that
is not judged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from gpu_record import ONE_PATH, Goal, Session, Values

if TYPE_CHECKING:
    from gpu_place import Place

ROWS, FEATURES, CLUSTERS = 20_000, 64, 40
FEW_ROWS, FEW_FEATURES, FEW_CLUSTERS = 4_000, 16, 8  # of what takes the square of the rows
TWO_WAYS = {"kmeans, labels", "whitening", "nearest neighbours", "measure"}  # also on the host


def parity(session: Session, place: Place) -> None:
    """Compare all stages."""
    many = place.shape(ROWS, FEATURES, CLUSTERS)
    few = place.shape(FEW_ROWS, FEW_FEATURES, FEW_CLUSTERS)
    X = _made(place, many.rows, many.features, many.clusters, 0.7)
    Y = _made(place, few.rows, few.features, few.clusters, 0.5)
    for name, (rows, compare, goals) in _stages(X, Y, few.clusters).items():
        case = f"{rows.shape[0]:,} x {rows.shape[1]}"
        alone = {} if place.on_gpu or name in TWO_WAYS else {"ways": ONE_PATH}

        def work(
            rows: Any = rows, compare: Callable[..., Values] = compare, alone: Values = alone
        ) -> Values:
            return {**alone, **_quiet(lambda: compare(place, rows))}

        session.measure(case, name, work, [] if alone else goals)


def _made(place: Place, rows: int, features: int, clusters: int, spread: float) -> Any:
    X, _ = place.clustered(rows, features, clusters, seed=61, spread=spread)
    return np.ascontiguousarray(place.host(X))


def _quiet(work: Callable[[], Values]) -> Values:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of both, and the same: the settings are for speed
        return work()


def _stages(X: Any, Y: Any, n: int) -> dict[str, tuple[Any, Callable[..., Values], list[Goal]]]:
    """Return for each stage its rows, its comparison, and what is tolerated."""
    from gpucluster import algorithms as all_of

    same, near, alike = (Goal("tolerance", "ari", at_least=least) for least in (1, 0.999, 0.95))
    median = float(np.median(_nearest(Y, 10)))
    gamma = 0.5 / median**2
    return {
        "kmeans": (
            X,
            _algorithm(all_of.KMeans(n_clusters=CLUSTERS // 2, n_init=2)),
            [near, Goal("tolerance", "inertia_off", at_most=1e-6)],
        ),
        "kmeans, labels": (X, _descents, [Goal("tolerance", "other", at_most=0)]),
        "whitening": (
            X,
            _step("Whitening", {}, half=True),
            [Goal("tolerance", "off", at_most=1e-3)],
        ),
        "whitening, almost full": (
            X,
            _step("Whitening", {"regularization": "relative:0.01"}),
            [Goal("tolerance", "off", at_most=1e-4)],
        ),
        "pca": (
            X,
            _step("PCA", {"n_components": 8}),
            [Goal("tolerance", "off", at_most=1e-4)],
        ),
        "nearest neighbours": (
            X,
            _neighbors,
            [
                Goal("tolerance", "recall", at_least=0.9999),
                Goal("tolerance", "sqdist_off", at_most=1e-6),
            ],
        ),
        "measure": (X, _measured, [Goal("tolerance", "worst_off", at_most=1e-5)]),
        "most similar": (X, _similar, [Goal("tolerance", "other", at_most=1e-4)]),
        "hdbscan": (
            Y,
            _algorithm(all_of.HDBSCAN(min_cluster_size=25, min_samples=5)),
            [near],
        ),
        "dbscan": (Y, _algorithm(all_of.DBSCAN(eps=median, min_samples=5)), [same]),
        "umap": (
            X,
            _umap,
            [
                Goal("tolerance", "trustworthiness_less", at_most=0.01),
                Goal("tolerance", "preserved_less", at_most=0.05),
            ],
        ),
        "gaussian_mixture": (
            Y,
            _algorithm(all_of.GaussianMixture(n_components=n)),
            [alike],
        ),
        "spectral, rbf": (Y, _algorithm(all_of.Spectral(n_clusters=n, gamma=gamma)), [alike]),
        "spectral, nearest neighbours": (
            Y,
            _algorithm(all_of.Spectral(n_clusters=n, affinity="nearest_neighbors")),
            [alike],
        ),
        **{
            f"agglomerative, {linkage}": (
                Y,
                _algorithm(all_of.Agglomerative(n_clusters=n, linkage=linkage)),
                [near],
            )
            for linkage in ("ward", "average", "complete", "single")
        },
        "mean_shift": (Y, _algorithm(all_of.MeanShift(bandwidth=1.5 * median)), [alike]),
        "optics": (Y, _algorithm(all_of.OPTICS(min_samples=10)), [near]),
    }


def _algorithm(model: Any) -> Callable[[Place, Any], Values]:
    def compare(place: Place, X: Any) -> Values:
        from sklearn.metrics import adjusted_rand_score

        cpu, other = (model.fit(X, device=device) for device in ("cpu", place.device))
        found = {
            "ari": float(adjusted_rand_score(cpu.labels_, other.labels_)),
            "other": float((cpu.labels_ != other.labels_).mean()),
            "clusters": cpu.n_clusters_,
            "clusters_there": other.n_clusters_,
            "backend": other.backend,
            "method": other.method,
        }
        if "inertia" in cpu.info:
            found["inertia_off"] = abs(other.info["inertia"] / cpu.info["inertia"] - 1)
        return found

    return compare


def _step(
    name: str, settings: dict[str, Any], *, half: bool = False
) -> Callable[[Place, Any], Values]:
    """Fit and apply a step, on the host by float16 products with `half`.

    Of PCA, axes may point the other way.
    """

    def compare(place: Place, X: Any) -> Values:
        from gpucluster import preprocess
        from gpucluster.events import Reporter

        step = getattr(preprocess, name)(**settings)

        def output(device: Any) -> Any:
            arrays = step.fit(X, device, Reporter()).arrays
            where = device if step.output_on_gpu else "cpu"
            return place.host(step.output(X, arrays, where))

        cpu = output("cpu")
        other = _half_whitened(step, X) if half and not place.on_gpu else output(place.device)
        if name == "PCA":
            other = other * np.sign((cpu * other).sum(axis=0))
        return {"off": float(np.linalg.norm(cpu - other) / np.linalg.norm(cpu))}

    return compare


def _descents(place: Place, X: Any) -> Values:
    """Search from the same centres, as they move: by bounds on the host, by float16 products."""
    from gpucluster.device.arrays import to_device
    from gpucluster.ops.half_lloyd import HalfLloyd
    from gpucluster.ops.lloyd import Lloyd

    centers = X[:: max(1, len(X) // CLUSTERS)].copy()
    bounds = Lloyd(X, centers)
    half = HalfLloyd(*(to_device(each, place.device) for each in (X, centers)))
    other = []
    for _ in range(4):
        other.append(float((bounds.labels != place.host(half.labels)).mean()))
        means = bounds.means()
        bounds.move(means)
        half.move(to_device(means, place.device))
    return {"other": max(other), "open": half.n_rechecked / len(X)}


def _half_whitened(step: Any, X: Any) -> Any:
    """Whiten by float16 products on the host, as it is done on a GPU."""
    from gpucluster.ops.half_moments import half_centred_product, half_moments

    found = half_moments(X)
    values, vectors = found.eigen()
    gains = (values + step.epsilon(float(values.mean()))) ** -0.5
    return half_centred_product(X, found.mean, (vectors * gains) @ vectors.T)


def _neighbors(place: Place, X: Any) -> Values:
    from gpucluster.device.arrays import to_device
    from gpucluster.ops.half_neighbors import half_neighbors
    from gpucluster.ops.neighbors import Neighbors, nearest_neighbors

    cpu = nearest_neighbors(X, 15, exact=True)
    if place.on_gpu:
        other = nearest_neighbors(to_device(X, place.device), 15)
    else:
        other = Neighbors(*half_neighbors(X, 15), "half_neighbors")
    there, sqdist = place.host(other.rows), place.host(other.sqdist)
    far = np.sqrt(cpu.sqdist[:, -1:])
    gap = np.sqrt(np.maximum(sqdist, 0)) - far  # ties are right
    shared = (there[:, :, None] == cpu.rows[:, None, :]).any(axis=2)
    return {
        "recall": float((shared | (gap <= 1e-5 * far)).mean()),
        "same_rows": float((there == cpu.rows).mean()),
        "sqdist_off": float((np.abs(sqdist - cpu.sqdist) / np.maximum(far**2, 1e-30)).max()),
        "method": other.method,
    }


def _umap(place: Place, X: Any) -> Values:
    from gpucluster.events import Reporter
    from gpucluster.preprocess import UMAP

    step = UMAP(n_components=5, n_neighbors=15, n_epochs=None if place.on_gpu else 20)
    layouts = [step.fit(X, device, Reporter()).arrays["layout"] for device in ("cpu", place.device)]
    cpu, other = (_kept(X, layout) for layout in layouts)
    size = [float(np.abs(each - np.median(each, axis=0)).max()) for each in layouts]
    return {
        "trustworthiness": other[0],
        "trustworthiness_less": cpu[0] - other[0],
        "preserved": other[1],
        "preserved_less": cpu[1] - other[1],
        "extent_over_cpu": size[1] / size[0],  # outliers of racing updates lie far away
    }


def _kept(X: Any, layout: Any) -> tuple[float, float]:
    """Return trustworthiness, and the share of 15 neighbours that are kept, of some rows."""
    from sklearn.manifold import trustworthiness

    from gpucluster.ops.neighbors import nearest_neighbors
    from gpucluster.ops.normalize import unit_rows

    rows = slice(None, None, max(1, len(X) // 4000))
    unit, small = unit_rows(X[rows]), np.ascontiguousarray(layout[rows])
    before, after = (nearest_neighbors(each, 16).rows[:, 1:] for each in (unit, small))
    shared = (before[:, :, None] == after[:, None, :]).any(axis=2)
    return float(trustworthiness(unit, small, n_neighbors=15)), float(shared.mean())


def _measured(place: Place, X: Any) -> Values:
    """Compare all metrics of a clustering; on the host, by what runs on a GPU."""
    from gpucluster.metrics import quality, rows

    labels = _labels(X)
    cpu = quality.measure(X, labels)
    if place.on_gpu:
        other = quality.measure(X, labels, device="gpu")
    else:
        kept = quality.rows_on_cpu
        quality.rows_on_cpu = lambda *given: rows.compare_rows(np, *given)
        try:
            other = quality.measure(X, labels)
        finally:
            quality.rows_on_cpu = kept
    off = {
        name: abs(float(value) - float(other.metrics[name])) / max(1.0, abs(float(value)))
        for name, value in cpu.metrics.items()
        if value is not None
    }
    return {
        "worst_off": max(off.values()),
        "worst": max(off, key=lambda name: off[name]),
        "cosine_off": float(np.nanmax(np.abs(cpu.cosine_similarity - other.cosine_similarity))),
        "other_nearest": float((cpu.nearest != other.nearest).mean()),
        "other_medoids": float((cpu.medoid_rows != other.medoid_rows).mean()),
    }


def _similar(place: Place, X: Any) -> Values:
    """Compare the placing of rows by direction."""
    from gpucluster.ops.assign import most_similar
    from gpucluster.ops.normalize import unit_rows

    directions = unit_rows(X[:: max(1, len(X) // 100)].copy())
    cpu, other = (most_similar(X, directions, device=each) for each in ("cpu", place.device))
    return {
        "other": float((cpu[0] != other[0]).mean()),
        "similarity_off": float(np.abs(cpu[1] - other[1]).max()),
    }


def _labels(X: Any) -> Any:
    """Return canonical labels: those of k-means, some rows noise."""
    from gpucluster.algorithms import KMeans
    from gpucluster.ops.labels import canonical_labels

    labels = KMeans(n_clusters=10, n_init=1).fit(X).labels_.copy()
    labels[::17] = -1
    return canonical_labels(labels)


def _nearest(X: Any, n_neighbors: int) -> Any:
    """Return the distance of each row to its tenth neighbour."""
    from gpucluster.ops.neighbors import nearest_neighbors

    return np.sqrt(nearest_neighbors(X, n_neighbors + 1).sqdist[:, -1])
