"""A request that was let in: by whom, for which namespace, and what serves it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from fastapi import Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic_core import to_json

from gpucluster.service.identifiers import new_id
from gpucluster.service.refusals import ForbiddenError
from gpucluster.service.tokens import Scope, Token

if TYPE_CHECKING:
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
        return call

    return let_in


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
