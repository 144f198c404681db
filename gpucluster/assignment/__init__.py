"""Rows that no fit has placed: how they join clusters, and when they stay outside.

`Centroids` are what the rows beside a sample are compared with, `Assigner` what the rows of a
later day are; `calibrate` learns from the rows of the fit how similar is similar enough.
"""

from __future__ import annotations

from gpucluster.assignment.assigner import (
    Assigned,
    Assigner,
    Metric,
    check_threshold,
    cosine_beside,
)
from gpucluster.assignment.calibration import Calibration, calibrate
from gpucluster.assignment.centroids import CALIBRATED_SHARE, Centroids, calibrated
from gpucluster.assignment.policy import (
    ASSIGNED_BY,
    BY_ASSIGNMENT,
    BY_FIT,
    BY_NOISE_POLICY,
    BY_SAMPLE,
    NoisePolicy,
    NoisePolicyText,
)

__all__ = [
    "ASSIGNED_BY",
    "BY_ASSIGNMENT",
    "BY_FIT",
    "BY_NOISE_POLICY",
    "BY_SAMPLE",
    "CALIBRATED_SHARE",
    "Assigned",
    "Assigner",
    "Calibration",
    "Centroids",
    "Metric",
    "NoisePolicy",
    "NoisePolicyText",
    "calibrate",
    "calibrated",
    "check_threshold",
    "cosine_beside",
]
