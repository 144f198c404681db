"""Where data come from, and what was read."""

from __future__ import annotations

from pylibcudf.column import Column


class SourceInfo:
    def __init__(self, sources):
        if not isinstance(sources, list) or not all(isinstance(each, str) for each in sources):
            raise TypeError("sources must be a list of paths")
        self.paths = sources


class TableWithMetadata:
    def __init__(self, columns: tuple[Column, ...]) -> None:
        self._columns = columns

    @property
    def columns(self):
        return self._columns
