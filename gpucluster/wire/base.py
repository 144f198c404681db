"""What all requests and answers share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from gpucluster.sources.filters import Filters

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]  # of what lies in a folder
TITLE_PATTERN = r"^[^\x00-\x1f/]+$"  # it may stand in an address, where %2F is a /
Title = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=TITLE_PATTERN)]
Metadata: TypeAlias = dict[str, Any]
Time: TypeAlias = AwareDatetime


class Request(BaseModel):
    """A body that is sent to the service; a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class QueryRequest(Request):
    """Parameters of the query of a request."""

    namespace: str | None = Field(default=None, description="Instead of X-Namespace.")


class Answer(BaseModel):
    """A body that the service sends; a client ignores what a newer one adds."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SortOption(Request):
    """What a list is sorted by."""

    field: str = Field(min_length=1, max_length=200, description="A field, by its dot path.")
    direction: Literal["asc", "desc"] = Field(default="asc", description="Which end comes first.")


class ListRequest(Request):
    """Which of the things of a kind are meant, and in which order."""

    filters: Filters | None = Field(default=None, description="Conditions on their fields.")
    sort: SortOption | None = Field(default=None, description="Omitted: the newest first.")
    search: str | None = Field(
        default=None, max_length=500, description="Text that one of their names contains."
    )


class Pagination(Answer):
    """Where a page lies among the others."""

    total: int | None = Field(default=None, description="Things in all pages, where asked for.")
    page: int | None = Field(default=None, description="Number of the page, from 1.")
    page_size: int | None = Field(default=None, description="Most things of a page.")
    total_pages: int | None = Field(default=None, description="Where the total was asked for.")
    next_page: str | None = Field(default=None, description="Query of the next page.")
    previous_page: str | None = Field(default=None, description="Query of the page before.")
    next_cursor: str | None = Field(default=None, description="The page after this one.")


class ErrorDetail(Answer):
    """What went wrong."""

    message: str = Field(description="What happened, got and expected, and what to do.")
    type: str = Field(description="Its class, such as NotFoundError.")
    details: dict[str, Any] | None = Field(default=None, description="Such as code and hint.")


class ErrorAnswer(Answer):
    """The body of every answer of 400 and above, but for 422."""

    success: Literal[False] = False
    status: int
    error: ErrorDetail


class Problem(Answer):
    """What is wrong with one field of a request."""

    loc: list[str | int] = Field(description="Where: body, query or path, and names from there.")
    msg: str = Field(description="Got and expected.")
    type: str = Field(description="Kind of the problem.")


class ValidationAnswer(Answer):
    """The body of an answer of 422."""

    detail: list[Problem]
