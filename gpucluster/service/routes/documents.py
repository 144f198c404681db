"""Documents of a collection."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from gpucluster.device.memory import give_back
from gpucluster.places import disk_of
from gpucluster.service import streams
from gpucluster.service.calls import Call, Reads, Runs, in_turn
from gpucluster.service.collections.facets import count_values
from gpucluster.service.collections.incoming import Upload
from gpucluster.service.collections.listing import (
    Cursor,
    Question,
    fields_of,
    find_document,
    page,
    to_documents,
)
from gpucluster.service.collections.scanning import fetch, searching
from gpucluster.service.collections.streaming import Documents
from gpucluster.service.collections.uploads import Kind, given_documents, open_upload
from gpucluster.service.collections.versions import Version
from gpucluster.service.once import digest_of
from gpucluster.service.paging import Pages
from gpucluster.service.refusals import InvalidError, NotFoundError, TooLargeError
from gpucluster.service.routes.collections import changed
from gpucluster.wire import collections
from gpucluster.wire import documents as wire
from gpucluster.wire.base import Pagination

router = APIRouter(prefix="/v1/collections/{collection_identifier}/documents", tags=["documents"])

PARQUET = "application/vnd.apache.parquet"
_KINDS: dict[tuple[str, str], Kind] = {
    (PARQUET, "identity"): "parquet",
    (streams.NDJSON, "identity"): "jsonl",
    (streams.NDJSON, "gzip"): "jsonl.gz",
    (streams.NDJSON, "zstd"): "jsonl.zst",
}
_BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": wire.AddDocumentsRequest.model_json_schema()},
            streams.NDJSON: {"schema": {"type": "string"}},
            PARQUET: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            streams.NDJSON: {"schema": {"type": "string"}},
            streams.ARROW: {"schema": {"type": "string", "format": "binary"}},
        }
    }
}


@router.post("", openapi_extra=_BODIES)
async def add_documents(
    collection_identifier: str,
    request: Request,
    call: Runs,
    how: Annotated[wire.AddOptions, Parameter()],
) -> collections.DocumentsAdded:
    """Add documents: a few as JSON, many as Parquet or lines of JSON, which may be compressed."""

    def add(upload: Callable[[Version], Upload], key: str | None) -> collections.DocumentsAdded:
        done = call.service.collections.append(
            *(call.ns, collection_identifier, upload),
            on_duplicate=how.on_duplicate,
            key=key,
            expected=how.expected_version,
        )
        counts = {"added": done.added, "replaced": done.replaced, "skipped": done.skipped}
        return collections.DocumentsAdded.model_validate({**changed(done.version), **counts})

    limits = call.service.collections.limits
    kind = _kind_of(request)
    if kind is None:
        body = _parsed(await request.body())
        given = body.documents
        return await run_in_threadpool(
            add, lambda version: given_documents(given, version, limits), call.key
        )
    place = disk_of(call.service.settings.place)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=place) as file:  # without a name: it goes with this process
        await _receive(request, file, limits.upload_bytes)
        path = Path(f"/proc/self/fd/{file.fileno()}")
        key = _key_of(call, request)

        def add_file() -> collections.DocumentsAdded:
            try:
                return add(lambda version: open_upload(path, kind, version, limits), key)
            finally:
                give_back()  # a file of 2 GB leaves much behind, which nobody may need again

        return await run_in_threadpool(add_file)


@router.post("/list")
@in_turn
def list_documents(
    collection_identifier: str, body: wire.ListDocumentsRequest, pages: Pages, call: Reads
) -> wire.ListDocumentsResponse:
    """List documents by filters, search and order; all pages are of one version."""
    if pages.offset:
        raise InvalidError("documents are listed by cursor", loc=["query", "offset"])
    cursor = None if pages.cursor is None else Cursor.parse(pages.cursor)
    number = None if cursor is None else cursor.version
    opened = call.service.collections.open(call.ns, collection_identifier, number)
    question = Question(
        filters=body.filters,
        search=body.search,
        sort=None if body.sort is None else body.sort.field,
        direction="asc" if body.sort is None else body.sort.direction,
        fields=body.fields,
        include_vectors=body.include_vectors,
    )
    found = page(
        *(opened.versions, opened.version, question),
        limit=pages.limit,
        cursor=cursor,
        include_total=pages.include_total,
    )
    following = found.next_cursor
    return wire.ListDocumentsResponse(
        results=found.documents,
        pagination=Pagination(
            total=found.total,
            page_size=pages.limit,
            next_page=None if following is None else f"?limit={pages.limit}&cursor={following}",
            next_cursor=following,
        ),
        total_count=found.total,
        version=found.version,
    )


@router.post("/facets")
@in_turn
def facets(
    collection_identifier: str, body: wire.FacetsRequest, call: Reads
) -> wire.FacetsResponse:
    """Count the values of fields, among all documents or those that are meant."""
    opened = call.service.collections.open(call.ns, collection_identifier)
    filters = searching(opened.version, body.search, body.filters)
    found = count_values(
        opened.versions, opened.version, body.fields, filters=filters, limit=body.limit
    )
    answers = {
        field: wire.FacetAnswer(
            values=[wire.FacetValue(value=value, count=n) for value, n in facet.values],
            other_count=facet.other_count,
            null_count=facet.null_count,
            distinct=facet.distinct,
        )
        for field, facet in found.items()
    }
    return wire.FacetsResponse(facets=answers, version=opened.version.number)


@router.post("/data", response_class=StreamingResponse, responses=_STREAMED)
@in_turn
def stream_documents(
    collection_identifier: str, request: Request, body: wire.DataDocumentsRequest, call: Reads
) -> StreamingResponse:
    """Stream documents: lines of JSON, or Arrow IPC where ``Accept`` says so."""
    opened = call.service.collections.open(call.ns, collection_identifier, body.version)
    question = Question(
        filters=body.filters,
        search=body.search,
        fields=body.fields,
        include_vectors=body.include_vectors,
    )
    found, each = Documents(opened.versions, opened.version, question), call.service.readers.each
    if streams.ARROW in request.headers.get("accept", ""):
        return StreamingResponse(each(found.arrow()), media_type=streams.ARROW)
    return StreamingResponse(each(found.lines()), media_type=streams.NDJSON)


@router.post("/delete")
def delete_documents(
    collection_identifier: str, body: wire.DeleteDocumentsRequest, call: Runs
) -> collections.DocumentsRemoved:
    """Take documents away, by their ids or by filters."""
    version, n_removed = call.service.collections.remove(
        *(call.ns, collection_identifier),
        document_ids=body.document_ids,
        filters=body.filters,
        expected=body.expected_version,
    )
    return collections.DocumentsRemoved.model_validate({**changed(version), "removed": n_removed})


@router.get("/{document_id:path}")
@in_turn
def get_document(
    collection_identifier: str,
    document_id: str,
    call: Reads,
    include_vectors: Annotated[bool, Parameter(description="Show vectors too.")] = False,
) -> dict[str, Any]:
    """Show a document."""
    opened = call.service.collections.open(call.ns, collection_identifier)
    versions, version = opened.versions, opened.version
    row = find_document(versions, version, document_id)
    if row is None:
        raise NotFoundError(f"{version.collection_id} has no document {document_id[:100]!r}")
    columns = fields_of(version, Question(include_vectors=include_vectors))
    return to_documents(fetch(versions, version, [row], columns), version)[0]


def _kind_of(request: Request) -> Kind | None:
    """Return what kind of file is sent; None for JSON."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if media in {"", "application/json"} and encoding == "identity":
        return None
    if (media, encoding) not in _KINDS:
        raise InvalidError(
            f"got {media[:60]} with encoding {encoding[:20]}, expected application/json, "
            f"{PARQUET}, or {streams.NDJSON} with encoding identity, gzip or zstd",
            loc=["header", "Content-Type"],
        )
    return _KINDS[media, encoding]


def _parsed(body: bytes) -> wire.AddDocumentsRequest:
    try:
        return wire.AddDocumentsRequest.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**each, "loc": ("body", *each["loc"])} for each in found]
        ) from error


async def _receive(request: Request, file: IO[bytes], most: int) -> None:
    """Write a body to a file, as it comes."""
    told = request.headers.get("content-length", "")
    n_bytes = 0
    if not (told.isdecimal() and int(told) > most):
        async for part in request.stream():
            n_bytes += len(part)
            if n_bytes > most:
                break
            await run_in_threadpool(file.write, part)
        else:
            await run_in_threadpool(file.flush)
            return
    raise TooLargeError(f"the upload has more than {most:,} bytes", hint="send it in parts")


def _key_of(call: Call, request: Request) -> str | None:
    """Return what stands for the ``Idempotency-Key`` of an upload, whose body is not kept."""
    key = request.headers.get("idempotency-key")
    path = request.url.path
    return None if key is None else digest_of(call.token.token_id, call.ns, path, key)
