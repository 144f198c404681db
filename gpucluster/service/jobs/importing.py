"""Documents of elsewhere become the first version of a collection: in the process of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpucluster.artifacts import open_store
from gpucluster.events import CancelToken, Observer, Reporter
from gpucluster.places import Place, place
from gpucluster.service.collections import connections
from gpucluster.service.collections.copying import Part, as_stored, copy_documents, parts_of
from gpucluster.service.collections.creating import Draft, allowed_files
from gpucluster.service.collections.incoming import Limits
from gpucluster.service.collections.records import files_there
from gpucluster.service.collections.versions import Overtaken, Versions, folder_of
from gpucluster.service.refusals import ForbiddenError
from gpucluster.wire.collections import CollectionSource


def import_documents(
    args: Mapping[str, Any], observer: Observer, cancel: CancelToken
) -> dict[str, Any]:
    """Make the first version of a collection.

    Parameters
    ----------
    args : mapping
        ``root`` of the service and namespace ``ns``; ``task_id``, which names the folder of the
        files; ``draft`` of the collection; ``limits`` of each file; ``paths`` and the
        ``import_roots`` that they may lie below, or ``source``, a table or collection.
    observer, cancel
        As for `gpucluster.cluster`.

    Returns
    -------
    dict
        What was imported.
    """
    root, task_id = place(args["root"]), args["task_id"]
    store, draft = open_store(root), Draft.from_json(args["draft"])
    versions = Versions(store, folder_of(args["ns"], draft.collection_id))
    version = versions.read(1) if versions.has(1) else None
    if version is None:
        limits = Limits(**args["limits"])
        if "paths" in args:
            paths = _still_allowed(args["paths"], args["import_roots"], root)
            draft, parts, unit = as_stored(draft, paths), parts_of(paths, limits), "bytes"
        else:
            parts, unit = [_part(args["source"], limits)], "rows"
        try:
            version = copy_documents(
                *(store, versions, draft, parts),
                folder=task_id,
                unit=unit,
                reporter=Reporter("import", observer, cancel),
                details={"task_id": task_id},
            )
        except Overtaken:
            raise files_there(draft.collection_id) from None
    if version.details.get("task_id") != task_id:  # otherwise an earlier try has made it
        raise files_there(draft.collection_id)
    return {"collection_id": draft.collection_id, "num_documents": version.n_rows}


def _still_allowed(paths: list[str], roots: list[str], own: Place) -> list[str]:
    """Refuse files in whose place a link was put since they were looked at."""
    if allowed_files(paths, roots, own) != paths:
        raise ForbiddenError("a file does not lie any more where it was allowed to be taken from")
    return paths


def _part(given: Mapping[str, Any], limits: Limits) -> Part:
    connection = connections.connect(CollectionSource.model_validate(given))
    return Part(
        connection.rows_to_read(),
        lambda version, heard: connection.read(version, limits, heard),
    )
