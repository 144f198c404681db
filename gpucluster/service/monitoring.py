"""What Prometheus reads: what this process counted, and how things stand now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from gpucluster.errors import GpuclusterError
from gpucluster.service.catalog.port import Full
from gpucluster.service.counters import REGISTRY
from gpucluster.service.tasks import KIND as TASK

if TYPE_CHECKING:
    from prometheus_client import Metric

    from gpucluster.service.wiring import Service


def exposed(service: Service, accept: str) -> tuple[bytes, str]:
    """Return all metrics, and their media type: the text of Prometheus, or of OpenMetrics."""
    encode, media_type = choose_encoder(accept)
    return encode(_Metrics(service)), media_type


class _Metrics:
    """All metrics of a service, as a registry."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from REGISTRY.collect()
        jobs = self._service.jobs
        for name, text, value in (
            ("gpucluster_jobs_running", "Jobs that work on this server.", jobs.n_running),
            ("gpucluster_job_places", "Jobs that may at a time.", jobs.n_places),
            ("gpucluster_gpus", "GPUs that jobs are given, one each.", jobs.n_gpus),
            ("gpucluster_gpus_free", "Those that no job has.", jobs.n_gpus_free),
        ):
            yield GaugeMetricFamily(name, text, value)
        yield from self._of_catalog()

    def _of_catalog(self) -> Iterator[Metric]:
        """Yield what only the catalog knows; without it the others are shown all the same."""
        try:
            with self._service.catalog.reading() as tx:
                counts = tx.count_due(TASK, "job.verb")
        except (Full, GpuclusterError):
            yield GaugeMetricFamily("gpucluster_catalog_up", "Whether it answers.", 0)
            return
        yield GaugeMetricFamily("gpucluster_catalog_up", "Whether it answers.", 1)
        waiting = sum(n for (status, _), n in counts.items() if status == "PENDING")
        text = "Tasks that wait for a server, of all namespaces."
        yield GaugeMetricFamily("gpucluster_tasks_waiting", text, waiting)
        text = "Tasks that wait or run, on all servers."
        tasks = GaugeMetricFamily("gpucluster_tasks", text, labels=["verb", "status"])
        for (status, verb), n in counts.items():
            tasks.add_metric([str(verb), str(status)], n)
        yield tasks
