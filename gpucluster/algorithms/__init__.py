"""The clustering algorithms: one file, one class each.

`catalogue` lists them by name: ours, and those that other packages offer in the
entry-point group ``gpucluster.algorithms``.
"""

from __future__ import annotations

from functools import cache

from gpucluster.algorithms.base import Algorithm, Raw, canonical_labels
from gpucluster.algorithms.dbscan import DBSCAN
from gpucluster.algorithms.hdbscan import HDBSCAN
from gpucluster.algorithms.kmeans import KMeans
from gpucluster.algorithms.optics import OPTICS
from gpucluster.types import Cost

__all__ = [
    "DBSCAN",
    "HDBSCAN",
    "OPTICS",
    "Algorithm",
    "Cost",
    "KMeans",
    "Raw",
    "canonical_labels",
    "catalogue",
]

_OURS: tuple[type[Algorithm], ...] = (KMeans, DBSCAN, HDBSCAN, OPTICS)


@cache
def catalogue() -> dict[str, type[Algorithm]]:
    """Return every algorithm by name; ours cannot be replaced from outside."""
    from importlib.metadata import entry_points

    known = {algorithm.name: algorithm for algorithm in _OURS}
    for entry in entry_points(group="gpucluster.algorithms"):
        if entry.name not in known:
            known[entry.name] = entry.load()
    return known
