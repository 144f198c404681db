"""Webhooks: what happens is sent to those who asked, signed, until they have answered."""

from __future__ import annotations

from gpucluster.service.webhooks.deliverer import Deliverer
from gpucluster.service.webhooks.deliveries import Deliveries
from gpucluster.service.webhooks.events import emit
from gpucluster.service.webhooks.registry import Webhooks

__all__ = ["Deliverer", "Deliveries", "Webhooks", "emit"]
