"""What tells one input from another: digests of ids, vectors and what lies around them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gpucluster.ops.id_hash import text_buffers
from gpucluster.places import place
from gpucluster.places.paths import State
from gpucluster.sources.base import Batch, Source, reading
from gpucluster.sources.filters import Filters
from gpucluster.sources.matching import matching
from gpucluster.types import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray


def content_key(samples: Samples) -> str:
    """Return a key of the ids and vectors, the same wherever and however they are stored.

    Parameters
    ----------
    samples : Samples

    Returns
    -------
    str
        SHA-256 as 64 hexadecimal digits; about a second per gigabyte.
    """
    digest = hashlib.sha256(f"{samples.ids.type} {samples.X.shape}".encode())
    _add(digest, samples.ids)
    digest.update(np.ascontiguousarray(samples.X).data)
    return digest.hexdigest()


def input_key(samples: Samples, content: str) -> str:
    """Return a key of all that a run reads: the content, and what lies around it.

    Equal vectors with equal ids are computed once, but two inputs that differ in rejected
    rows, positions or truth are two runs.

    Parameters
    ----------
    samples : Samples
    content : str
        Their `content_key`.

    Returns
    -------
    str
        SHA-256 as 64 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{content} {samples.n_rows}".encode())
    digest.update(np.ascontiguousarray(samples.rows, np.int64).data)
    digest.update((samples.everything or "").encode())
    around = {
        **samples.payload,
        **dict(zip(samples.rejected.column_names, samples.rejected.columns, strict=True)),
    }
    for name, column in sorted(around.items()):
        digest.update(f"{name} {column.type} {len(column)}".encode())
        _add(digest, column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, column: pa.Array) -> None:
    """Add integers or texts, and which of them are null."""
    if column.null_count:
        digest.update(np.packbits(np.asarray(column.is_null())).data)
        column = column.fill_null(0 if pa.types.is_integer(column.type) else "")
    if pa.types.is_integer(column.type):
        digest.update(np.ascontiguousarray(column).data)
    else:
        lengths, data = text_buffers(column)
        digest.update(lengths.data)
        digest.update(data.data)


def file_state(path: str) -> str:
    """Return name, size and times of a file, which change when its content does."""
    where = place(path)
    with reading(path):
        state = where.stat()
    # what nobody can set
    last = state.e_tag if isinstance(state, State) else state.st_ctime_ns
    return f"{where.absolute()} {state.st_size} {state.st_mtime_ns} {last}"


def stream_key(source: Source, filters: Filters | None = None) -> str:
    """Return a key of a source whose rows are read once: of files their names, sizes and times.

    Parameters
    ----------
    source : Source
    filters : Filters, optional
        Of data in memory, which rows match counts as well.

    Returns
    -------
    str
        SHA-256 as 64 hexadecimal digits. Of data in memory, of their content.
    """
    info = source.info
    what = info.n_rows, info.n_features, info.dtype, info.kind, info.feature, info.blocks
    digest = hashlib.sha256(f"{what} {info.columns}".encode())
    for path in info.paths:
        digest.update(f"{file_state(path)} ".encode())
    if info.paths and info.columns.id is None and (ids := source.ids()) is not None:
        _add(digest, ids)  # from a file beside
    if not info.paths:
        for batch in source.batches():
            digest.update(np.ascontiguousarray(batch.vectors).data)
            digest.update(batch.null.tobytes())
            if batch.ids is not None:
                _add(digest, batch.ids)
        if filters is not None:
            digest.update(np.packbits(matching(source, filters)).data)
    return digest.hexdigest()


def table_key(table: pa.Table) -> str:
    """Return a SHA-256 of the columns of a table, however they are cut into chunks."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


class WholeDigest:
    """A digest of all rows of a source, added batch by batch, however they are cut.

    Parameters
    ----------
    ids : pyarrow.Array of shape (n_rows,)
    matches : ndarray of shape (n_rows,), bool, or None
        Which rows are meant; None for all.
    """

    def __init__(self, ids: pa.Array, matches: NDArray[np.bool_] | None) -> None:
        # each kind of bytes has a digest of its own, so that the cut of batches is not in it
        kinds = ("ids", "vectors", "null", "values", "lengths", "missing")
        self._digests = {kind: hashlib.sha256() for kind in kinds}
        _add(self._digests["ids"], ids)
        if matches is not None:
            self._digests["ids"].update(np.packbits(matches).data)

    def add(self, batch: Batch) -> None:
        """Add the rows that follow."""
        self._digests["vectors"].update(np.ascontiguousarray(batch.vectors).data)
        self._digests["null"].update(batch.null.tobytes())
        for _, column in sorted(batch.payload.items()):
            self._digests["missing"].update(np.asarray(column.is_null()).tobytes())
            if pa.types.is_integer(column.type):
                self._digests["values"].update(np.asarray(column.fill_null(0)).tobytes())
                continue
            lengths, data = text_buffers(column.fill_null(""))
            self._digests["lengths"].update(lengths.tobytes())
            self._digests["values"].update(data.tobytes())

    def hexdigest(self) -> str:
        """Return 64 hexadecimal digits."""
        parts = "".join(digest.hexdigest() for digest in self._digests.values())
        return hashlib.sha256(parts.encode()).hexdigest()
