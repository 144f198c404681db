"""What the catalog knows of collections: a record of each, to list and name it by.

Documents lie in files, and the latest version says which ones; what a record says of them may be
a version old.
"""

from __future__ import annotations

from typing import Any

from gpucluster.service.catalog.port import (
    Catalog,
    Page,
    Query,
    Record,
    Summary,
    Taken,
    Transaction,
)
from gpucluster.service.collections.versions import Version
from gpucluster.service.definitions import Emit
from gpucluster.service.patching import patched
from gpucluster.service.refusals import ConflictError, NotFoundError
from gpucluster.wire.collections import CollectionStatus, PatchCollectionRequest

KIND = "collection"
READY: CollectionStatus = "READY"


class Records:
    """The records of collections.

    Parameters
    ----------
    catalog : Catalog
    emit : callable
        Tells whoever listens; in the transaction of the change.
    """

    def __init__(self, catalog: Catalog, emit: Emit) -> None:
        self._catalog = catalog
        self._emit = emit

    def find(self, tx: Transaction, ns: str, identifier: str) -> Record:
        """Return the record of a collection by its id or name."""
        record = tx.get(ns, KIND, identifier) or tx.find(ns, KIND, identifier)
        if record is None:
            raise NotFoundError(f"there is no collection {identifier}")
        return record

    def page(self, ns: str, query: Query) -> tuple[Page, Summary]:
        """Return a page of collections, and what all that are meant come to."""
        with self._catalog.reading() as tx:
            return tx.page(ns, KIND, query), tx.summary(ns, KIND, query, ["num_documents"])

    def patch(self, ns: str, identifier: str, changes: PatchCollectionRequest) -> Record:
        """Change name, description or metadata."""
        with self._catalog.writing() as tx:
            record = self.find(tx, ns, identifier)
            try:
                changed = tx.replace(patched(record, changes, "collection_name"))
            except Taken:
                raise taken(changes.collection_name or record.id) from None
            told = {"changed": sorted(changes.model_fields_set)}
            self._emit(tx, ns, "collection.updated", KIND, record.id, told)
            return changed


def described(ns: str, version: Version) -> dict[str, Any]:
    """Return what a record says of a version."""
    return {
        "collection_id": version.collection_id,
        "namespace_id": ns,
        "version": version.number,
        "num_documents": version.n_rows,
        "num_bytes": sum(file.bytes for file in version.files),
        "num_files": len(version.files),
        "features": {
            uri: feature.model_dump(mode="json", exclude_none=True)
            for uri, feature in version.features.items()
        },
        "id_column": version.id_column,
        "text_column": version.text_column,
        "columns": version.columns,
        "enrichments": [each.model_dump(mode="json") for each in version.enrichments],
    }


def is_of(record: Record, asked_as: str) -> bool:
    """Return whether the request that got an id for a new collection has made this one."""
    return asked_as in {record.id, record.body.get("asked_as")}


def taken(name: str) -> ConflictError:
    """Return the refusal of an id or a name that another collection has."""
    return ConflictError(f"there is a collection {name} already")


def files_there(collection_id: str) -> ConflictError:
    """Return the refusal of an id that files of another collection have, which is gone."""
    return ConflictError(
        f"files of a collection {collection_id} are there already",
        hint="delete them with delete_artifacts, or choose another id",
    )


def require_ready(record: Record) -> None:
    """Refuse a collection whose documents are not imported."""
    if record.status == "IMPORTING":
        raise ConflictError(
            f"{record.id} is being imported by {record.body['task_id']}",
            hint="wait for that task, or cancel it",
            task_id=record.body["task_id"],
        )
    if record.status != READY:
        why = f"failed: {record.body['error']}" if record.status == "FAILED" else "was canceled"
        raise ConflictError(
            f"{record.id} has no documents: its import {why}",
            hint="delete it, and make it anew",
            task_id=record.body["task_id"],
        )
