"""Enrichment of documents by runs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Query as Parameter
from starlette.concurrency import run_in_threadpool

from gpucluster.enrichment.settings import FieldMapping
from gpucluster.service.calls import Call, Runs
from gpucluster.service.catalog.port import Record, Transaction
from gpucluster.service.enrichments import Asked
from gpucluster.service.refusals import ConflictError, NotFoundError
from gpucluster.service.waiting import when_over
from gpucluster.wire import enrichment as wire
from gpucluster.wire.tasks import TaskStatus

router = APIRouter(prefix="/v1/clusters", tags=["enrichment"])

_WORST: tuple[TaskStatus, ...] = (
    *("FAILED", "CANCELED", "PENDING", "IN_PROGRESS"),
    *("COMPLETED_WITH_ERRORS", "COMPLETED"),
)


@router.post("/enrich", tags=["other names"])
async def apply_enrichment(body: wire.ApplyEnrichmentRequest, call: Runs) -> wire.EnrichResponse:
    """Enrich a collection by one or several clusterings, and answer when that is done.

    Of several, each gives its ``cluster_id`` under its own name: ``NAME_cluster_id``.
    """
    tasks = []
    for number in range(len(body.clustering_ids)):
        task = await run_in_threadpool(_submit_one, call, body, number)
        tasks += await when_over(call, [task.id])
    _check_done(tasks)
    return _answer(tasks)


@router.post("/{cluster_identifier}/enrich")
async def enrich(
    cluster_identifier: str,
    body: wire.EnrichRequest,
    call: Runs,
    wait: Annotated[bool, Parameter(description="Answer when it is done, or after 300 s.")] = True,
) -> wire.EnrichResponse:
    """Write what a run knows into the documents, and answer when that is done."""

    def submit() -> Record:
        with call.service.catalog.writing() as tx:
            asked = call.service.enrichments.of_cluster(tx, call.ns, cluster_identifier, body)
            if body.target_collection_id is None:
                _check_there(call, tx, asked.sources)
            return call.service.enrichments.submit(tx, call.ns, call.new_id("task"), asked)

    task = await run_in_threadpool(submit)
    call.service.tasks.wake()
    done = (await when_over(call, [task.id]))[0] if wait else task
    _check_done([done])
    return _answer([done])


def _check_done(tasks: list[Record]) -> None:
    """Refuse where nothing was written; of several, an answer says what was."""
    if all(task.status == "FAILED" for task in tasks):
        raise ConflictError(tasks[0].body["error"], task_id=tasks[0].id)


def _submit_one(call: Call, body: wire.ApplyEnrichmentRequest, number: int) -> Record:
    name = body.clustering_ids[number]
    service = call.service
    with service.catalog.writing() as tx:
        execution = service.executions.find(tx, call.ns, name)
        if execution is None:
            cluster = service.definitions.get(tx, call.ns, name)
            asked = service.enrichments.of_cluster(tx, call.ns, cluster.id, wire.EnrichRequest())
            execution, name = asked.execution, cluster.name or cluster.id
        several = len(body.clustering_ids) > 1
        own = FieldMapping(source_field="cluster_id", target_field=f"{name}_cluster_id")
        request = wire.EnrichRequest(
            run_id=execution.id,
            target_collection_id=body.target_collection_id,
            field_mappings=(own,) if several else None,
            batch_size=body.batch_size,
            parallelism=body.parallelism,
        )
        sources = [body.source_collection_id]
        if several and number and body.target_collection_id:  # on top of the one before
            sources = [body.target_collection_id]
            request = request.model_copy(update={"target_collection_id": None})
        _check_there(call, tx, sources)
        task = service.enrichments.submit(
            tx, call.ns, call.new_id("task"), Asked(execution, sources, request)
        )
    service.tasks.wake()
    return task


def _check_there(call: Call, tx: Transaction, sources: Any) -> None:
    for name in sources:
        if tx.get(call.ns, "collection", name) is None:
            raise NotFoundError(f"there is no collection {name}")


def _answer(tasks: list[Record]) -> wire.EnrichResponse:
    results = [task.body["data"].get("result") or {} for task in tasks]
    return wire.EnrichResponse(
        **{
            name: sum(result.get(name, 0) for result in results)
            for name in ("processed", "enriched", "failed", "batches")
        },
        task_ids=[task.id for task in tasks],
        run_ids=[task.body["data"]["run_id"] for task in tasks],
        status=next(status for status in _WORST if any(task.status == status for task in tasks)),
        collections=[each for result in results for each in result.get("collections", ())],
        error=next((task.body["error"] for task in tasks if task.body["error"]), None),
    )
