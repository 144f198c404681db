"""Rows that no fit has placed: how they join clusters, and when they stay outside.

`Assigner` is what rows beside a sample, and those of a later day, are compared with; `calibrate`
learns from the rows of the fit how similar is similar enough.
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
from gpucluster.assignment.chosen import Chosen
from gpucluster.assignment.policy import (
    ASSIGNED_BY,
    BY_ASSIGNMENT,
    BY_FIT,
    BY_NOISE_POLICY,
    BY_SAMPLE,
    NoisePolicy,
    NoisePolicyText,
)
from gpucluster.assignment.thresholds import calibrated

__all__ = [
    "ASSIGNED_BY",
    "BY_ASSIGNMENT",
    "BY_FIT",
    "BY_NOISE_POLICY",
    "BY_SAMPLE",
    "Assigned",
    "Assigner",
    "Calibration",
    "Chosen",
    "Metric",
    "NoisePolicy",
    "NoisePolicyText",
    "calibrate",
    "calibrated",
    "check_threshold",
    "cosine_beside",
]
