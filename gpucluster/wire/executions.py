"""Executions: runs of a definition."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from gpucluster.sources.filters import Filters
from gpucluster.types import USUAL_THRESHOLD
from gpucluster.wire.base import Answer, ListRequest, Name, Pagination, QueryRequest, Request, Time

ExecutionStatus: TypeAlias = Literal["pending", "processing", "completed", "failed", "canceled"]
Mode: TypeAlias = Literal["full", "assign"]


class ExecuteRequest(Request):
    """How a definition is executed."""

    mode: Mode = Field(
        default="full", description="full clusters anew; assign lets new documents join."
    )
    assignment_threshold: Annotated[float, Field(ge=-1, le=1)] | Literal["auto"] = Field(
        default=USUAL_THRESHOLD,
        description="Least cosine similarity to a centroid, inclusive; auto: each cluster's own.",
    )
    filters: Filters | None = Field(
        default=None, description="For this execution, instead of the definition's."
    )
    source_run_id: Name | None = Field(
        default=None, description="Whose clusters are joined. Omitted: the latest full run's."
    )
    scope: Literal["new", "all"] | None = Field(
        default=None, description="new, the usual, leaves out the documents of that run."
    )
    update: bool = Field(default=False, description="Move the centroids with their new members.")


class ExecutionMetrics(Answer):
    """Quality of the clusters; null where a metric could not be computed."""

    silhouette_score: float | None = Field(default=None, ge=-1, le=1)
    davies_bouldin_index: float | None = Field(default=None, ge=0)
    calinski_harabasz_score: float | None = Field(default=None, ge=0)
    mean_cosine_to_centroid: float | None = None
    noise_ratio: float | None = None
    cluster_size_entropy: float | None = None
    should_recluster: int | None = None

    model_config = Answer.model_config | {"extra": "allow"}


class ExecutionCentroid(Answer):
    """One cluster, without its vector."""

    cluster_id: str
    num_members: int = Field(ge=0)
    label: str | None = None
    summary: str | None = None
    keywords: list[str] | None = None
    parent_cluster_id: str | None = None
    child_cluster_ids: list[str] = []
    hierarchy_level: int = 0
    stable_id: str | None = None
    mean_cosine_similarity: float | None = None
    min_cosine_similarity: float | None = None


class ExecutionResult(Answer):
    """One execution, and what came of it."""

    run_id: str
    cluster_id: str
    task_id: str
    status: ExecutionStatus
    mode: Literal["full", "assign", "update"] = "full"
    base_run_id: str | None = None
    trigger_id: str | None = None
    num_clusters: int = Field(default=0, ge=0)
    num_points: int = Field(default=0, ge=0)
    num_noise: int = Field(default=0, ge=0)
    num_skipped: int = Field(default=0, ge=0)
    metrics: ExecutionMetrics | None = None
    recluster_reasons: list[dict[str, Any]] = []
    not_evaluated: list[str] = []
    drift: dict[str, Any] | None = None
    centroids: list[ExecutionCentroid] | None = Field(
        default=None, description="Where one execution is asked for: as many as limit says."
    )
    num_centroids: int | None = Field(
        default=None, description="Of all levels, however many are shown."
    )
    next_offset: int | None = Field(default=None, description="Where the next centroids begin.")
    created_at: Time
    started_at: Time | None = None
    completed_at: Time | None = None
    execution_time_ms: int | None = None
    artifacts: dict[str, Any] | None = Field(
        default=None, description="Where the run lies, and its files."
    )
    related: list[str] = Field(
        default=[], description="Runs of the other features, where each one has its own."
    )
    device: str | None = None
    warnings: list[str] = []
    error_message: str | None = None
    llm_labeling_errors: list[str] | None = None


class ListExecutionsRequest(ListRequest):
    """Which executions of a definition are meant."""


class ExecutionListStats(Answer):
    """All executions that are meant, whatever the page."""

    total_executions: int = 0
    executions_by_status: dict[str, int] = {}
    avg_execution_time_ms: float = 0.0
    total_documents_clustered: int = 0
    avg_num_clusters: float = 0.0


class ListExecutionsResponse(Answer):
    """A page of executions."""

    results: list[ExecutionResult]
    pagination: Pagination
    total_count: int
    stats: ExecutionListStats | None = None


class Executions(ListExecutionsResponse):
    """The history of a definition, newest first; the fields of the latest one stand at the top."""

    latest: ExecutionResult | None = None
    run_id: str | None = None
    cluster_id: str | None = None
    status: ExecutionStatus | None = None
    num_clusters: int | None = None
    num_points: int | None = None
    metrics: ExecutionMetrics | None = None
    created_at: Time | None = None
    completed_at: Time | None = None
    error_message: str | None = None
    llm_labeling_errors: list[str] | None = None


class ExecutionRequest(QueryRequest):
    """Which of the clusters of an execution are shown."""

    limit: int = Field(
        default=1000, ge=0, le=10_000, description="Clusters at most; .../data has no limit."
    )
    offset: int = Field(default=0, ge=0, le=2**53, description="Clusters that are left out first.")


class Artifacts(Answer):
    """What a run left: as many rows of it as were asked for."""

    run_id: str
    cluster_id: str
    path: str
    files: dict[str, dict[str, Any]]
    projection_method: str | None = Field(default=None, description="2d, 3d, or null: none.")
    centroids: list[dict[str, Any]] | None = None
    members: list[dict[str, Any]] | None = None
    num_members: int
    next_offset: int | None = Field(default=None, description="Where the next members begin.")


class ArtifactsRequest(QueryRequest):
    """Which part of what a run left is shown."""

    include_centroids: bool = Field(default=True, description="The clusters, with their vectors.")
    include_members: bool = Field(default=False, description="The documents, by cluster.")
    limit: int = Field(
        default=1000, ge=0, le=10_000, description="Members at most; the stream has no limit."
    )
    offset: int = Field(default=0, ge=0, description="Members that are left out first.")
    projection_method: Literal["2d", "3d"] | None = Field(
        default=None, description="Coordinates of members. Omitted: those that there are."
    )


class DataRequest(Request):
    """What is streamed."""

    include_centroids: bool = Field(default=True, description="The clusters, first.")
    include_members: bool = Field(default=False, description="The documents, by cluster.")
    limit: int | None = Field(default=None, ge=0, description="Members at most.")
    offset: int = Field(default=0, ge=0, description="Members that are left out first.")
    columns: tuple[Name, ...] | None = Field(
        default=None, description="Columns of the members; omitted: all."
    )


class DataQuery(QueryRequest, DataRequest):
    """What is streamed, as parameters of the query."""
