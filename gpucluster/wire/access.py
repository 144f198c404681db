"""Namespaces, and tokens that open them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from gpucluster.wire.base import Answer, Request, Time, Title

Scope = Literal["metrics", "read", "run", "admin"]
NamespaceId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]


class CreateNamespaceRequest(Request):
    """A namespace that is to be."""

    namespace_id: NamespaceId = Field(description="Its name.")
    description: str | None = Field(default=None, max_length=2000)


class Namespace(Answer):
    """A namespace."""

    namespace_id: str
    description: str | None = None
    created_at: Time


class ListNamespacesResponse(Answer):
    """Namespaces, newest first."""

    results: list[Namespace]
    total_count: int


class CreateTokenRequest(Request):
    """A token that is to be issued."""

    token_name: Title | None = Field(default=None, description="For people.")
    namespace: Literal["*"] | NamespaceId = Field(
        default="default", description="What it opens; * for all."
    )
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)] = Field(
        default=("read",),
        description="What it allows: run includes read, admin all; metrics shows no data.",
    )
    expires_at: Time | None = Field(default=None, description="When it ends by itself.")


class RotateTokenRequest(Request):
    """How a token gets another secret."""

    overlap_s: Annotated[int, Field(ge=0, le=30 * 86400)] = Field(
        default=86400, description="Seconds that the secret before goes on working."
    )


class Token(Answer):
    """A token, without its secret."""

    token_id: str
    token_name: str | None = None
    namespace: str
    scopes: list[Scope]
    expires_at: Time | None = None
    created_at: Time


class IssuedToken(Token):
    """A token with its secret, which is shown this once."""

    token: str


class ListTokensResponse(Answer):
    """Tokens, newest first."""

    results: list[Token]
    total_count: int
