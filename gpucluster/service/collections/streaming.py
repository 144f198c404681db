"""All documents that are meant, one after the other: lines of JSON, or an Arrow IPC stream."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from gpucluster.service.collections.listing import Question, fields_of, to_documents
from gpucluster.service.collections.scanning import check_filters, completed, scan, searching
from gpucluster.service.collections.versions import Version, Versions
from gpucluster.service.streams import ipc_stream, json_lines

LINE_ROWS = 1 << 12


class Documents:
    """Documents of a version; opening them says what is wrong with the question.

    Parameters
    ----------
    versions : Versions
    version : Version
    question : Question
        In the order of the collection.
    """

    def __init__(self, versions: Versions, version: Version, question: Question) -> None:
        self._versions = versions
        self._version = version
        self._columns = fields_of(version, question)
        self._filters = searching(version, question.search, question.filters)
        check_filters(version, self._filters)

    def tables(self) -> Iterator[pa.Table]:
        """Yield them, batch by batch."""
        schema = self._schema()
        found = scan(self._versions, self._version, self._columns, filters=self._filters)
        for scanned in found:
            yield completed(scanned.matching, schema)

    def lines(self) -> Iterator[bytes]:
        """Yield them as lines of JSON."""
        slices = (
            table.slice(start, LINE_ROWS)
            for table in self.tables()
            for start in range(0, table.num_rows, LINE_ROWS)
        )
        yield from json_lines(each for part in slices for each in to_documents(part, self._version))

    def arrow(self) -> Iterator[bytes]:
        """Yield them as an Arrow IPC stream."""
        batches = (batch for table in self.tables() for batch in table.to_batches())
        yield from ipc_stream(self._schema(), batches)

    def _schema(self) -> pa.Schema:
        return pa.schema([self._version.schema.field(name) for name in self._columns])
