"""Before any endpoint: who asks, for which namespace, whether it is too much, and whether again."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders

from gpucluster.errors import GpuclusterError
from gpucluster.service.answers import answer_of
from gpucluster.service.calls import Call
from gpucluster.service.catalog.port import Full
from gpucluster.service.identifiers import NAMESPACE
from gpucluster.service.limits import MAX_DEPTH, InFlight, Rate, is_too_deep, is_unicode
from gpucluster.service.log import BrokenOff
from gpucluster.service.namespaces import DEFAULT, exists
from gpucluster.service.observing import described
from gpucluster.service.once import MAX_KEY, MOST_BYTES, NOT_KEPT, KeptAnswer, digest_of
from gpucluster.service.refusals import (
    ForbiddenError,
    InvalidError,
    NotFoundError,
    SpentError,
    TooLargeError,
    UnauthorizedError,
)
from gpucluster.service.settings import LOOPBACK_NAMES
from gpucluster.service.tokens import ANY, EVERYTHING, Token

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gpucluster.service.wiring import Service

# bodies that only the endpoint of documents takes, piece by piece; everywhere else, and of every
# other kind, a body is read here, up to its limit
logger = logging.getLogger(__name__)

PROBES = ("/healthz", "/readyz")
METRICS = "/metrics"
UPLOADS = ("application/vnd.apache.parquet", "application/x-ndjson")
_TAKES_UPLOADS = re.compile(r"/v1/collections/[^/]+/documents")
FAILURES_PER_S = 20 / 60  # wrong tokens of one address
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Front:
    """The application as the network sees it.

    Parameters
    ----------
    app : ASGI application
        The endpoints; each finds a `Call` under ``state`` of its scope.
    service : Service
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._in_flight = InFlight(service.settings.max_in_flight)
        self._rate = Rate(service.settings.rate_per_s)
        self._failures = Rate(FAILURES_PER_S, burst=20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        sending = _Sending(send, request_id)
        try:
            await self._let_in(scope, headers, request_id, receive, sending)
        except Exception as error:
            answer = answer_of(error)
            if answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
                logger.exception("request failed", extra={"fields": described(scope)})
            if not sending.is_begun:
                await answer(scope, receive, sending)
            elif not sending.is_whole:
                raise BrokenOff from error  # so that the connection is closed

    async def _let_in(
        self, scope: Scope, headers: Headers, request_id: str, receive: Receive, send: Send
    ) -> None:
        path = scope["path"]
        if path in PROBES:  # under any name, and when there is too much to do
            await self._app(scope, receive, send)
            return
        with self._in_flight:
            self._check_host(headers)
            if path.startswith("/v1/") or path == METRICS:
                await self._serve(scope, headers, request_id, receive, send)
            else:
                await self._app(scope, receive, send)

    async def _serve(
        self, scope: Scope, headers: Headers, request_id: str, receive: Receive, send: Send
    ) -> None:
        """Answer a request to the API."""
        token = await self._token(scope, headers)
        scope["state"]["token_id"] = token.token_id
        self._rate.take(token.token_id)
        ns = await self._namespace(scope, headers, token)
        call = Call(self._service, ns, token, request_id)
        scope["state"]["call"] = call
        if _is_upload(scope, headers):
            await self._app(scope, receive, send)
            return
        body = await self._body(scope, headers, receive)
        replayed = _replay(body, receive)
        key = headers.get("idempotency-key")
        if key is None or scope["method"] not in {"POST", "PUT", "PATCH", "DELETE"}:
            await self._app(scope, replayed, send)
            return
        if not 0 < len(key) <= MAX_KEY:
            raise InvalidError(
                f"expected 1 to {MAX_KEY} characters", loc=["header", "Idempotency-Key"]
            )
        query = scope["query_string"].decode("latin-1")
        path = f"{scope['path']}?{query}"
        call.key = digest_of(token.token_id, ns, scope["method"], path, key)
        await self._once(call, scope, body, replayed, send)

    async def _once(
        self, call: Call, scope: Scope, body: bytes, receive: Receive, send: Send
    ) -> None:
        """Do a request that has a key, or answer it as it was answered before."""
        once, fingerprint = self._service.once, hashlib.sha256(body).hexdigest()
        begun = await once.begin(call.ns, str(call.key), fingerprint)
        if isinstance(begun, KeptAnswer):
            await _send_again(begun, send)
            return
        heard = _Heard(send)
        finished: KeptAnswer | None = None
        try:
            await self._app(scope, receive, heard)
            finished = heard.answer
            if call.is_secret and finished is not None and finished.status < 400:
                finished = _SPENT
        finally:
            try:
                await run_in_threadpool(once.finish, begun, finished)
            except (Full, GpuclusterError):  # it was sent; the next try is taken for a repetition
                logger.warning("%s: its answer was not kept", call.request_id)

    async def _token(self, scope: Scope, headers: Headers) -> Token:
        """Return what the caller may do."""
        if not self._service.settings.auth:
            return EVERYTHING
        caller = (scope.get("client") or ("", 0))[0]
        kind, _, text = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not text.strip():
            raise UnauthorizedError(
                "a token is needed", hint="send the header Authorization: Bearer gpc_..."
            )
        tokens, text = self._service.tokens, text.strip()
        is_known, token = tokens.remembered(text)
        if not is_known or token is None:
            token = await run_in_threadpool(tokens.check, text)
        if token is None:
            self._failures.take(caller)
            raise UnauthorizedError("the token is not valid")
        return token

    async def _namespace(self, scope: Scope, headers: Headers, token: Token) -> str:
        """Return the namespace that is meant; a foreign one is not there."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        own = DEFAULT if token.namespace == ANY else token.namespace
        named = headers.get("x-namespace") or (query.get("namespace") or [own])[0]
        is_foreign = token.namespace not in {ANY, named}
        if is_foreign or not NAMESPACE.fullmatch(named) or not await self._is_there(named):
            raise NotFoundError("there is no such namespace")
        return named

    async def _is_there(self, name: str) -> bool:
        known = self._service.known_namespaces
        if name not in known and await run_in_threadpool(exists, self._service.catalog, name):
            known.add(name)
        return name in known

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        """Read the body of a request."""
        most = self._service.settings.max_body_bytes
        told = headers.get("content-length", "0")
        parts, n_bytes = [], 0
        while n_bytes <= most and not (told.isdigit() and int(told) > most):
            message = await receive()
            if message["type"] != "http.request":
                break
            parts.append(message.get("body", b""))
            n_bytes += len(parts[-1])
            if not message.get("more_body"):
                body = b"".join(parts)
                if n_bytes <= most:
                    if is_too_deep(body):
                        raise InvalidError(
                            f"lists and objects lie deeper in each other than {MAX_DEPTH}", loc=[]
                        )
                    if not is_unicode(body):
                        raise InvalidError("a text is no Unicode: half of a pair", loc=[])
                    return body
        is_for_uploads = _TAKES_UPLOADS.fullmatch(scope["path"])
        hint = f"more documents come as a file: Content-Type {' or '.join(UPLOADS)}"
        raise TooLargeError(
            f"the body has more than {most:,} bytes", hint=hint if is_for_uploads else None
        )

    def _check_host(self, headers: Headers) -> None:
        """Refuse names that nobody said this server has: a page elsewhere may have made one up."""
        settings = self._service.settings
        allowed = settings.allowed_hosts or (() if settings.auth else LOOPBACK_NAMES)
        name = re.sub(r":\d+$", "", headers.get("host", "")).lower()
        if allowed and name not in allowed:
            raise ForbiddenError("this server is not known under that name")


# what a request is answered that is sent again and whose answer held a secret
_SPENT = KeptAnswer(
    409,
    (("content-type", "application/json"),),
    bytes(
        answer_of(
            SpentError(
                "this was done, and its answer held a secret, which is not kept",
                hint="send it under another Idempotency-Key to have it done once more",
            )
        ).body
    ),
)


class _Sending:
    """Adds what every answer carries, and knows how far it is."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.is_begun = False
        self.is_whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
            self.is_begun = True
        else:
            self.is_whole = not message.get("more_body")
        await self._send(message)


class _Heard:
    """Passes an answer on, and keeps it where it is short."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._parts: list[bytes] = []
        self._bytes = 0
        self._is_whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif self._bytes <= MOST_BYTES:
            self._parts.append(message.get("body", b""))
            self._bytes += len(self._parts[-1])
            self._is_whole = not message.get("more_body")
        await self._send(message)

    @property
    def answer(self) -> KeptAnswer | None:
        """What was sent; None where it is too long, was broken off, or may be another next time."""
        if not self._is_whole or self._bytes > MOST_BYTES:
            return None
        if self._start["status"] >= 500 or self._start["status"] in NOT_KEPT:
            return None
        headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self._start["headers"]
            if name.lower() != b"x-request-id"
        )
        return KeptAnswer(self._start["status"], headers, b"".join(self._parts))


def _is_upload(scope: Scope, headers: Headers) -> bool:
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    return media in UPLOADS and _TAKES_UPLOADS.fullmatch(scope["path"]) is not None


def _replay(body: bytes, receive: Receive) -> Callable[[], Any]:
    """Return what reads a body that was read already, and then whether the caller is there."""
    is_given = False

    async def reading() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return reading


async def _send_again(answer: KeptAnswer, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    headers.append((b"idempotent-replayed", b"true"))
    status = HTTPStatus(answer.status)
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
