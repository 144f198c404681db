"""What went wrong, as the JSON body of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gpucluster.errors import (
    ArtifactError,
    ConfigError,
    GpuclusterError,
    InputError,
    RunNotFoundError,
    SourceError,
    StoreError,
)
from gpucluster.fields import is_model, locate
from gpucluster.notation import nearest
from gpucluster.service.catalog.port import Changed, Full, NoRoom
from gpucluster.service.refusals import InvalidError, Refusal, TooManyError
from gpucluster.wire.base import ErrorAnswer, ValidationAnswer

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

RETRY_S = 1
PARTS = ("body", "query", "header", "path")  # of a request
_TYPES = {
    400: "BadRequestError",
    401: "UnauthorizedError",
    403: "ForbiddenError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    409: "ConflictError",
    413: "TooLargeError",
    429: "TooManyError",
    500: "InternalError",
    503: "UnavailableError",
    507: "StoreError",
}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorAnswer, "description": _TYPES[status]} for status in _TYPES},
    422: {"model": ValidationAnswer, "description": "InvalidError"},
}
_STATUS: dict[type[GpuclusterError], int] = {
    RunNotFoundError: 404,
    ArtifactError: 409,  # it has to be made again
    StoreError: 507,
}


def answer_of(error: Exception) -> JSONResponse:
    """Return what is answered where `error` ended a request."""
    if isinstance(error, InvalidError):
        return invalid([_problem(error.loc, str(error), error.code)])
    if isinstance(error, Refusal):
        headers = dict(error.headers)
        if isinstance(error, TooManyError):
            headers["Retry-After"] = str(max(1, round(error.after_s)))
        details = {"code": error.code, "hint": error.hint, **error.details}
        return _answer(error.status, error.message, type(error).__name__, details, headers)
    if isinstance(error, GpuclusterError):
        return _of_engine(error)
    if isinstance(error, Changed):
        message = "somebody changed it at the same time; read it again"
        return _answer(409, message, "ConflictError", {"code": "changed"})
    if isinstance(error, Full):
        return _of_catalog(error)
    return _answer(500, "an error of the service; its log has more", "InternalError", {})


def _of_engine(error: GpuclusterError) -> JSONResponse:
    if isinstance(error, ConfigError | InputError | SourceError):
        path = getattr(error, "path", None)
        steps = [int(s) if s.isdecimal() else s for s in path.split(".")] if path else []
        return invalid([_problem(steps, str(error), error.code)])
    status = next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 500)
    return _answer(
        status, error.message, type(error).__name__, {"code": error.code, "hint": error.hint}
    )


def _of_catalog(error: Full) -> JSONResponse:
    if isinstance(error, NoRoom):
        message = "the disk of the catalog is full; nothing was changed"
        return _answer(507, message, "StoreError", {"code": "disk_full"})
    headers = {"Retry-After": str(RETRY_S)}
    return _answer(503, "the catalog is busy", "UnavailableError", {"code": "busy"}, headers)


def invalid(problems: Sequence[Mapping[str, Any]]) -> JSONResponse:
    """Return what is answered where fields of a request are wrong."""
    return JSONResponse({"detail": list(problems)}, 422)


def handle_errors(app: FastAPI) -> None:
    """Let an application answer all errors in the same form, but for those of its own making."""

    @app.exception_handler(Refusal)
    @app.exception_handler(GpuclusterError)
    @app.exception_handler(Changed)
    @app.exception_handler(Full)
    def refused(_: Request, error: Exception) -> JSONResponse:
        answer = answer_of(error)
        if answer.status_code == 500:  # a mistake of ours, as those that nobody expects
            raise error
        return answer

    @app.exception_handler(RequestValidationError)
    def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        return invalid([_described(request, each) for each in error.errors()])

    @app.exception_handler(HTTPException)
    def by_framework(_: Request, error: HTTPException) -> JSONResponse:
        kind = _TYPES.get(error.status_code, "BadRequestError")
        return _answer(error.status_code, str(error.detail), kind, {}, error.headers)

    @app.exception_handler(ClientDisconnect)
    def gone(_: Request, __: Exception) -> JSONResponse:  # nobody hears it, and it is no error
        return _answer(400, "the request was broken off", _TYPES[400], {})

    @app.exception_handler(Exception)
    def unexpected(_: Request, error: Exception) -> None:
        raise error  # to `Front`, which logs it before it answers


def _answer(
    status: int,
    message: str,
    kind: str,
    details: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    known = {name: value for name, value in details.items() if value is not None} or None
    error = {"message": message, "type": kind, "details": known}
    body = {"success": False, "status": status, "error": error}
    return JSONResponse(body, status, dict(headers or {}))


def _problem(loc: Sequence[str | int], msg: str, kind: str) -> dict[str, Any]:
    """Return what is said of a place in a request: in its body, unless the place says where."""
    part = [] if loc and loc[0] in PARTS else ["body"]
    return {"loc": [*part, *loc], "msg": msg, "type": kind}


def _described(request: Request, error: Mapping[str, Any]) -> dict[str, Any]:
    """Say what is wrong with a field, and what was probably meant where no such one is known."""
    part, *loc = error["loc"]
    kind, msg = str(error["type"]), str(error["msg"]).removeprefix("Value error, ")
    context = error.get("ctx") or {}
    if kind == "json_invalid":  # what follows is where in the text
        return _problem([part, *loc], f"the body is no JSON: {context.get('error', '')}", kind)
    spot = locate(_asked(request, part), loc)
    steps = list(spot.steps)
    if kind == "extra_forbidden":
        known = spot.names()
        hint = nearest(str(steps[-1]), known) if known else None
        msg = "there is no such field" + (f". {hint}" if hint else "")
    elif kind.startswith("union_tag"):
        steps += [context["discriminator"].strip("'")]
        tags = context.get("expected_tags")
        msg = "Field required" if tags is None else f"expected one of {tags}"
    return _problem([part, *steps], msg, kind)


def _asked(request: Request, part: str) -> Any:
    """Return what a part of a request has to be, where it is one model."""
    route = request.scope.get("route")
    if part == "body":
        field = getattr(route, "body_field", None)
        return None if field is None else field.field_info
    dependant = getattr(route, "dependant", None)
    models = [field.field_info.annotation for field in getattr(dependant, "query_params", ())]
    return next((each for each in models if part == "query" and is_model(each)), None)


def as_bytes(value: Any) -> bytes:
    """Return JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
