"""Tasks: what the service works on."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import Field

from gpucluster.wire.base import Answer, ListRequest, Pagination, Time

TaskStatus: TypeAlias = Literal[
    "PENDING",
    "IN_PROGRESS",
    "COMPLETED",
    "COMPLETED_WITH_ERRORS",
    "FAILED",
    "CANCELED",
]
LIVE: tuple[TaskStatus, ...] = ("PENDING", "IN_PROGRESS")
TaskType: TypeAlias = Literal[
    "engine_cluster_build",
    "api_collections_documents_create",
    "api_collections_documents_enrich",
    "api_collections_export",
    "api_taxonomies_create",
    "api_taxonomies_execute",
]


class Progress(Answer):
    """How far a task is."""

    stage: str = Field(description="What is being done.")
    done: int = Field(description="Units of it that are finished.")
    total: int | None = Field(default=None, description="Of so many, where that is known.")
    unit: str = Field(default="rows", description="What is counted.")


class TaskResponse(Answer):
    """A task."""

    task_id: str
    task_type: TaskType
    status: TaskStatus
    inputs: list[Any] | None = Field(default=None, description="Ids of what it works on.")
    outputs: list[Any] | None = Field(default=None, description="Ids of what it makes.")
    additional_data: dict[str, Any] | None = Field(
        default=None, description="Such as run_id, progress and the result."
    )
    error: str | None = None
    created_at: Time
    updated_at: Time


class ListTasksRequest(ListRequest):
    """Which tasks are meant."""

    status: TaskStatus | None = None
    task_type: TaskType | None = None


class ListTasksResponse(Answer):
    """A page of tasks."""

    results: list[TaskResponse]
    pagination: Pagination
    total_count: int


class DeleteResponse(Answer):
    """What is answered to a wish that something be gone."""

    message: str = "Successfully deleted"
    success: Literal[True] = True
