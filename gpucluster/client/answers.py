"""Bytes of a service, as models and errors; what nobody foresaw is an error that says so."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from gpucluster.client.calls import Reply
from gpucluster.client.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    TooManyRequestsError,
    UnauthorizedError,
    UnreadableAnswerError,
)
from gpucluster.errors import ClientError

A = TypeVar("A")
SHOWN = 200  # characters of what is no JSON
_KINDS: dict[int, type[ClientError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidRequestError,
    429: TooManyRequestsError,
}


def read_answer(kind: type[A], reply: Reply) -> A:
    """Return an answer as what it should be.

    Parameters
    ----------
    kind : type
        A model, dict, or None's for answers without a body.
    reply : Reply
    """
    try:
        found: A = _reader(cast("Hashable", kind)).validate_json(reply.content or b"null")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise UnreadableAnswerError(
            f"the answer is no {kind.__name__}: {where}: {first['msg']}",
            hint="the service may be newer than this client, or another one",
            status=reply.status,
            request_id=reply.headers.get("x-request-id"),
        ) from error
    return found


@lru_cache
def _reader(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("type[Any]", kind))


def failure_of(reply: Reply) -> ClientError:
    """Return the error that an answer of 300 and above stands for."""
    status = reply.status
    kind = _KINDS.get(status, ServiceError if status >= 500 else ClientError)
    body = _object(reply.content)
    error = body.get("error")
    told: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    given = told.get("details")
    details: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    more: dict[str, Any] = {
        "hint": _text(details.get("hint")),
        "status": status,
        "request_id": reply.headers.get("x-request-id"),
        "details": {name: value for name, value in details.items() if name != "hint"},
        "retry_after_s": _seconds(reply.headers.get("retry-after")),
    }
    if issubclass(kind, InvalidRequestError):
        found = body.get("detail")
        listed = found if isinstance(found, list) else []
        problems = [each for each in listed if isinstance(each, Mapping)]
        told_of = "; ".join(map(_said, problems)) or _text(told.get("message")) or _raw(reply)
        return kind(told_of, problems=problems, **more)
    return kind(_text(told.get("message")) or _raw(reply), **more)


def not_sent(error: ValidationError) -> InvalidRequestError:
    """Return what is raised for a request that cannot be made."""
    problems = [
        {"loc": ["body", *each["loc"]], "msg": each["msg"], "type": each["type"]}
        for each in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return InvalidRequestError("; ".join(map(_said, problems)), problems=problems)


def _said(problem: Mapping[str, Any]) -> str:
    loc = problem.get("loc")
    steps = [str(step) for step in loc] if isinstance(loc, list) else []
    where = ".".join(steps[1:] if steps[:1] == ["body"] else steps)
    return f"{where}: {problem.get('msg')}" if where else str(problem.get("msg"))


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        found = from_json(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _raw(reply: Reply) -> str:
    """Say what there is to say of an answer that explains nothing."""
    try:
        name = f"{reply.status} {HTTPStatus(reply.status).phrase}"
    except ValueError:
        name = str(reply.status)
    text = " ".join(reply.content[: 4 * SHOWN].decode(errors="replace").split())[:SHOWN]
    return f"the service answered {name}" + (f": {text}" if text else "")


def _seconds(header: str | None) -> float | None:
    """Return what ``Retry-After`` says, in either of its forms."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
