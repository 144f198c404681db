"""Taxonomies: promote clusters, keep versions, let documents join."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from gpucluster.service import streams
from gpucluster.service.calls import Call, Reads, Runs
from gpucluster.service.catalog.port import Record, Transaction
from gpucluster.service.paging import Pages, Shown
from gpucluster.service.refusals import ConflictError
from gpucluster.service.tasks import as_answer as task_answer
from gpucluster.service.taxonomies import Promoting
from gpucluster.service.waiting import when_over
from gpucluster.taxonomy import StoredTaxonomy
from gpucluster.wire import taxonomies as wire
from gpucluster.wire.base import ListRequest
from gpucluster.wire.enrichment import EnrichRequest
from gpucluster.wire.executions import DataQuery
from gpucluster.wire.tasks import DeleteResponse, TaskResponse

router = APIRouter(prefix="/v1", tags=["taxonomies"])
Version = Annotated[int | None, Parameter(ge=1, description="Omitted: the latest.")]

SHOWN = Shown(
    model=wire.TaxonomyResponse,
    made_up={
        "config": "cluster_id is the one of config.cluster_ids, all else is the same for all",
        "ready": "all taxonomies are",
    },
)


@router.post("/clusters/{cluster_identifier}/promote")
async def promote(
    cluster_identifier: str, body: wire.PromoteRequest, call: Runs
) -> wire.TaxonomyResponse:
    """Make clusters of a run the nodes of a taxonomy, and answer when that is done."""
    return await _promoted(call, cluster_identifier, body.taxonomy_name, body)


@router.post("/taxonomies")
async def create_taxonomy(body: wire.CreateTaxonomyRequest, call: Runs) -> wire.TaxonomyResponse:
    """Make a taxonomy of the clusters of a definition."""
    asked = wire.PromoteRequest(taxonomy_name=body.taxonomy_name, description=body.description)
    return await _promoted(call, body.config.cluster_ids[0], body.taxonomy_name, asked)


@router.post("/taxonomies/list")
def list_taxonomies(
    body: wire.ListTaxonomiesRequest, pages: Pages, call: Reads
) -> wire.ListTaxonomiesResponse:
    """List taxonomies."""
    page, summary = call.service.taxonomies.page(call.ns, pages.query(body, SHOWN))
    types = summary.by_status
    return wire.ListTaxonomiesResponse(
        results=[_answer(record) for record in page.records],
        pagination=pages.answer(page, summary.count),
        total_count=summary.count,
        stats=wire.TaxonomyListStats(
            total_taxonomies=summary.count,
            flat_taxonomies=types.get("flat", 0),
            hierarchical_taxonomies=types.get("hierarchical", 0),
        ),
    )


@router.post("/taxonomies/execute/{taxonomy_identifier}", tags=["other names"])
async def execute_taxonomy(
    taxonomy_identifier: str, body: wire.ExecuteTaxonomyRequest, call: Runs, version: Version = None
) -> wire.JoinResponse:
    """Let documents join the nodes, and answer when they have."""
    asked = wire.ApplyRequest(
        collection_id=body.source_collection_id,
        version=version,
        filters=body.scroll_filters,
        target_collection_id=body.target_collection_id,
    )
    task = await run_in_threadpool(_apply, call, taxonomy_identifier, asked)
    done = (await when_over(call, [task.id]))[0]
    if done.status == "FAILED":
        raise ConflictError(done.body["error"], task_id=done.id)
    result = done.body["data"].get("result") or {}
    return wire.JoinResponse(
        stats=wire.JoinStats(
            processed_docs=result.get("num_documents", 0),
            batches=math.ceil(result.get("num_documents", 0) / body.batch_size),
        ),
        run_id=done.body["data"]["run_id"],
        task_id=done.id,
    )


@router.get("/taxonomies/{taxonomy_identifier}")
def get_taxonomy(
    taxonomy_identifier: str, call: Reads, version: Version = None
) -> wire.TaxonomyResponse:
    """Show a taxonomy in one of its versions."""
    record = call.service.taxonomies.get(call.ns, taxonomy_identifier)
    if version is None:
        return _answer(record)
    return _answer(record, call.service.taxonomies.open(call.ns, record, version))


@router.patch("/taxonomies/{taxonomy_identifier}")
def patch_taxonomy(
    taxonomy_identifier: str, body: wire.PatchTaxonomyRequest, call: Runs
) -> wire.TaxonomyResponse:
    """Change name, description or metadata; versions stay as they are."""
    return _answer(call.service.taxonomies.patch(call.ns, taxonomy_identifier, body))


@router.delete("/taxonomies/{taxonomy_identifier}")
def delete_taxonomy(taxonomy_identifier: str, call: Runs) -> DeleteResponse:
    """Remove a taxonomy with all its versions."""
    call.service.taxonomies.delete(call.ns, taxonomy_identifier)
    return DeleteResponse()


@router.get("/taxonomies/{taxonomy_identifier}/versions")
def list_versions(
    taxonomy_identifier: str, pages: Pages, call: Reads
) -> wire.ListTaxonomiesResponse:
    """List the versions of a taxonomy, newest first."""
    record = call.service.taxonomies.get(call.ns, taxonomy_identifier)
    numbers = sorted(record.body["versions"], reverse=True)
    shown = numbers[pages.offset : pages.offset + pages.limit]
    results = [
        _answer(record, call.service.taxonomies.open(call.ns, record, number)) for number in shown
    ]
    more = pages.offset + pages.limit < len(numbers)
    return wire.ListTaxonomiesResponse(
        results=results,
        pagination=pages.numbered(len(numbers), has_next=more),
        total_count=len(numbers),
        stats=wire.TaxonomyListStats(total_taxonomies=1),
    )


@router.post("/taxonomies/{taxonomy_identifier}/versions")
async def create_version(
    taxonomy_identifier: str, body: wire.CreateVersionRequest, call: Runs
) -> wire.TaxonomyResponse:
    """Make clusters of a run the next version of a taxonomy."""
    record = await run_in_threadpool(call.service.taxonomies.get, call.ns, taxonomy_identifier)
    return await _promoted(call, body.cluster_id, record.body["taxonomy_name"], body)


@router.post("/taxonomies/{taxonomy_identifier}/clone", status_code=201)
def clone_taxonomy(
    taxonomy_identifier: str, body: wire.CloneTaxonomyRequest, call: Runs
) -> wire.CloneTaxonomyResponse:
    """Copy the latest version into a taxonomy of its own."""
    facts = {"description": body.description} if "description" in body.model_fields_set else {}
    made = call.service.taxonomies.clone(call.ns, taxonomy_identifier, body.taxonomy_name, **facts)
    return wire.CloneTaxonomyResponse(
        taxonomy=_answer(made), source_taxonomy_id=made.body["source_taxonomy_id"]
    )


@router.get("/taxonomies/{taxonomy_identifier}/nodes")
def list_nodes(
    taxonomy_identifier: str,
    call: Reads,
    version: Version = None,
    include_vectors: bool = False,
) -> wire.TaxonomyNodes:
    """Show the nodes of a version, roots first."""
    record = call.service.taxonomies.get(call.ns, taxonomy_identifier)
    opened = call.service.taxonomies.open(call.ns, record, version)
    nodes = opened.nodes if include_vectors else opened.nodes.drop_columns(["centroid_vector"])
    return wire.TaxonomyNodes(
        taxonomy_id=record.id,
        version=opened.version,
        nodes=[streams.plain(row) for row in nodes.to_pylist()],
    )


@router.post("/taxonomies/{taxonomy_identifier}/apply")
async def apply(
    taxonomy_identifier: str,
    body: wire.ApplyRequest,
    call: Runs,
    wait: Annotated[bool, Parameter(description="Answer when it is over, or after 300 s.")] = False,
) -> TaskResponse:
    """Let documents of a collection join the nodes: the answer is its task."""
    task = await run_in_threadpool(_apply, call, taxonomy_identifier, body)
    return task_answer((await when_over(call, [task.id]))[0] if wait else task)


@router.post("/taxonomies/{taxonomy_identifier}/applications/list")
def list_applications(
    taxonomy_identifier: str, body: ListRequest, pages: Pages, call: Reads
) -> wire.ListApplicationsResponse:
    """List what joined a taxonomy."""
    found, summary = call.service.taxonomies.applications(
        call.ns, taxonomy_identifier, pages.query(body)
    )
    return wire.ListApplicationsResponse(
        results=[_application(record) for record in found.records],
        pagination=pages.answer(found, summary.count),
        total_count=summary.count,
    )


@router.get("/taxonomies/{taxonomy_identifier}/applications/{run_id}")
def get_application(taxonomy_identifier: str, run_id: str, call: Reads) -> wire.Application:
    """Show what came of documents that joined."""
    with call.service.catalog.reading() as tx:
        found = call.service.taxonomies.application(tx, call.ns, taxonomy_identifier, run_id)
    return _application(found)


@router.get(
    "/taxonomies/{taxonomy_identifier}/applications/{run_id}/data",
    response_class=StreamingResponse,
    responses=streams.STREAMED,
)
def application_data(
    taxonomy_identifier: str,
    run_id: str,
    request: Request,
    call: Reads,
    body: Annotated[DataQuery, Parameter()],
) -> StreamingResponse:
    """Stream the documents that joined, each with its node under ``cluster_id``."""
    with call.service.catalog.reading() as tx:
        found = call.service.taxonomies.application(tx, call.ns, taxonomy_identifier, run_id)
    if found.status != "completed":
        raise ConflictError(f"{run_id} is {found.status}: it left nothing to show")
    path, each = found.body["artifacts"]["path"], call.service.readers.each
    return streams.respond(path, request.headers, body, each)


async def _promoted(
    call: Call,
    identifier: str,
    name: str,
    body: wire.PromoteRequest | wire.CreateVersionRequest,
) -> wire.TaxonomyResponse:
    def submit() -> Record:
        with call.service.catalog.writing() as tx:
            asked = Promoting(_run(call, tx, identifier, body.run_id), name, _options(body))
            return call.service.taxonomies.promote(tx, call.ns, call.new_id("task"), asked)

    task = await run_in_threadpool(submit)
    call.service.tasks.wake()
    done = (await when_over(call, [task.id]))[0]
    if done.status != "COMPLETED":
        raise ConflictError(done.body["error"] or f"it is {done.status}", task_id=done.id)
    result = done.body["data"]["result"]
    record = await run_in_threadpool(call.service.taxonomies.get, call.ns, result["taxonomy_id"])
    return _answer(record)


def _run(call: Call, tx: Transaction, identifier: str, run_id: str | None) -> Record:
    asked = EnrichRequest(run_id=run_id)
    return call.service.enrichments.of_cluster(tx, call.ns, identifier, asked).execution


def _options(body: wire.PromoteRequest | wire.CreateVersionRequest) -> dict[str, Any]:
    names = ("cluster_ids", "min_stability", "force", "skip_unstable", "threshold")
    return {name: getattr(body, name) for name in (*names, "description", "metadata")}


def _apply(call: Call, identifier: str, body: wire.ApplyRequest) -> Record:
    run_id, task_id = call.new_id("execution"), call.new_id("task")
    service = call.service
    with service.catalog.writing() as tx:
        made = service.taxonomies.apply(
            *(tx, call.ns, identifier, body), run_id=run_id, task_id=task_id
        )
        task = tx.get(call.ns, "task", made.body["task_id"])
    service.tasks.wake()
    if task is None:
        raise ConflictError("its task is gone")
    return task


def _answer(record: Record, version: StoredTaxonomy | None = None) -> wire.TaxonomyResponse:
    facts = record.body if version is None else {**record.body, **version.to_json()}
    definition = facts["cluster_id"]
    config = wire.TaxonomyConfig(cluster_ids=None if definition is None else [definition])
    return wire.TaxonomyResponse.model_validate({**facts, "config": config})


def _application(record: Record) -> wire.Application:
    fields = {**record.body, "status": record.status, "created_at": record.created_at}
    return wire.Application.model_validate(fields)
