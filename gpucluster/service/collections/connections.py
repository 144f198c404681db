"""Where documents may come from besides files, and what is enriched may go back to.

Addresses and secrets are in variables of the server's environment, whose names callers give. No
record, answer or message holds what is in them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from gpucluster.service.collections import pgvector, qdrant
from gpucluster.service.collections.creating import Opener
from gpucluster.service.collections.incoming import Limits
from gpucluster.service.collections.scanning import completed, require_columns, scan
from gpucluster.service.collections.versions import Version, Versions
from gpucluster.service.refusals import InvalidError
from gpucluster.wire.collections import (
    CollectionSource,
    QdrantSource,
    WriteBackRequest,
    WrittenBack,
)


def opener(source: CollectionSource, limits: Limits) -> Opener:
    """Return what reads documents of a table, or of a collection of Qdrant."""
    if source.pgvector is not None:
        table, dsn = source.pgvector, held_by(source.pgvector.dsn_env)
        return lambda version: pgvector.read(table, dsn, version, limits)
    points = source.qdrant
    if points is None:
        raise TypeError("the source has neither a table nor points")
    client = qdrant.connect(*_address(points))
    return lambda version: qdrant.read(points, client, version, limits)


def noted(source: CollectionSource | None) -> dict[str, Any] | None:
    """Return what is kept of a source, for `write_back`."""
    if source is None or source.paths is not None:
        return None
    kept: dict[str, Any] = source.model_dump(
        mode="json", exclude_none=True, include={"pgvector", "qdrant"}
    )
    return kept


def write_back(
    source: dict[str, Any], versions: Versions, version: Version, asked: WriteBackRequest
) -> WrittenBack:
    """Write columns of all documents to where they came from.

    Raises
    ------
    SchemaMismatchError, InvalidError
        There is no such column, here or there.
    UnavailableError
        It does not answer.
    """
    require_columns(version, asked.columns, version.payload)
    names = [version.id_column, *asked.columns]
    schema = pa.schema([version.schema.field(name) for name in names])

    def tables() -> Iterator[pa.Table]:
        for scanned in scan(versions, version, names):
            yield completed(scanned.batch, schema)

    given = CollectionSource.model_validate(source)
    if given.pgvector is not None:
        dsn = held_by(given.pgvector.dsn_env)
        updated = pgvector.write(
            given.pgvector, dsn, version, tables(), add_columns=asked.add_columns
        )
    elif given.qdrant is not None:
        client = qdrant.connect(*_address(given.qdrant))
        updated = qdrant.write(given.qdrant, client, tables())
    else:
        raise TypeError("files are not written back to")
    return WrittenBack(updated=updated, missing=version.n_rows - updated)


def held_by(name: str) -> str:
    """Return what a variable of the environment holds."""
    value = os.environ.get(name)
    if not value:
        raise InvalidError(
            f"the server has no variable {name}",
            loc=["source"],
            hint="its operator sets it; names begin with GPUCLUSTER_SOURCE_",
        )
    return value


def _address(points: QdrantSource) -> tuple[str, str | None]:
    key = None if points.api_key_env is None else held_by(points.api_key_env)
    return held_by(points.url_env), key
