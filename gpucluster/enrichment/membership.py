"""Which member of a run a document is."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.ops.id_hash import hash_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpucluster.types import Rows

UNKNOWN = -1


class Membership:
    """Finds members of a run by the ids of documents, or by their rows; any thread may ask.

    Documents mostly come in the order in which the run has read them: there a comparison of ids is
    enough. The others are looked up by a hash, which is sorted when it is first needed; ids are
    compared in the end, so that no collision joins two documents.

    Parameters
    ----------
    ids : pyarrow.ChunkedArray of shape (n_members,), string, or None
        Of equal ones the first one counts. None: documents are known by their rows.
    rows : ndarray of shape (n_members,), int64
        Position of each in the input of the run, or a negative number.

    Notes
    -----
    Memory: the ids once, and 32 bytes for each member.
    """

    def __init__(self, ids: pa.ChunkedArray | None, rows: Rows) -> None:
        self._ids = None if ids is None else _one_array(ids)
        self._by_row = np.argsort(rows, kind="stable")
        self._rows = rows[self._by_row]
        self._hashed: tuple[NDArray[np.uint64], NDArray[np.int64]] | None = None
        self._lock = Lock()

    def positions(self, ids: pa.Array | None, begin: int, n_rows: int) -> NDArray[np.int64]:
        """Return the member that each of some documents is, or -1.

        Parameters
        ----------
        ids : pyarrow.Array of shape (n_rows,), int64 or string, or None
            None only where the run has none.
        begin : int
            Row of the first one in the input.
        n_rows : int
        """
        found = np.full(n_rows, UNKNOWN, np.int64)
        first, last = np.searchsorted(self._rows, (begin, begin + n_rows))
        at, members = self._rows[first:last] - begin, self._by_row[first:last]
        if self._ids is None:
            found[at] = members
            return found
        assert ids is not None  # noqa: S101 - whoever has opened the documents has seen to it
        asked = ids.cast(pa.large_string())
        same = _equal(self._ids.take(pa.array(members)), asked.take(pa.array(at)))
        found[at[same]] = members[same]
        left = np.flatnonzero((found == UNKNOWN) & np.asarray(asked.is_valid()))
        if len(left):
            found[left] = self._look_up(asked.take(pa.array(left)))
        return found

    def _look_up(self, asked: pa.Array) -> NDArray[np.int64]:
        hashes, order = self._index()
        if not len(hashes):
            return np.full(len(asked), UNKNOWN, np.int64)
        own = hash_ids(asked)
        place = np.minimum(np.searchsorted(hashes, own), len(hashes) - 1)
        found = np.where(hashes[place] == own, order[place], UNKNOWN)
        hit = np.flatnonzero(found != UNKNOWN)
        same = _equal(self._known().take(pa.array(found[hit])), asked.take(pa.array(hit)))
        if not same.all():  # another id of the same hash: somebody has chosen it for that
            odd = hit[~same]
            places = pc.index_in(asked.take(pa.array(odd)), value_set=self._known())
            found[odd] = np.asarray(pc.fill_null(places, UNKNOWN))
        return found

    def _index(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        with self._lock:
            if self._hashed is None:
                hashes = hash_ids(self._known())
                order = np.argsort(hashes, kind="stable")
                self._hashed = hashes[order], order
            return self._hashed

    def _known(self) -> pa.Array:
        assert self._ids is not None  # noqa: S101 - only those with ids are looked up
        return self._ids


def _one_array(ids: pa.ChunkedArray) -> pa.Array:
    chunks = ids.cast(pa.large_string()).chunks
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.large_string())


def _equal(one: pa.Array, other: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.equal(one, other), False))  # noqa: FBT003
