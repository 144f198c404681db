"""Tasks: work that takes longer than a request, kept until long after it is done.

A task names a job: a verb of the engine and what it gets. A server with a free place takes it up
(`gpucluster.service.jobs`), says how far it is, and writes down what came of it together with
everything else that this changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from gpucluster.service.catalog.port import Catalog, Page, Query, Record, Summary, Transaction
from gpucluster.service.counters import TASKS_ENDED
from gpucluster.service.refusals import NotFoundError, TooManyError
from gpucluster.wire.tasks import LIVE, TaskResponse, TaskStatus, TaskType

KIND = "task"
Starter: TypeAlias = Callable[[Transaction, Record], None]


class Ended(NamedTuple):
    """How a task ended, and what it shows of its result."""

    status: TaskStatus
    shown: Mapping[str, Any] | None = None


Preparer: TypeAlias = Callable[[Record, Mapping[str, Any]], None]
Follower: TypeAlias = Callable[[Record], None]
Finisher: TypeAlias = Callable[[Transaction, Record, Mapping[str, Any]], Ended]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process is to do.

    Attributes
    ----------
    verb : str
        Of `gpucluster.service.jobs.verbs`.
    args : mapping
        What it gets.
    env : sequence of str
        Variables of sources that its process has; no other one has any.
    """

    verb: str
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Sequence[str] = ()


class Tasks:
    """The tasks of a service.

    Parameters
    ----------
    catalog : Catalog
    max_queued : int
        Tasks of a namespace that wait or run.

    Attributes
    ----------
    starters : dict
        What writes down that a verb is being worked on, in the transaction that takes its task up.
    preparers : dict
        What reads and notes, before that transaction, what an outcome speaks of: it may take long,
        and is done again where the transaction is.
    finishers : dict
        What writes down the outcome of a verb, in the transaction that ends its task.
    followers : dict
        What sees to the rest after that transaction: it may take long, and a server may die over
        it.
    news : threading.Event
        Set when there may be something to do.
    """

    def __init__(self, catalog: Catalog, max_queued: int) -> None:
        self._catalog = catalog
        self._max_queued = max_queued
        self.starters: dict[str, Starter] = {}
        self.preparers: dict[str, Preparer] = {}
        self.finishers: dict[str, Finisher] = {}
        self.followers: dict[str, Follower] = {}
        self.news = threading.Event()

    def submit(
        self,
        tx: Transaction,
        ns: str,
        task_id: str,
        kind: TaskType,
        job: Job,
        *,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        data: Mapping[str, Any] | None = None,
        follows: bool = False,
    ) -> Record:
        """Add a task; call `wake` after the commit.

        `TooManyError` where too many wait, unless it `follows` from one that ends: nobody would
        be there to ask again.
        """
        if not follows:
            n_live = sum(tx.summary(ns, KIND, Query(status=status)).count for status in LIVE)
            if n_live >= self._max_queued:
                raise TooManyError(f"{n_live:,} tasks wait or run already", after_s=30)
        body = {
            "task_id": task_id,
            "task_type": kind,
            "inputs": list(inputs),
            "outputs": list(outputs),
            "data": dict(data or {}),
            "error": None,
            "job": {"verb": job.verb, "args": dict(job.args), "env": list(job.env)},
            "cancel": False,
            "deaths": 0,
        }
        now = self._catalog.clock()
        return tx.create(
            Record(ns=ns, kind=KIND, id=task_id, body=body, status="PENDING", due_at=now)
        )

    def wake(self) -> None:
        """Say that there may be something to do."""
        self.news.set()

    def get(self, ns: str, task_id: str) -> Record:
        """Return a task; `NotFoundError` where there is none."""
        with self._catalog.reading() as tx:
            return found(tx, ns, task_id)

    def page(self, ns: str, query: Query) -> tuple[Page, Summary]:
        """Return a page of tasks, and how many there are."""
        with self._catalog.reading() as tx:
            return tx.page(ns, KIND, query), tx.summary(ns, KIND, query)

    def cancel(self, tx: Transaction, ns: str, task_id: str) -> Record:
        """Ask that a task be stopped; one that is over stays as it is.

        Nothing was begun of one that waits: it ends here.
        """
        task = found(tx, ns, task_id)
        if task.status not in LIVE or task.body["cancel"]:
            return task
        task = tx.replace(replace(task, body={**task.body, "cancel": True}))
        if task.status == "PENDING":
            return self.end(tx, task, {"ok": False, "canceled": True})
        return task

    def prepare(self, task: Record, outcome: Mapping[str, Any]) -> None:
        """Do what has to be done before the transaction of `end`, and not in it."""
        preparer = self.preparers.get(task.body["job"]["verb"])
        if preparer is not None:
            preparer(task, outcome)

    def end(self, tx: Transaction, task: Record, outcome: Mapping[str, Any]) -> Record:
        """Write down what came of a task, and of all that hangs on it.

        Parameters
        ----------
        tx : Transaction
        task : Record
            As it was read last; `Changed` where another server has it.
        outcome : mapping
            ``ok`` and ``result``; or ``error``, with ``message``; or ``canceled``.
        """
        finisher = self.finishers.get(task.body["job"]["verb"], _as_it_is)
        status, shown = finisher(tx, task, outcome)
        error = (outcome.get("error") or {}).get("message")
        data = {**task.body["data"], "result": None if shown is None else dict(shown)}
        data.pop("progress", None)
        body = {**task.body, "data": data, "error": error}
        ended = tx.replace(replace(task, body=body, status=status, due_at=None))
        TASKS_ENDED.labels(body["job"]["verb"], status).inc()
        return ended

    def follow(self, task: Record) -> None:
        """See to what is left of a task that may have ended, after the commit."""
        follower = self.followers.get(task.body["job"]["verb"])
        if follower is not None and task.status not in LIVE:
            follower(task)


def status_of(outcome: Mapping[str, Any]) -> TaskStatus:
    """Return how a task ended, where nothing else is known."""
    if outcome.get("canceled"):
        return "CANCELED"
    return "COMPLETED" if outcome["ok"] else "FAILED"


def _as_it_is(_: Transaction, __: Record, outcome: Mapping[str, Any]) -> Ended:
    return Ended(status_of(outcome), outcome.get("result"))


def found(tx: Transaction, ns: str, task_id: str) -> Record:
    """Return a task; `NotFoundError` where there is none."""
    record = tx.get(ns, KIND, task_id)
    if record is None:
        raise NotFoundError(f"there is no task {task_id}")
    return record


def as_answer(task: Record) -> TaskResponse:
    """Return what is shown of a task."""
    body = task.body
    return TaskResponse.model_validate(
        {
            **{name: body[name] for name in ("task_id", "task_type", "inputs", "outputs", "error")},
            "status": task.status,
            "additional_data": body["data"],
            "created_at": task.created_at,
            "updated_at": task.updated_at,
        }
    )
