"""Several collections as one source, their rows one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from gpucluster.errors import ConfigError, SchemaMismatchError, ShapeError
from gpucluster.sources.base import BATCH_BYTES, Batch, Columns, Source, SourceInfo
from gpucluster.sources.columns import concatenate

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Member:
    """One collection.

    Attributes
    ----------
    name : str
        Its id, or where it lies.
    source : Source
    resolved : str or None
        The feature URI that its manifest resolved; None without one.
    model : str or None
        What computed the vectors, where a manifest says so.
    text : str or None
        The text column that its manifest names.
    described : dict
        What its manifest says of the feature.
    """

    name: str
    source: Source
    resolved: str | None = None
    model: str | None = None
    text: str | None = None
    described: Mapping[str, Any] = field(default_factory=dict)


class JoinedSource:
    """The rows of several collections, in order.

    Parameters
    ----------
    members : sequence of Member
        At least one.
    uri : str, optional
        The feature that was asked for.

    Raises
    ------
    ConfigError
        Two have one name.
    ShapeError
        They differ in the dimension of their vectors.
    SchemaMismatchError
        They differ in the kind of their vectors, or in the model that computed them.
    """

    def __init__(self, members: Sequence[Member], uri: str | None = None) -> None:
        for i, member in enumerate(members):
            if member.name in (other.name for other in members[:i]):
                raise ConfigError(
                    f"the collection {member.name} is given twice", path="collection_ids"
                )
        filled = [m for m in members if m.source.info.n_features]
        # each with the one before, and with the first that says what computed its vectors
        named_first = [m for m in filled if m.model is not None][:1]
        for one, other in (*pairwise(filled), *product(named_first, filled)):
            _check_alike(one, other, uri or one.resolved or "the vectors")
        if len(members) > 1 and any(m.source.info.kind == "sparse" for m in members):
            raise SchemaMismatchError(
                f"{uri or 'the vectors'} is sparse in "
                f"{next(m.name for m in members if m.source.info.kind == 'sparse')}, "
                "and collections would be reduced each in its own way",
                hint="put their files into one collection",
            )
        self._members = tuple(members)
        infos = [member.source.info for member in members]
        # the role that all play; of the vectors, rather what no manifest and no URI explains
        named = [_columns(member) for member in members]
        output = None if uri is None else uri.rsplit("/", maxsplit=1)[-1]
        explained = [
            member.resolved is not None or columns.vector == output
            for member, columns in zip(members, named, strict=True)
        ]
        payload = {
            role
            for role in ("text", "truth")
            if all(getattr(columns, role) is not None for columns in named)
        }
        self._payload = payload
        first = named[0]
        self.info = SourceInfo(
            format=infos[0].format if len({i.format for i in infos}) == 1 else "mixed",
            paths=tuple(path for info in infos for path in info.paths),
            n_rows=sum(info.n_rows for info in infos),
            n_features=max(info.n_features for info in infos),
            dtype=np.result_type(*{info.dtype for info in infos}).name,
            columns=Columns(
                id=first.id,
                vector=first.vector if all(explained) else named[explained.index(False)].vector,
                text=first.text if "text" in payload else None,
                truth=first.truth if "truth" in payload else None,
            ),
            fields={name: kind for info in reversed(infos) for name, kind in info.fields.items()},
            candidates=infos[0].candidates,
            notes=tuple(
                f"{member.name}: {note}" for member in members for note in member.source.info.notes
            )
            + tuple(_not_in_all(members, named, payload)),
            kind=infos[0].kind,
            feature=(uri or members[0].resolved) if all(explained) else None,
            collections=tuple(
                (member.name, member.source.info.n_rows, _described(member, columns))
                for member, columns in zip(members, named, strict=True)
            ),
        )

    def map(self, change: Callable[[Source], Source]) -> Self:
        """Return the same rows, read from changed sources that have the same `info`."""
        other = copy(self)
        other._members = tuple(
            replace(member, source=change(member.source)) for member in self._members
        )
        return other

    def ids(self) -> pa.Array | None:
        """Return all ids in order; None when no collection has any.

        Raises
        ------
        SchemaMismatchError
            Some have none, or some are integers and others strings.
        """
        found = [(member.name, member.source.ids()) for member in self._members]
        kinds = [(name, "no ids" if ids is None else f"{ids.type} ids") for name, ids in found]
        for (name, kind), (other, other_kind) in pairwise(kinds):
            if kind != other_kind:
                raise SchemaMismatchError(
                    f"{name} has {kind}, {other} has {other_kind}",
                    hint="convert the collections to one kind of ids",
                )
        chunks = [ids for _, ids in found if ids is not None]
        return concatenate(chunks) if chunks else None

    def batches(self, budget_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
        """Yield all rows in order, each collection's in its own dtype."""
        offset = 0
        for member in self._members:
            for batch in member.source.batches(budget_bytes):
                yield self._fitted(batch, batch.row + offset)
            offset += member.source.info.n_rows

    def _fitted(self, batch: Batch, row: int) -> Batch:
        vectors = batch.vectors
        if vectors.shape[1] != self.info.n_features:  # of a collection without any vector
            vectors = np.full((len(vectors), self.info.n_features), np.nan, np.float32)
        payload = {role: batch.payload[role] for role in self._payload & batch.payload.keys()}
        if "truth" in payload and len(self._members) > 1:  # classes of all, whatever their type
            payload["truth"] = payload["truth"].cast(pa.string())
        return replace(batch, row=row, vectors=vectors, payload=payload)

    def columns(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield plain columns of all rows in order; a name is left out where it is not there."""
        for member in self._members:
            yield from member.source.columns(names)


def _not_in_all(
    members: Sequence[Member], named: Sequence[Columns], payload: set[str]
) -> Iterator[str]:
    if "truth" not in payload:
        lacking = [m.name for m, columns in zip(members, named, strict=True) if not columns.truth]
        if len(lacking) < len(members):
            yield f"nothing is compared with the truth: {', '.join(lacking)} has none"


def _columns(member: Member) -> Columns:
    """Return what plays which role; a text column may be noted without being read."""
    columns = member.source.info.columns
    return columns if member.text is None else replace(columns, text=member.text)


def _described(member: Member, columns: Columns) -> dict[str, Any]:
    """Return what is to be read, and what its manifest says of the feature."""
    paths = list(member.source.info.paths)
    return {"paths": paths, "columns": asdict(columns), **member.described}


def _check_alike(one: Member, other: Member, feature: str) -> None:
    a, b = one.source.info, other.source.info
    if a.kind != b.kind:
        raise SchemaMismatchError(
            f"{feature} is {a.kind} in {one.name}, {b.kind} in {other.name}",
            hint="cluster them apart",
        )
    if a.n_features != b.n_features:
        raise ShapeError(
            f"{feature} has {a.n_features:,} values in {one.name}, {b.n_features:,} in {other.name}"
        )
    if one.model and other.model and one.model != other.model:
        raise SchemaMismatchError(
            f"{feature} is computed by {one.model} in {one.name}, by {other.model} in {other.name}",
            hint="vectors of different models cannot be compared",
        )


def collection_names(described: Mapping[str, Any], rows: NDArray[np.int64]) -> pa.Array:
    """Return the collection that each row of an input came from.

    Parameters
    ----------
    described : dict
        The source as `Samples` and manifests describe it.
    rows : ndarray of shape (n,), int64
        Positions in the input.

    Returns
    -------
    pyarrow.Array of shape (n,), string
        Null where there are no collections.
    """
    collections = described.get("collections") or []
    if not collections:
        return pa.nulls(len(rows), pa.string())
    stops = np.cumsum([collection["n_rows"] for collection in collections])
    names = pa.array([collection["collection_id"] for collection in collections])
    return names.take(pa.array(np.searchsorted(stops, rows, side="right")))
