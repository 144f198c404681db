"""What a source is: vectors, ids and payload that flow in batches of bounded bytes.

Nothing here judges a row; `gpucluster.sources.loading` does.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpucluster.errors import (
    CorruptInputError,
    DiskFullError,
    GpuclusterError,
    OutOfMemoryError,
    ShapeError,
    SourceError,
    SourceNotFoundError,
)
from gpucluster.places import is_address

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_BYTES = 16 << 20  # vectors of one batch; from 32 MB on, malloc asks for new pages each time

# What a file may claim about itself before anything is allocated on its word.
MAX_FEATURES = 1_000_000
MAX_COLUMNS = 10_000
MAX_EXPANSION = 200  # bytes after decoding per byte stored ...
FREE_EXPANSION_BYTES = 256 << 20  # ... beyond these, which harm nobody

Block = NDArray[Any]  # (rows, n_features), any real dtype


@dataclass(frozen=True, slots=True)
class Columns:
    """A column, or an array of an .npz file, for each role; None where there is none."""

    id: str | None = None
    vector: str | None = None
    text: str | None = None
    truth: str | None = None

    def payload(self) -> dict[str, str]:
        """Return the columns beside id and vector, by role."""
        roles = {"text": self.text, "truth": self.truth}
        return {role: name for role, name in roles.items() if name is not None}


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source before its vectors are read.

    Attributes
    ----------
    format : str
        ``parquet``, ``arrow``, ``npy`` ... for files, ``numpy``, ``table`` ... in memory.
    paths : tuple of str
        The files in reading order; empty in memory.
    n_rows : int
    n_features : int
        0 when no row holds a vector.
    dtype : str
        The vectors' own dtype; they become float32 when they are loaded.
    columns : Columns
        What plays which role. A text column may be found by its name; it is only read
        when it was asked for.
    fields : dict of str to str
        Every column with its type.
    candidates : dict of str to tuple of str
        What else could be ``id``, ``vector`` and ``text``.
    notes : tuple of str
        What had to be assumed.
    kind : str
        ``dense``; ``sparse`` and ``multi_vector`` are what the vectors were made of.
    n_stored : int
        Values of one sparse vector before it was reduced; 0 for other kinds.
    feature : str or None
        The feature URI, where a manifest or the name of the column says that this is it.
    collections : tuple of (str, int, dict)
        Name, rows and described feature of each collection, in order; empty without any.
    blocks : tuple of (str, int)
        Feature URI and dimension of what lies side by side in the vectors; empty for one feature.
    """

    format: str
    paths: tuple[str, ...] = ()
    n_rows: int = 0
    n_features: int = 0
    dtype: str = "float32"
    columns: Columns = Columns()
    fields: Mapping[str, str] = field(default_factory=dict)
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kind: str = "dense"
    n_stored: int = 0
    feature: str | None = None
    collections: tuple[tuple[str, int, Mapping[str, Any]], ...] = ()
    blocks: tuple[tuple[str, int], ...] = ()

    @property
    def vector_bytes(self) -> int:
        """Bytes of all vectors in their own dtype."""
        return self.n_rows * self.n_features * np.dtype(self.dtype).itemsize

    @property
    def where(self) -> str:
        """The source in a message."""
        names = [name for name, *_ in self.collections] or self.paths
        if not names:
            return f"the {self.format} data"
        return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")

    def to_json(self) -> dict[str, Any]:
        """Return the description that goes into the manifest, as JSON values."""
        plain = asdict(self) | {"paths": list(self.paths), "notes": list(self.notes)}
        del plain["fields"], plain["candidates"]
        plain["collections"] = [
            {"collection_id": name, "n_rows": n_rows, **described}
            for name, n_rows, described in self.collections
        ]
        plain["blocks"] = [
            {"feature_uri": uri, "n_features": n_features} for uri, n_features in self.blocks
        ]
        return plain | {"vector_bytes": self.vector_bytes}


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive rows.

    Attributes
    ----------
    row : int
        Position of the first row in the input.
    ids : pyarrow.Array of shape (rows,), string or int64, or None
        None when rows are known by their position.
    vectors : ndarray of shape (rows, n_features), the source's dtype
        NaN (0 for integers) where `null`.
    null : ndarray of shape (rows,), bool
        Rows without a vector.
    payload : dict of str to pyarrow.Array of shape (rows,)
        The columns that were asked for, by role: ``text`` (large_string), ``truth``
        (int64 or string).
    """

    row: int
    ids: pa.Array | None
    vectors: Block
    null: NDArray[np.bool_]
    payload: Mapping[str, pa.Array] = field(default_factory=dict)


class Source(Protocol):
    """Rows with vectors, that can be read any number of times."""

    @property
    def info(self) -> SourceInfo:
        """What is known before the vectors are read."""

    def ids(self) -> pa.Array | None:
        """Return all ids in input order without reading vectors; None when rows have none."""

    def batches(self, budget_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
        """Yield all rows in order, at most `budget_bytes` of vectors at a time (or one row)."""

    def columns(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield plain columns of all rows in order; a name is left out where it is not there.

        Raises
        ------
        SchemaMismatchError
            Data of this format have no columns, or cannot be read again.
        """


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Translate whatever a reader raises about `path` into our errors.

    Files come from anybody, and what pyarrow, numpy and the decompressors raise on a damaged
    one is no closed set: OSError, ValueError, KeyError, OverflowError, UnicodeDecodeError,
    EOFError, tokenize.TokenError, zlib.error, struct.error and BadZipFile are in it. So this
    is the one place where readers catch Exception.
    """
    try:
        yield
    except GpuclusterError:
        raise
    except FileNotFoundError as error:
        what = error.strerror if is_address(path) else "there is no such file"
        raise SourceNotFoundError(f"{path}: {what}") from error
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{path}: reading it asks for more memory than there is ({_line(error)})",
            hint="if the file is not that large, it is damaged",
        ) from error
    except NotImplementedError as error:
        raise SourceError(
            f"{path}: it uses something that cannot be read here ({_line(error)})"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFullError(
                f"{path}: no space is left for a working copy",
                hint="free some, or let TMPDIR name a larger disk",
            ) from error
        if error.errno is not None:
            raise SourceError(f"{path}: {error.strerror or _line(error)}") from error
        raise _damaged(path, error) from error
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> CorruptInputError:
    return CorruptInputError(
        f"{path}: it cannot be read ({type(error).__name__}: {_line(error)})",
        hint="it is damaged, or of another format",
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def check_claims(path: str, *, claimed_bytes: int, stored_bytes: int) -> None:
    """Raise `CorruptInputError` when `stored_bytes` of a file claim to decode to far too much."""
    if claimed_bytes > max(FREE_EXPANSION_BYTES, MAX_EXPANSION * stored_bytes):
        raise CorruptInputError(
            f"{path}: {stored_bytes:,} bytes claim to hold {claimed_bytes:,}, "
            f"more than {MAX_EXPANSION} times as much"
        )


def check_features(path: str, n_features: int) -> None:
    """Raise `ShapeError` for empty vectors, `CorruptInputError` for impossibly long ones."""
    if n_features < 1:
        raise ShapeError(f"{path}: its vectors have no values, at least 1 expected")
    if n_features > MAX_FEATURES:
        raise CorruptInputError(
            f"{path}: vectors of {n_features:,} values, at most {MAX_FEATURES:,} expected"
        )
