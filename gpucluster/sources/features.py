"""Several features of the same documents as one source, their vectors side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gpucluster.errors import CorruptInputError, SchemaMismatchError
from gpucluster.notation import nearest
from gpucluster.ops.normalize import row_norms
from gpucluster.sources.base import BATCH_BYTES, Batch, Source, SourceInfo

if TYPE_CHECKING:
    import pyarrow as pa


class FeaturesSource:
    """The rows of one source, each with the vectors of several features in a line.

    A row that lacks one of its vectors, or has a bad one, is bad as a whole.

    Parameters
    ----------
    sources : dict of str to Source
        The same rows opened for each feature URI, in the order of the vectors.
    normalize : bool
        Scale the vector of each feature to unit length, so that a feature with longer vectors
        does not drown the others.

    Raises
    ------
    SchemaMismatchError
        A feature has no column of its own, or not as many rows as the others.
    """

    def __init__(self, sources: Mapping[str, Source], *, normalize: bool) -> None:
        self._sources = tuple(sources.values())
        self._normalize = normalize
        infos = [source.info for source in self._sources]
        for uri, info in zip(sources, infos, strict=True):
            _check_own(uri, info)
            if info.n_rows != infos[0].n_rows:
                raise SchemaMismatchError(
                    f"{uri} has {info.n_rows:,} rows in {info.where}, "
                    f"{next(iter(sources))} has {infos[0].n_rows:,}"
                )
        blocks = tuple((uri, info.n_features) for uri, info in zip(sources, infos, strict=True))
        self.info: SourceInfo = replace(
            infos[0],
            n_features=sum(info.n_features for info in infos),
            dtype="float32",
            notes=tuple(dict.fromkeys(note for info in infos for note in info.notes)),
            feature=" + ".join(sources),
            blocks=blocks,
        )

    def map(self, change: Callable[[Source], Source]) -> Self:
        """Return the same rows, read from changed sources that have the same `info`."""
        other = copy(self)
        other._sources = tuple(map(change, self._sources))
        return other

    def ids(self) -> pa.Array | None:
        """Return all ids in input order; None when rows have none."""
        return self._sources[0].ids()

    def columns(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield plain columns of all rows in order."""
        return self._sources[0].columns(names)

    def batches(self, budget_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
        """Yield all rows in order, with what every feature says of them.

        Raises
        ------
        CorruptInputError
            The features do not speak of the same rows.
        """
        share = max(1, budget_bytes // (2 * len(self._sources)))
        streams = [_Rows(source, share) for source in self._sources]
        row = 0
        while True:
            parts = [stream.available() for stream in streams]
            count = min(parts)
            if count == 0:
                if max(parts):
                    raise CorruptInputError(
                        f"{self.info.where}: its features have different numbers of rows",
                        hint="does something write to it?",
                    )
                return
            batches = [stream.take(count) for stream in streams]
            self._check_ids(batches)
            yield self._joined(row, batches)
            row += count

    def _check_ids(self, batches: Sequence[Batch]) -> None:
        first = batches[0].ids
        for batch in batches[1:]:
            if first is not None and batch.ids is not None and not first.equals(batch.ids):
                raise CorruptInputError(
                    f"{self.info.where}: its features do not have the same ids",
                    hint="does something write to it?",
                )

    def _joined(self, row: int, batches: Sequence[Batch]) -> Batch:
        vectors = np.empty((len(batches[0].vectors), self.info.n_features), np.float32)
        null = np.zeros(len(vectors), np.bool_)
        empty = np.zeros(len(vectors), np.bool_)
        start = 0
        for batch in batches:
            width = batch.vectors.shape[1]
            block = vectors[:, start : start + width]
            with np.errstate(all="ignore"):  # what overflows becomes inf, and is judged as such
                block[:] = batch.vectors
                if self._normalize:
                    norms = row_norms(block)
                    empty |= norms == 0
                    usable = np.isfinite(norms) & (norms > 0)
                    block /= np.where(usable, norms, 1)[:, None]
            null |= batch.null
            start += width
        vectors[empty] = 0  # judged as zero: one of its vectors has no direction
        return Batch(row, batches[0].ids, vectors, null, batches[0].payload)


class _Rows:
    """The batches of a source, cut where somebody else's batches end."""

    def __init__(self, source: Source, budget_bytes: int) -> None:
        self._batches = source.batches(budget_bytes)
        self._current: Batch | None = None
        self._used = 0

    def available(self) -> int:
        """Return how many rows can be taken; 0 at the end."""
        while self._current is None or self._used == len(self._current.vectors):
            self._current, self._used = next(self._batches, None), 0
            if self._current is None:
                return 0
        return len(self._current.vectors) - self._used

    def take(self, count: int) -> Batch:
        """Return the next `count` rows, which are available."""
        current: Any = self._current
        rows = slice(self._used, self._used + count)
        self._used += count
        return Batch(
            row=current.row + rows.start,
            ids=None if current.ids is None else current.ids[rows],
            vectors=current.vectors[rows],
            null=current.null[rows],
            payload={role: column[rows] for role, column in current.payload.items()},
        )


def _check_own(uri: str, info: SourceInfo) -> None:
    """Raise unless the feature has a column of its own: two may not read the same one."""
    output = uri.rsplit("/", maxsplit=1)[-1]
    if info.feature is None and info.columns.vector != output:
        raise SchemaMismatchError(
            f"{info.where} has no column {output!r} for {uri}", hint=nearest(output, info.fields)
        )
