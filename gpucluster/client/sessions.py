"""Whom a call is for: a connection, a namespace, and the key that it may be repeated under."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from gpucluster.client.answers import read_answer
from gpucluster.client.calls import Call, Flow, Reply, Send
from gpucluster.client.drivers import Awaiting, Blocking
from gpucluster.client.retries import Retries, reply_to

A = TypeVar("A")
D = TypeVar("D", bound=Blocking | Awaiting)
JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Generic[D]):
    """What all calls of a client share.

    Attributes
    ----------
    driver : Blocking or Awaiting
    namespace : str or None
        None: the token's own.
    key : str or None
        What calls may be repeated under. None: each call gets one of its own.
    retries : Retries
    """

    driver: D
    namespace: str | None
    key: str | None
    retries: Retries

    def ask(self, call: Call[A]) -> Flow[A]:
        """Do a call, and read its answer.

        Parameters
        ----------
        call : Call
        """
        reply = yield from self._reply_to(call, {"Accept": JSON}, is_streamed=False)
        return read_answer(call.answer, reply)

    def open(self, call: Call[Any], accept: str) -> Flow[Reply]:
        """Do a call whose answer is read piece by piece.

        Parameters
        ----------
        call : Call
        accept : str
            Media type of the answer.
        """
        return (yield from self._reply_to(call, {"Accept": accept}, is_streamed=True))

    def _reply_to(
        self, call: Call[Any], headers: dict[str, str], *, is_streamed: bool
    ) -> Flow[Reply]:
        headers["X-Request-Id"] = secrets.token_hex(8)
        if self.namespace is not None:
            headers["X-Namespace"] = self.namespace
        if not call.is_read:
            headers["Idempotency-Key"] = self.key or secrets.token_hex(16)
        body, is_repeatable = call.body, True
        content: Any = None
        if isinstance(body, BaseModel):
            headers["Content-Type"] = JSON
            content = body.model_dump_json(exclude_unset=True, by_alias=True).encode()
        elif isinstance(body, Mapping):
            headers["Content-Type"] = JSON
            content = as_json(body)
        elif body is not None:
            headers.update(body.headers)
            content, is_repeatable = body, body.is_repeatable
        send = Send(
            method=call.method,
            path=call.path,
            query={name: value for name, value in call.query.items() if value is not None},
            headers=headers,
            content=content,
            is_streamed=is_streamed,
            patience_s=call.patience_s,
        )
        return (
            yield from reply_to(
                send, self.retries, is_read=call.is_read, is_repeatable=is_repeatable
            )
        )


def as_json(value: Mapping[str, Any]) -> bytes:
    """Return a body as JSON, which knows no NaN."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    """Return a value that JSON does not know as one that it does."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True, by_alias=True)
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if hasattr(value, "tolist"):  # arrays and numbers of numpy
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")
