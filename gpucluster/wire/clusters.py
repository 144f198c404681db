"""Definitions of clusterings, as the service keeps them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gpucluster.wire.base import Answer, ListRequest, Metadata, Pagination, Request, Time, Title
from gpucluster.wire.executions import ExecutionResult


class PatchClusterRequest(Request):
    """What of a definition may change: what it does may not."""

    cluster_name: Title | None = None
    description: str | None = Field(default=None, max_length=10_000)
    metadata: Metadata | None = None


class ClusterMetadata(Answer):
    """A definition, and what came of it so far."""

    cluster_id: str
    cluster_name: str
    namespace_id: str
    description: str | None = None
    input_collections: list[str]
    source_bucket_ids: list[str] | None = None
    filters: dict[str, Any] | None = None
    cluster_type: Literal["vector", "attribute"]
    feature_uris: list[str] | None = None
    multi_feature_strategy: str | None = None
    learned_weights: dict[str, float] | None = None
    learning_quality_score: float | None = None
    effective_feature_method: str | None = None
    clustered_attributes: list[str] | None = None
    hierarchical_grouping: bool | None = None
    aggregation_method: str | None = None
    output_collection_ids: list[str] = []
    output_collection_names: list[str] = []
    algorithm: str | None = None
    algorithm_params: dict[str, Any] | None = None
    enrich_source: bool = False
    source_enrichment_config: dict[str, Any] | None = None
    llm_labeling: dict[str, Any] | None = None
    num_clusters: int | None = None
    num_documents_clustered: int | None = None
    execution_time_seconds: float | None = None
    hierarchy_detected: bool = False
    # published, and null: a definition is part of no other; centroids say how clusters lie
    parent_cluster_id: str | None = None
    child_cluster_ids: list[str] | None = None
    hierarchy_relationships: list[dict[str, Any]] | None = None
    status: str = "PENDING"
    last_execution_task_id: str | None = None
    last_run_id: str | None = None
    created_at: Time
    updated_at: Time
    last_executed_at: Time | None = None
    completed_at: Time | None = None
    llm_labeling_errors: list[str] | None = None
    metadata: Metadata = {}
    definition: dict[str, Any] = Field(description="In its canonical form, as it was given.")


class ClusterDetail(ClusterMetadata):
    """A definition with its latest run, and whether documents know of it."""

    latest_run: ExecutionResult | None = None
    enrichment: dict[str, Any] | None = None


class ListClustersRequest(ListRequest):
    """Which definitions are meant."""


class ClusterListStats(Answer):
    """All definitions that are meant, whatever the page."""

    total_clusters: int = 0
    total_documents: int | None = Field(
        default=None, description="With include_total alone: it takes long to add up."
    )
    avg_documents_per_cluster: float | None = Field(default=None, description="As above.")
    clusters_by_status: dict[str, int] = {}


class ListClustersResponse(Answer):
    """A page of definitions."""

    results: list[ClusterMetadata]
    pagination: Pagination
    total_count: int
    stats: ClusterListStats | None = None


class DeleteClusterResponse(Answer):
    """What became of a definition and what hung on it."""

    message: str = "Successfully deleted"
    success: Literal[True] = True
    canceled_run_ids: list[str] = []
    disabled_trigger_ids: list[str] = []
    artifacts_deleted: bool = False


class CreateTemplateRequest(Request):
    """A definition to make others of; it may lack what they add."""

    template_name: Title
    description: str | None = Field(default=None, max_length=10_000)
    definition: dict[str, Any] = Field(description="Any part of a definition.")


class Template(Answer):
    """A definition to make others of."""

    template_id: str
    template_name: str
    description: str | None = None
    definition: dict[str, Any]
    created_at: Time
    updated_at: Time


class ListTemplatesResponse(Answer):
    """Templates, newest first."""

    results: list[Template]
    pagination: Pagination
    total_count: int
