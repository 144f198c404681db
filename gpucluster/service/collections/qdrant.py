"""Documents of a collection of Qdrant: read by scrolling, and enriched there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpucluster.errors import BackendUnavailableError
from gpucluster.service.collections.incoming import ID, Limits, Upload
from gpucluster.service.collections.objects import Row, of_objects
from gpucluster.service.collections.values import to_json
from gpucluster.service.collections.versions import Version
from gpucluster.service.refusals import InvalidError, UnavailableError
from gpucluster.wire.collections import QdrantSource

if TYPE_CHECKING:
    import pyarrow as pa
    from qdrant_client import QdrantClient

TIMEOUT_S = 30
PAGE_POINTS = 512


def connect(url: str, key: str | None) -> QdrantClient:
    """Return a client."""
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise BackendUnavailableError(
            "qdrant-client is not installed", hint="pip install 'gpucluster[qdrant]'"
        ) from None
    with _answering():
        return QdrantClient(url=url, api_key=key, timeout=TIMEOUT_S, check_compatibility=False)


def read(source: QdrantSource, client: QdrantClient, version: Version, limits: Limits) -> Upload:
    """Open a collection; it is read twice, the first time without vectors.

    Parameters
    ----------
    source : QdrantSource
    client : QdrantClient
    version : Version
        What the documents are for.
    limits : Limits

    Raises
    ------
    InvalidError
        The collection is not there, or a vector of it.
    UnavailableError
        Qdrant does not answer.
    """
    columns = version.vector_columns
    payload = True if source.payload is None else list(source.payload)

    def rows(*, vectors: bool) -> Iterator[Row]:
        number, offset = 0, None
        while True:
            with _answering():
                points, offset = client.scroll(
                    source.collection,
                    limit=PAGE_POINTS,
                    offset=offset,
                    with_payload=payload,
                    with_vectors=vectors,
                )
            for point in points:
                fields = {ID: str(point.id), **_fields(point.payload, columns)}
                found = _vectors(point.vector, columns) if vectors else dict.fromkeys(columns)
                yield f"point {number}", 0, {**fields, **found}
                number += 1
            if offset is None:
                return

    return of_objects(
        lambda: rows(vectors=True),
        "",
        version,
        limits,
        f"the collection {source.collection}",
        heads=lambda: rows(vectors=False),
    )


def write(source: QdrantSource, client: QdrantClient, tables: Iterable[pa.Table]) -> int:
    """Add columns to the payload of points, and return how many points there are.

    Parameters
    ----------
    source : QdrantSource
    client : QdrantClient
    tables : iterable of pyarrow.Table
        The id first, then the columns.
    """
    from qdrant_client import models

    n_updated = 0
    for table in tables:
        for start in range(0, table.num_rows, PAGE_POINTS):
            part = table.slice(start, PAGE_POINTS)
            columns = [to_json(column) for column in part.columns]
            ids = [_point_id(str(each)) for each in columns[0]]
            with _answering():
                known = {
                    str(point.id)
                    for point in client.retrieve(source.collection, ids, with_payload=False)
                }
                updates = [
                    models.SetPayloadOperation(
                        set_payload=models.SetPayload(
                            payload=dict(zip(part.column_names[1:], cells, strict=True)),
                            points=[each],
                        )
                    )
                    for each, *cells in zip(ids, *columns[1:], strict=True)
                    if str(each) in known
                ]
                if updates:
                    client.batch_update_points(source.collection, updates)
            n_updated += len(updates)
    return n_updated


def _fields(payload: Mapping[str, Any] | None, vectors: Sequence[str]) -> dict[str, Any]:
    """Return a payload without what would stand in the place of id or vector."""
    return {k: v for k, v in (payload or {}).items() if k != ID and k not in vectors}


def _vectors(found: Any, columns: Sequence[str]) -> dict[str, Any]:
    """Return the vectors of a point by column; one without a name is that of the only feature."""
    if isinstance(found, Mapping):
        return {name: found.get(name) for name in columns}
    if len(columns) > 1:
        raise InvalidError("the vectors there have no names", loc=["features"])
    return dict.fromkeys(columns, found)


def _point_id(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


@contextmanager
def _answering() -> Iterator[None]:
    """Say of errors nothing that an address or a key may be in."""
    from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

    try:
        yield
    except UnexpectedResponse as error:
        if error.status_code in {400, 404}:
            raise InvalidError(
                f"Qdrant refuses it ({error.status_code}): is the collection there?",
                loc=["source", "qdrant"],
            ) from None
        raise UnavailableError(f"Qdrant refuses it ({error.status_code})") from None
    except ApiException:
        raise UnavailableError("Qdrant does not answer") from None
    except ValueError as error:  # of the local mode, and of what is no id
        raise InvalidError(f"Qdrant: {str(error)[:200]}", loc=["source", "qdrant"]) from None
