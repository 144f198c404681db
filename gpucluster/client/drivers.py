"""Doing what flows ask for: one driver blocks, the other awaits. Nothing is decided here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Generic, TypeAlias, TypeVar

import httpx2

from gpucluster.client.calls import Effect, Flow, Give, Items, Read, Reply, Send, Sleep, Upload
from gpucluster.client.errors import ConnectionFailedError

A = TypeVar("A")
Step: TypeAlias = Effect | Give[Any]
END = object()


class Walk(Generic[A]):
    """A flow that is gone through step by step.

    Parameters
    ----------
    flow : generator

    Attributes
    ----------
    step : Effect, Give or None
        What is to be done next; None where it is over.
    result : object
        What came of it.
    """

    result: A

    def __init__(self, flow: Generator[Step, Any, A]) -> None:
        self._flow = flow
        self.step: Step | None = None
        self._go(lambda: next(flow))

    def done(self, value: Any) -> None:
        """Go on with what came of the step; an error of the connection is one of its outcomes."""
        if isinstance(value, ConnectionFailedError):
            self._go(lambda: self._flow.throw(value))
        else:
            self._go(lambda: self._flow.send(value))

    def close(self) -> None:
        """Break off what is not over."""
        self._flow.close()

    def _go(self, on: Callable[[], Step]) -> None:
        try:
            self.step = on()
        except StopIteration as over:
            self.step, self.result = None, over.value


class Blocking:
    """Does it and returns.

    Parameters
    ----------
    http : httpx2.Client
    """

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def one(self, flow: Flow[A]) -> A:
        """Return what comes of a flow."""
        walk = Walk(flow)
        with ExitStack() as stack:
            stack.callback(walk.close)
            while walk.step is not None:
                walk.done(self._do(walk.step, stack))
        return walk.result

    def many(self, flow: Items[A]) -> Iterator[A]:
        """Yield what a flow gives."""
        walk = Walk(flow)
        with ExitStack() as stack:
            stack.callback(walk.close)
            while walk.step is not None:
                if isinstance(walk.step, Give):
                    yield walk.step.item
                    walk.done(None)
                else:
                    walk.done(self._do(walk.step, stack))

    def _do(self, step: Step, stack: ExitStack) -> object:
        try:
            if isinstance(step, Send):
                return self._send(step, stack)
            if isinstance(step, Read):
                return next(step.reply.stream, b"")
        except httpx2.TransportError as error:
            return _not_reached(error, step)
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
        return None

    def _send(self, send: Send, stack: ExitStack) -> Reply:
        content = send.content
        body = content if content is None or isinstance(content, bytes) else content.pieces()
        request = _request(self._http, send, body)
        response = self._http.send(request, stream=send.is_streamed)
        if not send.is_streamed:
            return _reply(response, response.content)
        stack.callback(response.close)
        if response.status_code >= 300:
            return _reply(response, response.read())
        return _reply(response, b"", response.iter_bytes())


class Awaiting:
    """Does it while others go on.

    Parameters
    ----------
    http : httpx2.AsyncClient
    """

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def one(self, flow: Flow[A]) -> A:
        """Return what comes of a flow."""
        walk = Walk(flow)
        async with AsyncExitStack() as stack:
            stack.callback(walk.close)
            while walk.step is not None:
                walk.done(await self._do(walk.step, stack))
        return walk.result

    async def many(self, flow: Items[A]) -> AsyncIterator[A]:
        """Yield what a flow gives."""
        walk = Walk(flow)
        async with AsyncExitStack() as stack:
            stack.callback(walk.close)
            while walk.step is not None:
                if isinstance(walk.step, Give):
                    yield walk.step.item
                    walk.done(None)
                else:
                    walk.done(await self._do(walk.step, stack))

    async def _do(self, step: Step, stack: AsyncExitStack) -> object:
        try:
            if isinstance(step, Send):
                return await self._send(step, stack)
            if isinstance(step, Read):
                return await anext(step.reply.stream, b"")
        except httpx2.TransportError as error:
            return _not_reached(error, step)
        if isinstance(step, Sleep):
            await asyncio.sleep(step.seconds)
        return None

    async def _send(self, send: Send, stack: AsyncExitStack) -> Reply:
        content = send.content
        body = content if content is None or isinstance(content, bytes) else _pieces(content)
        request = _request(self._http, send, body)
        response = await self._http.send(request, stream=send.is_streamed)
        if not send.is_streamed:
            return _reply(response, response.content)
        stack.push_async_callback(_closer(response))
        if response.status_code >= 300:
            return _reply(response, await response.aread())
        return _reply(response, b"", response.aiter_bytes())


def _closer(response: httpx2.Response) -> Callable[[], Awaitable[None]]:
    return response.aclose


async def _pieces(upload: Upload) -> AsyncIterator[bytes]:
    """Yield a body that is read from a disk, while others go on."""
    pieces = upload.pieces()
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


def _request(http: httpx2.Client | httpx2.AsyncClient, send: Send, content: Any) -> httpx2.Request:
    timeout = http.timeout
    if send.patience_s is not None and (timeout.read or 0) < send.patience_s:
        timeout = httpx2.Timeout(**{**timeout.as_dict(), "read": send.patience_s})
    return http.build_request(
        send.method,
        send.path,
        params=dict(send.query) or None,
        headers=dict(send.headers),
        content=content,
        timeout=timeout,
    )


def _reply(response: httpx2.Response, content: bytes, stream: Any = None) -> Reply:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, content, stream)


def _not_reached(error: httpx2.TransportError, step: Step) -> ConnectionFailedError:
    """Say what happened on the way."""
    what = {
        httpx2.ConnectError: "no connection",
        httpx2.ConnectTimeout: "no connection in time",
        httpx2.PoolTimeout: "no connection became free in time",
        httpx2.ReadTimeout: "no answer in time",
        httpx2.WriteTimeout: "the request could not be sent in time",
        httpx2.RemoteProtocolError: "the connection broke off",
        httpx2.ReadError: "the connection broke off",
        httpx2.WriteError: "the connection broke off",
    }.get(type(error), type(error).__name__)
    request_id = step.headers.get("X-Request-Id") if isinstance(step, Send) else None
    detail = f": {error}" if str(error) else ""
    failed = ConnectionFailedError(
        f"the service was not reached: {what}{detail}",
        hint="check its address, and whether it runs",
        request_id=request_id,
    )
    failed.__cause__ = error
    return failed
