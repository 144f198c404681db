"""The application: endpoints behind `Front`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from gpucluster import __version__
from gpucluster.service.answers import DOCUMENTED, handle_errors
from gpucluster.service.description import describe
from gpucluster.service.front import Front
from gpucluster.service.observing import Observed
from gpucluster.service.routes import (
    access,
    clusters,
    collections,
    documents,
    enrichment,
    executions,
    operating,
    page,
    tasks,
    taxonomies,
    triggers,
    webhooks,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gpucluster.service.wiring import Service

# What has a fixed path goes before what takes an id in its place.
ROUTERS = (
    access.router,
    enrichment.router,
    taxonomies.router,
    triggers.router,
    executions.router,
    clusters.router,
    documents.router,
    collections.router,
    tasks.router,
    webhooks.router,
    page.router,
    operating.router,
)


def make_app(service: Service) -> ASGIApp:
    """Return the application of a service, which starts and stops with it."""
    app = FastAPI(
        title="gpucluster",
        version=__version__,
        summary="Clusters of embeddings: define, execute, inspect, enrich, promote, keep fresh.",
        responses=DOCUMENTED,
        docs_url=None,  # the pages that come with the framework load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan(service),
    )
    for router in ROUTERS:
        app.include_router(router)

    app.state.service = service
    handle_errors(app)
    describe(app)
    return Observed(Front(app, service), is_logged=service.settings.log_requests)


def _lifespan(service: Service) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.start)
        try:
            yield
        finally:
            await run_in_threadpool(service.stop)

    return lifespan
