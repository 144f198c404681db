"""Arrow columns as what the engine needs: vectors, keys, text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import ConfigError, DtypeError, InputError
from gpucluster.sources.base import Block

if TYPE_CHECKING:
    from numpy.typing import NDArray


VECTOR_DTYPES = ("float16", "float32", "float64", "int8", "uint8")  # that bytes may be


def storage(type_: pa.DataType) -> pa.DataType:
    """Return the type under an extension type (fixed-shape tensors, Hugging Face arrays)."""
    return type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_


def is_any_list(type_: pa.DataType) -> bool:
    """Whether each value is a list, of whatever."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    views = (pa.types.is_list_view, pa.types.is_large_list_view)
    return any(test(type_) for test in (*lists, *views))


def is_list(type_: pa.DataType) -> bool:
    """Whether each value is a list of numbers."""
    type_ = storage(type_)
    return is_any_list(type_) and (
        pa.types.is_floating(type_.value_type) or pa.types.is_integer(type_.value_type)
    )


def is_float_list(type_: pa.DataType) -> bool:
    """Whether each value is a list of floating-point numbers."""
    return is_list(type_) and pa.types.is_floating(storage(type_).value_type)


def is_multi_vector(type_: pa.DataType) -> bool:
    """Whether each value is a list of lists of floating-point numbers."""
    type_ = storage(type_)
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(type_) for test in lists) and is_float_list(type_.value_type)


def is_sparse(type_: pa.DataType) -> bool:
    """Whether each value is a struct of the lists ``indices`` and ``values``."""
    if not pa.types.is_struct(type_) or {f.name for f in type_} != {"indices", "values"}:
        return False
    indices, values = type_.field("indices").type, type_.field("values").type
    return is_list(indices) and not is_float_list(indices) and is_list(values)


def is_bytes(type_: pa.DataType) -> bool:
    """Whether each value is a run of bytes."""
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return pa.types.is_fixed_size_binary(type_) or any(test(type_) for test in tests)


def is_text(type_: pa.DataType) -> bool:
    """Whether each value is a string."""
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(type_) for test in tests)


def is_key(type_: pa.DataType) -> bool:
    """Whether the values can identify documents."""
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    return is_text(type_) or pa.types.is_integer(type_) or is_bytes(type_) or _is_uuid(type_)


def _is_uuid(type_: pa.DataType) -> bool:
    return isinstance(type_, pa.UuidType)


@dataclass(frozen=True, slots=True)
class VectorType:
    """What a column says of its vectors; `n_features` is None where each row says it."""

    dtype: np.dtype[Any]
    n_features: int | None
    note: str | None = None
    kind: Literal["dense", "sparse", "multi_vector"] = "dense"

    @classmethod
    def of(cls, field: pa.Field, vector_dtype: str | None = None) -> VectorType:
        """Read the type of a vector column.

        Parameters
        ----------
        field : pyarrow.Field
            Lists of numbers, or bytes.
        vector_dtype : str, optional
            What the bytes of a binary column are. Next comes the column's metadata key
            ``dtype``, then float32.

        Raises
        ------
        DtypeError
            The column holds no vectors.
        ConfigError
            There is no such `vector_dtype`.
        """
        type_ = storage(field.type)
        if is_sparse(type_):
            return cls(np.dtype(np.float32), None, kind="sparse")
        if is_multi_vector(type_):
            inner = storage(type_.value_type)
            size = inner.list_size if pa.types.is_fixed_size_list(inner) else None
            pooled = f"column {field.name!r} holds several vectors a row: their mean is taken"
            return cls(np.dtype(np.float32), size, f"{pooled}, of unit length", "multi_vector")
        if is_list(type_):
            fixed = pa.types.is_fixed_size_list(type_)
            dtype = pa.array([], type_.value_type).to_numpy().dtype
            return cls(dtype, type_.list_size if fixed else None)
        if not is_bytes(type_):
            raise DtypeError(
                f"column {field.name!r} is {field.type}, no vectors",
                hint="a vector column is a list of numbers or of such lists, bytes, or a struct of "
                "indices and values",
            )
        said = vector_dtype or (field.metadata or {}).get(b"dtype", b"").decode(errors="replace")
        if said and said not in VECTOR_DTYPES:
            raise ConfigError(
                f"{said!r} is no dtype of vectors",
                path="vector_dtype",
                got=said,
                expected=f"one of {', '.join(VECTOR_DTYPES)}",
                hint=f"use one of {', '.join(VECTOR_DTYPES)}",
            )
        dtype = np.dtype(said or "float32")
        note = None if said else f"column {field.name!r} holds bytes: read as float32"
        width = type_.byte_width if pa.types.is_fixed_size_binary(type_) else 0
        if width % dtype.itemsize:
            raise DtypeError(
                f"column {field.name!r} holds {width} bytes a row, no multiple of "
                f"{dtype} ({dtype.itemsize} bytes)",
                hint="say what they are with vector_dtype",
            )
        return cls(dtype, width // dtype.itemsize or None, note)

    def lengths(self, column: pa.Array) -> NDArray[np.int64]:
        """Return the number of values of each row; -1 for null."""
        if not is_bytes(column.type):
            lengths = pc.list_value_length(column)
        elif pa.types.is_fixed_size_binary(column.type):
            lengths = pc.if_else(column.is_valid(), column.type.byte_width, None)
        else:
            lengths = pc.binary_length(column)
        counts = np.asarray(pc.fill_null(lengths.cast(pa.int64()), -1))
        if not is_bytes(column.type):
            return counts
        if broken := counts[(counts > 0) & (counts % self.dtype.itemsize != 0)].tolist():
            raise DtypeError(
                f"a vector of {broken[0]} bytes is no multiple of {self.dtype} "
                f"({self.dtype.itemsize} bytes)",
                hint="say what the bytes are with vector_dtype",
            )
        return np.where(counts > 0, counts // self.dtype.itemsize, counts)

    def decode(self, column: pa.Array, n_features: int) -> tuple[Block, NDArray[np.bool_]]:
        """Return the vectors of a column whose rows are all of `n_features` values, or null.

        Returns
        -------
        vectors : ndarray of shape (rows, n_features)
            NaN (0 for integers) where there is no value. A view where that is possible.
        null : ndarray of shape (rows,), bool
            Rows that are null; with integers also those that hold a null value.
        """
        null = np.array(column.is_null())
        if not n_features:
            return np.zeros((len(column), 0), self.dtype), null
        values, holes = self._values(column, n_features)
        vectors = values.reshape(-1, n_features)
        if null.any():
            filler = np.nan if self.dtype.kind == "f" else 0
            dense = vectors
            vectors = np.full((len(column), n_features), filler, self.dtype)
            vectors[~null] = dense
        if holes is not None:
            null[~null] = holes.reshape(-1, n_features).any(axis=1)
        return vectors, null

    def _values(
        self, column: pa.Array, n_features: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the values of the rows that are not null; with integers, where some are null."""
        if is_bytes(column.type):
            rows = column.cast(pa.binary(n_features * self.dtype.itemsize)).drop_null()
            data, offset = rows.buffers()[1] or b"", rows.offset * rows.type.byte_width
            return np.frombuffer(data, self.dtype, len(rows) * n_features, offset), None
        values = column.flatten()  # without what null rows may hold
        if not values.null_count or self.dtype.kind == "f":
            return values.to_numpy(zero_copy_only=False), None
        return np.asarray(values.fill_null(0)), np.asarray(values.is_null())


def to_plain(column: pa.Array) -> pa.Array:
    """Return a column of vectors without an extension type, and bytes side by side."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column.cast(pa.large_binary()) if pa.types.is_binary_view(column.type) else column


def to_keys(column: pa.Array) -> pa.Array:
    """Return ids or labels as int64 where they are integers, else as string.

    Raises
    ------
    pyarrow.ArrowInvalid
        An integer beyond int64, or text that is no UTF-8.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_uuid(column.type):
        return pa.array([value and str(value) for value in column.to_pylist()], pa.string())
    keys = column.cast(pa.int64() if pa.types.is_integer(column.type) else pa.string())
    keys.validate(full=True)
    return keys


def to_text(column: pa.Array) -> pa.Array:
    """Return a column as large_string; raises `pyarrow.ArrowInvalid` where it is no UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    text = column.cast(pa.large_string())
    text.validate(full=True)
    return text


def texts_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column as large_string; nulls where it is not there, as not every file has it."""
    if name not in batch.schema.names:
        return pa.nulls(batch.num_rows, pa.large_string())
    return to_text(batch.column(name))


def concatenate(chunks: Sequence[pa.Array]) -> pa.Array:
    """Join chunks into one array; an `InputError` when string keys pass 2 GiB."""
    try:
        return pa.concat_arrays(chunks or [pa.array([], pa.string())])
    except pa.ArrowInvalid as error:
        n_bytes = sum(chunk.nbytes for chunk in chunks)
        raise InputError(
            f"{n_bytes:,} bytes of ids or labels, less than 2^31 expected",
            hint="use integers, or shorter ones",
        ) from error
