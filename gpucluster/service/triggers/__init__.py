"""What starts executions by itself: at times, after events, and when a number says so."""

from __future__ import annotations

from gpucluster.service.triggers.asking import Asking
from gpucluster.service.triggers.clusters import ServiceClusters
from gpucluster.service.triggers.loop import TriggerLoop
from gpucluster.service.triggers.triggers import Triggers

__all__ = ["Asking", "ServiceClusters", "TriggerLoop", "Triggers"]
