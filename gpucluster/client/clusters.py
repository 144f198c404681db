"""Definitions of clusterings, their executions, and what those left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gpucluster.client.arrow import batches_of, members_after
from gpucluster.client.calls import Call, Flow, Items
from gpucluster.client.endpoints import Group, Many, ManyWith, One, OneWith, every, part
from gpucluster.client.sessions import D
from gpucluster.client.tasks import WAITED_S, waited
from gpucluster.wire import clusters as wire
from gpucluster.wire.base import ListRequest
from gpucluster.wire.enrichment import EnrichRequest, EnrichResponse
from gpucluster.wire.executions import (
    Artifacts,
    DataRequest,
    ExecuteRequest,
    ExecutionResult,
    ListExecutionsRequest,
    ListExecutionsResponse,
)
from gpucluster.wire.tasks import DeleteResponse, TaskResponse
from gpucluster.wire.taxonomies import PromoteRequest, TaxonomyResponse

if TYPE_CHECKING:
    import pyarrow as pa

    from gpucluster.definition import ClusterDefinition


class Clusters(Group[D]):
    """Definitions of clusterings; each is named by its id or its name."""

    @One
    def create(
        self, definition: Mapping[str, Any] | ClusterDefinition | None = None, /, **fields: Any
    ) -> Call[wire.ClusterMetadata]:
        """Keep a definition.

        Parameters
        ----------
        definition : mapping or ClusterDefinition, optional
            In either notation.
        **fields
            What comes on top, such as ``cluster_name``, ``collection_ids``, ``vector_config``,
            ``template_id``.
        """
        given = {} if definition is None else definition
        body = given if isinstance(given, Mapping) else given.to_dict()
        return Call("POST", "/v1/clusters", wire.ClusterMetadata, {**body, **fields})

    @One
    def get(self, cluster: str) -> Call[wire.ClusterDetail]:
        """Show a definition, its latest run, and whether documents know of it."""
        return Call("GET", _path(cluster), wire.ClusterDetail)

    @OneWith(wire.PatchClusterRequest)
    def update(self, body: wire.PatchClusterRequest, cluster: str) -> Call[wire.ClusterModel]:
        """Change name, description or metadata; what a definition does stays."""
        return Call("PATCH", _path(cluster), wire.ClusterModel, body)

    @One
    def delete(
        self, cluster_id: str, *, delete_artifacts: bool = False
    ) -> Call[wire.DeleteClusterResponse]:
        """Remove a definition: live runs are canceled, triggers disabled.

        Parameters
        ----------
        cluster_id : str
            Its id; names are not taken.
        delete_artifacts : bool
            Remove its runs on disk too; otherwise they stay.
        """
        query = {"delete_artifacts": True} if delete_artifacts else {}
        return Call("DELETE", _path(cluster_id), wire.DeleteClusterResponse, query=query)

    @ManyWith(wire.ListClustersRequest)
    def list(self, body: wire.ListClustersRequest) -> Items[wire.ClusterMetadata]:
        """List definitions, the newest first."""
        call = Call("POST", "/v1/clusters/list", wire.ListClustersResponse, body)
        return every(self._session, call)

    @OneWith(ExecuteRequest)
    def execute(self, body: ExecuteRequest, cluster: str) -> Call[TaskResponse]:
        """Execute a definition: the answer is its task, at once."""
        return Call("POST", f"{_path(cluster)}/execute", TaskResponse, body)

    @OneWith(ExecuteRequest)
    def run(self, body: ExecuteRequest, cluster: str) -> Flow[ExecutionResult]:
        """Execute a definition, wait as long as it takes, and return the execution."""
        path = _path(cluster)
        task = yield from self._session.ask(Call("POST", f"{path}/execute", TaskResponse, body))
        done = yield from waited(self._session, task, None)
        run_id = (done.additional_data or {})["run_id"]
        call = Call("GET", _run(cluster, run_id), ExecutionResult)
        return (yield from self._session.ask(call))

    @ManyWith(ListExecutionsRequest)
    def executions(self, body: ListExecutionsRequest, cluster: str) -> Items[ExecutionResult]:
        """List executions, the newest first."""
        path = f"{_path(cluster)}/executions/list"
        return every(self._session, Call("POST", path, ListExecutionsResponse, body))

    @One
    def execution(
        self, cluster: str, run_id: str, *, limit: int | None = None, offset: int = 0
    ) -> Call[ExecutionResult]:
        """Show an execution with its clusters.

        Parameters
        ----------
        cluster, run_id : str
        limit : int, optional
            Clusters at most. Omitted: as the service does; `centroids` has no limit.
        offset : int
            Clusters that are left out first.
        """
        query = {"limit": limit, "offset": offset}
        return Call("GET", _run(cluster, run_id), ExecutionResult, query=query)

    @One
    def cancel(self, cluster: str, run_id: str) -> Call[ExecutionResult]:
        """Stop an execution that waits or is being worked on."""
        path = f"{_path(cluster)}/executions/{part(run_id)}/cancel"
        return Call("POST", path, ExecutionResult)

    @One
    def artifacts(
        self,
        cluster: str,
        run_id: str | None = None,
        *,
        include_centroids: bool = True,
        include_members: bool = False,
        limit: int | None = None,
        offset: int = 0,
        projection_method: Literal["2d", "3d"] | None = None,
    ) -> Call[Artifacts]:
        """Show what a run left: its files, clusters with their vectors, and members.

        Parameters
        ----------
        cluster : str
        run_id : str, optional
            Omitted: the latest completed one.
        include_centroids, include_members : bool
        limit : int, optional
            Members at most. Omitted: as the service does; `members` has no limit.
        offset : int
            Members that are left out first.
        projection_method : {'2d', '3d'}, optional
            Coordinates of members. Omitted: those that there are.
        """
        query = {
            "include_centroids": include_centroids,
            "include_members": include_members,
            "limit": limit,
            "offset": offset,
            "projection_method": projection_method,
        }
        return Call("GET", f"{_run(cluster, run_id)}/artifacts", Artifacts, query=query)

    @Many
    def centroids(self, cluster: str, run_id: str | None = None) -> Items[pa.RecordBatch]:
        """Give the clusters of a run with their vectors, as Arrow batches.

        Parameters
        ----------
        cluster : str
        run_id : str, optional
            Omitted: the latest completed one.
        """
        pinned = run_id or (yield from self._latest(cluster))
        asked = DataRequest(include_members=False)
        yield from batches_of(
            self._session, _data(cluster, pinned), lambda n_given: (asked, n_given)
        )

    @Many
    def members(
        self,
        cluster: str,
        run_id: str | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> Items[pa.RecordBatch]:
        """Give the members of a run, by cluster, as Arrow batches, however many they are.

        A connection that breaks off is made again, and goes on with the next row.

        Parameters
        ----------
        cluster : str
        run_id : str, optional
            Omitted: the latest completed one.
        columns : sequence of str, optional
            Omitted: all.
        limit : int, optional
            Rows at most.
        offset : int
            Rows that are left out first.
        """
        path = _data(cluster, run_id or (yield from self._latest(cluster)))
        yield from batches_of(self._session, path, members_after(columns, limit, offset))

    @OneWith(EnrichRequest)
    def enrich(self, body: EnrichRequest, cluster: str) -> Call[EnrichResponse]:
        """Write what a run knows into the documents, and answer when that is done.

        After 300 s the answer is that of a task that goes on: ``tasks.wait(task_ids[0])``.
        """
        path = f"{_path(cluster)}/enrich"
        return Call("POST", path, EnrichResponse, body, patience_s=WAITED_S)

    @OneWith(PromoteRequest)
    def promote(self, body: PromoteRequest, cluster: str) -> Call[TaxonomyResponse]:
        """Make clusters of a run the nodes of a taxonomy, and answer when that is done."""
        path = f"{_path(cluster)}/promote"
        return Call("POST", path, TaxonomyResponse, body, patience_s=WAITED_S)

    def _latest(self, cluster: str) -> Flow[str]:
        """Return the run that was completed last, so that all of a stream is of one run."""
        query = {"include_centroids": False}
        call = Call("GET", f"{_path(cluster)}/artifacts", Artifacts, query=query)
        return (yield from self._session.ask(call)).run_id


class Templates(Group[D]):
    """Parts of definitions, to make others of: ``clusters.create(template_id=...)``."""

    @OneWith(wire.CreateTemplateRequest)
    def create(self, body: wire.CreateTemplateRequest) -> Call[wire.Template]:
        """Keep part of a definition."""
        return Call("POST", "/v1/clusters/templates", wire.Template, body)

    @One
    def get(self, template: str) -> Call[wire.Template]:
        """Show a template."""
        return Call("GET", f"/v1/clusters/templates/{part(template)}", wire.Template)

    @One
    def delete(self, template: str) -> Call[DeleteResponse]:
        """Remove a template; what was made of it stays."""
        return Call("DELETE", f"/v1/clusters/templates/{part(template)}", DeleteResponse)

    @ManyWith(ListRequest)
    def list(self, body: ListRequest) -> Items[wire.Template]:
        """List templates, the newest first."""
        call = Call("POST", "/v1/clusters/templates/list", wire.ListTemplatesResponse, body)
        return every(self._session, call)


def _path(cluster: str) -> str:
    return f"/v1/clusters/{part(cluster)}"


def _run(cluster: str, run_id: str | None) -> str:
    return _path(cluster) + ("" if run_id is None else f"/executions/{part(run_id)}")


def _data(cluster: str, run_id: str) -> str:
    return f"{_run(cluster, run_id)}/data"
