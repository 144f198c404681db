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
    clustering_run_id: str | None = Field(
        default=None, description="The latest full run, which the counts are of."
    )
    num_clusters: int | None = None
    num_documents_clustered: int | None = None
    num_documents_joined: int | None = Field(
        default=None, description="Documents that joined its clusters since, by mode assign."
    )
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


class ClusterStats(Answer):
    """What the latest full run has found."""

    num_clusters: int
    noise_points: int | None = None
    silhouette_score: float | None = None
    extra: dict[str, Any] = Field(default={}, description="Its other metrics.")


class ClusterModel(Answer):
    """A definition as it is kept, in the form of a published API."""

    cluster_id: str
    cluster_name: str | None = None
    namespace_id: str
    description: str | None = None
    collection_ids: list[str] | None = None
    cluster_type: Literal["vector", "attribute"] = "vector"
    vector_config: dict[str, Any] | None = Field(
        default=None, description="With all defaults; null where it groups by attributes."
    )
    attribute_config: dict[str, Any] | None = None
    filters: dict[str, Any] | None = None
    llm_labeling: dict[str, Any] | None = None
    enrich_source_collection: bool = False
    source_enrichment_config: dict[str, Any] | None = None
    parquet_path: str | None = Field(
        default=None, description="Where the files of the latest full run lie."
    )
    members_key: str | None = Field(
        default=None, description="The file of its members; null where they are several."
    )
    num_clusters: int | None = None
    cluster_stats: ClusterStats | None = None
    status: str = "PENDING"
    task_id: str | None = None
    last_run_id: str | None = None
    created_at: Time
    updated_at: Time
    metadata: Metadata = {}


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
