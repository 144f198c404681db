"""A source over two-dimensional arrays: in memory, mapped from files, or on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.device.memory import rows_per_block
from gpucluster.errors import DtypeError, SchemaMismatchError, ShapeError
from gpucluster.sources.base import (
    BATCH_BYTES,
    Batch,
    Block,
    SourceInfo,
    check_features,
    reading,
)
from gpucluster.sources.columnar import ColumnReader
from gpucluster.sources.columns import concatenate

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one array.

    Attributes
    ----------
    where : str
        Its path, or what it is called in messages.
    vectors : array of shape (rows, n_features)
        Anything that slices by rows.
    ids : pyarrow.Array of shape (rows,), int64 or string, or None
    null : ndarray of shape (rows,), bool, or None
        Rows without a vector; None when all have one.
    payload : dict of str to pyarrow.Array of shape (rows,)
    """

    where: str
    vectors: Any
    ids: pa.Array | None = None
    null: NDArray[np.bool_] | None = None
    payload: Mapping[str, pa.Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, column in {"ids": self.ids, **self.payload}.items():
            if column is not None and len(column) != len(self.vectors):
                raise ShapeError(
                    f"{self.where}: {len(column):,} {what} for {len(self.vectors):,} vectors"
                )


def check_matrix(where: str, shape: Sequence[int], dtype: Any) -> None:
    """Raise unless an array can hold vectors as rows.

    Raises
    ------
    ShapeError
        It is not two-dimensional.
    DtypeError
        Its values are no real numbers.
    CorruptInputError
        No vector has that many values.
    """
    if len(shape) != 2:
        raise ShapeError(
            f"{where} has shape {tuple(shape)}, (rows, features) expected",
            hint="one vector a row" if len(shape) == 1 else "flatten each row to one vector",
        )
    if np.dtype(dtype).kind not in "fiub" or np.dtype(dtype).itemsize > 8:
        raise DtypeError(
            f"{where} holds {dtype}, real numbers expected",
            hint="convert it with astype('float32'); Python objects are never read",
        )
    check_features(where, shape[1])


class ArraySource:
    """Rows of arrays that have the same dimension and dtype.

    Parameters
    ----------
    info : SourceInfo
        What the parts cannot tell; rows, features and dtype come from them.
    parts : sequence of Part
        At least one.
    to_host : callable
        Brings a block of rows to the host.
    read_columns : callable, optional
        What `columns` is to do; by default there are none.

    Raises
    ------
    ShapeError
        The parts differ in dimension.
    SchemaMismatchError
        They differ in dtype, or in the kind of their ids.
    """

    def __init__(
        self,
        info: SourceInfo,
        parts: Sequence[Part],
        *,
        to_host: Callable[[Any], Block] = np.asarray,
        read_columns: ColumnReader | None = None,
    ) -> None:
        first = parts[0]
        for part in parts:
            if part.vectors.shape[1] != first.vectors.shape[1]:
                raise ShapeError(
                    f"{part.where}: vectors have {part.vectors.shape[1]:,} values, "
                    f"{first.vectors.shape[1]:,} in {first.where}"
                )
            if _kinds(part) != _kinds(first):
                raise SchemaMismatchError(
                    f"{part.where}: vectors are {_kinds(part)}, {_kinds(first)} in {first.where}",
                    hint="convert the files to one schema, with ids beside all or none",
                )
        self._parts = tuple(parts)
        self._to_host = to_host
        self._read_columns = read_columns
        self.info = replace(
            info,
            n_rows=sum(len(part.vectors) for part in parts),
            n_features=int(first.vectors.shape[1]),
            dtype=np.dtype(first.vectors.dtype).name,
        )

    def ids(self) -> pa.Array | None:
        """Return all ids; None when rows have none."""
        chunks = [part.ids for part in self._parts if part.ids is not None]
        return concatenate(chunks) if chunks else None

    def columns(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield plain columns of all rows in order.

        Raises
        ------
        SchemaMismatchError
            The arrays have nothing beside them.
        """
        if self._read_columns is None:
            raise SchemaMismatchError(
                f"{self.info.where}: {self.info.format} data have no columns beside the vectors, "
                f"there is no {', '.join(names)}",
                hint="filters and attributes need Parquet, Arrow, JSON lines or a table",
            )
        return self._read_columns(names)

    def batches(self, budget_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
        """Yield all rows in order."""
        row_bytes = self.info.n_features * np.dtype(self.info.dtype).itemsize
        step = rows_per_block(row_bytes, budget_bytes)
        row = 0
        for part in self._parts:
            for start in range(0, len(part.vectors), step):
                rows = slice(start, start + step)
                with reading(part.where):
                    vectors = self._to_host(part.vectors[rows])
                yield Batch(
                    row=row,
                    ids=None if part.ids is None else part.ids[rows],
                    vectors=vectors,
                    null=np.zeros(len(vectors), bool) if part.null is None else part.null[rows],
                    payload={role: column[rows] for role, column in part.payload.items()},
                )
                row += len(vectors)


def _kinds(part: Part) -> str:
    ids = "without ids" if part.ids is None else f"with {part.ids.type} ids"
    return f"{part.vectors.dtype} {ids}"
