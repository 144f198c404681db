"""A run that is written part by part, so that an interrupted one goes on after its last part."""

from __future__ import annotations

import hashlib
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
    LocalStore,
    members_table,
    rejected_table,
)
from gpucluster.artifacts.schema import write_parquet
from gpucluster.assignment import ASSIGNED_BY, BY_ASSIGNMENT, Assigned
from gpucluster.errors import DuplicateIdsError
from gpucluster.events import Reporter
from gpucluster.ops.id_hash import hash_ids
from gpucluster.ops.nesting import node_paths
from gpucluster.sources import Stretch
from gpucluster.stages import digest
from gpucluster.tally import Tally
from gpucluster.types import NOISE, Labels

PART_ROWS = 1 << 20  # members of one file
CHECKED_IDS = 1 << 24  # compared with each other at a time
SHOWN = 5  # ids in one message


class Parts:
    """The members and rejected rows of a run, in files that each hold a stretch of the input.

    Parameters
    ----------
    store : LocalStore
        The caller holds the lease of `run_id`.
    run_id : str
    parents : ndarray of shape (n_nodes,), int32
        Of the clusters.
    provenance : dict of str to str
        Goes into the files.

    Attributes
    ----------
    files : dict of str to FileEntry
        Those that are on the disk, by name.
    """

    def __init__(
        self, store: LocalStore, run_id: str, parents: Labels, provenance: Mapping[str, str]
    ) -> None:
        self.files: dict[str, FileEntry] = {}
        self._store = store
        self._run_id = run_id
        self._paths = node_paths(parents)
        self._provenance = provenance
        self._checkpoints = Checkpoints(store, run_id)
        self._digests: list[str] = []
        self._stop = 0
        self._begin()

    def _begin(self) -> None:
        self._ids: list[pa.Array] = []
        self._rows: list[Any] = []
        self._found: list[Assigned] = []
        self._rejected: list[pa.Table] = []
        self._n_rows = 0

    @property
    def is_full(self) -> bool:
        """Whether the rows since the last part make one."""
        return self._n_rows >= PART_ROWS

    def resume(self, tally: Tally) -> None:
        """Take over the parts that an earlier attempt finished, and what it had counted."""
        while (done := self._kept("part", len(self._digests))) is not None:
            files = {name: FileEntry(**entry) for name, entry in done.info["files"].items()}
            if not all(self._is_there(name, entry) for name, entry in files.items()):
                return
            self.files |= files
            self._digests.append(done.info["digest"])
            tally.restore(done.arrays, done.info["tally"])
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
        if self._digests and tally.stop == self._stop:
            return
        number = len(self._digests)
        ids = pa.concat_arrays([pa.array([], pa.string()), *self._ids])
        hashes = hash_ids(ids)
        files: dict[str, FileEntry] = {}
        if len(ids):
            files[f"members-{number:05d}.parquet"] = self._members(ids)
        bad = [table for table in self._rejected if table.num_rows]
        if bad:
            files[f"rejected-{number:05d}.parquet"] = rejected_table(pa.concat_tables(bad))
        stored = {name: self._put(name, table) for name, table in files.items()}
        arrays, counted = tally.state()
        content = hashlib.sha256(hashes.tobytes()).hexdigest()
        self._keep("ids", number, {"hashes": hashes}, {})
        entries = {name: entry.model_dump() for name, entry in stored.items()}
        self._keep(
            *("part", number, arrays),
            {"tally": counted, "files": entries, "digest": content},
        )
        self.files |= stored
        self._digests.append(content)
        self._stop = tally.stop
        self._begin()

    def digest(self) -> str:
        """Return a digest of the documents of all parts."""
        return digest("", parts=self._digests)

    def check_unique(self, reporter: Reporter) -> None:
        """Raise `DuplicateIdsError` where two documents have one id.

        Their hashes are compared, `CHECKED_IDS` at a time, and where these are equal the ids.
        """
        total = sum(entry.rows or 0 for name, entry in self.files.items() if _has_members(name))
        n_shares = np.uint64(max(1, -(-total // CHECKED_IDS)))
        repeated = [np.empty(0, np.uint64)]
        for share in range(int(n_shares)):
            reporter.cancel.raise_if_cancelled()
            own = [hashes[hashes % n_shares == share] for hashes in self._hashes()]
            values, counts = np.unique(np.concatenate([*repeated[:1], *own]), return_counts=True)
            repeated.append(values[counts > 1])
        suspects = np.concatenate(repeated)
        if not len(suspects):
            return
        seen = [pa.array([], pa.string())]
        for name in filter(_has_members, self.files):
            table = pq.read_table(self._store.root / self._run_id / name, columns=["document_id"])
            column = table["document_id"].combine_chunks()
            seen.append(column.filter(pa.array(np.isin(hash_ids(column), suspects))))
        counted = pc.value_counts(pa.concat_arrays(seen))
        twice = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
        if len(twice):
            more = ", ..." if len(twice) > SHOWN else ""
            raise DuplicateIdsError(
                f"ids must be unique, {len(twice):,} are not: "
                f"{', '.join(map(repr, twice[:SHOWN].to_pylist()))}{more}",
                hint="name a column of unique ids with id_column, or remove the duplicates",
            )

    def _hashes(self) -> Iterator[Any]:
        for number in range(len(self._digests)):
            done = self._kept("ids", number)
            if done is not None:
                yield done.arrays["hashes"]

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
        path = self._store.root / self._run_id / name
        return path.is_file() and path.stat().st_size == entry.bytes

    def _kept(self, what: str, number: int) -> Any:
        return self._checkpoints.get(f"{what}-{number:05d}", self._run_id)

    def _keep(
        self, what: str, number: int, arrays: Mapping[str, Any], info: Mapping[str, Any]
    ) -> None:
        self._checkpoints.put(f"{what}-{number:05d}", self._run_id, arrays, info)


def _has_members(name: str) -> bool:
    return name.startswith("members")
