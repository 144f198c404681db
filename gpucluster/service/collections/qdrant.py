"""Documents of a collection of Qdrant: read by scrolling, and enriched there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpucluster.errors import BackendUnavailableError
from gpucluster.service.collections.incoming import ID, Heard, Limits, Upload
from gpucluster.service.collections.objects import Row, of_objects
from gpucluster.service.collections.values import to_json
from gpucluster.service.collections.versions import Version
from gpucluster.service.refusals import InvalidError, UnavailableError
from gpucluster.wire.collections import QdrantSource

if TYPE_CHECKING:
    import pyarrow as pa
    from qdrant_client import QdrantClient

TIMEOUT_S = 30


def connect(url: str, key: str | None) -> QdrantClient:
    """Return a client."""
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise BackendUnavailableError(
            "qdrant-client is not installed", hint="pip install 'gpucluster[qdrant]'"
        ) from None
    try:
        return QdrantClient(url=url, api_key=key, timeout=TIMEOUT_S, check_compatibility=False)
    except ValueError:  # whose message holds parts of the address
        raise InvalidError("the variable holds no address", loc=["source", "qdrant"]) from None


class Points:
    """A collection of Qdrant as a `Connection`.

    Parameters
    ----------
    source : QdrantSource
    client : QdrantClient
    """

    batch_rows = 512

    def __init__(self, source: QdrantSource, client: QdrantClient) -> None:
        self._source = source
        self._client = client

    def check(self, version: Version) -> None:
        """Refuse a collection that is not there; of its vectors the points tell."""
        with _answering():
            self._client.get_collection(self._source.collection)

    def rows_to_read(self) -> int:
        """Return how many points are read: each twice, the first time without its vectors."""
        with _answering():
            return 2 * self._client.count(self._source.collection, exact=True).count

    def read(self, version: Version, limits: Limits, heard: Heard) -> Upload:
        """Open the collection, which is scrolled for the types of fields now."""
        columns = version.vector_columns
        payload = True if self._source.payload is None else list(self._source.payload)
        n_read = 0

        def rows(*, vectors: bool) -> Iterator[Row]:
            nonlocal n_read
            number, offset = 0, None
            while True:
                with _answering():
                    points, offset = self._client.scroll(
                        self._source.collection,
                        limit=self.batch_rows,
                        offset=offset,
                        with_payload=payload,
                        with_vectors=vectors,
                    )
                for point in points:
                    fields = {ID: str(point.id), **_fields(point.payload, columns)}
                    found = _vectors(point.vector, columns) if vectors else dict.fromkeys(columns)
                    yield f"point {number}", 0, {**fields, **found}
                    number += 1
                n_read += len(points)
                heard(n_read)
                if offset is None:
                    return

        return of_objects(
            lambda: rows(vectors=True),
            "",
            version,
            limits,
            f"the collection {self._source.collection}",
            heads=lambda: rows(vectors=False),
        )

    def check_target(self, version: Version, schema: pa.Schema, *, add_columns: bool) -> None:
        """Refuse a collection that is not there; a payload takes any field."""
        self.check(version)

    @contextmanager
    def writing(
        self, version: Version, schema: pa.Schema, *, add_columns: bool
    ) -> Iterator[Callable[[pa.Table], int]]:
        """Yield what adds columns to the payload of points."""
        yield self._write

    def _write(self, rows: pa.Table) -> int:
        from qdrant_client import models

        columns = [to_json(column) for column in rows.columns]
        ids = [_point_id(str(each)) for each in columns[0]]
        with _answering():
            known = {
                str(point.id)
                for point in self._client.retrieve(self._source.collection, ids, with_payload=False)
            }
            updates = [
                models.SetPayloadOperation(
                    set_payload=models.SetPayload(
                        payload=dict(zip(rows.column_names[1:], cells, strict=True)),
                        points=[each],
                    )
                )
                for each, *cells in zip(ids, *columns[1:], strict=True)
                if str(each) in known
            ]
            if updates:
                self._client.batch_update_points(self._source.collection, updates)
        return len(updates)


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
