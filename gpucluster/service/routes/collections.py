"""Collections of documents."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Query as Parameter
from starlette.concurrency import run_in_threadpool

from gpucluster.service import tasks
from gpucluster.service.calls import Reads, Runs
from gpucluster.service.catalog.port import Record
from gpucluster.service.collections.opened import Opened
from gpucluster.service.collections.versions import Version
from gpucluster.service.paging import Pages
from gpucluster.service.waiting import when_over
from gpucluster.wire import collections as wire
from gpucluster.wire.tasks import TaskResponse

router = APIRouter(prefix="/v1/collections", tags=["collections"])

Waits = Annotated[bool, Parameter(description="Answer when it is over, or after 300 s.")]


@router.post("", status_code=201)
async def create_collection(
    body: wire.CreateCollectionRequest, call: Runs, wait: Waits = False
) -> wire.CollectionAnswer:
    """Make a collection: empty, or of documents of elsewhere, which a task imports."""
    service, ids = call.service, (call.new_id("collection"), call.new_id("task"))
    made = await run_in_threadpool(service.collections.create, call.ns, ids[0], body, ids[1])
    service.tasks.wake()
    if wait and made.status == "IMPORTING":
        await when_over(call, [made.body["task_id"]])
        made = await run_in_threadpool(service.collections.get, call.ns, made.id)
    return as_answer(made)


@router.post("/list")
def list_collections(
    body: wire.ListCollectionsRequest, pages: Pages, call: Reads
) -> wire.ListCollectionsResponse:
    """List collections."""
    page, summary = call.service.collections.records.page(call.ns, pages.query(body))
    n_documents = int(summary.sums["num_documents"])
    return wire.ListCollectionsResponse(
        results=[as_answer(record) for record in page.records],
        pagination=pages.answer(page, summary.count),
        total_count=summary.count,
        stats=wire.CollectionStats(total_collections=summary.count, total_documents=n_documents),
    )


@router.get("/{collection_identifier}")
def get_collection(collection_identifier: str, call: Reads) -> wire.CollectionAnswer:
    """Show a collection."""
    return as_answer(call.service.collections.get(call.ns, collection_identifier))


@router.patch("/{collection_identifier}")
def patch_collection(
    collection_identifier: str, body: wire.PatchCollectionRequest, call: Runs
) -> wire.CollectionAnswer:
    """Change name, description or metadata."""
    return as_answer(call.service.collections.records.patch(call.ns, collection_identifier, body))


@router.delete("/{collection_id}")
def delete_collection(
    collection_id: wire.CollectionId,
    call: Runs,
    delete_artifacts: Annotated[
        bool, Parameter(description="Its files too; otherwise they stay. Never imported ones.")
    ] = False,
) -> wire.DeleteCollectionResponse:
    """Remove a collection."""
    call.service.collections.delete(call.ns, collection_id, delete_artifacts=delete_artifacts)
    return wire.DeleteCollectionResponse(artifacts_deleted=delete_artifacts)


@router.get("/{collection_identifier}/versions")
def list_versions(
    collection_identifier: str,
    call: Reads,
    limit: Annotated[int, Parameter(ge=1, le=100, description="Versions of a page.")] = 20,
    before: Annotated[int | None, Parameter(ge=2, description="Only older ones.")] = None,
) -> wire.ListVersionsResponse:
    """List the versions of a collection, newest first."""
    latest = call.service.collections.open(call.ns, collection_identifier)
    last = min(latest.version.number, (before or latest.version.number + 1) - 1)
    numbers = range(last, max(0, last - limit), -1)
    found = [Opened(latest.versions, latest.versions.read(number)) for number in numbers]
    return wire.ListVersionsResponse(
        results=[version_answer(each) for each in found],
        next_before=numbers[-1] if numbers and numbers[-1] > 1 else None,
    )


@router.get("/{collection_identifier}/versions/{version}")
def get_version(collection_identifier: str, version: int, call: Reads) -> wire.VersionAnswer:
    """Show a version of a collection."""
    return version_answer(call.service.collections.open(call.ns, collection_identifier, version))


@router.post("/{collection_identifier}/compact")
def compact(collection_identifier: str, call: Runs) -> wire.Change:
    """Put small files together; documents and their order stay."""
    return change_of(call.service.collections.compact(call.ns, collection_identifier))


@router.post("/{collection_identifier}/write-back")
async def write_back(
    collection_identifier: str, body: wire.WriteBackRequest, call: Runs, wait: Waits = False
) -> TaskResponse:
    """Write columns to the table, or the collection of Qdrant, that documents came from.

    The answer is a task, at once or when it is over; its result says how many were updated.
    """
    service, task_id = call.service, call.new_id("task")
    task = await run_in_threadpool(
        service.write_backs.submit, call.ns, collection_identifier, task_id, body
    )
    service.tasks.wake()
    return tasks.as_answer((await when_over(call, [task.id]))[0] if wait else task)


@router.delete("/{collection_identifier}/enrichments/{run_id}")
def undo_enrichment(collection_identifier: str, run_id: str, call: Runs) -> wire.Change:
    """Take away the columns that a run has written; what other runs had written comes back."""
    return change_of(call.service.collections.undo(call.ns, collection_identifier, run_id))


def as_answer(record: Record) -> wire.CollectionAnswer:
    """Return what is shown of a collection."""
    columns = ("created_at", "updated_at", "status")
    own = {name: getattr(record, name) for name in columns}
    return wire.CollectionAnswer.model_validate({**record.body, **own})


def change_of(version: Version) -> wire.Change:
    """Return what is said of a version that a change has made."""
    return wire.Change.model_validate(changed(version))


def changed(version: Version) -> dict[str, Any]:
    """Return the fields of `change_of`."""
    return {
        "collection_id": version.collection_id,
        "version": version.number,
        "num_documents": version.n_rows,
    }


def version_answer(opened: Opened) -> wire.VersionAnswer:
    """Return what is shown of a version."""
    version = opened.version
    return wire.VersionAnswer(
        version=version.number,
        parent=version.parent,
        created_at=version.created_at,
        made_by=version.made_by,
        details=dict(version.details),
        num_documents=version.n_rows,
        manifest=str(opened.versions.path(version.number)),
        columns=version.columns,
        enrichments=[
            wire.EnrichmentAnswer.model_validate(each.model_dump()) for each in version.enrichments
        ],
        files=[wire.FileAnswer.model_validate(file.model_dump()) for file in version.files],
    )
