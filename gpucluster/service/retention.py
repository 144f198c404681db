"""Histories that are kept for a time, and then removed: bounded parts, one after the other.

Definitions, executions and their runs are no histories: they stay until somebody removes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Final

from gpucluster.service import namespaces
from gpucluster.service.catalog.port import Catalog, Query
from gpucluster.service.tasks import KIND as TASK
from gpucluster.service.triggers.history import KIND as TIMES
from gpucluster.service.triggers.history import LIVE as LIVE_TIMES
from gpucluster.service.webhooks.events import EVENT
from gpucluster.service.webhooks.records import INACTIVE, WEBHOOK, kind_of_deliveries
from gpucluster.wire.tasks import LIVE

AT_ONCE: Final = 500  # in one transaction, which others wait for
MOST_NAMESPACES: Final = 100_000


def chores(catalog: Catalog, days: float) -> Mapping[str, Callable[[], bool]]:
    """Return what removes histories that are older, by what it is for.

    Parameters
    ----------
    catalog : Catalog
    days : float
        Since the last change; 0: they are kept for ever.
    """
    if not days:
        return {}
    kept = timedelta(days=days)
    return {
        "old tasks are removed": partial(_prune, catalog, TASK, kept, LIVE),
        "old histories of triggers are removed": partial(_prune, catalog, TIMES, kept, LIVE_TIMES),
        "events that nobody delivers are removed": partial(_prune, catalog, EVENT, kept, ()),
        "deliveries of webhooks that are off are removed": partial(_prune_resting, catalog, kept),
    }


def _prune(catalog: Catalog, kind: str, kept: timedelta, live: tuple[str, ...]) -> bool:
    """Remove a part, and say whether there may be more."""
    before = catalog.clock() - kept
    with catalog.writing() as tx:
        return tx.prune(kind, before=before, limit=AT_ONCE, keep=live) == AT_ONCE


def _prune_resting(catalog: Catalog, kept: timedelta) -> bool:
    """Remove deliveries of webhooks that are not active; the deliverer sees to the others."""
    is_more = False
    for namespace in namespaces.listed(catalog, Query(limit=MOST_NAMESPACES)):
        with catalog.reading() as tx:
            query = Query(status=INACTIVE, limit=AT_ONCE)
            resting = tx.page(namespace.id, WEBHOOK, query).records
        for webhook in resting:
            kind = kind_of_deliveries(namespace.id, webhook.id)
            is_more |= _prune(catalog, kind, kept, ())
    return is_more
