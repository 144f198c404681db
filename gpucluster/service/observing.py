"""Each request, seen from outside: a line in the log, and what is counted of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from gpucluster.service.counters import IN_FLIGHT, REQUEST_SECONDS, REQUESTS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
NO_ROUTE: Final = "none"  # it was refused before, or there is none
GONE: Final = 499  # nothing was answered, as the caller was gone: the number that proxies write
QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})  # asked for again and again


class Observed:
    """An application whose requests are written down.

    Parameters
    ----------
    app : ASGI application
        It leaves ``request_id``, ``token_id`` and ``call`` under ``state`` of its scope.
    is_logged : bool
        Whether each request is a line in the log.
    """

    def __init__(self, app: ASGIApp, *, is_logged: bool) -> None:
        self._app = app
        self._is_logged = is_logged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status, n_bytes = time.perf_counter(), GONE, 0

        async def sending(message: Message) -> None:
            nonlocal status, n_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                n_bytes += len(message.get("body", b""))
            await send(message)

        IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, sending)
        finally:
            IN_FLIGHT.dec()
            self._note(scope, status, n_bytes, time.perf_counter() - begun)

    def _note(self, scope: Scope, status: int, n_bytes: int, seconds: float) -> None:
        asked = described(scope)
        method, route = asked["method"], asked["route"]
        REQUESTS.labels(method, route, status).inc()
        REQUEST_SECONDS.labels(method, route).observe(seconds)
        if not self._is_logged or (route in QUIET and status < 400):
            return
        answer = {"status": status, "ms": round(1000 * seconds, 1), "bytes": n_bytes}
        logger.info("request", extra={"fields": described(scope, answer)})


def described(scope: Scope, answer: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what the log says of a request and its answer: nothing that they hold."""
    state: dict[str, Any] = scope.get("state", {})
    call = state.get("call")
    return {
        "method": scope["method"] if scope["method"] in METHODS else "other",
        "route": getattr(scope.get("route"), "path_format", NO_ROUTE),
        **(answer or {}),
        "namespace": None if call is None else call.ns,
        "token_id": state.get("token_id"),
        "request_id": state.get("request_id"),
    }
