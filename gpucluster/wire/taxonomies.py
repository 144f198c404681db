"""Taxonomies: clusters that were promoted to nodes, which documents join from then on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gpucluster.sources.filters import Filters
from gpucluster.wire.base import (
    Answer,
    ListRequest,
    Metadata,
    Name,
    Pagination,
    Request,
    Time,
    Title,
)
from gpucluster.wire.collections import CollectionId
from gpucluster.wire.executions import ExecutionStatus

Threshold = Annotated[float, Field(ge=-1, le=1)] | Literal["auto"]


class _Promotion(Request):
    run_id: Name | None = Field(default=None, description="Omitted: the latest completed run.")
    cluster_ids: tuple[str, ...] | None = Field(
        default=None, description="Clusters that become nodes, by id or stable id. Omitted: all."
    )
    min_stability: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Least agreement of a cluster with itself in earlier runs (Jaccard index).",
    )
    force: bool = Field(default=False, description="Promote clusters below it nevertheless.")
    skip_unstable: bool = Field(default=False, description="Leave clusters below it out.")
    threshold: Threshold = Field(
        default="auto", description="Least cosine similarity of a member; auto: each node's own."
    )
    description: str | None = Field(default=None, max_length=10_000)
    metadata: Metadata | None = None


class PromoteRequest(_Promotion):
    """Clusters of a definition that become nodes of a taxonomy, of which this makes a version."""

    taxonomy_name: Title


class CreateVersionRequest(_Promotion):
    """Clusters that become the next version of a taxonomy."""

    cluster_id: str = Field(description="The definition, by id or name.")


class ClusterTaxonomyConfig(Request):
    """How a taxonomy is made of clusters, in the form of a published API."""

    taxonomy_type: Literal["hierarchical"] = "hierarchical"
    inference_strategy: Literal["cluster"] = Field(
        default="cluster", description="Nodes are clusters; other ways are not supported."
    )
    cluster_ids: Annotated[tuple[str, ...], Field(min_length=1, max_length=1)] = Field(
        description="The definition whose latest run it is made of."
    )


class CreateTaxonomyRequest(Request):
    """A taxonomy that is to be made, in the form of a published API."""

    taxonomy_name: Title
    description: str | None = Field(default=None, max_length=10_000)
    config: ClusterTaxonomyConfig


class PatchTaxonomyRequest(Request):
    """What of a taxonomy may change: its versions may not."""

    taxonomy_name: Title | None = None
    description: str | None = Field(default=None, max_length=10_000)
    metadata: Metadata | None = None


class CloneTaxonomyRequest(Request):
    """A taxonomy that begins as a copy of a version."""

    taxonomy_name: Title
    description: str | None = Field(default=None, max_length=10_000)


class TaxonomyConfig(Answer):
    """How a taxonomy is made, in the form of a published API.

    Nodes are clusters of a definition, whatever the type of the taxonomy says of their levels. What
    belongs to the other ways, by retrievers, schemas or models, is null.
    """

    taxonomy_type: Literal["hierarchical"] = "hierarchical"
    retriever_id: None = None
    input_mappings: None = None
    inference_strategy: Literal["cluster"] = "cluster"
    inference_collections: list[str] | None = None
    llm_provider: None = None
    llm_model: None = None
    llm_prompt_template: None = None
    llm_sample_size: Literal[0] = 0
    cluster_ids: list[str] | None = Field(
        default=None, description="The definition that the nodes are clusters of."
    )
    cluster_overlap_threshold: float | None = Field(
        default=None, description="null: a parent is the cluster that the run divided."
    )
    hierarchical_nodes: None = Field(default=None, description="null: .../nodes has them.")
    step_analytics: None = None


class TaxonomyResponse(Answer):
    """A taxonomy in one of its versions."""

    taxonomy_id: str
    taxonomy_name: str
    namespace_id: str
    version: int = Field(ge=1)
    versions: list[int]
    description: str | None = None
    metadata: Metadata = {}
    retriever_id: None = Field(default=None, description="null: documents join by vectors.")
    input_mappings: None = Field(default=None, description="null: as retriever_id.")
    config: TaxonomyConfig
    taxonomy_type: Literal["flat", "hierarchical"] = Field(
        description="Whether nodes lie below nodes."
    )
    num_nodes: int
    cluster_id: str | None = Field(default=None, description="The definition it comes from.")
    source_run_id: str
    source_taxonomy_id: str | None = None
    threshold: float | Literal["auto"]
    min_stability: float | None = None
    skipped: dict[str, str] = Field(default={}, description="Clusters left out, and why.")
    ready: bool = True
    promoted_at: Time
    created_at: Time
    updated_at: Time


class CloneTaxonomyResponse(Answer):
    """A copy, and what it is one of."""

    taxonomy: TaxonomyResponse
    source_taxonomy_id: str


class TaxonomyListStats(Answer):
    """All taxonomies that are meant, whatever the page."""

    total_taxonomies: int = 0
    flat_taxonomies: int = 0
    hierarchical_taxonomies: int = 0
    taxonomies_with_retrievers: int = 0


class ListTaxonomiesRequest(ListRequest):
    """Which taxonomies are meant."""


class ListTaxonomiesResponse(Answer):
    """A page of taxonomies."""

    results: list[TaxonomyResponse]
    pagination: Pagination
    total_count: int
    stats: TaxonomyListStats


class TaxonomyNodes(Answer):
    """The nodes of a version, roots first."""

    taxonomy_id: str
    version: int
    nodes: list[dict[str, Any]]


class ApplyRequest(Request):
    """Documents that join the nodes."""

    collection_id: CollectionId
    version: int | None = Field(default=None, ge=1, description="Omitted: the latest.")
    threshold: Threshold = Field(default="auto", description="auto: that of each node.")
    filters: Filters | None = Field(default=None, description="Which documents are meant.")
    enrich: bool = Field(
        default=False, description="Write node_id and label into the documents afterwards."
    )
    target_collection_id: CollectionId | None = Field(
        default=None, description="Where copies go that have them; instead of the collection."
    )


class ExecuteTaxonomyRequest(Request):
    """Documents that join the nodes, in the form of a published API."""

    source_collection_id: CollectionId
    target_collection_id: CollectionId | None = None
    join_mode: Literal["on_demand", "batch"] = "on_demand"
    batch_size: int = Field(default=1000, ge=1, le=10_000)
    scroll_filters: Filters | None = None


class JoinStats(Answer):
    """How many documents were compared with the nodes."""

    processed_docs: int = 0
    batches: int = 0
    errors: int = 0


class JoinResponse(Answer):
    """What came of it."""

    stats: JoinStats
    results: list[dict[str, Any]] | None = None
    run_id: str
    task_id: str


class Application(Answer):
    """Documents that have joined a version."""

    run_id: str
    taxonomy_id: str
    version: int
    collection_id: str
    task_id: str
    status: ExecutionStatus
    num_documents: int = 0
    num_joined: int = 0
    metrics: dict[str, Any] | None = None
    error_message: str | None = None
    created_at: Time
    completed_at: Time | None = None


class ListApplicationsResponse(Answer):
    """A page of applications, newest first."""

    results: list[Application]
    pagination: Pagination
    total_count: int
