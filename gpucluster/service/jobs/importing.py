"""Documents of elsewhere become the first version of a collection: in the process of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpucluster.artifacts import open_store
from gpucluster.events import CancelToken, Observer, Reporter
from gpucluster.places import Place, place
from gpucluster.service.collections import connections
from gpucluster.service.collections.copying import Part, as_stored, copy_documents, part_of
from gpucluster.service.collections.creating import Draft, allowed_files
from gpucluster.service.collections.incoming import Limits
from gpucluster.service.collections.records import files_there
from gpucluster.service.collections.versions import Overtaken, Versions, folder_of
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
            parts, unit = _files(args, root, limits, Reporter("look", observer, cancel)), "bytes"
            draft = as_stored(draft, args["paths"])
        else:
            parts, unit = [_connected(args["source"], limits)], "rows"
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


def _files(args: Mapping[str, Any], own: Place, limits: Limits, reporter: Reporter) -> list[Part]:
    def check(path: str) -> None:  # in its place a link may have been put meanwhile
        allowed_files([path], args["import_roots"], own)

    parts: list[Part] = []
    for path in args["paths"]:
        reporter.progress(len(parts), len(args["paths"]), "files")
        parts.append(part_of(path, limits, check))
    return parts


def _connected(given: Mapping[str, Any], limits: Limits) -> Part:
    connection = connections.connect(CollectionSource.model_validate(given))
    return Part(
        connection.rows_to_read(),
        lambda version, heard: connection.read(version, limits, heard),
    )
