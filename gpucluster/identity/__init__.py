"""Which clusters of two runs are the same, and what became of the others."""

from __future__ import annotations

from gpucluster.identity.centroids import separation, similar_centroids
from gpucluster.identity.lineage import KINDS, Lineage, by_centroids, by_documents
from gpucluster.identity.matching import best_matching
from gpucluster.identity.naming import stable_ids
from gpucluster.identity.overlap import Overlap, count_overlap, shared_rows

__all__ = [
    "KINDS",
    "Lineage",
    "Overlap",
    "best_matching",
    "by_centroids",
    "by_documents",
    "count_overlap",
    "separation",
    "shared_rows",
    "similar_centroids",
    "stable_ids",
]
