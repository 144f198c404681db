"""What a run left, as it is sent: JSON values, lines of JSON, or Arrow IPC streams."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fastapi.responses import StreamingResponse

from gpucluster.artifacts.run import Run
from gpucluster.places import for_arrow
from gpucluster.service.refusals import ConflictError, InvalidError
from gpucluster.wire.executions import DataQuery, DataRequest

if TYPE_CHECKING:
    import pyarrow as pa

ARROW = "application/vnd.apache.arrow.stream"
NDJSON = "application/x-ndjson"
STREAMED: dict[int | str, dict[str, Any]] = {  # in the description of the API
    200: {
        "content": {
            NDJSON: {"schema": {"type": "string"}},
            ARROW: {"schema": {"type": "string", "format": "binary"}},
        }
    }
}
CHUNK_ROWS = 8192  # of what becomes JSON
CENTROID_ROWS = 1024
FLUSH_BYTES = 1 << 20
OPEN_RUNS = 32
MOST_VALUES = 4_000_000  # of vectors in one answer: 80 MB of JSON


@lru_cache(OPEN_RUNS)
def open_run(path: str) -> Run:
    """Open a run; one that is finished never changes, but for its names."""
    return Run.open(path)


def respond(
    path: str,
    headers: Mapping[str, str],
    asked: DataRequest,
    each: Callable[[Iterator[bytes]], AsyncIterator[bytes]],
) -> StreamingResponse:
    """Return the stream of a run: lines of JSON, or Arrow IPC where ``Accept`` says so.

    Parameters
    ----------
    path : str
        Of the run.
    headers : mapping
        Of the request.
    asked : DataRequest
    each : callable
        Reads the parts in turn with others.
    """
    check_columns(asked)
    run = open_run(path)
    if ARROW in headers.get("accept", ""):
        return StreamingResponse(each(as_arrow(run, asked)), media_type=ARROW)
    return StreamingResponse(each(as_lines(run, asked)), media_type=NDJSON)


def centroids_of(run: Run, *, vectors: bool) -> pa.Table:
    """Return the clusters of a run, under their names, with how it has found them."""
    import pyarrow as pa

    table = Run.open(run.path).centroids  # names may be newer than what is open
    if not vectors:
        table = table.drop_columns(["centroid_vector"])
    definition, n_rows = run.manifest.definition, len(table)
    config: Any = definition.get("vector_config") or {}
    groups = definition.get("attribute_config")
    said = {
        "reduction_method": (config.get("dimension_reduction") or {}).get("method"),
        "parameters": json.dumps(groups or config.get("algorithm_params") or {}),
        "created_at": run.manifest.completed_at,
    }
    kinds = (pa.string(), pa.string(), pa.timestamp("us", "UTC"))
    for kind, (name, value) in zip(kinds, said.items(), strict=True):
        table = table.append_column(name, pa.repeat(pa.scalar(value, kind), n_rows))
    return table


def centroid_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield clusters as JSON values."""
    for batch in table.to_batches(max_chunksize=CENTROID_ROWS):
        for row in batch.to_pylist():
            told = {"parameters": json.loads(row["parameters"])}
            yield plain({**row, **told, "created_at": row["created_at"].isoformat()})


def centroids_at_once(run: Run) -> list[dict[str, Any]]:
    """Return the clusters of a run with their vectors, where one answer has room for them."""
    table = centroids_of(run, vectors=True)
    n_values = sum(len(chunk.flatten()) for chunk in table["centroid_vector"].chunks)
    if n_values > MOST_VALUES:
        raise ConflictError(
            f"{len(table):,} clusters have vectors of {n_values:,} numbers together",
            hint="stream them from .../data, or leave them out by include_centroids=false",
        )
    return list(centroid_rows(table))


def member_rows(
    run: Run, *, offset: int, limit: int | None, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield members as JSON values, with their ids under both names."""
    names = None if columns is None else list(columns)
    for batch in _cut(_member_batches(run, names, offset), limit):
        for start in range(0, batch.num_rows, CHUNK_ROWS):
            for row in batch.slice(start, CHUNK_ROWS).to_pylist():
                ids = {"point_id": row["document_id"]} if "document_id" in row else {}
                yield {**ids, **plain(row)}


def as_lines(run: Run, asked: DataRequest) -> Iterator[bytes]:
    """Yield lines of JSON; each says under ``type`` what it is."""
    if asked.include_centroids:
        yield from json_lines(_of("centroid", centroid_rows(centroids_of(run, vectors=True))))
    if asked.include_members:
        rows = member_rows(run, offset=asked.offset, limit=asked.limit, columns=asked.columns)
        yield from json_lines(_of("member", rows))


def as_arrow(run: Run, asked: DataRequest) -> Iterator[bytes]:
    """Yield Arrow IPC streams: the clusters, then the members, one stream after the other."""
    if asked.include_centroids:
        table = centroids_of(run, vectors=True)
        yield from ipc_stream(table.schema, iter(table.to_batches(max_chunksize=CENTROID_ROWS)))
    if asked.include_members:
        from gpucluster.artifacts.schema import MEMBERS

        names = list(asked.columns or MEMBERS.names)
        schema = MEMBERS.empty_table().select(names).schema
        batches = _cut(_member_batches(run, names, asked.offset), asked.limit)
        yield from ipc_stream(schema, (batch.select(names) for batch in batches))


def check_columns(asked: DataRequest) -> None:
    """Raise where members have no such column."""
    from gpucluster.artifacts.schema import MEMBERS

    part = "query" if isinstance(asked, DataQuery) else "body"
    for name in asked.columns or ():
        if name not in MEMBERS.names:
            raise InvalidError(
                f"members have no column {name}, they have {', '.join(MEMBERS.names)}",
                loc=[part, "columns"],
            )


def _member_batches(run: Run, names: list[str] | None, offset: int) -> Iterator[pa.RecordBatch]:
    """Yield the members from a row on, in the memory of one row group whatever their number."""
    from pyarrow.parquet import ParquetFile

    for name in run.files_of("members"):
        with ParquetFile(for_arrow(run.path / name), page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                n_rows = file.metadata.row_group(group).num_rows
                if offset < n_rows:
                    yield from file.read_row_group(group, names).slice(offset).to_batches()
                offset = max(0, offset - n_rows)


def _cut(batches: Iterator[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if limit is not None and limit <= batch.num_rows:
            if limit:
                yield batch.slice(0, limit)
            return
        yield batch
        limit = None if limit is None else limit - batch.num_rows


def ipc_stream(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    """Yield one IPC stream, piece by piece."""
    import io

    import pyarrow as pa

    sink = io.BytesIO()
    plain = schema.remove_metadata()
    with pa.ipc.new_stream(sink, plain) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(None))
            if sink.tell() >= FLUSH_BYTES:
                yield sink.getvalue()
                sink.seek(0)
                sink.truncate()
    yield sink.getvalue()


def _of(kind: str, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return ({"type": kind, **row} for row in rows)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield rows as lines of JSON, many at a time."""
    parts: list[str] = []
    n_chars = 0
    for row in rows:
        parts.append(json.dumps(row, separators=(",", ":")) + "\n")
        n_chars += len(parts[-1])
        if n_chars >= FLUSH_BYTES:
            yield "".join(parts).encode()
            parts, n_chars = [], 0
    yield "".join(parts).encode()


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in which what is no number is null: JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def projection_of(run: Run) -> str | None:
    """Return how many coordinates the members of a run have: ``2d``, ``3d``, or None."""
    config: Any = run.manifest.definition.get("vector_config") or {}
    display = config.get("dimension_reduction")
    if not display or display.get("method") == "none":
        return None
    return f"{display.get('components', 2)}d"
