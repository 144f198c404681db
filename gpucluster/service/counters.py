"""What this process counts while it works, for Prometheus; labels have few values, never ids."""

from __future__ import annotations

import platform
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from gpucluster import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]  # twice as many lines, of no use here

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)  # resident memory, processor time, open files
Info("gpucluster_build", "What runs here.", registry=REGISTRY).info(
    {"version": __version__, "python": platform.python_version()}
)
REQUESTS: Final = Counter(
    "gpucluster_http_requests",
    "Requests that were answered.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
REQUEST_SECONDS: Final = Histogram(
    "gpucluster_http_request_seconds",
    "From the first line of a request to the last byte of its answer.",
    ["method", "route"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 300),
    registry=REGISTRY,
)
IN_FLIGHT: Final = Gauge(
    "gpucluster_http_requests_in_flight", "Requests that are being answered.", registry=REGISTRY
)
TASKS_ENDED: Final = Counter(
    "gpucluster_tasks_ended", "Tasks that this server ended.", ["verb", "status"], registry=REGISTRY
)
TRIGGER_TIMES: Final = Counter(
    "gpucluster_trigger_times",
    "Times that triggers were seen to, by what came of it.",
    ["trigger_type", "outcome"],
    registry=REGISTRY,
)
DELIVERIES: Final = Counter(
    "gpucluster_webhook_deliveries",
    "Calls of receivers, by what came of them: delivered, failed (and tried again), dead.",
    ["outcome"],
    registry=REGISTRY,
)
