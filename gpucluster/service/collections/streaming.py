"""All documents that are meant, one after the other: lines of JSON, or an Arrow IPC stream."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa

from gpucluster.service.collections.listing import Question, fields_of, to_documents
from gpucluster.service.collections.scanning import check_filters, completed, scan, searching
from gpucluster.service.collections.versions import Version, Versions
from gpucluster.service.streams import FLUSH_BYTES, ipc_stream

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
        parts: list[str] = []
        n_chars = 0
        for table in self.tables():
            for start in range(0, table.num_rows, LINE_ROWS):
                for each in to_documents(table.slice(start, LINE_ROWS), self._version):
                    parts.append(json.dumps(each, separators=(",", ":")) + "\n")
                    n_chars += len(parts[-1])
                if n_chars >= FLUSH_BYTES:
                    yield "".join(parts).encode()
                    parts, n_chars = [], 0
        yield "".join(parts).encode()

    def arrow(self) -> Iterator[bytes]:
        """Yield them as an Arrow IPC stream."""
        batches = (batch for table in self.tables() for batch in table.to_batches())
        yield from ipc_stream(self._schema(), batches)

    def _schema(self) -> pa.Schema:
        return pa.schema([self._version.schema.field(name) for name in self._columns])
