"""Pages of lists: what is asked for in body and query, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias
from urllib.parse import urlencode

from fastapi import Depends
from fastapi import Query as Parameter

from gpucluster.service.catalog.port import Page, Query
from gpucluster.service.refusals import InvalidError
from gpucluster.sources.filters import GROUPS, Condition, Filters
from gpucluster.wire.base import ListRequest, Pagination

if TYPE_CHECKING:
    from pydantic import BaseModel

MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """How the fields that a list shows are found in what it lists.

    Attributes
    ----------
    model : type of BaseModel
        What is shown.
    kept_as : mapping of str to str
        Fields that have another name there.
    made_up : mapping of str to str
        Fields that are not there, since they are made of others when they are shown; and what to
        ask for instead.
    """

    model: type[BaseModel]
    kept_as: Mapping[str, str] = field(default_factory=dict)
    made_up: Mapping[str, str] = field(default_factory=dict)

    def filters(self, filters: Filters) -> Filters:
        """Return filters over the fields as they are kept."""
        groups = {
            group: tuple(map(self._item, getattr(filters, group)))
            for group in GROUPS
            if getattr(filters, group)
        }
        return filters.model_copy(update=groups)

    def path(self, name: str, loc: Sequence[str] = ("filters",)) -> str:
        """Return the dot path of a field as it is kept.

        Raises
        ------
        InvalidError
            It is made up.
        """
        first, *more = name.split(".")
        if first in self.made_up:
            known = [each for each in self.model.model_fields if each not in self.made_up]
            raise InvalidError(
                f"no list is filtered or sorted by {first}: {self.made_up[first]}",
                loc=loc,
                hint=f"there are {', '.join(known)}",
            )
        return ".".join([self.kept_as.get(first, first), *more])

    def _item(self, item: Condition | Filters) -> Condition | Filters:
        if isinstance(item, Filters):
            return self.filters(item)
        return item.model_copy(update={"field": self.path(item.field)})


@dataclass(frozen=True, slots=True)
class Paging:
    """The part of a list that is asked for."""

    limit: int
    offset: int
    cursor: str | None
    include_total: bool

    def query(self, body: ListRequest, shown: Shown | None = None, **only: Any) -> Query:
        """Return the query of a catalog for a list.

        Parameters
        ----------
        body : ListRequest
        shown : Shown, optional
            Omitted: fields are kept as they are shown.
        **only
            Fields of `Query` besides.
        """
        filters, sort = body.filters, body.sort
        order: dict[str, Any] = {}
        if filters is not None and shown is not None:
            filters = shown.filters(filters)
        if sort is not None:
            name = sort.field if shown is None else shown.path(sort.field, ("sort", "field"))
            order = {"sort": name, "direction": sort.direction}
        return Query(
            filters=filters,
            search=body.search or None,
            limit=self.limit,
            offset=self.offset,
            cursor=self.cursor,
            **order,
            **only,
        )

    def answer(self, page: Page, total: int) -> Pagination:
        """Return where the page lies."""
        by_number = self.cursor is None
        return Pagination(
            total=total if self.include_total else None,
            page=self.offset // self.limit + 1 if by_number else None,
            page_size=self.limit,
            total_pages=-(-total // self.limit) if self.include_total else None,
            next_page=self._link(cursor=page.next_cursor) if page.next_cursor else None,
            previous_page=self._link(offset=max(0, self.offset - self.limit))
            if by_number and self.offset
            else None,
            next_cursor=page.next_cursor,
        )

    def numbered(self, total: int, *, has_next: bool) -> Pagination:
        """Return where a page of a list lies that is counted and has no cursors."""
        after = self._link(offset=self.offset + self.limit) if has_next else None
        return self.answer(Page((), None), total).model_copy(update={"next_page": after})

    def _link(self, **where: Any) -> str:
        total = {"include_total": "true"} if self.include_total else {}
        return "?" + urlencode({"limit": self.limit, **where, **total})


def _paging(
    limit: Annotated[int, Parameter(ge=1, le=MOST, description="Things of a page.")] = 50,
    offset: Annotated[int, Parameter(ge=0, le=2**53, description="Things before it.")] = 0,
    cursor: Annotated[
        str | None, Parameter(max_length=2000, description="next_cursor of the page before.")
    ] = None,
    include_total: Annotated[bool, Parameter(description="Count all pages.")] = False,
) -> Paging:
    return Paging(limit, offset, cursor, include_total)


Pages: TypeAlias = Annotated[Paging, Depends(_paging)]
