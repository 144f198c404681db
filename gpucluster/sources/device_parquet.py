"""Vectors of Parquet files decoded by cuDF, for sources that do not notice.

pyarrow decodes lists of numbers on one core, at 0.4 to 1 GB/s. Where there is a GPU, a supervised
child lets cuDF decode the column of vectors, some row groups at a time, and leaves it in a
temporary file. The other columns are still read by pyarrow, and everything that is made of both
is as before: a source gets record batches of the same rows, cut elsewhere.

What fails there, pyarrow reads. It finds whatever is wrong with a file, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from gpucluster.device.child import Child
from gpucluster.device.memory import translated
from gpucluster.device.select import Decision
from gpucluster.errors import DeviceError, StageCrashedError
from gpucluster.events import Reporter
from gpucluster.ops.blocks import read_ahead
from gpucluster.places import is_address
from gpucluster.sources.base import Source, SourceInfo, reading
from gpucluster.sources.columnar import ColumnarSource, Reader
from gpucluster.sources.columns import is_list, storage
from gpucluster.sources.features import FeaturesSource
from gpucluster.sources.joined import JoinedSource
from gpucluster.sources.parquet import open_file

MIN_BYTES = 1 << 30  # of vectors: fewer are decoded before a child has woken the GPU
PIECE_BYTES = 256 << 20  # of vectors in a temporary file, unless one row group has more

# What cuDF decodes at a time; unit: bytes of the device. A column of cuDF holds less than 2^31
# values, and each takes a byte at least: a limit of bytes below 2^31 is one of values too, and
# cuDF cuts row groups, at the ends of pages, to keep it.
CHUNK_BYTES = 256 << 20
PASS_BYTES = 1 << 30  # and what it may take for compressed and raw pages meanwhile


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive row groups of a file.

    Attributes
    ----------
    path : str
    row_groups : tuple of int
    n_rows : int
    values : str or None
        The type of the values of its vectors; None where cuDF does not read such a column.
    """

    path: str
    row_groups: tuple[int, ...]
    n_rows: int
    values: str | None


class CudfDecoder:
    """Has the vectors of sources decoded on the GPU, and remembers how that went.

    Parameters
    ----------
    decision : Decision
        Without a GPU, or without cuDF, sources stay as they are.
    reporter : Reporter
        Of the stage that reads them; its cancel token ends the child.

    Notes
    -----
    Device memory: 1.3 GB, and the compressed vectors of one row group. Temporary disk space: two
    pieces of 256 MB, or of one row group where that has more.
    """

    def __init__(self, decision: Decision, reporter: Reporter) -> None:
        self._usable = decision.device == "gpu" and find_spec("pylibcudf") is not None
        self._reporter = reporter
        self._n_decoded = 0
        self._failure: str | None = None

    def of(self, source: Source) -> Source:
        """Return the same source, whose large Parquet columns of vectors are decoded by cuDF.

        Parameters
        ----------
        source : Source
            Of any kind; what is in it is replaced where cuDF helps.

        Returns
        -------
        Source
            The same rows in the same order, bit for bit.
        """
        if not self._usable:
            return source
        if isinstance(source, JoinedSource | FeaturesSource):
            return source.map(self.of)
        info = source.info
        is_dense = info.format == "parquet" and info.kind == "dense"
        is_dense &= not any(map(is_address, info.paths))  # the child reads files
        if isinstance(source, ColumnarSource) and is_dense and info.vector_bytes >= MIN_BYTES:
            return source.with_reader(partial(self._read, info))
        return source

    def account(self) -> dict[str, str]:
        """Say what went wrong, and return what the record of the stage should say."""
        if self._failure is not None:
            self._reporter.fallback("cudf_failed", f"{self._failure}; pyarrow decodes the vectors")
            return {}
        if not self._n_decoded:
            return {}
        return {"backend": "cudf", "reason": "the GPU decodes the vectors, for the host"}

    def _read(
        self, info: SourceInfo, otherwise: Reader, names: Sequence[str], batch_rows: int
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Do what the reader of a source does."""
        vector = info.columns.vector
        if vector is None or vector not in names or self._failure is not None:
            yield from otherwise(names, batch_rows)
            return
        others = [name for name in names if name != vector]
        for piece, vectors in read_ahead(self._decoded(info, vector)):
            with reading(piece.path), open_file(piece.path) as file:
                read = partial(file.iter_batches, batch_rows, piece.row_groups)
                if vectors is None:
                    batches = read(list(names))
                elif others:
                    batches = _beside(vector, vectors, read(others))
                else:
                    batches = iter(pa.table({vector: vectors}).to_batches(batch_rows))
                for batch in batches:
                    yield piece.path, batch

    def _decoded(
        self, info: SourceInfo, vector: str
    ) -> Iterator[tuple[Piece, pa.ChunkedArray | None]]:
        """Yield each piece with its vectors; None where pyarrow is to read them."""
        stage = self._reporter.stage
        with (
            TemporaryDirectory(prefix="gpucluster-") as scratch,
            Child(stage, reporter=self._reporter) as child,
        ):
            for path in info.paths:
                for piece in plan(path, vector, info.vector_bytes // max(1, info.n_rows)):
                    usable = piece.values is not None and self._failure is None
                    out = Path(scratch, "vectors.arrow")
                    yield piece, self._decode(child, piece, vector, out) if usable else None

    def _decode(self, child: Child, piece: Piece, vector: str, out: Path) -> pa.ChunkedArray | None:
        """Return the vectors of a piece; after a failure None."""
        try:
            child.call(
                f"{__name__}:decode",
                path=piece.path,
                vector=vector,
                row_groups=list(piece.row_groups),
                n_rows=piece.n_rows,
                values=piece.values,
                limits=[CHUNK_BYTES, PASS_BYTES],
                out=str(out),
            )
        except (StageCrashedError, DeviceError) as error:
            self._failure = error.message
            return None
        self._n_decoded += 1
        with pa.memory_map(str(out)) as mapped:  # our own child wrote it
            vectors = pa.ipc.open_file(mapped).read_all().column(0)
        out.unlink()  # the mapping outlives the name; the space is freed with the arrays
        return vectors


def plan(path: str, vector: str, row_bytes: int) -> Iterator[Piece]:
    """Cut a file into the pieces that are read at a time.

    Parameters
    ----------
    path : str
    vector : str
        The column of vectors.
    row_bytes : int
        Of one vector.

    Yields
    ------
    Piece
        All rows, in order.
    """
    with reading(path), open_file(path) as file:
        metadata, type_ = file.metadata, storage(file.schema_arrow.field(vector).type)
    # bytes cost nothing to decode, and cuDF has no half precision
    usable = is_list(type_) and not pa.types.is_float16(type_.value_type)
    values = str(type_.value_type) if usable else None
    rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    for run in runs([row_bytes * count for count in rows], PIECE_BYTES):
        yield Piece(path, tuple(run), sum(rows[number] for number in run), values)


def runs(sizes: Sequence[int], budget: int) -> Iterator[range]:
    """Cut consecutive items into runs of at most `budget` together, or of one that is larger.

    Parameters
    ----------
    sizes : sequence of int
    budget : int

    Yields
    ------
    range
        Positions.
    """
    start = total = 0
    for position, size in enumerate(sizes):
        if position > start and total + size > budget:
            yield range(start, position)
            start, total = position, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def decode(
    path: str,
    vector: str,
    row_groups: list[int],
    n_rows: int,
    values: str,
    limits: list[int],
    out: str,
) -> None:
    """Leave a column of lists in an Arrow file; runs in a child.

    Parameters
    ----------
    path : str
    vector : str
        The column.
    row_groups : list of int
    n_rows : int
        Their rows together.
    values : str
        The type of the values of the lists, as Arrow calls it.
    limits : list of int
        Bytes of a chunk, and of the pages it is made of.
    out : str
        Gets record batches of one column, lists as Parquet has them: null, ragged, of any values.

    Raises
    ------
    OutOfMemoryError
        The device has not as much memory.
    TypeError, ValueError
        cuDF read something else than pyarrow would.
    """
    from pylibcudf.io.parquet import ChunkedParquetReader, ParquetReaderOptions
    from pylibcudf.io.types import SourceInfo as CudfSource

    schema = pa.schema({vector: pa.list_(pa.type_for_alias(values))})
    found = 0
    with translated("cuDF"), pa.OSFile(out, "wb") as file, pa.ipc.new_file(file, schema) as writer:
        builder = ParquetReaderOptions.builder(CudfSource([path]))
        builder.use_pandas_metadata(False)  # noqa: FBT003 - or an index of pandas comes along
        options = builder.build()
        options.set_column_names([vector])
        options.set_row_groups([row_groups])
        chunk_bytes, pass_bytes = limits
        reader = ChunkedParquetReader(
            options, chunk_read_limit=chunk_bytes, pass_read_limit=pass_bytes
        )
        while reader.has_next():
            (column,) = reader.read_chunk().columns
            writer.write_batch(pa.record_batch([_checked(column.to_arrow(), schema)], schema))
            found += column.size()
    if found != n_rows:
        raise ValueError(f"{path}: cuDF read {found:,} rows, {n_rows:,} expected")


def _checked(lists: Any, schema: pa.Schema) -> pa.Array:
    """Return lists that the parent can use unseen, of the type that all chunks share."""
    expected = schema.field(0).type
    if not pa.types.is_list(lists.type) or lists.type.value_type != expected.value_type:
        raise TypeError(f"cuDF read {lists.type}, {expected} expected")
    lists.validate(full=True)  # of a damaged file, offsets could lead anywhere
    return lists.cast(expected)  # where a chunk has no null, its type says so


def _beside(
    name: str, vectors: pa.ChunkedArray, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Add a column to the batches of the same rows; they are cut where its chunks end."""
    row = 0
    for batch in batches:
        start = 0
        for chunk in vectors.slice(row, batch.num_rows).chunks:
            yield batch.slice(start, len(chunk)).append_column(name, chunk)
            start += len(chunk)
        row += batch.num_rows
