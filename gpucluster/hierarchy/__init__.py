"""Clusters divided further, level by level, by UMAP and HDBSCAN whatever found them."""

from __future__ import annotations

from gpucluster.hierarchy.divider import Divider
from gpucluster.hierarchy.division import LIBRARY_BYTES, Division, division_cost
from gpucluster.hierarchy.growth import FAILED, Node, Split, grow, nested

__all__ = [
    "FAILED",
    "LIBRARY_BYTES",
    "Divider",
    "Division",
    "Node",
    "Split",
    "division_cost",
    "grow",
    "nested",
]
