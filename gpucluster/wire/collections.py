"""Collections of documents, as they go over the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from gpucluster.sources.collection import Feature, FeatureUri
from gpucluster.wire.base import Answer, ListRequest, Metadata, Pagination, Request, Time, Title

CollectionId = Annotated[str, StringConstraints(pattern=r"^col_[A-Za-z0-9_]+$", max_length=100)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class PathsSource(Request):
    """Files that a collection is made of."""

    paths: Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]],
                     Field(min_length=1, max_length=1000)] = Field(
        description="Absolute paths, folders, globs, or addresses such as s3://bucket/prefix/; "
        "below what the operator allows."
    )  # fmt: skip
    copied: bool = Field(
        default=False,
        alias="copy",
        description="Whether the documents are copied; otherwise the files stay where they are, "
        "and must not change.",
    )


class CreateCollectionRequest(Request):
    """A collection that is to be made: empty, or of files."""

    collection_id: CollectionId | None = Field(default=None, description="Omitted: any.")
    collection_name: Title | None = Field(default=None, description="Omitted: its id.")
    description: str | None = Field(default=None, max_length=10_000)
    metadata: Metadata = Field(default={}, description="Whatever the caller notes.")
    features: Annotated[dict[FeatureUri, Feature], Field(min_length=1, max_length=100)] = Field(
        description="What kinds of vectors its documents have, by their URIs."
    )
    id_column: ColumnName | None = Field(
        default=None, description="Where ids are. Omitted: document_id, or found by its name."
    )
    text_column: ColumnName | None = Field(default=None, description="Texts of the documents.")
    source: PathsSource | None = Field(default=None, description="Omitted: documents come later.")


class PatchCollectionRequest(Request):
    """What may change of a collection besides its documents."""

    collection_name: Title | None = None
    description: str | None = Field(default=None, max_length=10_000)
    metadata: Metadata | None = None


class EnrichmentAnswer(Answer):
    """Columns that a run has written."""

    run_id: str
    columns: list[str]
    version: int
    created_at: Time


class CollectionAnswer(Answer):
    """A collection."""

    collection_id: str
    collection_name: str
    namespace_id: str
    description: str | None = None
    metadata: Metadata = {}
    version: int = Field(description="The latest one.")
    num_documents: int
    num_bytes: int = Field(description="Of its files.")
    num_files: int
    features: dict[str, dict[str, Any]]
    id_column: str
    text_column: str | None = None
    columns: dict[str, str] = Field(description="All other columns, with their Arrow types.")
    enrichments: list[EnrichmentAnswer] = []
    created_at: Time
    updated_at: Time


class ListCollectionsRequest(ListRequest):
    """Which collections are meant."""


class CollectionStats(Answer):
    """All collections that are meant, whatever the page."""

    total_collections: int = 0
    total_documents: int = 0


class ListCollectionsResponse(Answer):
    """A page of collections."""

    results: list[CollectionAnswer]
    pagination: Pagination
    total_count: int
    stats: CollectionStats


class DeleteCollectionResponse(Answer):
    """What became of a collection."""

    message: str = "Successfully deleted"
    success: Literal[True] = True
    artifacts_deleted: bool = False


class FileAnswer(Answer):
    """A Parquet file of a version."""

    name: str
    rows: int
    bytes: int
    sha256: str | None = None


class VersionAnswer(Answer):
    """What a collection held at one moment."""

    version: int
    parent: int | None = None
    created_at: Time
    made_by: str
    details: dict[str, Any]
    num_documents: int
    manifest: str = Field(description="Address of what the engine reads.")
    columns: dict[str, str]
    enrichments: list[EnrichmentAnswer] = []
    files: list[FileAnswer]


class ListVersionsResponse(Answer):
    """Versions, newest first."""

    results: list[VersionAnswer]
    next_before: int | None = Field(
        default=None, description="As ``before``, leads to the next page."
    )


class Change(Answer):
    """A version that was made, or the one that there was."""

    collection_id: str
    version: int
    num_documents: int


class DocumentsAdded(Change):
    """What became of documents that were sent."""

    added: int
    replaced: int
    skipped: int


class DocumentsRemoved(Change):
    """How many documents are gone."""

    removed: int
