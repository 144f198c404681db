"""A run that is written part by part, so that an interrupted one goes on after its last part."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpucluster.artifacts import (
    Checkpoints,
    FileEntry,
    Store,
    members_table,
    rejected_table,
)
from gpucluster.artifacts.schema import Paths, write_parquet
from gpucluster.assignment import ASSIGNED_BY, BY_ASSIGNMENT, Assigned
from gpucluster.errors import StoreError
from gpucluster.events import Reporter
from gpucluster.ops.id_hash import hash_ids
from gpucluster.sources import Stretch, not_unique
from gpucluster.tally import Tally
from gpucluster.types import NOISE

PART_ROWS = 1 << 20  # members of one file
READ_PARTS = 8  # of so many times the rows, where few of them are members
CHECKED_IDS = 1 << 24  # compared with each other at a time


class Parts:
    """The members and rejected rows of a run, in files that each hold a stretch of the input.

    Parameters
    ----------
    store : Store
        The caller holds the lease of `run_id`.
    run_id : str
    paths : sequence of sequences of str
        Ids from the root to each cluster.
    provenance : dict of str to str
        Goes into the files.

    Attributes
    ----------
    files : dict of str to FileEntry
        Those that are on the disk, by name.
    """

    def __init__(
        self, store: Store, run_id: str, paths: Paths, provenance: Mapping[str, str]
    ) -> None:
        self.files: dict[str, FileEntry] = {}
        self._store = store
        self._run_id = run_id
        self._paths = paths
        self._provenance = provenance
        self._checkpoints = Checkpoints(store, run_id)
        self._count = 0
        self._stop = 0
        self._begin()

    def _begin(self) -> None:
        self._ids: list[pa.Array] = []
        self._rows: list[Any] = []
        self._found: list[Assigned] = []
        self._rejected: list[pa.Table] = []
        self._n_rows = 0

    def is_due(self, tally: Tally) -> bool:
        """Whether the members since the last part make one, or the rows that were read for none."""
        return self._n_rows >= PART_ROWS or tally.stop - self._stop >= READ_PARTS * PART_ROWS

    def resume(self, tally: Tally) -> None:
        """Take over the parts that an earlier attempt finished, and what it had counted."""
        files: dict[str, FileEntry] = {}
        count = 0
        while (done := self._kept("part", count)) is not None:
            own = {name: FileEntry(**entry) for name, entry in done.info["files"].items()}
            if not all(self._is_there(name, entry) for name, entry in own.items()):
                break
            files |= own
            count += 1
        state = self._kept("tally", count - 1) if count else None
        if state is None:  # there is none, or what the last whole one had counted is gone
            return
        self.files, self._count = files, count
        tally.restore(state.arrays, state.info)
        self._stop = tally.stop

    def add(self, stretch: Stretch, found: Assigned) -> None:
        """Take rows, and where they belong, for the next part."""
        self._ids.append(stretch.ids)
        self._rows.append(stretch.rows)
        self._found.append(found)
        self._rejected.append(stretch.rejected)
        self._n_rows += len(stretch.rows)

    def finish(self, tally: Tally) -> None:
        """Write the rows since the last part, and then what was counted up to their end.

        A part that was begun again replaces what is left of it. Where no row was read since the
        last one, there is none.
        """
        if self._count and tally.stop == self._stop:
            return
        number = self._count
        ids = pa.concat_arrays([pa.array([], pa.string()), *self._ids])
        files: dict[str, FileEntry] = {}
        if len(ids):
            files[f"members-{number:05d}.parquet"] = self._members(ids)
        hashes = {"members": hash_ids(ids)}
        bad = [table for table in self._rejected if table.num_rows]
        if bad:
            rejected = pa.concat_tables(bad)
            files[f"rejected-{number:05d}.parquet"] = rejected_table(rejected)
            hashes["rejected"] = hash_ids(rejected["document_id"].drop_null())
        stored = {name: self._put(name, table) for name, table in files.items()}
        arrays, counted = tally.state()
        self._keep("tally", number, arrays, counted)
        entries = {name: entry.model_dump() for name, entry in stored.items()}
        self._keep("part", number, hashes, {"files": entries})
        if number:
            self._checkpoints.drop(f"tally-{number - 1:05d}", self._run_id)
        self.files |= stored
        self._count += 1
        self._stop = tally.stop
        self._begin()

    def digest(self) -> str:
        """Return a digest of the ids of all documents, in the order of the input."""
        found = hashlib.sha256()
        for hashes in self._hashes():
            found.update(hashes["members"].tobytes())
        return found.hexdigest()

    def document_ids(self) -> pa.ChunkedArray:
        """Return the ids of all documents."""
        names = list(filter(_has_members, self.files))
        return pa.chunked_array([self._read_ids(name) for name in names], pa.string())

    def check_unique(self, where: str, reporter: Reporter) -> None:
        """Raise `DuplicateIdsError` where two documents of the source `where` have one id.

        Their hashes are compared, `CHECKED_IDS` at a time, and where these are equal the ids.
        """
        total = sum(entry.rows or 0 for entry in self.files.values())
        n_shares = np.uint64(max(1, -(-total // CHECKED_IDS)))
        repeated = [np.empty(0, np.uint64)]
        for share in range(int(n_shares)):
            reporter.cancel.raise_if_cancelled()
            own = [
                hashes[hashes % n_shares == share]
                for part in self._hashes()
                for hashes in part.values()
            ]
            values, counts = np.unique(np.concatenate([*repeated[:1], *own]), return_counts=True)
            repeated.append(values[counts > 1])
        suspects = np.concatenate(repeated)
        if not len(suspects):
            return
        seen = [pa.array([], pa.string())]
        for name in self.files:
            column = self._read_ids(name).drop_null()
            seen.append(column.filter(pa.array(np.isin(hash_ids(column), suspects))))
        counted = pc.value_counts(pa.concat_arrays(seen))
        twice = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
        if len(twice):
            raise not_unique(where, twice)

    def _hashes(self) -> Iterator[Mapping[str, Any]]:
        """Yield the hashes of the ids of each part, of members and of rejected rows."""
        for number in range(self._count):
            done = self._kept("part", number)
            if done is None:
                raise StoreError(
                    f"{self._run_id}: what part {number} left is gone", hint="start it again"
                )
            yield done.arrays

    def _read_ids(self, name: str) -> pa.Array:
        with self._store.open(f"{self._run_id}/{name}") as file:
            table = pq.read_table(file, columns=["document_id"])
        return table["document_id"].combine_chunks()

    def _members(self, ids: pa.Array) -> pa.Table:
        labels = np.concatenate([found.labels for found in self._found])
        similarity = np.concatenate([found.similarity for found in self._found])
        placed = pa.DictionaryArray.from_arrays(
            np.full(len(labels), BY_ASSIGNMENT, np.int8), pa.array(ASSIGNED_BY)
        )
        return members_table(
            ids,
            np.concatenate(self._rows),
            labels,
            paths=self._paths,
            similarity=np.where(labels == NOISE, np.nan, np.clip(similarity, 0, 1)),
            nearest=np.concatenate([found.nearest for found in self._found]),
            nearest_similarity=similarity,
            assigned_by=placed.cast(pa.string()),
        )

    def _put(self, name: str, table: pa.Table) -> FileEntry:
        key = f"{self._run_id}/{name}"
        stored = self._store.put(key, partial(write_parquet, table, self._provenance))
        return FileEntry(**stored._asdict(), rows=table.num_rows)

    def _is_there(self, name: str, entry: FileEntry) -> bool:
        try:
            with self._store.open(f"{self._run_id}/{name}") as file:
                return file.seek(0, os.SEEK_END) == entry.bytes
        except FileNotFoundError:
            return False

    def _kept(self, what: str, number: int) -> Any:
        return self._checkpoints.get(f"{what}-{number:05d}", self._run_id)

    def _keep(
        self, what: str, number: int, arrays: Mapping[str, Any], info: Mapping[str, Any]
    ) -> None:
        self._checkpoints.put(f"{what}-{number:05d}", self._run_id, arrays, info)


def _has_members(name: str) -> bool:
    return name.startswith("members")
