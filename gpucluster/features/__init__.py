"""Several features of the same documents: how much each counts, and how their clusters relate."""

from __future__ import annotations

from gpucluster.features.overlap import Overlap, nested_levels, overlaps
from gpucluster.features.weights import WeightLearning, columns, learn_weights, weigh

__all__ = [
    "Overlap",
    "WeightLearning",
    "columns",
    "learn_weights",
    "nested_levels",
    "overlaps",
    "weigh",
]
