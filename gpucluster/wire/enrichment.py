"""Enrichment: what a run knows becomes columns of the documents."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gpucluster.enrichment.settings import FieldMapping
from gpucluster.wire.base import Answer, Name, Request
from gpucluster.wire.collections import CollectionId
from gpucluster.wire.tasks import TaskStatus

Rows = Annotated[int, Field(ge=1, le=1_000_000)]
Files = Annotated[int, Field(ge=1, le=64)]


class EnrichRequest(Request):
    """What the documents of a definition get."""

    run_id: Name | None = Field(default=None, description="Omitted: the latest completed run.")
    target_collection_id: CollectionId | None = Field(
        default=None,
        description="Where copies of the documents go that have the columns. Omitted: the "
        "collections of the definition get them.",
    )
    fields: tuple[str, ...] | None = Field(
        default=None, description="Omitted: cluster_id, and label where clusters have names."
    )
    field_mappings: tuple[FieldMapping, ...] | None = Field(
        default=None, description="Instead of fields: under other names."
    )
    overwrite: bool = Field(
        default=False, description="Replace columns of these names that no run has written."
    )
    batch_size: Rows | None = Field(
        default=None, description="Documents at a time. Omitted: what 32 MB hold."
    )
    parallelism: Files = Field(default=1, description="Files that are written at a time.")


class ApplyEnrichmentRequest(Request):
    """Enrichment by one or several clusterings, in the form of a published API."""

    clustering_ids: Annotated[tuple[str, ...], Field(min_length=1, max_length=20)] = Field(
        description="Definitions, for their latest completed runs, or runs."
    )
    source_collection_id: CollectionId = Field(description="Whose documents are enriched.")
    target_collection_id: CollectionId | None = Field(
        default=None, description="Where copies go. Omitted: the source gets the columns."
    )
    batch_size: Rows = Field(default=1000, description="Documents at a time.")
    parallelism: Files = Field(default=1, description="Files that are written at a time.")


class EnrichedCollection(Answer):
    """A collection with columns of a run."""

    collection_id: str
    version: int
    columns: list[str]


class EnrichResponse(Answer):
    """What was written."""

    processed: int = Field(default=0, description="Documents that were read.")
    enriched: int = Field(default=0, description="Of these, the run knows.")
    failed: int = Field(default=0, description="Of these, could not be written.")
    batches: int = 0
    task_ids: list[str]
    status: TaskStatus = Field(description="Of the task that is worst.")
    run_ids: list[str]
    collections: list[EnrichedCollection] = []
    error: str | None = None
