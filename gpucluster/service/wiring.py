"""One server: its parts, and how they hang together."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from gpucluster.device.select import list_gpus
from gpucluster.service import namespaces, retention
from gpucluster.service.catalog import open_catalog
from gpucluster.service.catalog.port import Catalog, Transaction
from gpucluster.service.collections.incoming import Limits
from gpucluster.service.collections.library import Library
from gpucluster.service.collections.writing_back import WriteBacks
from gpucluster.service.definitions import Definitions
from gpucluster.service.enrichments import Enrichments
from gpucluster.service.executions import Executions
from gpucluster.service.housekeeping import keep_house
from gpucluster.service.jobs.host import JobHost
from gpucluster.service.once import Once, forget_answers
from gpucluster.service.outbound import Outbound, OutboundSettings
from gpucluster.service.ownership import claim_root
from gpucluster.service.readers import Readers
from gpucluster.service.removal import Removal
from gpucluster.service.settings import ServiceSettings
from gpucluster.service.tasks import Tasks
from gpucluster.service.taxonomies import Taxonomies
from gpucluster.service.tokens import Tokens
from gpucluster.service.triggers import Asking, ServiceClusters, TriggerLoop, Triggers
from gpucluster.service.webhooks import Deliverer, Deliveries, Webhooks, emit


class Service:
    """What endpoints call.

    Parameters
    ----------
    settings : ServiceSettings
    catalog : Catalog, optional
        Instead of the one that the settings name.

    Raises
    ------
    ConfigError
        The root belongs to another catalog.
    """

    def __init__(self, settings: ServiceSettings, catalog: Catalog | None = None) -> None:
        self.settings = settings
        self.catalog = catalog or open_catalog(settings.catalog_url)
        try:
            claim_root(settings.place, self.catalog)
        except BaseException:
            self.catalog.close()
            raise
        admin = settings.admin_token
        self.tokens = Tokens(self.catalog, None if admin is None else admin.get_secret_value())
        self.once = Once(self.catalog)
        self.tasks = Tasks(self.catalog, settings.max_queued)
        self.known_namespaces: set[str] = set()
        self.is_over = threading.Event()
        self.readers = Readers(settings.max_reads)
        namespaces.ensure_default(self.catalog)
        self.outbound = Outbound(
            OutboundSettings(
                allow_hosts=settings.outbound_hosts,
                http_hosts=settings.outbound_http_hosts,
                ca_file=settings.outbound_ca_file,
            )
        )
        self.webhooks = Webhooks(self.catalog, self.outbound)
        self.deliveries = Deliveries(self.catalog)
        self._deliverer = Deliverer(self.catalog, self.outbound)
        self.collections = Library(
            settings.place,
            self.catalog,
            Limits(upload_bytes=settings.max_upload_bytes),
            settings.import_roots,
            self.tasks,
            self._emit,
        )
        self.write_backs = WriteBacks(settings.place, self.catalog, self.collections, self.tasks)
        self.definitions = Definitions(self.catalog, self.collections, self._emit)
        self.executions = Executions(
            self.catalog, settings, self.definitions, self.collections, self.tasks, self._emit
        )
        self.enrichments = Enrichments(
            *(self.catalog, settings, self.definitions, self.executions, self.tasks),
            self.collections.noting,
            self._emit,
        )
        self.taxonomies = Taxonomies(
            *(self.catalog, settings, self.collections, self.enrichments, self.tasks, self._emit)
        )
        clusters = ServiceClusters(
            self.definitions, self.executions, self.tasks, self.collections.records
        )
        self.triggers = Triggers(self.catalog, clusters, self._emit, Asking(self.outbound))
        self.executions.when_finished.append(self.triggers.finished)
        self._trigger_loop = TriggerLoop(self.catalog, self.triggers)
        self.removal = Removal(
            *(self.catalog, self.definitions, self.executions, self.tasks),
            self.triggers.cluster_gone,
        )
        chores = {
            "old answers are forgotten": lambda: forget_answers(self.catalog),
            "versions that nobody has told of are told of": self.collections.noting.look,
            "what failed imports have left is removed": self.collections.imports.look,
            **retention.chores(self.catalog, settings.retention_days),
        }
        self._housekeeping = threading.Thread(
            target=keep_house, args=(chores, self.is_over), name="housekeeping", daemon=True
        )
        uses_gpus = settings.max_jobs > 0 and settings.device != "cpu"
        self.jobs = JobHost(
            *(self.catalog, self.tasks, settings.max_jobs, timedelta(seconds=settings.hold_s)),
            list_gpus() if uses_gpus else (),
        )

    def start(self) -> None:
        """Begin to work on what is due."""
        self._housekeeping.start()
        if self.settings.max_jobs:
            self.jobs.start()
        if self.settings.triggers:
            self._trigger_loop.start()
        if self.settings.deliveries:
            self._deliverer.start()

    def stop(self) -> None:
        """Let others go on with what is not done."""
        self.is_over.set()
        self._trigger_loop.stop()
        if self.settings.max_jobs:
            self.jobs.stop()
        self._deliverer.stop()
        if self._housekeeping.is_alive():
            self._housekeeping.join()
        self.catalog.close()

    def _emit(
        self,
        tx: Transaction,
        ns: str,
        event_type: str,
        subject_type: str,
        subject_id: str,
        metadata: Mapping[str, Any],
    ) -> None:
        """Tell webhooks and triggers what happens, in the transaction in which it does."""
        now = self.catalog.clock()
        emit(tx, ns, event_type, subject_type, subject_id, metadata, now=now)
        self.triggers.heard(tx, ns, event_type, subject_type, subject_id, metadata)
