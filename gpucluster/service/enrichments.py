"""Enrichment by the runs of definitions: asked for, worked on as a task, noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpucluster.definition import ClusterDefinition
from gpucluster.enrichment.settings import read_mappings
from gpucluster.service.catalog.port import Catalog, Query, Record, Transaction
from gpucluster.service.collections.noting import Noting
from gpucluster.service.collections.records import KIND as COLLECTION
from gpucluster.service.collections.records import READY, require_ready
from gpucluster.service.definitions import KIND as CLUSTER
from gpucluster.service.definitions import Definitions, Emit
from gpucluster.service.executions import Executions
from gpucluster.service.identifiers import new_id
from gpucluster.service.refusals import ConflictError, NoModelError
from gpucluster.service.settings import ServiceSettings
from gpucluster.service.tasks import Ended, Job, Tasks, status_of
from gpucluster.wire.enrichment import EnrichRequest

MOST_RUNS = 1000  # whose columns a later run of the definition takes the place of


@dataclass(frozen=True, slots=True)
class Asked:
    """What is written where.

    Attributes
    ----------
    execution : Record
        Whose clusters.
    sources : sequence of str
        Collections that are read.
    request : EnrichRequest
    """

    execution: Record
    sources: Sequence[str]
    request: EnrichRequest


class Enrichments:
    """Writes what runs know into collections.

    Parameters
    ----------
    catalog : Catalog
    settings : ServiceSettings
    definitions : Definitions
    executions : Executions
    tasks : Tasks
    noting : Noting
    emit : callable
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: ServiceSettings,
        definitions: Definitions,
        executions: Executions,
        tasks: Tasks,
        noting: Noting,
        emit: Emit,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._definitions = definitions
        self._executions = executions
        self._tasks = tasks
        self._noting = noting
        self._emit = emit
        tasks.preparers["enrich"] = self._note_versions
        tasks.finishers["enrich"] = self._ended
        executions.when_finished.append(self._after_run)

    def of_cluster(
        self, tx: Transaction, ns: str, identifier: str, request: EnrichRequest
    ) -> Asked:
        """Return what is meant by a request about a definition.

        Raises
        ------
        NotFoundError
            There is no such definition, or run.
        NoModelError
            No run of it is completed.
        """
        cluster = self._definitions.get(tx, ns, identifier)
        if request.run_id is None:
            execution = self._executions.latest(tx, ns, cluster.id)
            if execution is None:
                raise NoModelError(f"{cluster.id} has no completed run", hint="execute it first")
        else:
            execution = self._executions.left(tx, ns, cluster.id, request.run_id)
        return Asked(execution, cluster.body["input_collections"], request)

    def submit(
        self, tx: Transaction, ns: str, task_id: str, asked: Asked, *, follows: bool = False
    ) -> Record:
        """Begin to write; call `Tasks.wake` after the commit.

        See `Tasks.submit` for `follows`.

        Raises
        ------
        ConflictError
            The run is not completed, or a collection not imported.
        ConfigError
            There is no such field.
        """
        execution, request = asked.execution, asked.request
        if execution.status != "completed":
            raise ConflictError(f"{execution.id} is {execution.status}, expected a completed run")
        if request.fields is not None or request.field_mappings is not None:
            read_mappings(request.fields, request.field_mappings)
        there = tx.get(ns, "task", task_id)
        if there is not None:  # the same request, sent again
            return there
        for name in filter(None, [*asked.sources, request.target_collection_id]):
            collection = tx.get(ns, COLLECTION, name)
            if collection is not None:
                require_ready(collection)
        mappings = request.field_mappings
        args = {
            "root": self._settings.root,
            "ns": ns,
            "run": execution.body["artifacts"]["path"],
            "sources": list(asked.sources),
            "target": request.target_collection_id,
            "fields": request.fields,
            "mappings": mappings and [mapping.model_dump() for mapping in mappings],
            "replaces": self._others(tx, execution),
            "overwrite": request.overwrite,
            "batch_rows": request.batch_size,
            "parallelism": request.parallelism,
        }
        target = request.target_collection_id
        return self._tasks.submit(
            *(tx, ns, task_id, "api_collections_documents_enrich", Job(verb="enrich", args=args)),
            inputs=[execution.id, *asked.sources],
            outputs=[target] if target else list(asked.sources),
            data={"run_id": execution.id, "cluster_id": execution.parent},
            follows=follows,
        )

    def _others(self, tx: Transaction, execution: Record) -> list[str]:
        """Return what is of the same definition and feature, or of the same taxonomy."""
        query = Query(parent=execution.parent, status="completed", limit=MOST_RUNS)
        first, dash, number = execution.id.rpartition("-")
        suffix = f"{dash}{number}" if first else ""  # the runs of a feature stand for each other
        return [each.id + suffix for each in tx.page(execution.ns, execution.kind, query).records]

    def _after_run(self, tx: Transaction, execution: Record) -> None:
        """Enrich the collections of a definition that says so."""
        cluster = tx.get(execution.ns, CLUSTER, execution.parent or "")
        if execution.status != "completed" or cluster is None or not cluster.body["enrich_source"]:
            return
        settings = ClusterDefinition.parse(cluster.body["definition"]).source_enrichment_config
        mappings = None if settings is None else settings.field_mappings
        asked = Asked(
            execution, cluster.body["input_collections"], EnrichRequest(field_mappings=mappings)
        )
        task_id = new_id("task", f"{execution.id}:enrich")
        self.submit(tx, execution.ns, task_id, asked, follows=True)

    def _ended(self, tx: Transaction, task: Record, outcome: Mapping[str, Any]) -> Ended:
        """Note in a new collection and in the definition what was written."""
        result, data = outcome.get("result"), task.body["data"]
        cluster = tx.get(task.ns, CLUSTER, data["cluster_id"] or "")
        shown: dict[str, Any] | None = None
        if result is not None:
            written = result["collections"]
            for each in written:
                self._note_target(tx, task, each, result["run_id"])
            names = ("collection_id", "version")
            known = [{name: each[name] for name in names} for each in written]
            columns = {"columns": result["columns"]}
            shown = {**result, "collections": [each | columns for each in known]}
        if cluster is not None:
            noted = {
                "task_id": task.id,
                "run_id": data["run_id"],
                "status": status_of(outcome),
                "completed_at": self._catalog.clock().isoformat(),
                "error": (outcome.get("error") or {}).get("message"),
                **{name: value for name, value in (shown or {}).items() if name != "run_id"},
            }
            body = {**cluster.body, "enrichment": noted}
            targets = [each["collection_id"] for each in (shown or {}).get("collections", ())]
            new = [name for name in targets if name not in body["input_collections"]]
            body["output_collection_ids"] = [
                *dict.fromkeys([*body.get("output_collection_ids", ()), *new])
            ]
            tx.replace(replace(cluster, body=body))
        return Ended(status_of(outcome), shown)

    def _note_versions(self, task: Record, outcome: Mapping[str, Any]) -> None:
        """Let the catalog know of the versions that were published."""
        for each in (outcome.get("result") or {}).get("collections", ()):
            self._noting.note_number(task.ns, each["collection_id"], each["version"])

    def _note_target(
        self, tx: Transaction, task: Record, described: Mapping[str, Any], run_id: str
    ) -> None:
        """Let the catalog know of a collection that was made for the documents."""
        ns, name = task.ns, described["collection_id"]
        is_target = name == task.body["job"]["args"]["target"]  # others were deleted meanwhile
        if is_target and tx.get(ns, COLLECTION, name) is None:
            own = {"collection_name": name, "description": None, "metadata": {}}
            body = {**described, **own}
            new = Record(ns=ns, kind=COLLECTION, id=name, name=name, status=READY, body=body)
            if tx.find(ns, COLLECTION, name) is not None:  # it got the name meanwhile
                new = replace(new, name=None)
            tx.create(new)
            self._emit(tx, ns, "collection.created", COLLECTION, name, {"collection_name": name})
            told = {"version": described["version"], "run_id": run_id}
            self._emit(tx, ns, "collection.updated", COLLECTION, name, told)
