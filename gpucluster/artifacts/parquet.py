"""How tables are stored in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa


def parquet_options(schema: pa.Schema, plain: str | None) -> dict[str, Any]:
    """Return how to write a table so that damage shows and equal tables give equal bytes.

    Each page carries a checksum. Vectors are stored plain, because compression saves a tenth of
    them and costs more than reading; all else is compressed, and texts by dictionaries.

    Parameters
    ----------
    schema : pyarrow.Schema
    plain : str or None
        A column of texts that are all different.

    Returns
    -------
    dict
        Arguments of `pyarrow.parquet.ParquetWriter`.
    """
    compression, dictionary = {}, []
    for field in schema:
        for leaf, type_, is_vector in _leaves(field.name, field.type):
            compression[leaf] = "none" if is_vector else "zstd"
            if _is_text(type_) and field.name != plain:
                dictionary.append(leaf)
    return {
        "compression": compression,
        "use_dictionary": dictionary,
        "write_statistics": True,
        "write_page_checksum": True,
    }


def _leaves(path: str, type_: pa.DataType) -> Iterator[tuple[str, pa.DataType, bool]]:
    """Yield the columns that a column is stored as: path, type, and whether it holds vectors."""
    if isinstance(type_, pa.BaseExtensionType):
        type_ = type_.storage_type
    if pa.types.is_struct(type_):
        for field in type_:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_map(type_):
        yield from _leaves(f"{path}.key_value.key", type_.key_type)
        yield from _leaves(f"{path}.key_value.value", type_.item_type)
    elif pa.types.is_nested(type_):  # a list of some kind
        inner = type_.value_type
        is_vector = pa.types.is_fixed_size_list(type_) or pa.types.is_floating(inner)
        for leaf, own, inside in _leaves(f"{path}.list.element", inner):
            yield leaf, own, is_vector or inside
    else:
        yield path, type_, False


def _is_text(type_: pa.DataType) -> bool:
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(type_) for test in tests)
