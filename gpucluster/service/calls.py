"""A request that was let in: by whom, for which namespace, and what serves it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from fastapi import Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from pydantic_core import to_json

from gpucluster.notation import nearest
from gpucluster.service.identifiers import new_id
from gpucluster.service.refusals import ForbiddenError, InvalidError
from gpucluster.service.tokens import Scope, Token

if TYPE_CHECKING:
    from fastapi.dependencies.models import Dependant

    from gpucluster.service.wiring import Service

_bearer = HTTPBearer(auto_error=False, description="A token: gpc_ID_SECRET")


@dataclass(slots=True)
class Call:
    """What an endpoint gets beside its body.

    Attributes
    ----------
    service : Service
    ns : str
        The namespace, which exists and which the token is for.
    token : Token
    request_id : str
        Also in the answer, as ``X-Request-Id``.
    key : str or None
        Digest of caller, request and ``Idempotency-Key``, where that was given.
    is_secret : bool
        Set by an endpoint whose answer is not to be kept.
    """

    service: Service
    ns: str
    token: Token
    request_id: str
    key: str | None = None
    is_secret: bool = False
    _made: int = field(default=0, repr=False)

    def new_id(self, kind: str) -> str:
        """Return an id for a new thing: the same one when the request is repeated under its key."""
        self._made += 1
        return new_id(kind, None if self.key is None else f"{self.key}:{self._made}")


def may(scope: Scope) -> Callable[..., Call]:
    """Return the dependency of an endpoint that needs a scope."""

    def let_in(
        request: Request,
        _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Call:
        call: Call = request.scope["state"]["call"]
        if not call.token.allows(scope):
            have = ", ".join(sorted(call.token.scopes)) or "none"
            raise ForbiddenError(f"this needs the scope {scope}, the token has {have}")
        _check_query(request)
        return call

    return let_in


def _check_query(request: Request) -> None:
    """Refuse parameters that nobody would look at; models of a query do so by themselves."""
    known = {"namespace", *_parameters(request.scope["route"].dependant)}
    for name in request.query_params:
        if name not in known:
            raise InvalidError(
                "there is no such parameter", loc=["query", name], hint=nearest(name, sorted(known))
            )


def _parameters(dependant: Dependant) -> Iterator[str]:
    """Yield the names of the parameters that an endpoint takes in the query."""
    for each in dependant.query_params:
        model = each.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from model.model_fields
        else:
            yield each.alias
    for needed in dependant.dependencies:
        yield from _parameters(needed)


def in_turn(endpoint: Callable[..., Any]) -> Callable[..., Awaitable[Response]]:
    """Let an endpoint, and the writing of its answer, wait for a thread of `Service.readers`.

    Whoever waits holds none of the threads that all other requests share.
    """

    @functools.wraps(endpoint)
    async def waiting(**given: Any) -> Response:
        def answered() -> Response:
            answer = endpoint(**given)
            if isinstance(answer, Response):
                return answer
            return Response(to_json(answer, inf_nan_mode="null"), media_type="application/json")

        return await cast("Call", given["call"]).service.readers.run(answered)

    return waiting


Reads: TypeAlias = Annotated[Call, Depends(may("read"))]
Runs: TypeAlias = Annotated[Call, Depends(may("run"))]
Administers: TypeAlias = Annotated[Call, Depends(may("admin"))]
