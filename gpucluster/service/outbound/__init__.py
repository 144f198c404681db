"""Calls to addresses that people gave us: into the open internet, and nowhere else."""

from __future__ import annotations

from gpucluster.service.outbound.client import Outbound, OutboundError, Reply
from gpucluster.service.outbound.targets import OutboundSettings

__all__ = ["Outbound", "OutboundError", "OutboundSettings", "Reply"]
