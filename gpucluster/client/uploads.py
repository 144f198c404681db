"""Documents on their way to a service: files, tables, frames, rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self, TypeAlias, runtime_checkable

from gpucluster.client.sessions import as_json
from gpucluster.errors import InputError, SourceNotFoundError

PIECE = 1 << 20  # bytes that are sent at a time
PARQUET, NDJSON = "application/vnd.apache.parquet", "application/x-ndjson"
_FILES: dict[str, dict[str, str]] = {
    ".parquet": {"Content-Type": PARQUET},
    ".pq": {"Content-Type": PARQUET},
    ".jsonl": {"Content-Type": NDJSON},
    ".ndjson": {"Content-Type": NDJSON},
    ".jsonl.gz": {"Content-Type": NDJSON, "Content-Encoding": "gzip"},
    ".jsonl.zst": {"Content-Type": NDJSON, "Content-Encoding": "zstd"},
}


@runtime_checkable
class Arrow(Protocol):
    """What hands out Arrow batches: tables and readers of pyarrow, frames of pandas and polars."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand them out."""


Documents: TypeAlias = str | os.PathLike[str] | Arrow | Iterable[Mapping[str, Any]]


def upload_of(documents: Documents) -> File | Table | Rows:
    """Return documents as a body that is sent piece by piece; close it after that.

    Parameters
    ----------
    documents : path, table, frame, or iterable of mappings
        An iterator or a reader can be sent once, and is not sent again when that fails.
    """
    if isinstance(documents, str | os.PathLike):
        return File.at(Path(documents))
    if isinstance(documents, Arrow):
        return Table(documents)
    if isinstance(documents, Mapping) or not isinstance(documents, Iterable):
        raise InputError(
            f"got {type(documents).__name__}, expected a path, a table, a frame, "
            "or a list of documents"
        )
    return Rows(documents)


class _Body:
    """What can be closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


@dataclass(frozen=True, slots=True)
class File(_Body):
    """A file as it lies there.

    Attributes
    ----------
    path : Path
    headers : mapping
        What its name says that it is.
    """

    path: Path
    headers: Mapping[str, str]
    is_repeatable: bool = True

    @classmethod
    def at(cls, path: Path) -> File:
        """Return the file at a path.

        Parameters
        ----------
        path : Path
        """
        name = path.name.lower()
        headers = next((_FILES[end] for end in _FILES if name.endswith(end)), None)
        if headers is None:
            raise InputError(
                f"{path}: a service takes {', '.join(_FILES)}",
                hint="read it as a table, and pass that",
            )
        if not path.is_file():
            raise SourceNotFoundError(f"{path}: there is no such file")
        return cls(path, headers)

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes from the beginning."""
        with self.path.open("rb") as file:
            yield from _pieces(file)


class Rows(_Body):
    """Mappings, as lines of JSON.

    Parameters
    ----------
    rows : iterable of mappings
    """

    headers: Mapping[str, str] = _FILES[".jsonl"]

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = rows
        self.is_repeatable = isinstance(rows, Sequence)

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes from the beginning."""
        held = bytearray()
        for row in self._rows:
            held += as_json(row) + b"\n"
            if len(held) >= PIECE:
                yield bytes(held)
                held.clear()
        yield bytes(held)


class Table(_Body):
    """A table, as Parquet in a file without a name, which is written when it is first sent.

    Parameters
    ----------
    data : Arrow
    """

    headers: Mapping[str, str] = _FILES[".parquet"]
    is_repeatable = True

    def __init__(self, data: Arrow) -> None:
        self._data = data
        self._file: IO[bytes] | None = None

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes from the beginning."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this body
            _write(self._data, self._file)
        self._file.seek(0)
        yield from _pieces(self._file)


def _write(data: Any, file: IO[bytes]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    if type(data).__module__.partition(".")[0] == "pandas":
        named = data.reset_index() if any(data.index.names) else data  # ids may be an index
        data = pa.Table.from_pandas(named, preserve_index=False)
    reader = pa.RecordBatchReader.from_stream(data)
    with ParquetWriter(file, reader.schema, compression="zstd", compression_level=1) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece
