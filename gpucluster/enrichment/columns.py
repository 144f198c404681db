"""The columns that documents get: those of their own, and those of their cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from gpucluster.enrichment.fields import Field, find_field
from gpucluster.enrichment.membership import UNKNOWN, Membership
from gpucluster.enrichment.settings import FieldMapping
from gpucluster.errors import ConfigError
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpucluster.types import Labels


@dataclass(frozen=True, slots=True)
class Joined:
    """The new columns of some documents, and what they are made of.

    Attributes
    ----------
    columns : list of pyarrow.Array of shape (n_rows,)
    num_known, num_noise : int
        Documents that the run has, and those of them that are noise.
    """

    columns: list[pa.Array]
    num_known: int
    num_noise: int


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a run knows of documents, as far as it is asked for.

    Attributes
    ----------
    membership : Membership
    clusters : ndarray of shape (n_members,), int32
        Of each member; noise is -1.
    fields : list of Field
    values : list of pyarrow.Array
        One for each field: of shape (n_members,), or of shape (n_clusters + 1,), the last one for
        noise.
    schema : pyarrow.Schema
        The columns that documents get.
    """

    membership: Membership
    clusters: Labels
    fields: list[Field]
    values: list[pa.Array]
    schema: pa.Schema

    @classmethod
    def of(
        cls,
        membership: Membership,
        members: pa.Table,
        clusters: pa.Table,
        mappings: Sequence[FieldMapping],
        who: str,
    ) -> Self:
        """Take it out of the tables of a run.

        Parameters
        ----------
        membership : Membership
            Of the rows of `members`.
        members : pyarrow.Table
            With ``cluster_index`` and the columns that the fields are made of.
        clusters : pyarrow.Table
            By ``cluster_index``.
        mappings : sequence of FieldMapping
        who : str
            The run, in messages.

        Raises
        ------
        ConfigError
            The run has no value of a field.
        """
        fields, values = [], []
        for mapping in mappings:
            field = find_field(mapping.source_field)
            fields.append(field)
            table = members if field.origin == "member" else clusters
            values.append(_values(field, table, is_empty=not clusters.num_rows, who=who))
        schema = pa.schema(
            [(m.target_field, v.type) for m, v in zip(mappings, values, strict=True)]
        )
        index: Labels = members["cluster_index"].to_numpy()
        return cls(membership, index, fields, values, schema)

    def join(self, ids: pa.Array | None, begin: int, n_rows: int) -> Joined:
        """Return the columns of some documents; see `Membership.positions`."""
        at = self.membership.positions(ids, begin, n_rows)
        is_known = at != UNKNOWN
        nodes = np.where(is_known, self.clusters[at], NOISE) if len(self.clusters) else at
        member, cluster = _places(at, is_known), _places(self._rows_of(nodes), is_known)
        columns = [
            values.take(member if field.origin == "member" else cluster)
            for field, values in zip(self.fields, self.values, strict=True)
        ]
        num_noise = int(np.count_nonzero(is_known & (nodes == NOISE)))
        return Joined(columns, int(np.count_nonzero(is_known)), num_noise)

    def _rows_of(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of clusters among values; noise has the last one."""
        of_clusters = (
            v for f, v in zip(self.fields, self.values, strict=True) if f.origin == "cluster"
        )
        last = len(next(of_clusters, ())) - 1
        return np.where(nodes == NOISE, last, nodes)


def _places(at: NDArray[np.int64], is_known: NDArray[np.bool_]) -> pa.Array:
    return pa.array(at, pa.int64(), mask=~is_known)


def _values(field: Field, table: pa.Table, *, is_empty: bool, who: str) -> pa.Array:
    """Return the values of a field; those of clusters with one for noise behind them."""
    column = table[field.column] if field.column in table.column_names else None
    if column is not None and field.key is not None:
        column = _entries(column, field.key)
    if column is None or (len(column) == column.null_count and not is_empty):
        raise ConfigError(f"{who} has no {field.name}", path="fields", hint=field.hint)
    one = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if field.origin == "member":
        return one
    of_noise = {"cluster_id": str(NOISE), "cluster_path": []}.get(field.name)
    return pa.concat_arrays([one, pa.array([of_noise], one.type)])


def _entries(column: pa.ChunkedArray, key: str) -> pa.ChunkedArray:
    """Return one entry of objects in JSON: as its own type where all have one, else as JSON."""
    found = [None if text is None else json.loads(text).get(key) for text in column.to_pylist()]
    try:
        return pa.chunked_array([pa.array(found)])
    except pa.ArrowException:
        texts = [None if value is None else json.dumps(value) for value in found]
        return pa.chunked_array([pa.array(texts, pa.string())])
