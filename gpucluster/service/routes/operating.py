"""What operators, and the programs that watch for them, ask a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request, Response

from gpucluster import __version__
from gpucluster.errors import GpuclusterError
from gpucluster.service.calls import Call, may
from gpucluster.service.catalog.port import Full
from gpucluster.service.monitoring import exposed
from gpucluster.service.refusals import ForbiddenError, UnavailableError
from gpucluster.service.tokens import ANY

if TYPE_CHECKING:
    from gpucluster.service.wiring import Service

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def health() -> dict[str, str]:
    """Say that the process answers; if it does not, start it again."""
    return {"status": "ok", "version": __version__}


@router.get("/readyz")
def ready(request: Request) -> dict[str, str]:
    """Say that requests can be served: the catalog answers, and nobody said stop."""
    service: Service = request.app.state.service
    if service.is_over.is_set():
        raise UnavailableError("the server is being stopped")
    try:
        with service.catalog.reading() as tx:
            tx.next_due("task")
    except (Full, GpuclusterError) as error:
        raise UnavailableError("the catalog does not answer") from error
    return {"status": "ok", "version": __version__}


@router.get("/metrics")
def metrics(request: Request, call: Annotated[Call, Depends(may("metrics"))]) -> Response:
    """Show what Prometheus reads; it is about all namespaces."""
    if call.token.namespace != ANY:
        raise ForbiddenError("this needs a token for all namespaces")
    text, media_type = exposed(call.service, request.headers.get("accept", ""))
    return Response(text, media_type=media_type)
