"""Columns of a collection go back to where its documents came from: in the process of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpucluster.artifacts import open_store
from gpucluster.events import CancelToken, Observer, Reporter
from gpucluster.places import place
from gpucluster.service.collections import connections
from gpucluster.service.collections.versions import Versions, folder_of
from gpucluster.wire.collections import CollectionSource


def write_back(args: Mapping[str, Any], observer: Observer, cancel: CancelToken) -> dict[str, Any]:
    """Write columns of all documents of a version; the same again changes nothing.

    Parameters
    ----------
    args : mapping
        ``root`` of the service and namespace ``ns``; ``collection_id`` and its ``version``; the
        ``source``; ``columns`` and ``add_columns``.
    observer, cancel
        As for `gpucluster.cluster`.

    Returns
    -------
    dict
        The fields of `WrittenBack`.
    """
    store = open_store(place(args["root"]))
    versions = Versions(store, folder_of(args["ns"], args["collection_id"]))
    connection = connections.connect(CollectionSource.model_validate(args["source"]))
    done = connections.write_back(
        *(connection, versions, versions.read(args["version"]), args["columns"]),
        add_columns=args["add_columns"],
        reporter=Reporter("write back", observer, cancel),
    )
    return done.model_dump()
