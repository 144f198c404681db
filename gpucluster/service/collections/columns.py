"""What the columns of a collection are, and how documents that come in are made to fit.

Ids and vectors have the types of the collection. Of all other columns, the first to come sets
the type; later ones are converted where no value changes, and refused where one would.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import (
    ConfigError,
    DtypeError,
    InputError,
    SchemaMismatchError,
    ShapeError,
)
from gpucluster.notation import shown
from gpucluster.sources.base import MAX_COLUMNS
from gpucluster.sources.collection import Feature
from gpucluster.sources.columns import (
    VectorType,
    is_bytes,
    is_key,
    is_list,
    is_multi_vector,
    is_sparse,
    is_text,
    storage,
    to_keys,
    to_plain,
)

MAX_NAME = 200  # characters of a column
MAX_ID_BYTES = 512


def vector_type(feature: Feature) -> pa.DataType:
    """Return the type that vectors of a feature have in files of ours."""
    value = pa.from_numpy_dtype(np.dtype(feature.dtype or "float32"))
    if feature.kind == "sparse":
        return pa.struct({"indices": pa.list_(pa.int32()), "values": pa.list_(pa.float32())})
    vector = pa.list_(value, feature.dim)
    return pa.list_(vector) if feature.kind == "multi_vector" else vector


def first_schema(id_column: str, features: Mapping[str, Feature]) -> pa.Schema:
    """Return the columns of a collection without documents."""
    vectors = [(feature.column, vector_type(feature)) for feature in features.values()]
    return pa.schema([(id_column, pa.string()), *vectors])


def named_features(features: Mapping[str, Feature]) -> dict[str, Feature]:
    """Return features that all name their column: by default as the last part of their URI.

    Raises
    ------
    ConfigError
        Two name the same.
    """
    named: dict[str, Feature] = {}
    taken: dict[str, str] = {}
    for uri, feature in features.items():
        column = feature.column or uri.rsplit("/", maxsplit=1)[-1]
        if column in taken:
            raise ConfigError(
                f"{uri} and {taken[column]} are both in the column {column!r}", path="features"
            )
        taken[column] = uri
        check_name(column)
        named[uri] = feature.model_copy(
            update={"column": column, "dtype": feature.dtype or "float32"}
        )
    return named


def check_name(name: str) -> None:
    """Refuse what is no name of a column."""
    hidden = any(unicodedata.category(character) in {"Cc", "Cs"} for character in name)
    if not name.strip() or len(name) > MAX_NAME or hidden:
        raise InputError(
            f"{shown(name, 60)!r} is no name of a column",
            hint=f"names have 1 to {MAX_NAME} characters, and none that controls",
        )


def extended(known: pa.Schema, incoming: pa.Schema, own: Sequence[str]) -> pa.Schema:
    """Return the known columns and the new ones.

    Parameters
    ----------
    known, incoming : pyarrow.Schema
    own : sequence of str
        Columns of ids and vectors, which `fitted` looks at.

    Returns
    -------
    pyarrow.Schema
        A column without any value is left out until it has one.

    Raises
    ------
    SchemaMismatchError
        A known column cannot have such values.
    InputError
        A name is none, or there are too many.
    """
    fields = {field.name: field for field in known}
    for field in incoming:
        type_ = _plain_type(field.type)
        there = fields.get(field.name)
        if there is None:
            if not pa.types.is_null(type_):
                check_name(field.name)
                fields[field.name] = pa.field(field.name, type_)
        elif field.name not in own and not may_become(type_, there.type):
            raise SchemaMismatchError(
                f"column {field.name!r} is {field.type}, {there.type} in the collection",
                hint="convert it, or give it another name",
            )
    if len(fields) > MAX_COLUMNS:
        raise InputError(f"{len(fields):,} columns, at most {MAX_COLUMNS:,} expected")
    return pa.schema(list(fields.values()))


def may_become(type_: pa.DataType, other: pa.DataType) -> bool:
    """Whether values of a type may be those of another, if none of them changes."""
    if bool(type_ == other) or pa.types.is_null(type_) or (is_text(type_) and is_text(other)):
        return True
    if pa.types.is_list(type_) and pa.types.is_list(other):
        return may_become(type_.value_type, other.value_type)
    if pa.types.is_struct(type_) and pa.types.is_struct(other):
        own = {field.name: field.type for field in other}
        return all(f.name in own and may_become(f.type, own[f.name]) for f in type_)
    if is_text(type_):
        return bool(pa.types.is_timestamp(other) or pa.types.is_date(other))
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        is_time = bool(pa.types.is_timestamp(other) or pa.types.is_date(other))
        return is_time and bool(getattr(type_, "tz", None) == getattr(other, "tz", None))
    return _is_number(type_) and _is_number(other)


def _is_number(type_: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(test(type_) for test in tests)


def _plain_type(type_: pa.DataType) -> pa.DataType:
    """Return the type that values are stored as: no dictionaries, views or extensions."""
    type_ = storage(type_)
    if pa.types.is_dictionary(type_):
        return _plain_type(type_.value_type)
    if is_text(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.binary()
    if pa.types.is_struct(type_):  # Parquet has none without fields
        fields = [(field.name, _plain_type(field.type)) for field in type_]
        valued = [(name, kind) for name, kind in fields if not pa.types.is_null(kind)]
        return pa.struct(valued) if valued else pa.null()
    if pa.types.is_nested(type_) and not pa.types.is_map(type_) and not _is_fixed(type_):
        value = _plain_type(type_.value_type)
        return pa.null() if pa.types.is_null(value) else pa.list_(value)
    return type_


def _is_fixed(type_: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(type_))


def fitted(
    batch: pa.RecordBatch,
    schema: pa.Schema,
    id_column: str,
    features: Mapping[str, Feature],
    where: str,
) -> pa.RecordBatch:
    """Return documents with the columns of a collection.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
    schema : pyarrow.Schema
        What they are to have; a column that is not there is null.
    id_column : str
    features : mapping of str to Feature
    where : str
        What is read, for messages.

    Raises
    ------
    InputError, SchemaMismatchError
        A value does not fit; the message names column and document.
    """
    if id_column not in batch.schema.names:
        raise SchemaMismatchError(
            f"{where}: there is no column {id_column!r}, which holds the ids",
            hint="each document needs its id, as document_id or under that name",
        )
    ids = _ids(batch.column(id_column), schema.field(id_column).type, where)
    vectors = {feature.column: feature for feature in features.values()}
    columns = []
    for field in schema:
        if field.name == id_column:
            columns.append(ids)
        elif field.name not in batch.schema.names:
            columns.append(pa.nulls(batch.num_rows, field.type))
        elif field.name in vectors:
            columns.append(
                _vectors(batch.column(field.name), field, vectors[field.name], ids, where)
            )
        else:
            columns.append(_plain(batch.column(field.name), field, where))
    return pa.record_batch(columns, schema=schema)


def _ids(column: pa.Array, type_: pa.DataType, where: str) -> pa.Array:
    if not is_key(column.type):
        raise SchemaMismatchError(f"{where}: ids are {column.type}, text or integers expected")
    keys = to_keys(column)
    if keys.null_count:
        row = pc.index(keys.is_null(), pa.scalar(value=True)).as_py()
        raise InputError(f"{where}: document {row + 1} has no id")
    if pa.types.is_string(keys.type):
        longest = pc.max(pc.binary_length(keys)).as_py() or 0
        shortest = pc.min(pc.binary_length(keys)).as_py()
        if longest > MAX_ID_BYTES or shortest == 0:
            raise InputError(
                f"{where}: an id has {shortest and longest} bytes, 1 to {MAX_ID_BYTES} expected"
            )
    return _cast(keys, type_, "ids", where)


def _plain(column: pa.Array, field: pa.Field, where: str) -> pa.Array:
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return _cast(column, field.type, f"column {field.name!r}", where)


def _cast(column: pa.Array, type_: pa.DataType, what: str, where: str) -> pa.Array:
    if column.type == type_:
        return column
    try:
        if pa.types.is_nested(type_) and not _is_fixed(type_):  # fields may be missing
            return pa.array(column.to_pylist(), type_)
        return column.cast(type_)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:120]
        raise SchemaMismatchError(
            f"{where}: {what}: {column.type} values that cannot be {type_}, as in the "
            f"collection ({why})"
        ) from error


def _vectors(
    column: pa.Array, field: pa.Field, feature: Feature, ids: pa.Array, where: str
) -> pa.Array:
    """Return vectors in the type of the collection."""
    column = to_plain(column)
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), field.type)
    if feature.kind == "sparse":
        if not is_sparse(column.type):
            raise _no_vectors(column, feature, where)
        return _cast(column, field.type, f"column {field.name!r}", where)
    if feature.kind == "multi_vector":
        if not is_multi_vector(column.type):
            raise _no_vectors(column, feature, where)
        return _cast(column, field.type, f"column {field.name!r}", where)
    if is_multi_vector(column.type) or not (is_list(column.type) or is_bytes(column.type)):
        raise _no_vectors(column, feature, where)
    type_ = VectorType.of(pa.field(field.name, column.type), feature.dtype)
    lengths = type_.lengths(column)
    wrong = np.flatnonzero((lengths >= 0) & (lengths != feature.dim))
    if wrong.size:
        at = int(wrong[0])
        raise ShapeError(
            f"{where}: {field.name} of document {shown(str(ids[at]), 60)} has {lengths[at]:,} "
            f"values, {feature.dim:,} expected"
        )
    if column.type == field.type:
        return column
    values, null = type_.decode(column, feature.dim)
    dtype = np.dtype(feature.dtype or "float32")
    with np.errstate(over="ignore", invalid="ignore"):  # runs reject what is not finite
        converted = np.ascontiguousarray(values, dtype)
    if dtype.kind in "iu" and not np.array_equal(converted[~null], values[~null]):
        raise DtypeError(f"{where}: {field.name} has values that are no {dtype}")
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(converted.ravel()), feature.dim, mask=pa.array(null)
    )
    # another type is that of a file that stayed where it was
    return _cast(vectors, field.type, f"column {field.name!r}", where)


def _no_vectors(column: pa.Array, feature: Feature, where: str) -> DtypeError:
    return DtypeError(
        f"{where}: column {feature.column!r} is {column.type}, {feature.kind} vectors expected"
    )
