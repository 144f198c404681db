"""Columns are written back to where documents came from, by a task."""

from __future__ import annotations

from gpucluster.places import Place
from gpucluster.service.catalog.port import Catalog, Record
from gpucluster.service.collections import connections
from gpucluster.service.collections.library import Library
from gpucluster.service.refusals import ConflictError
from gpucluster.service.tasks import Job, Tasks
from gpucluster.wire.collections import CollectionSource, WriteBackRequest


class WriteBacks:
    """Writes columns to tables, and to collections of Qdrant.

    Parameters
    ----------
    root : Path or ObjectPath
        The folder of the service.
    catalog : Catalog
    library : Library
    tasks : Tasks
    """

    def __init__(self, root: Place, catalog: Catalog, library: Library, tasks: Tasks) -> None:
        self._root = root
        self._catalog = catalog
        self._library = library
        self._tasks = tasks

    def submit(self, ns: str, identifier: str, task_id: str, asked: WriteBackRequest) -> Record:
        """Begin to write columns of the latest version, and return the task.

        Raises
        ------
        ConflictError
            The documents came from no table.
        SchemaMismatchError, InvalidError
            There is no such column, here or there.
        UnavailableError
            It does not answer.
        """
        record, opened = self._library.get(ns, identifier), self._library.open(ns, identifier)
        version = opened.version
        given = record.body.get("source")
        if given is None:
            raise ConflictError(f"{record.id} came from no table")
        source = CollectionSource.model_validate(given)
        connections.connect(source).check_target(
            version,
            connections.target_schema(version, asked.columns),
            add_columns=asked.add_columns,
        )
        args = {
            "root": str(self._root),
            "ns": ns,
            "collection_id": record.id,
            "version": version.number,
            "source": given,
            "columns": asked.columns,
            "add_columns": asked.add_columns,
        }
        job = Job(verb="write_back", args=args, env=connections.variables(source))
        with self._catalog.writing() as tx:
            there = tx.get(ns, "task", task_id)
            if there is not None:  # the same request, sent again
                return there
            return self._tasks.submit(
                *(tx, ns, task_id, "api_collections_export", job),
                inputs=[record.id],
                data={"collection_id": record.id},
            )
