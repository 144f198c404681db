"""Documents of elsewhere are imported by a task, while their collection is there already.

The collection is ready when its first version is noted. An import that fails or is canceled leaves
a collection without documents, which says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

from gpucluster.places import Place
from gpucluster.service.catalog.port import Catalog, Record, Transaction
from gpucluster.service.collections import connections
from gpucluster.service.collections.copying import kind_of
from gpucluster.service.collections.creating import Draft, allowed_files
from gpucluster.service.collections.incoming import Limits
from gpucluster.service.collections.noting import Noting
from gpucluster.service.collections.records import KIND, READY, described
from gpucluster.service.collections.versions import Versions
from gpucluster.service.folders import remove_folder
from gpucluster.service.tasks import Ended, Job, Tasks, status_of
from gpucluster.wire.collections import CollectionSource, CollectionStatus
from gpucluster.wire.tasks import TaskStatus

VERB = "import"
HOLD = timedelta(minutes=15)  # longer than the files of one import take to be removed
_STATUS: dict[TaskStatus, CollectionStatus] = {"FAILED": "FAILED", "CANCELED": "CANCELED"}


@dataclass(frozen=True, slots=True)
class Planned:
    """An import that nothing speaks against.

    Attributes
    ----------
    draft : Draft
        What the collection is to be.
    args : mapping
        What the job gets about the source.
    env : sequence of str
        Variables that it needs.
    """

    draft: Draft
    args: Mapping[str, Any]
    env: Sequence[str]


class Imports:
    """The imports of a service.

    Parameters
    ----------
    root : Path or ObjectPath
        The folder of the service.
    catalog : Catalog
    tasks : Tasks
    noting : Noting
    limits : Limits
    import_roots : sequence of str
        Where files may lie that collections are made of.
    versions_of : callable
        Gets a namespace and the id of a collection, returns its versions.
    """

    def __init__(
        self,
        root: Place,
        catalog: Catalog,
        tasks: Tasks,
        noting: Noting,
        limits: Limits,
        import_roots: Sequence[str],
        versions_of: Callable[[str, str], Versions],
    ) -> None:
        self._root = root
        self._catalog = catalog
        self._tasks = tasks
        self._noting = noting
        self._limits = limits
        self._import_roots = import_roots
        self._versions_of = versions_of
        tasks.preparers[VERB] = self._note_published
        tasks.finishers[VERB] = self._ended
        tasks.followers[VERB] = self._over

    def plan(self, draft: Draft, source: CollectionSource) -> Planned:
        """Return what an import is to do; refuse at once what can be.

        Raises
        ------
        ForbiddenError
            Files lie where none may be taken from.
        ConfigError, SourceError, InvalidError, UnavailableError
            The source is not there, or is none.
        """
        version = draft.version(self._catalog.clock())
        if source.paths is None:
            connections.connect(source).check(version)
            args: dict[str, Any] = {"source": connections.noted(source)}
            return Planned(draft, args, connections.variables(source))
        paths = allowed_files(source.paths, self._import_roots, self._root)
        for path in paths:
            kind_of(path)
        return Planned(draft, {"paths": paths, "import_roots": list(self._import_roots)}, ())

    def submit(self, tx: Transaction, record: Record, planned: Planned) -> Record:
        """Add a collection and the task of its import; call `Tasks.wake` after the commit.

        Parameters
        ----------
        tx : Transaction
        record : Record
            Of the collection, with its ``task_id``.
        planned : Planned
        """
        version = planned.draft.version(self._catalog.clock(), number=0)
        body = {**described(record.ns, version), **record.body, "error": None}
        made = tx.create(replace(record, body=body, status="IMPORTING"))
        task_id = body["task_id"]
        args = {
            "root": str(self._root),
            "ns": record.ns,
            "task_id": task_id,
            "draft": planned.draft.to_json(),
            "limits": asdict(self._limits),
            **planned.args,
        }
        job = Job(verb=VERB, args=args, env=planned.env)
        self._tasks.submit(
            *(tx, record.ns, task_id, "api_collections_documents_create", job),
            outputs=[record.id],
            data={"collection_id": record.id},
        )
        return made

    def tidy(self, record: Record) -> None:
        """Remove what an import has left that failed or was canceled.

        A version that it had published all the same holds, and is noted.
        """
        task_id = record.body["task_id"]
        is_published = self._note(record.ns, record.id, task_id)
        if not is_published:
            folder = self._versions_of(record.ns, record.id).folder
            remove_folder(self._root / f"{folder}/data/{task_id}")
        with self._catalog.writing() as tx:
            found = tx.get(record.ns, KIND, record.id)
            if found is not None and found.body.get("task_id") == task_id:
                body = {**found.body, "error": None} if is_published else found.body
                tx.replace(replace(found, body=body, due_at=None))

    def look(self) -> bool:
        """Tidy up after servers that died over it; return whether there is more."""
        with self._catalog.writing() as tx:
            due = tx.claim(KIND, hold=HOLD)
        for record in due:
            self.tidy(record)
        return bool(due)

    def _note(self, ns: str, collection_id: str, task_id: str) -> bool:
        """Note the version that a task has published; whether there is one."""
        versions = self._versions_of(ns, collection_id)
        if not versions.has(1) or versions.read(1).details.get("task_id") != task_id:
            return False
        self._noting.note_number(ns, collection_id, 1)
        return True

    def _note_published(self, task: Record, _: Mapping[str, Any]) -> None:
        """Let the catalog know of the first version, also where its process could not say so."""
        self._note(task.ns, task.body["data"]["collection_id"], task.id)

    def _ended(self, tx: Transaction, task: Record, outcome: Mapping[str, Any]) -> Ended:
        """Note that there is no version; where there is one, the collection is ready by now."""
        status = status_of(outcome)
        record = tx.get(task.ns, KIND, task.body["data"]["collection_id"])
        if record is None:
            return Ended(status)
        if record.status == READY:
            names = ("collection_id", "version", "num_documents")
            return Ended("COMPLETED", {name: record.body[name] for name in names})
        body = {**record.body, "error": (outcome.get("error") or {}).get("message")}
        now = self._catalog.clock()
        tx.replace(replace(record, body=body, status=_STATUS[status], due_at=now))
        return Ended(status)

    def _over(self, task: Record) -> None:
        """Tidy up at once."""
        with self._catalog.reading() as tx:
            record = tx.get(task.ns, KIND, task.body["data"]["collection_id"])
        if record is not None and record.due_at is not None:
            self.tidy(record)
