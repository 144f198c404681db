"""Tasks: asking how far they are, waiting, following, stopping."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from gpucluster.client.answers import read_answer
from gpucluster.client.calls import Call, Flow, Give, Items, Read, Reply, Sleep
from gpucluster.client.endpoints import Group, Many, ManyWith, One, every, part
from gpucluster.client.errors import (
    ConnectionFailedError,
    TaskCanceledError,
    TaskFailedError,
    TaskPendingError,
)
from gpucluster.client.events import Events
from gpucluster.client.sessions import D, Session
from gpucluster.wire.tasks import (
    LIVE,
    DeleteResponse,
    ListTasksRequest,
    ListTasksResponse,
    TaskResponse,
)

FIRST_LOOK_S = 0.1  # then ever longer, so that short tasks are seen soon and long ones seldom
LOOKS_GROW = 1.6
LONGEST_LOOK_S = 30.0
WAITED_S = 330.0  # the service answers within 300 s where it waits for a task
SILENT_S = 60.0  # the service sends a sign of life every 15 s


class Tasks(Group[D]):
    """Tasks: what the service works on."""

    @One
    def get(self, task: str | TaskResponse) -> Call[TaskResponse]:
        """Say how far a task is."""
        return _get(task)

    @ManyWith(ListTasksRequest)
    def list(self, body: ListTasksRequest) -> Items[TaskResponse]:
        """List tasks, the newest first."""
        return every(self._session, Call("POST", "/v1/tasks/list", ListTasksResponse, body))

    @One
    def cancel(self, task: str | TaskResponse) -> Call[DeleteResponse]:
        """Stop a task; one that is over stays as it is."""
        return Call("DELETE", f"/v1/tasks/{part(id_of(task))}", DeleteResponse)

    @One
    def wait(
        self, task: str | TaskResponse, *, timeout_s: float | None = None
    ) -> Flow[TaskResponse]:
        """Return a task when it is done; its result is under ``additional_data``.

        It is looked at after 0.1 s, then at distances that grow to 30 s.

        Parameters
        ----------
        task : str or TaskResponse
        timeout_s : float, optional
            How long; `TaskPendingError` after it, and the task goes on.

        Raises
        ------
        TaskFailedError
            It failed; `TaskCanceledError` where it was stopped.
        """
        return waited(self._session, task, timeout_s)

    @Many
    def follow(self, task: str | TaskResponse) -> Items[TaskResponse]:
        """Give a task whenever it changed, until it is over, however it ended."""
        return followed(self._session, id_of(task))


def waited(
    session: Session[Any], task: str | TaskResponse, timeout_s: float | None
) -> Flow[TaskResponse]:
    """Return a task when it is done."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    pause = FIRST_LOOK_S
    while True:
        seen = yield from session.ask(_get(task))
        if seen.status not in LIVE:
            return _done(seen)
        left = pause if until is None else until - time.monotonic()
        if left <= 0:
            raise TaskPendingError(
                f"{seen.task_id} is {seen.status} after {timeout_s:g} s",
                hint="wait on, or cancel it",
            )
        yield Sleep(min(pause, left))
        pause = min(LONGEST_LOOK_S, pause * LOOKS_GROW)


def followed(session: Session[Any], task_id: str) -> Items[TaskResponse]:
    """Give a task whenever it changed; a connection that breaks off is made again."""
    call = Call("GET", f"/v1/tasks/{part(task_id)}/events", TaskResponse, patience_s=SILENT_S)
    shown: TaskResponse | None = None
    n_silent = 0  # connections that brought nothing new
    while True:
        n_silent += 1
        try:
            reply: Reply = yield from session.open(call, "text/event-stream")
            events = Events()
            while piece := (yield Read(reply)):
                for data in events.feed(piece):
                    seen = read_answer(TaskResponse, replace(reply, content=data))
                    if seen != shown:
                        shown, n_silent = seen, 0
                        yield Give(seen)
                    if seen.status not in LIVE:
                        return
        except ConnectionFailedError:
            if n_silent >= session.retries.tries:
                raise
        if n_silent >= session.retries.tries:
            raise ConnectionFailedError(f"nothing more is heard of {task_id}")
        yield Sleep(session.retries.pause(max(1, n_silent)))


def id_of(task: str | TaskResponse) -> str:
    """Return the id of a task."""
    return task if isinstance(task, str) else task.task_id


def _get(task: str | TaskResponse) -> Call[TaskResponse]:
    return Call("GET", f"/v1/tasks/{part(id_of(task))}", TaskResponse)


def _done(task: TaskResponse) -> TaskResponse:
    """Return a task that has its result, and raise for one that has none."""
    if task.status == "CANCELED":
        raise TaskCanceledError(f"{task.task_id} was canceled", task=task)
    if task.status == "FAILED":
        raise TaskFailedError(
            f"{task.task_id} failed: {task.error or 'no reason given'}", task=task
        )
    return task
