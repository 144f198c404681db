"""Pages of lists: what is asked for in body and query, and what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlencode

from fastapi import Depends
from fastapi import Query as Parameter

from gpucluster.service.catalog.port import Page, Query
from gpucluster.wire.base import ListRequest, Pagination

MOST = 1000


@dataclass(frozen=True, slots=True)
class Paging:
    """The part of a list that is asked for."""

    limit: int
    offset: int
    cursor: str | None
    include_total: bool

    def query(self, body: ListRequest, **only: Any) -> Query:
        """Return the query of a catalog for a list.

        Parameters
        ----------
        body : ListRequest
        **only
            Fields of `Query` besides.
        """
        sort = body.sort
        order: dict[str, Any] = {} if sort is None else {"sort": sort.field}
        if sort is not None:
            order["direction"] = sort.direction
        return Query(
            filters=body.filters,
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
