"""Taxonomies: clusters that were promoted to nodes, and what joined them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucluster.client.arrow import batches_of, members_after
from gpucluster.client.calls import Call, Items
from gpucluster.client.endpoints import Group, Many, ManyWith, One, OneWith, every, part
from gpucluster.client.sessions import D
from gpucluster.client.tasks import WAITED_S
from gpucluster.wire import taxonomies as wire
from gpucluster.wire.base import ListRequest
from gpucluster.wire.tasks import DeleteResponse, TaskResponse

if TYPE_CHECKING:
    import pyarrow as pa


class Taxonomies(Group[D]):
    """Taxonomies; each is named by its id or its name. ``clusters.promote`` makes them."""

    @One
    def get(self, taxonomy: str, *, version: int | None = None) -> Call[wire.TaxonomyResponse]:
        """Show a taxonomy in one of its versions; omitted: the latest."""
        return Call("GET", _path(taxonomy), wire.TaxonomyResponse, query={"version": version})

    @ManyWith(wire.ListTaxonomiesRequest)
    def list(self, body: wire.ListTaxonomiesRequest) -> Items[wire.TaxonomyResponse]:
        """List taxonomies, the newest first."""
        call = Call("POST", "/v1/taxonomies/list", wire.ListTaxonomiesResponse, body)
        return every(self._session, call)

    @OneWith(wire.PatchTaxonomyRequest)
    def update(self, body: wire.PatchTaxonomyRequest, taxonomy: str) -> Call[wire.TaxonomyResponse]:
        """Change name, description or metadata; versions stay as they are."""
        return Call("PATCH", _path(taxonomy), wire.TaxonomyResponse, body)

    @One
    def delete(self, taxonomy: str) -> Call[DeleteResponse]:
        """Remove a taxonomy with all its versions."""
        return Call("DELETE", _path(taxonomy), DeleteResponse)

    @Many
    def versions(self, taxonomy: str) -> Items[wire.TaxonomyResponse]:
        """List the versions of a taxonomy, the newest first."""
        call = Call("GET", f"{_path(taxonomy)}/versions", wire.ListTaxonomiesResponse)
        return every(self._session, call)

    @OneWith(wire.CreateVersionRequest)
    def create_version(
        self, body: wire.CreateVersionRequest, taxonomy: str
    ) -> Call[wire.TaxonomyResponse]:
        """Make clusters of a run the next version, and answer when that is done."""
        path = f"{_path(taxonomy)}/versions"
        return Call("POST", path, wire.TaxonomyResponse, body, patience_s=WAITED_S)

    @OneWith(wire.CloneTaxonomyRequest)
    def clone(
        self, body: wire.CloneTaxonomyRequest, taxonomy: str
    ) -> Call[wire.CloneTaxonomyResponse]:
        """Copy the latest version into a taxonomy of its own."""
        return Call("POST", f"{_path(taxonomy)}/clone", wire.CloneTaxonomyResponse, body)

    @One
    def nodes(
        self, taxonomy: str, *, version: int | None = None, include_vectors: bool = False
    ) -> Call[wire.TaxonomyNodes]:
        """Show the nodes of a version, roots first.

        Parameters
        ----------
        taxonomy : str
        version : int, optional
            Omitted: the latest.
        include_vectors : bool
            Show their centroids too.
        """
        query = {"version": version, "include_vectors": include_vectors}
        return Call("GET", f"{_path(taxonomy)}/nodes", wire.TaxonomyNodes, query=query)

    @OneWith(wire.ApplyRequest)
    def apply(self, body: wire.ApplyRequest, taxonomy: str) -> Call[TaskResponse]:
        """Let documents of a collection join the nodes: the answer is its task, at once."""
        return Call("POST", f"{_path(taxonomy)}/apply", TaskResponse, body)

    @ManyWith(ListRequest)
    def applications(self, body: ListRequest, taxonomy: str) -> Items[wire.Application]:
        """List what joined a taxonomy, the newest first."""
        path = f"{_path(taxonomy)}/applications/list"
        return every(self._session, Call("POST", path, wire.ListApplicationsResponse, body))

    @One
    def application(self, taxonomy: str, run_id: str) -> Call[wire.Application]:
        """Show what came of documents that joined."""
        return Call("GET", _application(taxonomy, run_id), wire.Application)

    @Many
    def members(self, taxonomy: str, run_id: str) -> Items[pa.RecordBatch]:
        """Give the documents that joined, each with its node under ``cluster_id``."""
        path = f"{_application(taxonomy, run_id)}/data"
        return batches_of(self._session, path, members_after(), method="GET")


def _path(taxonomy: str) -> str:
    return f"/v1/taxonomies/{part(taxonomy)}"


def _application(taxonomy: str, run_id: str) -> str:
    return f"{_path(taxonomy)}/applications/{part(run_id)}"
