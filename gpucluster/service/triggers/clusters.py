"""The definitions and executions of a service, as triggers see them."""

from __future__ import annotations

from collections.abc import Sequence

from gpucluster.errors import ConfigError
from gpucluster.service.catalog.port import Query, Record, Transaction
from gpucluster.service.collections.records import Records
from gpucluster.service.definitions import Definitions
from gpucluster.service.executions import KIND, WITHOUT_PURPOSE, Executions
from gpucluster.service.identifiers import new_id
from gpucluster.service.refusals import InvalidError
from gpucluster.service.tasks import Tasks
from gpucluster.service.triggers.port import DRIFT_CHECK
from gpucluster.sources.filters import Condition, Filters
from gpucluster.wire.executions import ExecuteRequest
from gpucluster.wire.triggers import RunMode, TriggerExecutionConfig


class ServiceClusters:
    """Starts executions of definitions.

    Parameters
    ----------
    definitions : Definitions
    executions : Executions
    tasks : Tasks
    collections : Records
    """

    def __init__(
        self, definitions: Definitions, executions: Executions, tasks: Tasks, collections: Records
    ) -> None:
        self._definitions = definitions
        self._executions = executions
        self._tasks = tasks
        self._collections = collections

    def define(self, ns: str, cluster_id: str, config: TriggerExecutionConfig) -> None:
        """Keep a definition under that id; nothing where it is there already."""
        given = {**config.config, "collection_ids": config.collection_ids}
        try:
            self._definitions.create(ns, cluster_id, given)
        except ConfigError as error:
            where = [] if error.path is None else error.path.split(".")
            raise _misplaced(error.message, where, error.hint) from error
        except InvalidError as error:
            raise _misplaced(error.message, error.loc, error.hint) from error

    def config_of(
        self, tx: Transaction, ns: str, identifier: str
    ) -> tuple[str, TriggerExecutionConfig]:
        """Return the id of a definition and what it clusters."""
        found = self._definitions.get(tx, ns, identifier)
        config = dict(found.body["definition"])
        config.pop("collection_ids", None)
        names = found.body["input_collections"]
        return found.id, TriggerExecutionConfig(collection_ids=names, config=config)

    def start(
        self,
        tx: Transaction,
        ns: str,
        cluster_id: str,
        *,
        mode: RunMode,
        trigger_id: str,
        purpose: str | None = None,
    ) -> str:
        """Begin an execution, and return its id."""
        execution = self._executions.start(
            *(tx, ns, cluster_id, ExecuteRequest(mode=mode)),
            run_id=new_id("execution"),
            task_id=new_id("task"),
            trigger_id=trigger_id,
            purpose=purpose,
        )
        return execution.id

    def wake(self) -> None:
        """Let what was started be taken up."""
        self._tasks.wake()

    def latest(
        self, tx: Transaction, ns: str, cluster_id: str, *, mode: RunMode | None = None
    ) -> Record | None:
        """Return the execution that was completed last, without a purpose, of a mode or of any."""
        of_mode = () if mode is None else (Condition(field="mode", value=mode),)
        only = Filters(AND=(WITHOUT_PURPOSE, *of_mode))
        query = Query(filters=only, parent=cluster_id, status="completed", limit=1)
        return next(iter(tx.page(ns, KIND, query).records), None)

    def collection_id(self, tx: Transaction, ns: str, identifier: str) -> str:
        """Return the id of a collection by its id or name."""
        return self._collections.find(tx, ns, identifier).id

    def num_rows(self, tx: Transaction, ns: str, cluster_id: str) -> int:
        """Return how many rows the collections of a definition have now."""
        names = self._definitions.get(tx, ns, cluster_id).body["input_collections"]
        found = [self._collections.find(tx, ns, name) for name in names]
        return sum(int(record.body["num_documents"]) for record in found)

    def last_look(self, tx: Transaction, ns: str, cluster_id: str) -> Record | None:
        """Return the latest look at the drift, where nothing has changed since; otherwise None."""
        only = Filters(AND=(Condition(field="purpose", value=DRIFT_CHECK),))
        query = Query(filters=only, parent=cluster_id, status="completed", limit=1)
        look = next(iter(tx.page(ns, KIND, query).records), None)
        base = self.latest(tx, ns, cluster_id, mode="full")
        if look is None or base is None or look.body["base_run_id"] != base.id:
            return None
        names = self._definitions.get(tx, ns, cluster_id).body["input_collections"]
        now = {name: self._collections.find(tx, ns, name).body["version"] for name in names}
        return look if look.body["collection_versions"] == now else None


def _misplaced(message: str, where: Sequence[str | int], hint: str | None) -> InvalidError:
    """Return what is wrong with a definition as wrong where it stands in a trigger."""
    inside = [] if list(where[:1]) == ["collection_ids"] else ["config"]
    return InvalidError(message, loc=["execution_config", *inside, *where], hint=hint)
