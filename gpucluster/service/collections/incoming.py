"""Documents that come in, wherever they come from, and what they may be at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gpucluster.errors import InputError, SchemaMismatchError
from gpucluster.notation import shown
from gpucluster.service.collections.versions import Version

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 4_096  # of one batch
BATCH_VALUES = 1 << 22  # numbers in the vectors of one batch
BATCH_BYTES = 64 << 20  # of all other values
ID = "document_id"
Heard: TypeAlias = Callable[[int], object]  # how much was read; it may raise, to stop


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may bring.

    Attributes
    ----------
    upload_bytes : int
        Of a body, as it is sent.
    decoded_bytes : int
        Of all that it holds.
    rows : int
        Documents.
    """

    upload_bytes: int = 1 << 30
    decoded_bytes: int = 16 << 30
    rows: int = 10_000_000


@dataclass(frozen=True, slots=True)
class Upload:
    """Documents that can be read several times.

    Attributes
    ----------
    where : str
        What it is called in messages.
    sha256 : str
        Of the content.
    schema : pyarrow.Schema
        Columns by the names of the collection.
    batches : callable
        Yields record batches with some of those columns, or all.
    """

    where: str
    sha256: str
    schema: pa.Schema
    batches: Callable[[Sequence[str] | None], Iterator[pa.RecordBatch]]


def unheard(_: int) -> None:
    """Take no note of how much was read."""


def renamed(names: Sequence[str], version: Version) -> dict[str, str]:
    """Return the column that each name stands for: a URI is a feature, `ID` the ids."""
    aliases = {uri: str(feature.column) for uri, feature in version.features.items()}
    aliases[ID] = version.id_column
    columns = {name: aliases.get(name, name) for name in names}
    seen: dict[str, str] = {}
    for name, column in columns.items():
        if column in seen:
            raise SchemaMismatchError(f"{shown(name, 60)} and {seen[column]} are the same column")
        seen[column] = name
    return columns


def batch_rows(dims: Iterable[int]) -> int:
    """Return how many rows with vectors of some dimensions are held at a time."""
    return max(1, min(ROWS, BATCH_VALUES // max(sum(dims), 1)))


def check_rows(n_rows: int, limits: Limits) -> None:
    """Refuse more documents than one request may bring."""
    if n_rows > limits.rows:
        raise InputError(
            f"{n_rows:,} documents, at most {limits.rows:,} expected in one request",
            hint="send them in parts",
        )
