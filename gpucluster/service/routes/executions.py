"""Executions of a definition, and what they left."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from gpucluster.service import streams, tasks
from gpucluster.service.calls import Call, Reads, Runs, in_turn
from gpucluster.service.catalog.port import Query, Record, Summary
from gpucluster.service.executions import as_answer, facts_of
from gpucluster.service.jobs.verbs import describe
from gpucluster.service.paging import Pages, Paging
from gpucluster.service.refusals import ConflictError, NotFoundError
from gpucluster.service.waiting import when_over
from gpucluster.wire import executions as wire
from gpucluster.wire.tasks import TaskResponse

router = APIRouter(prefix="/v1/clusters", tags=["executions"])


@router.post("/jobs/submit", tags=["other names"])
def submit_by_query(
    cluster_id: str, call: Runs, body: wire.ExecuteRequest | None = None
) -> TaskResponse:
    """Execute a definition: another name of ``/{id}/execute/submit``."""
    return _started(call, cluster_id, body)


@router.post("/{cluster_identifier}/execute")
async def execute(
    cluster_identifier: str,
    call: Runs,
    body: wire.ExecuteRequest | None = None,
    wait: Annotated[bool, Parameter(description="Answer when it is over, or after 300 s.")] = False,
) -> TaskResponse:
    """Execute a definition: the answer is its task, at once or when it is over."""
    task = await run_in_threadpool(_started, call, cluster_identifier, body)
    if not wait:
        return task
    return tasks.as_answer((await when_over(call, [task.task_id]))[0])


@router.post("/{cluster_identifier}/execute/submit")
def submit(
    cluster_identifier: str, call: Runs, body: wire.ExecuteRequest | None = None
) -> TaskResponse:
    """Execute a definition: the answer is its task, at once."""
    return _started(call, cluster_identifier, body)


@router.get("/{cluster_identifier}/executions")
def history(cluster_identifier: str, pages: Pages, call: Reads) -> wire.Executions:
    """List executions, newest first, with the fields of the latest one at the top."""
    listed = _listed(call, cluster_identifier, wire.ListExecutionsRequest(), pages)
    latest = _latest(call, cluster_identifier)
    top = {} if latest is None else latest.model_dump()
    fields = {**top, **listed.model_dump(), "latest": latest}
    return wire.Executions.model_validate(fields)


@router.post("/{cluster_identifier}/executions/list")
def list_executions(
    cluster_identifier: str, body: wire.ListExecutionsRequest, pages: Pages, call: Reads
) -> wire.ListExecutionsResponse:
    """List executions by filters, search and order."""
    return _listed(call, cluster_identifier, body, pages)


@router.get("/{cluster_identifier}/executions/{run_id}")
def get_execution(
    cluster_identifier: str,
    run_id: str,
    call: Reads,
    asked: Annotated[wire.ExecutionRequest, Parameter()],
) -> wire.ExecutionResult:
    """Show an execution with its clusters: as many as are asked for."""
    record = _execution(call, cluster_identifier, run_id)
    if record.status != "completed":
        return as_answer(record)
    run = streams.open_run(record.body["artifacts"]["path"])
    table = streams.centroids_of(run, vectors=False)
    rows = streams.centroid_rows(table.slice(asked.offset, asked.limit))
    end = asked.offset + asked.limit
    shown = {
        "centroids": [wire.ExecutionCentroid.model_validate(row) for row in rows],
        "num_centroids": len(table),
        "next_offset": end if end < len(table) else None,
    }
    related = record.body.get("related", ())
    if record.id in related:  # what its record says is of the first feature
        record = replace(record, body={**record.body, **facts_of(describe(run))})
    return as_answer(record).model_copy(update=shown)


@router.post("/{cluster_identifier}/executions/{run_id}/cancel")
def cancel(cluster_identifier: str, run_id: str, call: Runs) -> wire.ExecutionResult:
    """Stop an execution that waits or is being worked on."""
    with call.service.catalog.writing() as tx:
        cluster = call.service.definitions.get(tx, call.ns, cluster_identifier)
        return as_answer(call.service.executions.cancel(tx, call.ns, cluster.id, run_id))


@router.get("/{cluster_identifier}/executions/{run_id}/artifacts")
@in_turn
def artifacts(
    cluster_identifier: str,
    run_id: str,
    call: Reads,
    asked: Annotated[wire.ArtifactsRequest, Parameter()],
) -> wire.Artifacts:
    """Show what a run left: its files, clusters with their vectors, and members."""
    return _artifacts(_left(call, cluster_identifier, run_id), asked)


@router.get("/{cluster_identifier}/artifacts")
@in_turn
def latest_artifacts(
    cluster_identifier: str,
    call: Reads,
    asked: Annotated[wire.ArtifactsRequest, Parameter()],
) -> wire.Artifacts:
    """Show what the latest completed run left."""
    return _artifacts(_latest_finished(call, cluster_identifier), asked)


@router.get(
    "/{cluster_identifier}/executions/{run_id}/data",
    response_class=StreamingResponse,
    responses=streams.STREAMED,
)
def data(
    cluster_identifier: str,
    run_id: str,
    request: Request,
    call: Reads,
    body: Annotated[wire.DataQuery, Parameter()],
) -> StreamingResponse:
    """Stream clusters and members: lines of JSON, or Arrow IPC where ``Accept`` says so."""
    record = _left(call, cluster_identifier, run_id)
    return _streamed(call, record, request, body)


@router.post(
    "/{cluster_identifier}/executions/{run_id}/data",
    response_class=StreamingResponse,
    responses=streams.STREAMED,
)
def post_data(
    cluster_identifier: str, run_id: str, request: Request, call: Reads, body: wire.DataRequest
) -> StreamingResponse:
    """Stream clusters and members, as asked for in the body."""
    record = _left(call, cluster_identifier, run_id)
    return _streamed(call, record, request, body)


@router.get(
    "/{cluster_identifier}/data", response_class=StreamingResponse, responses=streams.STREAMED
)
def latest_data(
    cluster_identifier: str,
    request: Request,
    call: Reads,
    body: Annotated[wire.DataQuery, Parameter()],
) -> StreamingResponse:
    """Stream clusters and members of the latest completed run."""
    return _streamed(call, _latest_finished(call, cluster_identifier), request, body)


def _started(call: Call, identifier: str, body: wire.ExecuteRequest | None) -> TaskResponse:
    service = call.service
    run_id, task_id = call.new_id("execution"), call.new_id("task")
    with service.catalog.writing() as tx:
        execution = service.executions.start(
            *(tx, call.ns, identifier, body or wire.ExecuteRequest()),
            run_id=run_id,
            task_id=task_id,
        )
        task = tasks.found(tx, call.ns, execution.body["task_id"])
    service.tasks.wake()
    return tasks.as_answer(task)


def _listed(
    call: Call, identifier: str, body: wire.ListExecutionsRequest, pages: Paging
) -> wire.ListExecutionsResponse:
    with call.service.catalog.reading() as tx:
        cluster = call.service.definitions.get(tx, call.ns, identifier)
        query = pages.query(body, parent=cluster.id)
        page, summary = call.service.executions.page(tx, call.ns, query)
    return wire.ListExecutionsResponse(
        results=[as_answer(record) for record in page.records],
        pagination=pages.answer(page, summary.count),
        total_count=summary.count,
        stats=_stats(summary),
    )


def _stats(summary: Summary) -> wire.ExecutionListStats:
    n = summary.by_status.get("completed", 0)
    return wire.ExecutionListStats(
        total_executions=summary.count,
        executions_by_status=dict(summary.by_status),
        avg_execution_time_ms=summary.sums["execution_time_ms"] / n if n else 0.0,
        total_documents_clustered=int(summary.sums["num_points"]),
        avg_num_clusters=summary.sums["num_clusters"] / n if n else 0.0,
    )


def _latest(call: Call, identifier: str) -> wire.ExecutionResult | None:
    with call.service.catalog.reading() as tx:
        cluster = call.service.definitions.get(tx, call.ns, identifier)
        page, _ = call.service.executions.page(tx, call.ns, Query(parent=cluster.id, limit=1))
    return as_answer(page.records[0]) if page.records else None


def _execution(call: Call, identifier: str, run_id: str) -> Record:
    with call.service.catalog.reading() as tx:
        cluster = call.service.definitions.get(tx, call.ns, identifier)
        return call.service.executions.left(tx, call.ns, cluster.id, run_id)


def _left(call: Call, identifier: str, run_id: str) -> Record:
    with call.service.catalog.reading() as tx:
        cluster = call.service.definitions.get(tx, call.ns, identifier)
        execution = call.service.executions.left(tx, call.ns, cluster.id, run_id)
    if execution.status != "completed":
        raise ConflictError(f"{execution.id} is {execution.status}: it left nothing to show")
    return execution


def _latest_finished(call: Call, identifier: str) -> Record:
    with call.service.catalog.reading() as tx:
        cluster = call.service.definitions.get(tx, call.ns, identifier)
        latest = call.service.executions.latest(tx, call.ns, cluster.id)
    if latest is None:
        raise NotFoundError(f"{cluster.id} has no completed execution")
    return latest


def _artifacts(record: Record, asked: wire.ArtifactsRequest) -> wire.Artifacts:
    run = streams.open_run(record.body["artifacts"]["path"])
    found = streams.projection_of(run)
    if asked.projection_method == "3d" and found == "2d":
        raise ConflictError(f"{record.id} has two coordinates, and no third")
    n_members, members = run.manifest.counts.num_points, None
    if asked.include_members:
        members = list(streams.member_rows(run, offset=asked.offset, limit=asked.limit))
        if asked.projection_method == "2d":
            members = [{name: row[name] for name in row if name != "z"} for row in members]
    end = asked.offset + asked.limit
    centroids = streams.centroids_at_once(run) if asked.include_centroids else None
    return wire.Artifacts(
        run_id=record.id,
        cluster_id=record.body["cluster_id"],
        path=str(run.path),
        files={name: entry.model_dump() for name, entry in run.manifest.files.items()},
        projection_method=asked.projection_method or found,
        centroids=centroids,
        members=members,
        num_members=n_members,
        next_offset=end if asked.include_members and end < n_members else None,
    )


def _streamed(
    call: Call, record: Record, request: Request, body: wire.DataRequest
) -> StreamingResponse:
    path, each = record.body["artifacts"]["path"], call.service.readers.each
    return streams.respond(path, request.headers, body, each)
