"""Clusters of documents that have equal attributes: GROUP BY, as a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from gpucluster.errors import ConfigError
from gpucluster.types import Labels

NULL = "null"  # the group of documents without a value
JOINT = "_"


class AttributeConfig(BaseModel):
    """Which attributes make the groups."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    attributes: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Columns, or dot paths into struct columns; their order is that of the levels."
    )
    hierarchical_grouping: bool = Field(
        default=False, description="A level for each attribute, instead of one for all."
    )
    aggregation_method: Literal["most_frequent", "first", "last"] = Field(
        default="most_frequent",
        description="Which value of a list groups a document: the most frequent one among all "
        "documents, its first, or its last.",
    )

    @field_validator("attributes")
    @classmethod
    def _each_once(cls, attributes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(attributes)) < len(attributes):
            raise ValueError("each attribute once")
        return attributes


@dataclass(frozen=True, slots=True)
class Grouping:
    """Groups, by level.

    Attributes
    ----------
    levels : ndarray of shape (n_levels, n_samples), int32
        Group of each document at each level; every group lies in one of the level above.
    names : tuple of tuple of str
        Of the groups of each level, such as ``Electronics_Apple``; values are quoted where
        two groups would have one name.
    num_null : dict of str to int
        Documents without a value, by attribute.
    """

    levels: Labels
    names: tuple[tuple[str, ...], ...]
    num_null: dict[str, int]


def group(attributes: pa.Table, config: AttributeConfig) -> Grouping:
    """Group documents by their attributes.

    Parameters
    ----------
    attributes : pyarrow.Table of n_samples rows
        A column for each of ``config.attributes``, by name.
    config : AttributeConfig

    Returns
    -------
    Grouping

    Raises
    ------
    ConfigError
        A column is of a type that makes no groups.
    """
    values = {
        name: _one_each(attributes[name], name, config.aggregation_method)
        for name in config.attributes
    }
    n_levels = len(config.attributes) if config.hierarchical_grouping else 1
    levels, names = [], []
    for level in range(n_levels):
        chosen = config.attributes[: level + 1] if n_levels > 1 else config.attributes
        codes, found = _combined([values[name] for name in chosen])
        levels.append(codes)
        names.append(found)
    num_null = {name: column.null_count for name, column in values.items()}
    return Grouping(np.stack(levels), tuple(names), num_null)


def _one_each(column: pa.ChunkedArray, name: str, method: str) -> pa.Array:
    """Return one value a document, as text; null where there is none."""
    kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.string())
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_list |= pa.types.is_fixed_size_list(kind)
    inner = kind.value_type if is_list else kind
    if pa.types.is_dictionary(inner):
        inner = inner.value_type
    binary = pa.types.is_binary(inner) or pa.types.is_large_binary(inner)
    binary |= pa.types.is_fixed_size_binary(inner) or pa.types.is_binary_view(inner)
    if binary or pa.types.is_nested(inner) or pa.types.is_floating(inner):
        raise ConfigError(
            f"{name} is {kind}, which makes no groups",
            path="attribute_config.attributes",
            hint="use columns of texts, integers, booleans or dates, or lists of them",
        )
    if not is_list:
        return column.cast(inner).cast(pa.large_string()).combine_chunks()
    rows = [
        None if row is None else [value for value in row if value is not None]
        for row in column.to_pylist()
    ]
    counts = Counter(value for row in rows if row for value in set(row))
    picked = [_pick(row, method, counts) if row else None for row in rows]
    return pa.array(picked, inner).cast(pa.large_string())


def _pick(row: Sequence[Any], method: str, counts: Counter[Any]) -> Any:
    if method == "most_frequent":
        return max(row, key=lambda value: counts[value])  # ties: the first in the list
    return row[0] if method == "first" else row[-1]


def _combined(columns: Sequence[pa.Array]) -> tuple[Labels, tuple[str, ...]]:
    """Return the group of each row, numbered by first appearance, and the groups' names."""
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        encoded = column.dictionary_encode()
        n_values = len(encoded.dictionary) + 1  # the last one is null
        own = np.asarray(encoded.indices.fill_null(n_values - 1), np.int64)
        codes = np.unique(codes * n_values + own, return_inverse=True)[1]
    _, first = np.unique(codes, return_index=True)
    rank = np.argsort(np.argsort(first))
    rows = pa.array(np.sort(first))
    values = [*zip(*(column.take(rows).to_pylist() for column in columns), strict=True)]
    names = [JOINT.join(NULL if part is None else part for part in parts) for parts in values]
    taken = Counter(names)
    for i, parts in enumerate(values):  # a text "null", or one with the joint in it
        if taken[names[i]] > 1:
            names[i] = JOINT.join(map(json.dumps, parts))
    return rank[codes].astype(np.int32), tuple(names)
