"""Collections and their documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from gpucluster.client.arrow import batches_of
from gpucluster.client.calls import Call, Flow, Give, Items
from gpucluster.client.endpoints import Group, Many, ManyWith, One, OneWith, every, part
from gpucluster.client.sessions import D
from gpucluster.client.tasks import waited
from gpucluster.client.uploads import Documents as Given
from gpucluster.client.uploads import upload_of
from gpucluster.wire import collections as wire
from gpucluster.wire import documents as documents_wire
from gpucluster.wire.tasks import TaskResponse

if TYPE_CHECKING:
    import pyarrow as pa

LONG_S = 600.0  # what writes all documents of a request may take


class Collections(Group[D]):
    """Collections; each is named by its id or its name."""

    @OneWith(wire.CreateCollectionRequest)
    def create(self, body: wire.CreateCollectionRequest) -> Call[wire.CollectionAnswer]:
        """Make a collection: empty, or of documents that the service can reach.

        Copies are imported by a task: `wait` returns the collection when they are there.
        """
        return Call("POST", "/v1/collections", wire.CollectionAnswer, body, patience_s=LONG_S)

    @One
    def get(self, collection: str) -> Call[wire.CollectionAnswer]:
        """Show a collection."""
        return Call("GET", _path(collection), wire.CollectionAnswer)

    @OneWith(wire.PatchCollectionRequest)
    def update(
        self, body: wire.PatchCollectionRequest, collection: str
    ) -> Call[wire.CollectionAnswer]:
        """Change name, description or metadata."""
        return Call("PATCH", _path(collection), wire.CollectionAnswer, body)

    @One
    def delete(
        self, collection_id: str, *, delete_artifacts: bool = False
    ) -> Call[wire.DeleteCollectionResponse]:
        """Remove a collection.

        Parameters
        ----------
        collection_id : str
            Its id; names are not taken.
        delete_artifacts : bool
            Remove its files too, but never imported ones.
        """
        query = {"delete_artifacts": True} if delete_artifacts else {}
        return Call("DELETE", _path(collection_id), wire.DeleteCollectionResponse, query=query)

    @ManyWith(wire.ListCollectionsRequest)
    def list(self, body: wire.ListCollectionsRequest) -> Items[wire.CollectionAnswer]:
        """List collections, the newest first."""
        call = Call("POST", "/v1/collections/list", wire.ListCollectionsResponse, body)
        return every(self._session, call)

    @Many
    def versions(self, collection: str) -> Items[wire.VersionAnswer]:
        """List the versions of a collection, the newest first."""
        before: int | None = None
        while True:
            query = {"limit": 100, "before": before}
            path = f"{_path(collection)}/versions"
            page = yield from self._session.ask(
                Call("GET", path, wire.ListVersionsResponse, query=query)
            )
            for each in page.results:
                yield Give(each)
            before = page.next_before
            if before is None:
                return

    @One
    def version(self, collection: str, version: int) -> Call[wire.VersionAnswer]:
        """Show a version of a collection."""
        return Call("GET", f"{_path(collection)}/versions/{version}", wire.VersionAnswer)

    @One
    def compact(self, collection: str) -> Call[wire.Change]:
        """Put small files together; documents and their order stay."""
        return Call("POST", f"{_path(collection)}/compact", wire.Change, patience_s=LONG_S)

    @One
    def wait(
        self, collection: str, *, timeout_s: float | None = None
    ) -> Flow[wire.CollectionAnswer]:
        """Return a collection when its documents are imported.

        Parameters
        ----------
        collection : str
        timeout_s : float, optional
            How long; `TaskPendingError` after it, and the import goes on.

        Raises
        ------
        TaskFailedError
            The import failed; `TaskCanceledError` where it was stopped.
        """
        show = Call("GET", _path(collection), wire.CollectionAnswer)
        seen = yield from self._session.ask(show)
        if seen.status == "READY" or seen.task_id is None:
            return seen
        yield from waited(self._session, seen.task_id, timeout_s)
        return (yield from self._session.ask(show))

    @OneWith(wire.WriteBackRequest)
    def write_back(self, body: wire.WriteBackRequest, collection: str) -> Call[TaskResponse]:
        """Write columns to where documents came from: the answer is its task, at once."""
        return Call("POST", f"{_path(collection)}/write-back", TaskResponse, body)

    @One
    def undo_enrichment(self, collection: str, run_id: str) -> Call[wire.Change]:
        """Take away the columns that a run has written."""
        path = f"{_path(collection)}/enrichments/{part(run_id)}"
        return Call("DELETE", path, wire.Change, patience_s=LONG_S)


class Documents(Group[D]):
    """Documents of a collection."""

    @One
    def add(
        self,
        collection: str,
        documents: Given,
        *,
        on_duplicate: Literal["error", "replace", "skip"] = "error",
        expected_version: int | None = None,
    ) -> Flow[wire.DocumentsAdded]:
        """Add documents.

        Parameters
        ----------
        collection : str
        documents : path, table, frame, or iterable of mappings
            Parquet or lines of JSON; a table or reader of pyarrow; a frame of pandas or polars; a
            list of dicts. Vectors are named by feature URI or column. An iterator can be read once,
            so it is not sent again when that fails.
        on_duplicate : {'error', 'replace', 'skip'}
            What to do about an id that the collection has.
        expected_version : int, optional
            The version they are added to, and to no later one.
        """
        query = {"on_duplicate": on_duplicate, "expected_version": expected_version}
        with upload_of(documents) as upload:
            call = Call(
                *("POST", _documents(collection), wire.DocumentsAdded, upload),
                query=query,
                patience_s=LONG_S,
            )
            return (yield from self._session.ask(call))

    @One
    def get(
        self, collection: str, document_id: str, *, include_vectors: bool = False
    ) -> Call[dict[str, Any]]:
        """Show a document.

        Parameters
        ----------
        collection, document_id : str
        include_vectors : bool
            Show vectors too.
        """
        path = f"{_documents(collection)}/{quote(document_id, safe='')}"
        return Call("GET", path, dict, query={"include_vectors": include_vectors})

    @ManyWith(documents_wire.ListDocumentsRequest)
    def list(
        self, body: documents_wire.ListDocumentsRequest, collection: str
    ) -> Items[dict[str, Any]]:
        """List documents by filters, search and order; all of one version."""
        path = f"{_documents(collection)}/list"
        call = Call("POST", path, documents_wire.ListDocumentsResponse, body)
        return every(self._session, call)

    @ManyWith(documents_wire.DataDocumentsRequest)
    def batches(
        self, body: documents_wire.DataDocumentsRequest, collection: str
    ) -> Items[pa.RecordBatch]:
        """Give documents as Arrow batches, however many they are; all of one version."""
        if body.version is None:
            shown = yield from self._session.ask(
                Call("GET", _path(collection), wire.CollectionAnswer)
            )
            body = body.model_copy(update={"version": shown.version})
        path = f"{_documents(collection)}/data"
        yield from batches_of(self._session, path, lambda n_given: (body, n_given))

    @OneWith(documents_wire.FacetsRequest)
    def facets(
        self, body: documents_wire.FacetsRequest, collection: str
    ) -> Call[documents_wire.FacetsResponse]:
        """Count the values of fields, among all documents or those that are meant."""
        path = f"{_documents(collection)}/facets"
        return Call("POST", path, documents_wire.FacetsResponse, body, reads=True)

    @OneWith(documents_wire.DeleteDocumentsRequest)
    def delete(
        self, body: documents_wire.DeleteDocumentsRequest, collection: str
    ) -> Call[wire.DocumentsRemoved]:
        """Take documents away, by their ids or by filters."""
        path = f"{_documents(collection)}/delete"
        return Call("POST", path, wire.DocumentsRemoved, body, patience_s=LONG_S)


def _path(collection: str) -> str:
    return f"/v1/collections/{part(collection)}"


def _documents(collection: str) -> str:
    return f"{_path(collection)}/documents"
