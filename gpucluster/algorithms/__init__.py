"""The clustering algorithms: one file, one class each.

`catalogue` lists them by name: ours, and those that other packages offer in the
entry-point group ``gpucluster.algorithms``.
"""

from __future__ import annotations

from functools import cache

from gpucluster.algorithms.agglomerative import Agglomerative
from gpucluster.algorithms.base import Algorithm, Raw
from gpucluster.algorithms.dbscan import DBSCAN
from gpucluster.algorithms.gaussian_mixture import GaussianMixture
from gpucluster.algorithms.hdbscan import HDBSCAN
from gpucluster.algorithms.kmeans import KMeans
from gpucluster.algorithms.mean_shift import MeanShift
from gpucluster.algorithms.optics import OPTICS
from gpucluster.algorithms.spectral import Spectral
from gpucluster.ops.labels import canonical_labels
from gpucluster.types import Cost

__all__ = [
    "DBSCAN",
    "HDBSCAN",
    "OPTICS",
    "Agglomerative",
    "Algorithm",
    "Cost",
    "GaussianMixture",
    "KMeans",
    "MeanShift",
    "Raw",
    "Spectral",
    "canonical_labels",
    "catalogue",
]

_OURS: tuple[type[Algorithm], ...] = (
    KMeans,
    DBSCAN,
    HDBSCAN,
    Agglomerative,
    Spectral,
    GaussianMixture,
    MeanShift,
    OPTICS,
)


@cache
def catalogue() -> dict[str, type[Algorithm]]:
    """Return every algorithm by name; ours cannot be replaced from outside."""
    from importlib.metadata import entry_points

    known = {algorithm.name: algorithm for algorithm in _OURS}
    for entry in entry_points(group="gpucluster.algorithms"):
        if entry.name not in known:
            known[entry.name] = entry.load()
    return known
