"""Where documents may come from besides files, and what is enriched may go back to.

Addresses and secrets are in variables of the server's environment, whose names callers give. No
record, answer or message holds what is in them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pyarrow as pa

from gpucluster.events import Reporter
from gpucluster.service.collections import pgvector, qdrant
from gpucluster.service.collections.incoming import Heard, Limits, Upload
from gpucluster.service.collections.scanning import completed, require_columns, scan
from gpucluster.service.collections.versions import Version, Versions
from gpucluster.service.refusals import InvalidError
from gpucluster.wire.collections import SOURCE_PREFIX, CollectionSource, WrittenBack


class Connection(Protocol):
    """A place that documents come from, and that columns go back to.

    What it refuses is an `InvalidError`; where it does not answer, an `UnavailableError`.

    Attributes
    ----------
    batch_rows : int
        Documents that are written at a time.
    """

    batch_rows: int

    def check(self, version: Version) -> None:
        """Refuse what a version cannot be read of; without reading documents."""

    def rows_to_read(self) -> int:
        """Return how many rows are read in all, of those that are there now."""

    def read(self, version: Version, limits: Limits, heard: Heard) -> Upload:
        """Open the documents for a version; `heard` gets how many rows were read."""

    def check_target(self, version: Version, schema: pa.Schema, *, add_columns: bool) -> None:
        """Refuse columns that cannot go there: the id first in the schema, then they."""

    def writing(
        self, version: Version, schema: pa.Schema, *, add_columns: bool
    ) -> AbstractContextManager[Callable[[pa.Table], int]]:
        """Give what writes rows, and returns how many of the documents are there.

        Writing the same again changes nothing.
        """


def connect(source: CollectionSource) -> Connection:
    """Return the connection of a source that is no files.

    Raises
    ------
    InvalidError
        A variable is not there.
    """
    if source.pgvector is not None:
        return pgvector.Table(source.pgvector, _held_by(source.pgvector.dsn_env))
    points = source.qdrant
    if points is None:
        raise TypeError("files are no connection")
    key = None if points.api_key_env is None else _held_by(points.api_key_env)
    return qdrant.Points(points, qdrant.connect(_held_by(points.url_env), key))


def variables(source: CollectionSource) -> list[str]:
    """Return the variables that a source names."""
    found: list[str | None] = []
    if source.pgvector is not None:
        found.append(source.pgvector.dsn_env)
    if source.qdrant is not None:
        found += [source.qdrant.url_env, source.qdrant.api_key_env]
    return [name for name in found if name is not None]


def noted(source: CollectionSource | None) -> dict[str, Any] | None:
    """Return what is kept of a source, to read it and to write back."""
    if source is None or source.paths is not None:
        return None
    kept: dict[str, Any] = source.model_dump(
        mode="json", exclude_none=True, include={"pgvector", "qdrant"}
    )
    return kept


def target_schema(version: Version, columns: Sequence[str]) -> pa.Schema:
    """Return the id and columns that are to be written back.

    Raises
    ------
    SchemaMismatchError
        There is no such column.
    """
    require_columns(version, columns, version.payload)
    return pa.schema([version.schema.field(name) for name in [version.id_column, *columns]])


def write_back(
    connection: Connection,
    versions: Versions,
    version: Version,
    columns: Sequence[str],
    *,
    add_columns: bool,
    reporter: Reporter,
) -> WrittenBack:
    """Write columns of all documents to where they came from.

    Parameters
    ----------
    connection : Connection
    versions : Versions
    version : Version
    columns : sequence of str
    add_columns : bool
        Whether a table gets those that it does not have.
    reporter : Reporter
        Asked between batches whether to stop.

    Raises
    ------
    SchemaMismatchError, InvalidError
        There is no such column, here or there.
    UnavailableError
        It does not answer.
    """
    schema = target_schema(version, columns)
    n_rows = n_updated = 0
    reporter.progress(0, version.n_rows, "documents")
    with connection.writing(version, schema, add_columns=add_columns) as write:
        for scanned in scan(versions, version, schema.names):
            table = completed(scanned.batch, schema)
            for start in range(0, table.num_rows, connection.batch_rows):
                rows = table.slice(start, connection.batch_rows)
                n_updated += write(rows)
                n_rows += rows.num_rows
                reporter.progress(n_rows, version.n_rows, "documents")
    return WrittenBack(updated=n_updated, missing=version.n_rows - n_updated)


def _held_by(name: str) -> str:
    """Return what a variable of the environment holds."""
    value = os.environ.get(name)
    if not value:
        raise InvalidError(
            f"the server has no variable {name}",
            loc=["source"],
            hint=f"its operator sets it; names begin with {SOURCE_PREFIX}",
        )
    return value
