"""Namespaces and tokens."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter

from gpucluster.service import namespaces
from gpucluster.service.calls import Administers, Call, Reads
from gpucluster.service.catalog.port import Query, Record, Taken
from gpucluster.service.paging import MOST
from gpucluster.service.refusals import ConflictError, ForbiddenError, NotFoundError
from gpucluster.service.tokens import ANY
from gpucluster.wire import access as wire
from gpucluster.wire.tasks import DeleteResponse

router = APIRouter(prefix="/v1", tags=["access"])


@router.get("/namespaces")
def list_namespaces(call: Reads) -> wire.ListNamespacesResponse:
    """List the namespaces that the token opens."""
    records = namespaces.listed(call.service.catalog, Query(limit=MOST))
    seen = [r for r in records if call.token.namespace in {ANY, r.id}]
    answers = [_namespace(record) for record in seen]
    return wire.ListNamespacesResponse(results=answers, total_count=len(answers))


@router.post("/namespaces", status_code=201)
def create_namespace(body: wire.CreateNamespaceRequest, call: Administers) -> wire.Namespace:
    """Make a namespace."""
    _for_all(call)
    try:
        made = namespaces.create(call.service.catalog, body.namespace_id, body.description)
    except Taken:
        raise ConflictError(f"there is a namespace {body.namespace_id} already") from None
    return _namespace(made)


@router.get("/tokens")
def list_tokens(call: Administers) -> wire.ListTokensResponse:
    """List the tokens of the namespace; of all, for a token of all."""
    every = call.service.tokens.list(Query(limit=MOST))
    seen = [r for r in every if call.token.namespace in {ANY, r.body["namespace"]}]
    answers = [_token(record) for record in seen]
    return wire.ListTokensResponse(results=answers, total_count=len(answers))


@router.post("/tokens", status_code=201)
def issue_token(body: wire.CreateTokenRequest, call: Administers) -> wire.IssuedToken:
    """Issue a token; its text is in this answer and nowhere else."""
    if call.token.namespace not in {ANY, body.namespace}:
        raise ForbiddenError(f"this token issues tokens for {call.token.namespace} alone")
    if body.namespace != ANY and not namespaces.exists(call.service.catalog, body.namespace):
        raise NotFoundError("there is no such namespace")
    call.is_secret = True
    record, text = call.service.tokens.issue(
        body.namespace, body.scopes, name=body.token_name, expires_at=body.expires_at
    )
    return wire.IssuedToken(**_token(record).model_dump(), token=text)


@router.post("/tokens/{token_id}/rotate")
def rotate_token(
    token_id: str, body: wire.RotateTokenRequest, call: Administers
) -> wire.IssuedToken:
    """Give a token another secret; the one before works for a while."""
    _own(call, token_id)
    until = call.service.catalog.clock() + timedelta(seconds=body.overlap_s)
    call.is_secret = True
    record, text = call.service.tokens.rotate(token_id, overlap_until=until)
    return wire.IssuedToken(**_token(record).model_dump(), token=text)


@router.delete("/tokens/{token_id}")
def revoke_token(token_id: str, call: Administers) -> DeleteResponse:
    """Take a token back."""
    _own(call, token_id)
    call.service.tokens.revoke(token_id)
    return DeleteResponse()


def _for_all(call: Call) -> None:
    if call.token.namespace != ANY:
        raise ForbiddenError("this needs a token for all namespaces")


def _own(call: Call, token_id: str) -> None:
    with call.service.catalog.reading() as tx:
        record = tx.get("", "token", token_id)
    if record is None or call.token.namespace not in {ANY, record.body["namespace"]}:
        raise NotFoundError(f"there is no token {token_id}")


def _namespace(record: Record) -> wire.Namespace:
    return wire.Namespace.model_validate({**record.body, "created_at": record.created_at})


def _token(record: Record) -> wire.Token:
    return wire.Token.model_validate({**record.body, "created_at": record.created_at})
