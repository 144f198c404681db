"""The report of a clustering in `gpu.py`: rows beside clusters, and scikit-learn's silhouette."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gpu_machine import of_half
from gpu_record import Goal, Session, Values

if TYPE_CHECKING:
    from gpu_place import Place, Shape

ROWS, FEATURES, CLUSTERS = 10_000_000, 768, 1000
CHECKED_ROWS, CHECKED_CLUSTERS = 20_000, 50
GOAL_MS = 45.0
TOLERANCE, ROW_TOLERANCE = 1e-5, 1e-4  # of the mean; of a row, whose distances are of float32


def report(session: Session, place: Place) -> None:
    """Time the comparison of rows with clusters, and check its silhouettes."""
    checked = place.shape(CHECKED_ROWS, FEATURES, CHECKED_CLUSTERS)
    session.measure(
        checked.case,
        "beside scikit-learn",
        lambda: _checked(place, checked),
        [
            Goal("G8", "silhouette_off", at_most=TOLERANCE),
            Goal("G8", "worst_row_off", at_most=ROW_TOLERANCE),
        ],
    )
    # the rows, unit rows and copies of a block, and what is found of each row
    shape = place.shape(ROWS, FEATURES, CLUSTERS, row_bytes=5 * FEATURES + 100)
    bound = round(shape.at_full(GOAL_MS), 2)
    session.measure(
        shape.case,
        "gpucluster",
        lambda: _timed(session, place, shape),
        [Goal("G8", "ms", at_most=bound, speed=True)],
    )


def _unit(place: Place, shape: Shape) -> tuple[Any, Any]:
    from gpucluster.ops.normalize import unit_rows

    X, labels = place.clustered(shape.rows, shape.features, shape.clusters, seed=41)
    return unit_rows(X, out=X), labels


def _clusters(X: Any, labels: Any, n_clusters: int, host: Any) -> tuple[Any, Any]:
    """Return the means of the unit rows of each cluster, float64, and the sizes."""
    from gpucluster.ops.assign import cluster_sums

    sizes = np.maximum(np.bincount(host(labels), minlength=n_clusters), 1)
    return host(cluster_sums(X, labels, n_clusters)) / sizes[:, None], sizes


def _compared(place: Place, X: Any, labels: Any, means: Any, sizes: Any) -> Any:
    from gpucluster.metrics.rows import compare_rows

    spread = np.maximum(1 - (means * means).sum(axis=1), 0)  # squared, of rows of unit length
    return compare_rows(place.xp, X, labels, means, means.astype(np.float32), sizes, spread, None)


def _checked(place: Place, shape: Shape) -> Values:
    from sklearn.metrics import silhouette_samples

    X, labels = _unit(place, shape)
    means, sizes = _clusters(X, labels, shape.clusters, place.host)
    on_host = place.host(labels)
    found = _compared(place, X, on_host, means, sizes)
    true = silhouette_samples(place.host(X).astype(np.float64), on_host, metric="cosine")
    return {
        "silhouette": float(found.silhouette.mean(dtype=np.float64)),
        "silhouette_off": abs(float(found.silhouette.mean(dtype=np.float64) - true.mean())),
        "worst_row_off": float(np.abs(found.silhouette - true).max()),
    }


def _timed(session: Session, place: Place, shape: Shape) -> Values:
    X, labels = _unit(place, shape)
    means, sizes = _clusters(X, labels, shape.clusters, place.host)
    on_host = place.host(labels)
    taken = place.time(lambda: _compared(place, X, on_host, means, sizes), most_s=10)
    flop = 4.0 * shape.rows * shape.features * shape.clusters  # by direction, and by mean
    iteration = {
        row["values"]["ms"]
        for row in session.result["rows"]
        if row["table"] == "lloyd" and row["subject"] == "gpucluster" and "ms" in row["values"]
    }
    over = taken["ms"] / max(iteration) if iteration else None
    return {**of_half(session, flop, taken["ms"]), "of_lloyd": over, **taken}
