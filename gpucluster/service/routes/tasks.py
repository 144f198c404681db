"""Tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from gpucluster.service.answers import as_bytes
from gpucluster.service.calls import Call, Reads, Runs
from gpucluster.service.paging import Pages, Shown
from gpucluster.service.refusals import NotFoundError
from gpucluster.service.tasks import as_answer
from gpucluster.sources.filters import Condition, Filters
from gpucluster.wire.tasks import (
    LIVE,
    DeleteResponse,
    ListTasksRequest,
    ListTasksResponse,
    TaskResponse,
)

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

EVENTS_S = 0.5  # between two looks at a task that is followed
ALIVE_S = 15.0  # between two signs of life, for proxies on the way

_EVENT = {  # in the description of the API
    "type": "object",
    "properties": {
        "event": {"const": "task"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}


SHOWN = Shown(model=TaskResponse, kept_as={"additional_data": "data"})


@router.post("/list")
def list_tasks(body: ListTasksRequest, pages: Pages, call: Reads) -> ListTasksResponse:
    """List tasks."""
    filters = body.filters
    if body.task_type is not None:
        of_type = Condition(field="task_type", value=body.task_type)
        filters = Filters(AND=(of_type, *(() if filters is None else (filters,))))
        body = body.model_copy(update={"filters": filters})
    query = pages.query(body, SHOWN, status=body.status)
    page, summary = call.service.tasks.page(call.ns, query)
    return ListTasksResponse(
        results=[as_answer(record) for record in page.records],
        pagination=pages.answer(page, summary.count),
        total_count=summary.count,
    )


@router.get("/{task_id}")
def get_task(task_id: str, call: Reads) -> TaskResponse:
    """Say how far a task is."""
    return as_answer(call.service.tasks.get(call.ns, task_id))


@router.delete("/{task_id}")
def cancel_task(task_id: str, call: Runs) -> DeleteResponse:
    """Stop a task; one that is over stays as it is."""
    with call.service.catalog.writing() as tx:
        task = call.service.tasks.cancel(tx, call.ns, task_id)
    call.service.tasks.follow(task)
    return DeleteResponse(message=f"{task_id} is being stopped, or is over")


@router.get(
    "/{task_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": _EVENT}}}},
)
async def follow_task(task_id: str, request: Request, call: Reads) -> StreamingResponse:
    """Send the task whenever it changed, as server-sent events, until it is over."""
    await run_in_threadpool(call.service.tasks.get, call.ns, task_id)  # or 404
    stream = _events(call, task_id, request)
    return StreamingResponse(stream, media_type="text/event-stream")


async def _events(call: Call, task_id: str, request: Request) -> AsyncIterator[bytes]:
    version, said = -1, time.monotonic()
    while not await request.is_disconnected() and not call.service.is_over.is_set():
        try:
            task = await run_in_threadpool(call.service.tasks.get, call.ns, task_id)
        except NotFoundError:
            return
        if task.version != version:
            version, said = task.version, time.monotonic()
            yield (
                b"event: task\ndata: " + as_bytes(as_answer(task).model_dump(mode="json")) + b"\n\n"
            )
            if task.status not in LIVE:
                return
        elif time.monotonic() - said > ALIVE_S:
            said = time.monotonic()
            yield b": alive\n\n"
        await asyncio.sleep(EVENTS_S)
