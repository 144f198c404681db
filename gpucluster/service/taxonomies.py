"""Taxonomies of a namespace: clusters promoted to nodes, and documents that join them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any

from gpucluster.errors import TaxonomyNotFoundError
from gpucluster.places import Place
from gpucluster.service.catalog.port import (
    Catalog,
    Changed,
    Page,
    Query,
    Record,
    Summary,
    Taken,
    Transaction,
)
from gpucluster.service.definitions import Emit
from gpucluster.service.enrichments import Asked, Enrichments
from gpucluster.service.executions import Pinned
from gpucluster.service.identifiers import new_id
from gpucluster.service.refusals import ConflictError, InvalidError, NotFoundError
from gpucluster.service.settings import ServiceSettings
from gpucluster.service.tasks import Ended, Job, Tasks, status_of
from gpucluster.taxonomy import StoredTaxonomy
from gpucluster.wire.enrichment import EnrichRequest
from gpucluster.wire.taxonomies import ApplyRequest, PatchTaxonomyRequest

KIND = "taxonomy"
APPLICATION = "application"
ATTEMPTS, PAUSE_S = 20, 0.05  # of a note, each time overtaken by another
NAMED = ("taxonomy_name", "description", "metadata", "updated_at")  # what a patch changes
_STATUS = {"COMPLETED": "completed", "FAILED": "failed", "CANCELED": "canceled"}
NODE_FIELDS = (
    {"source_field": "cluster_id", "target_field": "node_id"},
    {"source_field": "label", "target_field": "node_label"},
)


@dataclass(frozen=True, slots=True)
class Promoting:
    """What is promoted.

    Attributes
    ----------
    execution : Record
        Whose clusters.
    name : str
        Of the taxonomy.
    options : mapping
        Of `gpucluster.promote`.
    """

    execution: Record
    name: str
    options: Mapping[str, Any]


class Taxonomies:
    """The taxonomies of a service.

    Parameters
    ----------
    catalog : Catalog
    settings : ServiceSettings
    collections : Pinned
    enrichments : Enrichments
    tasks : Tasks
    emit : callable
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: ServiceSettings,
        collections: Pinned,
        enrichments: Enrichments,
        tasks: Tasks,
        emit: Emit,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._collections = collections
        self._enrichments = enrichments
        self._tasks = tasks
        self._emit = emit
        tasks.finishers["promote"] = self._promoted
        tasks.finishers["classify"] = self._applied

    def folder(self, ns: str) -> Place:
        """Return where the taxonomies of a namespace lie."""
        return self._settings.place / f"ns/{ns}/taxonomies"

    def find(self, tx: Transaction, ns: str, identifier: str) -> Record:
        """Return the record of a taxonomy by its id or name."""
        record = tx.get(ns, KIND, identifier) or tx.find(ns, KIND, identifier)
        if record is None:
            raise NotFoundError(f"there is no taxonomy {identifier}")
        return record

    def get(self, ns: str, identifier: str) -> Record:
        """Return the record of a taxonomy by its id or name."""
        with self._catalog.reading() as tx:
            return self.find(tx, ns, identifier)

    def open(self, ns: str, record: Record, version: int | None = None) -> StoredTaxonomy:
        """Return a version, by default the latest; `NotFoundError` where there is none."""
        known = record.body["versions"]
        if version is not None and version not in known:
            raise NotFoundError(f"{record.id} has no version {version}, it has {len(known)}")
        return StoredTaxonomy.open(self.folder(ns) / record.id, version or record.body["version"])

    def page(self, ns: str, query: Query) -> tuple[Page, Summary]:
        """Return a page of taxonomies, and how many there are of each type."""
        with self._catalog.reading() as tx:
            return tx.page(ns, KIND, query), tx.summary(ns, KIND, query)

    def promote(self, tx: Transaction, ns: str, task_id: str, asked: Promoting) -> Record:
        """Begin to make a version; call `Tasks.wake` after the commit."""
        execution = asked.execution
        if execution.status != "completed":
            raise ConflictError(f"{execution.id} is {execution.status}, expected a completed run")
        there = tx.get(ns, "task", task_id)
        if there is not None:  # the same request, sent again
            return there
        args = {
            "run": execution.body["artifacts"]["path"],
            "name": asked.name,
            "out": str(self.folder(ns)),
            **asked.options,
        }
        return self._tasks.submit(
            *(tx, ns, task_id, "api_taxonomies_create", Job(verb="promote", args=args)),
            inputs=[execution.id],
            data={"cluster_id": execution.parent, "run_id": execution.id},
        )

    def patch(self, ns: str, identifier: str, changes: PatchTaxonomyRequest) -> Record:
        """Change name, description or metadata."""
        record = self.get(ns, identifier)
        given = {
            name.removeprefix("taxonomy_"): getattr(changes, name)
            for name in changes.model_fields_set
        }
        if "name" in given and given["name"] is None:
            raise InvalidError("expected a name", loc=["taxonomy_name"])
        with self._catalog.reading() as tx:
            other = tx.find(ns, KIND, given.get("name", ""))
        if other is not None and other.id != record.id:
            raise _taken(given["name"])
        self.open(ns, record).patch(**given)
        return self._note(ns, record.id, "taxonomy.updated", {"changed": sorted(given)})

    def clone(self, ns: str, identifier: str, name: str, **facts: Any) -> Record:
        """Copy the latest version into a taxonomy of its own."""
        record = self.get(ns, identifier)
        with self._catalog.reading() as tx:
            if tx.find(ns, KIND, name) is not None:
                raise _taken(name)
        made = self.open(ns, record).clone(name, **facts)
        own = {"cluster_id": record.body["cluster_id"]}
        return self._note(ns, made.taxonomy_id, "taxonomy.created", {}, own)

    def delete(self, ns: str, identifier: str) -> None:
        """Remove a taxonomy with all its versions; what joined it stays."""
        record = self.get(ns, identifier)
        with suppress(TaxonomyNotFoundError):  # a server died between the files and the catalog
            self.open(ns, record).delete()
        with self._catalog.writing() as tx:
            tx.delete(ns, KIND, record.id)
            self._emit(tx, ns, "taxonomy.deleted", KIND, record.id, {})

    def apply(
        self, tx: Transaction, ns: str, identifier: str, asked: ApplyRequest, *, run_id: str,
        task_id: str,
    ) -> Record:  # fmt: skip
        """Begin to let documents join; call `Tasks.wake` after the commit."""
        record = self.find(tx, ns, identifier)
        there = tx.get(ns, APPLICATION, run_id)
        if there is not None:  # the same request, sent again
            return there
        version = asked.version or record.body["version"]
        if version not in record.body["versions"]:
            raise NotFoundError(f"{record.id} has no version {version}")
        manifest, number = self._collections.manifest(tx, ns, asked.collection_id)
        args = {
            "taxonomy": str(self.folder(ns) / record.id),
            "version": version,
            "data": manifest,
            "threshold": asked.threshold,
            "filters": asked.filters and asked.filters.to_dict(),
            "out": str(self._settings.place / f"ns/{ns}/applications/{record.id}"),
            "run_id": run_id,
            "device": self._settings.device,
        }
        body = {
            "run_id": run_id,
            "taxonomy_id": record.id,
            "version": version,
            "collection_id": asked.collection_id,
            "collection_version": number,
            "task_id": task_id,
            "enrich": asked.enrich or asked.target_collection_id is not None,
            "target_collection_id": asked.target_collection_id,
        }
        made = tx.create(
            Record(
                ns=ns, kind=APPLICATION, id=run_id, parent=record.id, status="pending", body=body
            )
        )
        self._tasks.submit(
            *(tx, ns, task_id, "api_taxonomies_execute", Job(verb="classify", args=args)),
            inputs=[record.id, asked.collection_id],
            outputs=[run_id],
            data={"run_id": run_id, "taxonomy_id": record.id},
        )
        return made

    def application(self, tx: Transaction, ns: str, identifier: str, run_id: str) -> Record:
        """Return documents that joined; `NotFoundError` where there are none of that id."""
        taxonomy = self.find(tx, ns, identifier)
        record = tx.get(ns, APPLICATION, run_id)
        if record is None or record.parent != taxonomy.id:
            raise NotFoundError(f"{taxonomy.id} was not applied as {run_id}")
        return record

    def applications(self, ns: str, identifier: str, query: Query) -> tuple[Page, Summary]:
        """Return a page of what joined a taxonomy."""
        with self._catalog.reading() as tx:
            query = replace(query, parent=self.find(tx, ns, identifier).id)
            return tx.page(ns, APPLICATION, query), tx.summary(ns, APPLICATION, query)

    def _promoted(self, tx: Transaction, task: Record, outcome: Mapping[str, Any]) -> Ended:
        result = outcome.get("result")
        if result is not None:
            facts = {**result, "cluster_id": task.body["data"]["cluster_id"]}
            # a second try may find the first version made, and not noted
            there = tx.get(task.ns, KIND, result["taxonomy_id"])
            event = "taxonomy.created" if there is None else "taxonomy.updated"
            if there is not None:
                facts = _joined(there.body, facts)
            try:
                self._put(tx, task.ns, there, facts, event, {"version": result["version"]})
            except Taken:
                raise _taken(facts["taxonomy_name"]) from None
        return Ended(status_of(outcome), result)

    def _applied(self, tx: Transaction, task: Record, outcome: Mapping[str, Any]) -> Ended:
        status, result = status_of(outcome), outcome.get("result")
        record = tx.get(task.ns, APPLICATION, task.body["data"]["run_id"])
        if record is None:
            return Ended(status)
        body = {**record.body, "completed_at": self._catalog.clock().isoformat()}
        if result is None:
            body["error_message"] = (outcome.get("error") or {}).get("message")
        else:
            counts = result["counts"]
            body |= {
                "num_documents": counts["num_points"],
                "num_joined": counts["num_points"] - counts["num_noise"],
                "metrics": result["metrics"],
                "artifacts": {"path": result["path"]},
            }
        record = tx.replace(replace(record, body=body, status=_STATUS[status]))
        if result is not None and body["enrich"]:
            request = EnrichRequest.model_validate(
                {
                    "field_mappings": NODE_FIELDS if result["is_named"] else NODE_FIELDS[:1],
                    "target_collection_id": body["target_collection_id"],
                }
            )
            asked = Asked(record, [body["collection_id"]], request)
            task_id = new_id("task", f"{record.id}:enrich")
            self._enrichments.submit(tx, task.ns, task_id, asked, follows=True)
        shown = {name: body.get(name) for name in ("run_id", "num_documents", "num_joined")}
        return Ended(status, shown)

    def _note(
        self,
        ns: str,
        taxonomy_id: str,
        event: str,
        told: Mapping[str, Any],
        own: Mapping[str, Any] | None = None,
    ) -> Record:
        """Keep what the files of a taxonomy say, as they are after the catalog was read.

        So of those who change one at a time, whoever comes last notes what all of them did.
        """
        for _ in range(ATTEMPTS):
            with self._catalog.reading() as tx:
                there = tx.get(ns, KIND, taxonomy_id)
            facts = {**StoredTaxonomy.open(self.folder(ns) / taxonomy_id).to_json(), **(own or {})}
            try:
                with self._catalog.writing() as tx:
                    return self._put(tx, ns, there, facts, event, told)
            except (Changed, Taken):  # the name is of one that is called otherwise by now
                time.sleep(PAUSE_S)
        raise _taken(facts["taxonomy_name"])

    def _put(
        self,
        tx: Transaction,
        ns: str,
        there: Record | None,
        facts: Mapping[str, Any],
        event: str,
        told: Mapping[str, Any],
    ) -> Record:
        """Keep what is known of a taxonomy, in place of what was read."""
        name, key = facts["taxonomy_name"], facts["taxonomy_id"]
        kept = {} if there is None else {"cluster_id": there.body.get("cluster_id")}
        body = {**kept, **facts, "namespace_id": ns}
        new = Record(
            ns=ns,
            kind=KIND,
            id=key,
            name=name,
            status=facts["taxonomy_type"],
            parent=body["cluster_id"],
            text=facts["description"] or "",
            body=body,
        )
        record = (
            tx.create(new) if there is None else tx.replace(replace(new, version=there.version))
        )
        self._emit(tx, ns, event, KIND, key, {"taxonomy_name": name, **told})
        return record


def _joined(known: Mapping[str, Any], promoted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known after a promotion that may be noted later than what came after it."""
    latest = max(promoted, known, key=itemgetter("version"))
    named = max(promoted, known, key=lambda each: datetime.fromisoformat(each["updated_at"]))
    return {
        **latest,
        **{name: named[name] for name in NAMED},
        "versions": sorted({*known["versions"], *promoted["versions"]}),
    }


def _taken(name: str) -> ConflictError:
    return ConflictError(f"there is a taxonomy named {name} already")
