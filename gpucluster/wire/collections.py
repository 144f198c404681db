"""Collections of documents, as they go over the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from gpucluster.sources.collection import Feature, FeatureUri
from gpucluster.wire.base import Answer, ListRequest, Metadata, Pagination, Request, Time, Title

CollectionId = Annotated[str, StringConstraints(pattern=r"^col_[A-Za-z0-9_]+$", max_length=100)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
SOURCE_PREFIX = "GPUCLUSTER_SOURCE_"
# a caller may name no other variable: what it holds is sent elsewhere
SourceEnv = Annotated[str, StringConstraints(pattern=rf"^{SOURCE_PREFIX}[A-Z0-9_]{{1,100}}$")]
# a collection is there at once; documents of elsewhere are in it when their import is over
CollectionStatus: TypeAlias = Literal["READY", "IMPORTING", "FAILED", "CANCELED"]


class PgvectorSource(Request):
    """A table of PostgreSQL; the features of the collection name its columns of vectors."""

    dsn_env: SourceEnv = Field(description="Variable of the server that holds the connection.")
    table: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="Its name, with the schema before it and a dot where it needs one."
    )
    payload: list[ColumnName] | None = Field(
        default=None, description="Columns that are fields of documents. Omitted: all others."
    )


class QdrantSource(Request):
    """A collection of Qdrant; the features name its vectors, or the one that has no name."""

    url_env: SourceEnv = Field(description="Variable of the server that holds the address.")
    api_key_env: SourceEnv | None = Field(default=None, description="That holds the key.")
    collection: Annotated[str, StringConstraints(min_length=1, max_length=255)] = Field(
        description="Its name there."
    )
    payload: list[ColumnName] | None = Field(
        default=None, description="Fields that documents get. Omitted: all."
    )


class CollectionSource(Request):
    """What a collection is made of: files, a table, or a collection of another service."""

    paths: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=4096)]],
            Field(min_length=1, max_length=1000),
        ]
        | None
    ) = Field(
        default=None,
        description="Absolute paths, folders, globs, or addresses such as s3://bucket/prefix/; "
        "below what the operator allows.",
    )
    copied: bool = Field(
        default=False,
        alias="copy",
        description="Whether the documents of files are copied, by a task; otherwise the files "
        "stay where they are, and must not change.",
    )
    pgvector: PgvectorSource | None = None
    qdrant: QdrantSource | None = None

    @model_validator(mode="after")
    def _is_one(self) -> CollectionSource:
        if sum(each is not None for each in (self.paths, self.pgvector, self.qdrant)) != 1:
            raise ValueError("expected one of paths, pgvector and qdrant")
        return self

    @property
    def is_imported(self) -> bool:
        """Whether documents are copied, which takes a task."""
        return self.copied or self.paths is None


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
    source: CollectionSource | None = Field(
        default=None, description="Omitted: documents come later."
    )


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
    status: CollectionStatus = Field(
        description="READY, or how it stands with the import of its documents."
    )
    task_id: str | None = Field(default=None, description="Of the import.")
    error: str | None = Field(default=None, description="Why the import failed.")
    version: int = Field(description="The latest one; 0 before documents are imported.")
    num_documents: int
    num_bytes: int = Field(description="Of its files.")
    num_files: int
    features: dict[str, dict[str, Any]]
    id_column: str
    text_column: str | None = None
    columns: dict[str, str] = Field(description="All other columns, with their Arrow types.")
    enrichments: list[EnrichmentAnswer] = []
    source: dict[str, Any] | None = Field(
        default=None, description="Where documents came from, and what is enriched may go back to."
    )
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


class WriteBackRequest(Request):
    """Columns that go to where documents came from."""

    columns: Annotated[list[ColumnName], Field(min_length=1, max_length=100)] = Field(
        description="Such as those of an enrichment."
    )
    add_columns: bool = Field(
        default=False, description="Whether a table gets columns that it does not have."
    )


class WrittenBack(Answer):
    """What became of columns that went to where documents came from: the result of the task."""

    updated: int = Field(description="Documents that are still there.")
    missing: int = Field(description="Documents that are not.")
