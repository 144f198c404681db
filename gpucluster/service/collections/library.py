"""The collections of a service: made, filled, changed and removed, by namespace and name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gpucluster.artifacts import open_store
from gpucluster.places import Place
from gpucluster.service.catalog.port import Catalog, Query, Record, Taken, Transaction
from gpucluster.service.collections import compacting, connections, publishing, removing
from gpucluster.service.collections.appending import Appended, KeyReused, OnDuplicate, append
from gpucluster.service.collections.creating import (
    Draft,
    allowed_files,
    create_empty,
    create_of_files,
)
from gpucluster.service.collections.imports import Imports
from gpucluster.service.collections.incoming import Limits, Upload
from gpucluster.service.collections.noting import Noting
from gpucluster.service.collections.opened import Opened
from gpucluster.service.collections.records import (
    KIND,
    READY,
    Records,
    described,
    files_there,
    is_of,
    require_ready,
    taken,
)
from gpucluster.service.collections.versions import Overtaken, Version, Versions, folder_of
from gpucluster.service.definitions import Emit
from gpucluster.service.folders import remove_folder
from gpucluster.service.refusals import ConflictError, InvalidError, NotFoundError
from gpucluster.service.tasks import KIND as TASK
from gpucluster.service.tasks import Tasks
from gpucluster.sources.filters import Filters
from gpucluster.wire.collections import CollectionSource, CreateCollectionRequest
from gpucluster.wire.tasks import LIVE

MOST_TASKS = 10_000  # that are looked through for one that works with a collection


class Library:
    """The collections of a service.

    Parameters
    ----------
    root : Path or ObjectPath
        The folder of the service.
    catalog : Catalog
    limits : Limits
    import_roots : sequence of str
        Where files may lie that collections are made of.
    tasks : Tasks
    emit : callable
        Tells whoever listens; in the transaction of the change.

    Attributes
    ----------
    records : Records
        What the catalog knows of them.
    noting : Noting
        How it gets to know.
    imports : Imports
        How documents of elsewhere get into them.
    """

    def __init__(
        self,
        root: Place,
        catalog: Catalog,
        limits: Limits,
        import_roots: Sequence[str],
        tasks: Tasks,
        emit: Emit,
    ) -> None:
        self.records = Records(catalog, emit)
        self.noting = Noting(catalog, emit, self.versions_of)
        self.imports = Imports(
            root, catalog, tasks, self.noting, limits, import_roots, self.versions_of
        )
        self.limits = limits
        self._root = root
        self._catalog = catalog
        self._store = open_store(root)
        self._import_roots = import_roots
        self._emit = emit

    def get(self, ns: str, identifier: str) -> Record:
        """Return the record of a collection by its id or name."""
        with self._catalog.reading() as tx:
            return self.records.find(tx, ns, identifier)

    def features(self, tx: Transaction, ns: str, collection_id: str) -> Mapping[str, Any]:
        """Return the features of a collection by URI."""
        found: Mapping[str, Any] = self.records.find(tx, ns, collection_id).body["features"]
        return found

    # --- collections

    def create(
        self, ns: str, collection_id: str, asked: CreateCollectionRequest, task_id: str
    ) -> Record:
        """Make a collection; call `Tasks.wake` then, for the import of its documents.

        Parameters
        ----------
        ns : str
        collection_id : str
            Where the request names none. The same one again is the same request, sent again.
        asked : CreateCollectionRequest
        task_id : str
            Of the import, where there is one.

        Raises
        ------
        ConflictError
            Id or name is taken.
        ForbiddenError
            Files lie where none may be taken from.
        ConfigError, InputError, SourceError
            Files are not what is said of them.
        TooManyError
            Too many tasks wait.
        """
        asked_as, collection_id = collection_id, asked.collection_id or collection_id
        name = asked.collection_name or collection_id
        with self._catalog.reading() as tx:
            there = tx.get(ns, KIND, collection_id)
            if there is not None and is_of(there, asked_as):
                return there
            if there is not None or tx.find(ns, KIND, name) is not None:
                raise taken(collection_id if there is not None else name)
        draft = Draft(
            collection_id=collection_id,
            features=asked.features,
            id_column=asked.id_column,
            text_column=asked.text_column,
        )
        own = {
            "collection_name": name,
            "description": asked.description,
            "metadata": asked.metadata,
            "source": connections.noted(asked.source),
            "asked_as": asked_as,
        }
        record = Record(ns=ns, kind=KIND, id=collection_id, name=name, body=own,
                        text=asked.description or "")  # fmt: skip
        if asked.source is not None and asked.source.is_imported:
            return self._import(
                replace(record, body={**own, "task_id": task_id}), draft, asked.source
            )
        versions = self.versions_of(ns, collection_id)
        try:
            version = self._make(versions, draft, asked.source)
        except Overtaken:
            found = versions.latest()
            if found is None or asked.collection_id is not None:
                raise files_there(collection_id) from None
            version = found  # the same request, which was broken off
        body = {**described(ns, version), **own}
        try:
            with self._catalog.writing() as tx:
                made = tx.create(replace(record, body=body, status=READY))
                self._emit(tx, ns, "collection.created", KIND, made.id, {"collection_name": name})
                return made
        except Taken:
            with self._catalog.reading() as tx:
                there = tx.get(ns, KIND, collection_id)
            if there is not None and is_of(there, asked_as):
                return there
            if there is None:  # so it is the name, and nobody knows of what was just made
                remove_folder(self._root / folder_of(ns, collection_id))
            raise taken(name) from None

    def _make(self, versions: Versions, draft: Draft, source: CollectionSource | None) -> Version:
        """Publish the first version of a collection that needs no import."""
        now = self._catalog.clock()
        if source is None or source.paths is None:
            return create_empty(self._store, versions, draft, now)
        paths = allowed_files(source.paths, self._import_roots, self._root)
        return create_of_files(versions, draft, paths, now)

    def _import(self, record: Record, draft: Draft, source: CollectionSource) -> Record:
        """Begin to import the documents of a collection."""
        planned = self.imports.plan(draft, source)
        if self.versions_of(record.ns, record.id).numbers():
            raise files_there(record.id)
        try:
            with self._catalog.writing() as tx:
                return self.imports.submit(tx, record, planned)
        except Taken:
            raise taken(record.name or record.id) from None

    def delete(self, ns: str, collection_id: str, *, delete_artifacts: bool) -> None:
        """Remove a collection; its files stay, unless they are to go as well.

        Raises
        ------
        NotFoundError
            There is neither a record nor a file of it.
        ConflictError
            It is being imported; or its files are to go, and a task that is not over reads or
            writes them.
        """
        with self._catalog.reading() as tx:
            there = tx.get(ns, KIND, collection_id)
        if there is not None and there.due_at is not None:  # nobody would know of what is left
            self.imports.tidy(there)
        with self._catalog.writing() as tx:
            there = tx.get(ns, KIND, collection_id)
            if delete_artifacts or (there is not None and there.status == "IMPORTING"):
                self._check_unused(tx, ns, collection_id)
            known = tx.delete(ns, KIND, collection_id)
            if there is not None and there.body["version"]:
                self._emit(tx, ns, "collection.deleted", KIND, collection_id, {})
        if not known and self.versions_of(ns, collection_id).latest() is None:
            raise NotFoundError(f"there is no collection {collection_id}")
        if delete_artifacts:
            remove_folder(self._root / folder_of(ns, collection_id))

    def _check_unused(self, tx: Transaction, ns: str, collection_id: str) -> None:
        record = tx.get(ns, KIND, collection_id)
        called = {collection_id, None if record is None else record.name}
        for status in LIVE:
            for task in tx.page(ns, TASK, Query(status=status, limit=MOST_TASKS)).records:
                if called & {*task.body["inputs"], *task.body["outputs"]}:
                    raise ConflictError(
                        f"{task.id} is {status} and works with {collection_id}",
                        hint="cancel it, and delete the files when it has stopped",
                    )

    # --- versions

    def versions_of(self, ns: str, collection_id: str) -> Versions:
        """Return the versions of a collection by its id, whether there are any or not."""
        return Versions(self._store, folder_of(ns, collection_id))

    def open(self, ns: str, identifier: str, number: int | None = None) -> Opened:
        """Return a version of a collection, by default the latest.

        Raises
        ------
        NotFoundError
            There is no such collection or version, or its files are gone.
        ConflictError
            Its documents are not imported.
        """
        record = self.get(ns, identifier)
        require_ready(record)
        versions = self.versions_of(ns, record.id)
        if number is not None and not versions.has(number):
            raise NotFoundError(f"{record.id} has no version {number}")
        version = versions.latest() if number is None else versions.read(number)
        if version is None:
            raise NotFoundError(f"the files of {record.id} are gone")
        return Opened(versions, version)

    def manifest(self, tx: Transaction, ns: str, identifier: str) -> tuple[str, int]:
        """Return the address of the manifest of the version that is noted, and its number.

        No file is read, which would hold up all who write. What was answered is noted.
        """
        record = self.records.find(tx, ns, identifier)
        require_ready(record)
        number = record.body["version"]
        return str(self.versions_of(ns, record.id).path(number)), number

    # --- changes

    def append(
        self,
        ns: str,
        identifier: str,
        upload: Callable[[Version], Upload],
        *,
        on_duplicate: OnDuplicate = "error",
        key: str | None = None,
        expected: int | None = None,
    ) -> Appended:
        """Add documents.

        Parameters
        ----------
        ns, identifier : str
        upload : callable
            Opens them for a version.
        on_duplicate : {"error", "replace", "skip"}
            What to do about an id that the collection has.
        key : str, optional
            The same key with the same content is added once.
        expected : int, optional
            The version that they are added to, and no later one.
        """
        opened = self.open(ns, identifier)
        with self._answering(ns, opened):
            done = append(
                self._store,
                opened.versions,
                upload(opened.version),
                now=self._catalog.clock(),
                on_duplicate=on_duplicate,
                key=key,
                pinned=expected,
            )
        self.noting.note(ns, done.version)
        return done

    def remove(
        self,
        ns: str,
        identifier: str,
        *,
        document_ids: Sequence[str] | None = None,
        filters: Filters | None = None,
        expected: int | None = None,
    ) -> tuple[Version, int]:
        """Take documents away that have some ids, or that filters match."""
        opened = self.open(ns, identifier)
        ids = None if document_ids is None else opened.ids(document_ids)
        now = self._catalog.clock()
        with self._answering(ns, opened):
            version, n_removed = removing.remove(
                *(self._store, opened.versions),
                now=now,
                ids=ids,
                filters=filters,
                pinned=expected,
            )
        self.noting.note(ns, version)
        return version, n_removed

    def undo(self, ns: str, identifier: str, run_id: str) -> Version:
        """Take away the columns that a run has written."""
        opened = self.open(ns, identifier)
        if run_id not in {each.run_id for each in opened.version.enrichments}:
            raise NotFoundError(f"{opened.version.collection_id} has no columns of {run_id}")
        with self._answering(ns, opened):
            version = publishing.undo(
                self._store, opened.versions, run_id=run_id, now=self._catalog.clock()
            )
        self.noting.note(ns, version)
        return version

    def compact(self, ns: str, identifier: str) -> Version:
        """Put small files together, and remove those that nothing names."""
        opened = self.open(ns, identifier)
        with self._answering(ns, opened):
            version = compacting.compact(self._store, opened.versions, now=self._catalog.clock())
        compacting.sweep(self._store, opened.versions)
        self.noting.note(ns, version)
        return version

    @contextmanager
    def _answering(self, ns: str, opened: Opened) -> Iterator[None]:
        """Translate what changes of versions raise."""
        self.noting.expect(ns, opened.version.collection_id)
        try:
            yield
        except Overtaken:
            latest = opened.versions.latest()
            raise ConflictError(
                f"{opened.version.collection_id} has changed meanwhile",
                hint="read it again",
                version=None if latest is None else latest.number,
            ) from None
        except KeyReused:
            raise InvalidError(
                "this Idempotency-Key was used for other documents",
                loc=["header", "Idempotency-Key"],
            ) from None
        except LookupError:
            raise NotFoundError(f"the files of {opened.version.collection_id} are gone") from None
