"""Removing a definition, and what hangs on it."""

from __future__ import annotations

from collections.abc import Callable

from gpucluster.service.catalog.port import Catalog, Query, Record, Transaction
from gpucluster.service.definitions import KIND as CLUSTER
from gpucluster.service.definitions import Definitions
from gpucluster.service.executions import KIND, LIVE, Executions
from gpucluster.service.folders import remove_folder
from gpucluster.service.refusals import ConflictError
from gpucluster.service.tasks import Tasks
from gpucluster.wire.clusters import DeleteClusterResponse

AT_ONCE = 500


class Removal:
    """Removes definitions.

    Parameters
    ----------
    catalog : Catalog
    definitions : Definitions
    executions : Executions
    tasks : Tasks
    disable_triggers : callable
        Gets a transaction, a namespace and the id of a definition that goes; returns the ids of
        the triggers that fire it no more.
    """

    def __init__(
        self,
        catalog: Catalog,
        definitions: Definitions,
        executions: Executions,
        tasks: Tasks,
        disable_triggers: Callable[[Transaction, str, str], list[str]],
    ) -> None:
        self._catalog = catalog
        self._definitions = definitions
        self._executions = executions
        self._tasks = tasks
        self._disable_triggers = disable_triggers

    def remove(self, ns: str, cluster_id: str, *, delete_artifacts: bool) -> DeleteClusterResponse:
        """Remove a definition: its live runs are stopped, its triggers disabled.

        Parameters
        ----------
        ns, cluster_id : str
        delete_artifacts : bool
            Also its runs, as far as they are known and on disk; those of a definition that is
            gone already, too: their files were to stay, or a server died over them.

        Raises
        ------
        NotFoundError
            There is no such definition.
        ConflictError
            Its files are to go, and one of its runs is live.
        """
        with self._catalog.writing() as tx:
            live = [record for status in LIVE for record in self._runs(tx, ns, cluster_id, status)]
            if delete_artifacts and live:
                raise ConflictError(
                    f"{live[0].id} is {live[0].status}",
                    hint="cancel it, and delete the files when it has stopped",
                )
            for record in live:
                self._tasks.cancel(tx, ns, record.body["task_id"])
            disabled = self._disable_triggers(tx, ns, cluster_id)
            if not (delete_artifacts and self._has_left_runs(tx, ns, cluster_id)):
                self._definitions.delete(tx, ns, cluster_id)
        if delete_artifacts:
            remove_folder(self._executions.folder(ns, cluster_id))
            self._forget(ns, cluster_id)
        self._tasks.wake()
        return DeleteClusterResponse(
            canceled_run_ids=[record.id for record in live],
            disabled_trigger_ids=disabled,
            artifacts_deleted=delete_artifacts,
        )

    def _has_left_runs(self, tx: Transaction, ns: str, cluster_id: str) -> bool:
        """Whether a definition is gone, and its runs are not."""
        return tx.get(ns, CLUSTER, cluster_id) is None and bool(self._runs(tx, ns, cluster_id))

    def _runs(
        self, tx: Transaction, ns: str, cluster_id: str, status: str | None = None
    ) -> list[Record]:
        query = Query(parent=cluster_id, status=status, limit=AT_ONCE)
        return list(tx.page(ns, KIND, query).records)

    def _forget(self, ns: str, cluster_id: str) -> None:
        """Remove the records of runs whose files are gone."""
        while True:
            with self._catalog.writing() as tx:
                found = self._runs(tx, ns, cluster_id)
                for record in found:
                    tx.delete(ns, KIND, record.id)
            if len(found) < AT_ONCE:
                return
