"""Executions: a definition is run, and what came of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from gpucluster.places import place
from gpucluster.service.catalog.port import Catalog, Page, Query, Record, Summary, Transaction
from gpucluster.service.definitions import KIND as CLUSTER
from gpucluster.service.definitions import Definitions, Emit
from gpucluster.service.refusals import ConflictError, InvalidError, NoModelError, NotFoundError
from gpucluster.service.standing import after_execution
from gpucluster.service.tasks import Ended, Job, Tasks, status_of
from gpucluster.sources.filters import Condition, Filters
from gpucluster.wire.executions import ExecuteRequest, ExecutionResult
from gpucluster.wire.tasks import TaskStatus

if TYPE_CHECKING:
    from gpucluster.places import Place
    from gpucluster.service.settings import ServiceSettings

KIND = "execution"
LIVE = ("pending", "processing")
# an execution with a purpose only finds something out, for a trigger: it is in the history, and is
# not the state of its definition
WITHOUT_PURPOSE = Condition(field="purpose", operator="is_null", value=True)
_STATUS: dict[TaskStatus, str] = {
    "COMPLETED": "completed",
    "COMPLETED_WITH_ERRORS": "completed",
    "FAILED": "failed",
    "CANCELED": "canceled",
}
_SHOWN = ("run_id", "mode", "num_clusters", "num_points", "num_noise", "metrics", "artifacts")
_NOT_ASSIGNED = Filters(NOT=(Condition(field="mode", value="assign"),))
Finished = Callable[[Transaction, Record], None]


class RunningError(ConflictError):
    """The definition is being executed already."""

    code = "already_running"


class Pinned(Protocol):
    """Collections as they are now."""

    def manifest(self, tx: Transaction, ns: str, identifier: str) -> tuple[str, int]:
        """Return the address of the manifest of the version that is noted, and its number."""


class Executions:
    """The executions of a service.

    Parameters
    ----------
    catalog : Catalog
    settings : ServiceSettings
    definitions : Definitions
    collections : Pinned
    tasks : Tasks
    emit : callable

    Attributes
    ----------
    when_finished : list of callable
        Called with each execution that ends, in the transaction in which it does.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: ServiceSettings,
        definitions: Definitions,
        collections: Pinned,
        tasks: Tasks,
        emit: Emit,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._definitions = definitions
        self._collections = collections
        self._tasks = tasks
        self._emit = emit
        self.when_finished: list[Finished] = []
        for verb in ("cluster", "assign"):
            tasks.starters[verb] = self._begun
            tasks.finishers[verb] = self._ended

    def start(
        self,
        tx: Transaction,
        ns: str,
        identifier: str,
        request: ExecuteRequest,
        *,
        run_id: str,
        task_id: str,
        trigger_id: str | None = None,
        purpose: str | None = None,
    ) -> Record:
        """Begin an execution; call `Tasks.wake` after the commit.

        Parameters
        ----------
        tx : Transaction
        ns, identifier : str
            Which definition, by id or name.
        request : ExecuteRequest
        run_id, task_id : str
            Ids of what is made.
        trigger_id : str, optional
            What fired.
        purpose : str, optional
            Noted, for whoever asked.

        Returns
        -------
        Record
            Of the execution.

        Raises
        ------
        RunningError
            One is live; its ``details`` name it.
        NoModelError
            There is no run to join.
        InvalidError
            The definition is one of groups, which nothing joins.
        TooManyError
            Too many tasks wait.
        """
        cluster = self._definitions.get(tx, ns, identifier)
        there = tx.get(ns, KIND, run_id)
        if there is not None:  # the same request, sent again
            return there
        live = cluster.body["live_run_id"]
        if live is not None:
            raise RunningError(
                f"{cluster.id} is being executed: {live}",
                hint="wait for it, or cancel it",
                run_id=live,
            )
        base = self._base(tx, ns, cluster, request) if request.mode == "assign" else None
        pinned = {
            name: self._collections.manifest(tx, ns, name)
            for name in cluster.body["input_collections"]
        }
        job = self._job(cluster, request, base, run_id, [path for path, _ in pinned.values()])
        body = {
            "run_id": run_id,
            "cluster_id": cluster.id,
            "task_id": task_id,
            "trigger_id": trigger_id,
            "purpose": purpose,
            "mode": request.mode,
            "base_run_id": None if base is None else base.id,
            "request": request.model_dump(mode="json", exclude_defaults=True),
            "collection_versions": {name: version for name, (_, version) in pinned.items()},
            "num_clusters": 0,
            "num_points": 0,
        }
        data = {"run_id": run_id, "cluster_id": cluster.id}
        self._tasks.submit(
            *(tx, ns, task_id, "engine_cluster_build", job),
            inputs=[cluster.id, *pinned],
            outputs=[run_id],
            data=data,
        )
        execution = tx.create(
            Record(ns=ns, kind=KIND, id=run_id, parent=cluster.id, status="pending", body=body)
        )
        changes = {"live_run_id": run_id, "last_execution_task_id": task_id}
        tx.replace(replace(cluster, body={**cluster.body, **changes}, status="PENDING"))
        return execution

    def _base(self, tx: Transaction, ns: str, cluster: Record, request: ExecuteRequest) -> Record:
        """Return the execution whose clusters are joined."""
        if cluster.body["cluster_type"] == "attribute":
            raise InvalidError(
                f"{cluster.id} groups by attributes: a document belongs to the group of its values",
                loc=["mode"],
                hint="mode full groups all documents, new ones too, as fast as assigning would",
            )
        if request.source_run_id is not None:
            base = self.left(tx, ns, cluster.id, request.source_run_id)
            if base.status != "completed":
                raise NoModelError(f"{base.id} is {base.status}, rows join a completed run")
            return base
        # the others found clusters, or moved them
        query = Query(parent=cluster.id, status="completed", filters=_NOT_ASSIGNED, limit=1)
        found = tx.page(ns, KIND, query).records
        if found:
            return found[0]
        raise NoModelError(
            f"{cluster.id} has no completed full run that rows could join",
            hint="execute it with mode full first",
        )

    def _job(
        self,
        cluster: Record,
        request: ExecuteRequest,
        base: Record | None,
        run_id: str,
        data: list[str],
    ) -> Job:
        """Return what a process is to do."""
        filters = request.filters and request.filters.to_dict()
        args: dict[str, Any] = {
            "data": data,
            "out": str(self.folder(cluster.ns, cluster.id)),
            "run_id": run_id,
            "device": self._settings.device,
        }
        if base is not None:
            joining = {
                "run": base.body["artifacts"]["path"],
                "threshold": request.assignment_threshold,
                "scope": request.scope,
                "update": request.update,
                "filters": filters,
            }
            return Job(verb="assign", args=args | joining)
        own = {"cluster_name": cluster.id} | ({"filters": filters} if filters else {})
        definition = {**cluster.body["definition"], **own}
        definition.pop("collection_ids", None)
        more = {"definition": definition, "memory_limit": self._settings.memory_limit}
        return Job(verb="cluster", args=args | more)

    def folder(self, ns: str, cluster_id: str) -> Place:
        """Return where the runs of a definition lie."""
        return self._settings.place / f"ns/{ns}/clusters/{cluster_id}"

    def get(self, tx: Transaction, ns: str, cluster_id: str, run_id: str) -> Record:
        """Return an execution of a definition; `NotFoundError` where there is none."""
        record = tx.get(ns, KIND, run_id)
        if record is None or record.parent != cluster_id:
            raise NotFoundError(f"{cluster_id} has no execution {run_id}")
        return record

    def left(self, tx: Transaction, ns: str, cluster_id: str, run_id: str) -> Record:
        """Return the execution that left a run, as that run: it may be of a feature of several."""
        record = self.find(tx, ns, run_id)
        if record is None or record.parent != cluster_id:
            raise NotFoundError(f"{cluster_id} has no execution {run_id}")
        return record

    def find(self, tx: Transaction, ns: str, run_id: str) -> Record | None:
        """Return the execution that left a run, of whatever definition, as that run."""
        first, _, _ = run_id.rpartition("-")
        record = tx.get(ns, KIND, first or run_id)
        if record is None or not first:
            return record
        if run_id not in record.body.get("related", ()):
            return None
        path = place(record.body["artifacts"]["path"]).parent / run_id
        body = {**record.body, "run_id": run_id, "artifacts": {"path": str(path)}}
        return replace(record, id=run_id, body=body)

    def latest(self, tx: Transaction, ns: str, cluster_id: str) -> Record | None:
        """Return the execution that was completed last, without a purpose."""
        only = Filters(AND=(WITHOUT_PURPOSE,))
        query = Query(filters=only, parent=cluster_id, status="completed", limit=1)
        return next(iter(tx.page(ns, KIND, query).records), None)

    def page(self, tx: Transaction, ns: str, query: Query) -> tuple[Page, Summary]:
        """Return a page of executions, and what all that are meant come to.

        Sums are of those that are completed.
        """
        sums = ["execution_time_ms", "num_points", "num_clusters"]
        done = tx.summary(ns, KIND, replace(query, status="completed"), sums)
        return tx.page(ns, KIND, query), replace(tx.summary(ns, KIND, query), sums=done.sums)

    def cancel(self, tx: Transaction, ns: str, cluster_id: str, run_id: str) -> Record:
        """Stop an execution that is live; `ConflictError` where it is over."""
        execution = self.get(tx, ns, cluster_id, run_id)
        if execution.status not in LIVE:
            raise ConflictError(f"{run_id} is {execution.status} already")
        self._tasks.cancel(tx, ns, execution.body["task_id"])
        return self.get(tx, ns, cluster_id, run_id)

    def _begun(self, tx: Transaction, task: Record) -> None:
        """Note that a process is at work."""
        execution = _execution_of(tx, task)
        if execution is None or execution.status != "pending":
            return
        body = {**execution.body, "started_at": self._catalog.clock().isoformat()}
        tx.replace(replace(execution, body=body, status="processing"))
        cluster = tx.get(task.ns, CLUSTER, body["cluster_id"])
        if cluster is not None:
            tx.replace(replace(cluster, status="IN_PROGRESS"))
        told = {"run_id": execution.id, "task_id": task.id, "mode": body["mode"]}
        told["trigger_id"] = body["trigger_id"]
        self._emit(tx, task.ns, "cluster.execution.started", "cluster", body["cluster_id"], told)

    def _ended(self, tx: Transaction, task: Record, outcome: Mapping[str, Any]) -> Ended:
        """Write down what came of an execution, in it and in its definition."""
        result = outcome.get("result")
        status = status_of(outcome)
        if result is not None and result["llm_labeling_errors"]:
            status = "COMPLETED_WITH_ERRORS"
        execution = _execution_of(tx, task)
        if execution is None:  # it was deleted meanwhile
            return Ended(status)
        now = self._catalog.clock()
        body = {**execution.body, "completed_at": now.isoformat()}
        if execution.created_at is not None:
            begun = datetime.fromisoformat(
                body.get("started_at") or execution.created_at.isoformat()
            )
            body["execution_time_ms"] = round((now - begun).total_seconds() * 1000)
        if result is not None:
            body |= facts_of(result)
        else:
            body["error_message"] = (outcome.get("error") or {}).get("message")
        text = " ".join([body.get("error_message") or "", *((result or {}).get("labels") or ())])
        execution = tx.replace(
            replace(execution, body=body, status=_STATUS[status], text=text[:100_000])
        )
        cluster = tx.get(task.ns, CLUSTER, body["cluster_id"])
        if cluster is not None:
            noted = after_execution(cluster.body, execution, now, result)
            tx.replace(replace(cluster, body=noted, status=status))
        kind = "completed" if result is not None else "failed"
        told = {"run_id": execution.id, "task_id": task.id, "status": execution.status}
        told |= {name: body.get(name) for name in ("num_clusters", "num_points", "trigger_id")}
        told |= {"artifacts": body.get("artifacts"), "error": body.get("error_message")}
        event = f"cluster.execution.{kind}"
        self._emit(tx, task.ns, event, "cluster", body["cluster_id"], told)
        for each in self.when_finished:
            each(tx, execution)
        return Ended(status, {name: body.get(name) for name in _SHOWN})


def _execution_of(tx: Transaction, task: Record) -> Record | None:
    return tx.get(task.ns, KIND, task.body["data"]["run_id"])


def facts_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an execution keeps of its result, which `jobs.verbs.describe` gives."""
    counts = result["counts"]
    same = (
        *("mode", "base_run_id", "metrics", "recluster_reasons", "not_evaluated", "drift"),
        *("device", "warnings", "llm_labeling_errors", "lineage", "related"),
    )
    return {
        **{name: result[name] for name in same},
        "num_clusters": counts["num_clusters"],
        "num_points": counts["num_points"],
        "num_noise": counts["num_noise"],
        "num_skipped": counts["num_rejected"],
        "num_rows": counts["num_rows"],
        "artifacts": {"path": result["path"]},
    }


def as_answer(record: Record) -> ExecutionResult:
    """Return what is shown of an execution, without its clusters."""
    fields = {**record.body, "created_at": record.created_at, "status": record.status}
    return ExecutionResult.model_validate(fields)
