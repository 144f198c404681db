"""Documents of a collection, as they go over the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gpucluster.sources.filters import Filters
from gpucluster.wire.base import Answer, Pagination, QueryRequest, Request, SortOption

FieldName = Annotated[str, Field(min_length=1, max_length=500)]
DocumentId = Annotated[str, Field(min_length=1, max_length=512)]


class AddOptions(QueryRequest):
    """How documents are added; parameters of the query."""

    on_duplicate: Literal["error", "replace", "skip"] = Field(
        default="error", description="What to do about an id that the collection has."
    )
    expected_version: int | None = Field(
        default=None, ge=1, description="The version they are added to, and to no later one."
    )


class AddDocumentsRequest(Request):
    """A few documents; more are sent as a file."""

    documents: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)] = Field(
        description="Each has its document_id, vectors by feature URI or column, and any fields."
    )


class Meant(Request):
    """Which documents are meant."""

    filters: Filters | None = Field(default=None, description="Conditions on their fields.")
    search: str | None = Field(
        default=None, max_length=500, description="Text that one of their texts contains."
    )


class ListDocumentsRequest(Meant):
    """Which documents are meant, in which order, and what of them is shown."""

    sort: SortOption | None = Field(default=None, description="Omitted: as they were added.")
    fields: Annotated[list[FieldName], Field(max_length=1000)] | None = Field(
        default=None, description="Columns that are shown. Omitted: all but vectors."
    )
    include_vectors: bool = Field(default=False, description="Show vectors too.")


class ListDocumentsResponse(Answer):
    """A page of documents."""

    results: list[dict[str, Any]] = Field(description="Each with its document_id.")
    pagination: Pagination
    total_count: int | None = Field(default=None, description="Where include_total asks for it.")
    version: int = Field(description="What they were read from; later pages are too.")


class DataDocumentsRequest(Meant):
    """Which documents are streamed, and what of them."""

    fields: Annotated[list[FieldName], Field(max_length=1000)] | None = Field(
        default=None, description="Columns. Omitted: all but vectors."
    )
    include_vectors: bool = Field(default=False, description="Vectors too.")
    version: int | None = Field(default=None, ge=1, description="Omitted: the latest.")


class FacetsRequest(Meant):
    """Fields whose values are counted."""

    fields: Annotated[list[FieldName], Field(min_length=1, max_length=20)] = Field(
        description="Columns, or dot paths into objects. Of lists each element counts."
    )
    limit: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=20, description="Values of each field."
    )


class FacetValue(Answer):
    """A value, and how often it is there."""

    value: Any
    count: int


class FacetAnswer(Answer):
    """The values of a field, most frequent first."""

    values: list[FacetValue]
    other_count: int = Field(description="Of all other values together.")
    null_count: int = Field(description="Documents without a value.")
    distinct: int = Field(description="Different values.")


class FacetsResponse(Answer):
    """Values of fields."""

    facets: dict[str, FacetAnswer]
    version: int


class DeleteDocumentsRequest(Request):
    """Documents that are to go: by their ids, or by filters."""

    document_ids: Annotated[list[DocumentId], Field(min_length=1, max_length=10_000)] | None = None
    filters: Filters | None = None
    expected_version: int | None = Field(
        default=None, ge=1, description="The version they are taken from, and from no later one."
    )

    @model_validator(mode="after")
    def _is_one(self) -> DeleteDocumentsRequest:
        if (self.document_ids is None) == (self.filters is None):
            raise ValueError("expected either document_ids or filters")
        return self
