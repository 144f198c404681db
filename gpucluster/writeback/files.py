"""Files of documents written once more, with new columns; nothing refers to them yet."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from gpucluster.artifacts.files import digest
from gpucluster.artifacts.parquet import parquet_options
from gpucluster.artifacts.store import Store
from gpucluster.errors import Cancelled, ConfigError, InputError, SchemaMismatchError
from gpucluster.events import Reporter
from gpucluster.notation import describe
from gpucluster.sources.digests import file_state
from gpucluster.sources.documents import DocumentFile
from gpucluster.writeback.knowing import Known
from gpucluster.writeback.marks import (
    METADATA,
    EnrichedFile,
    counts_of,
    own_columns,
    stored_record,
)

GROUP_ROWS = 1 << 16  # of a row group at least ...
GROUP_BYTES = 64 << 20  # ... unless it has so many bytes


@dataclass(frozen=True, slots=True)
class Manner:
    """How documents are read and written, whatever the run.

    Attributes
    ----------
    id_column : str or None
        Where their ids are; None: as the run or the collection says, else found by its name.
    overwrite : bool
        Whether columns that gpucluster has not written may be replaced.
    batch_rows : int or None
        Documents that are read and joined at a time, at most; None: what 32 MB hold.
    parallelism : int
        Files that are written at a time.
    """

    id_column: str | None = None
    overwrite: bool = False
    batch_rows: int | None = None
    parallelism: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_rows", "parallelism"):
            value = getattr(self, name)
            if value is None and name == "batch_rows":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"got {describe(value)}, expected a number from 1 on", path=name, got=value
                )


def plain_names(files: Sequence[DocumentFile]) -> list[str]:
    """Return the names of files as Parquet files; equal ones are numbered."""
    stems = [_stem(file) for file in files]
    return [
        f"{stem}.parquet" if stems.count(stem) == 1 else f"{stem}-{number:05d}.parquet"
        for number, stem in enumerate(stems)
    ]


def check_columns(
    known: Known,
    files: Iterable[DocumentFile],
    manner: Manner,
    *,
    own: Collection[str] = (),
    needed: Collection[str] = (),
) -> None:
    """Raise where a new column has the name of one that is not ours.

    Parameters
    ----------
    known : Known
    files : iterable of DocumentFile
    manner : Manner
    own : collection of str
        Columns that an earlier enrichment has written, beside those that the files name.
    needed : collection of str
        Columns that are never replaced, beside the ids.

    Raises
    ------
    ConfigError
        With the names.
    """
    for file in files:
        taken = set(known.knowledge.schema.names) & set(file.schema.names)
        taken -= own_columns(file) | set(own)
        if never := sorted(taken & {*needed, file.id_column}):
            raise ConfigError(
                f"{file.path}: {', '.join(never)} is what the documents are read by",
                path="fields",
                hint="write it under another name, by a mapping",
            )
        if taken and not manner.overwrite:
            raise ConfigError(
                f"{file.path} has a column {', '.join(sorted(taken))} that gpucluster has not "
                "written",
                path="fields",
                hint="write under another name, by a mapping, or say overwrite",
            )


def keys_of(
    known: Known,
    files: Sequence[DocumentFile],
    own: Collection[str] = (),
    kept: Collection[str] = (),
) -> list[str]:
    """Return a digest for each file, of all that it depends on when it is enriched."""
    columns = sorted(own), sorted(kept)
    # of the files as they are before they are read: what changes meanwhile is written anew
    return [
        digest([file_state(file.path), known.key, columns, None if known.has_ids else begin])
        for file, begin in zip(files, _begins(files), strict=True)
    ]


def enrich_files(
    known: Known,
    files: Sequence[DocumentFile],
    store: Store,
    folder: str,
    manner: Manner,
    *,
    names: Sequence[str] | None = None,
    own: Collection[str] = (),
    kept: Collection[str] = (),
    reporter: Reporter,
) -> list[EnrichedFile]:
    """Write files of documents with all their columns, and those that a run knows.

    Nothing is published: whoever wants the files to be read names them. A file that was finished
    before, of the same documents and the same run, is kept as it is.

    Parameters
    ----------
    known : Known
        What the run knows.
    files : sequence of DocumentFile
        In the order of the rows. `check_columns` has been asked about them.
    store : Store
        Where to.
    folder : str
        Key of the folder in the store.
    manner : Manner
    names : sequence of str, optional
        One for each file. Omitted: names that no other content has.
    own : collection of str
        As for `check_columns`; they are left out, as are those that the files name.
    kept : collection of str
        But for these: what another run has written, and is to stay beside what is new.
    reporter : Reporter

    Returns
    -------
    list of EnrichedFile

    Raises
    ------
    InputError
        The run knows documents by their rows, and these are not its rows.
    SourceError, StoreError, Cancelled
        Files that are finished by then stay.

    Notes
    -----
    Memory: for each file at work a row group twice, whatever the number of documents.
    """
    total = sum(file.n_rows for file in files)
    if not known.has_ids and total != known.n_rows:
        raise InputError(
            f"{known.run_id} knows its documents by their rows, {known.n_rows:,} of them, "
            f"got {total:,}",
            hint="give the files that it was made of, in their order",
        )
    keys = keys_of(known, files, own, kept)
    if names is None:
        names = [f"{_stem(file)}-{key[:12]}.parquet" for file, key in zip(files, keys, strict=True)]
    work = _Work(known, store, folder, set(own), set(kept), manner.batch_rows, reporter, total)
    with _threads(manner.parallelism, work.stopped) as threads:
        coming = [
            threads.submit(work.write, *each)
            for each in zip(files, names, _begins(files), keys, strict=True)
        ]
        done, _ = wait(coming, return_when=FIRST_EXCEPTION)
        for each in done:  # what has failed, and not what was stopped because of it
            each.result()
        return [each.result() for each in coming]


class _Work:
    """What the threads that write files have in common."""

    def __init__(
        self,
        known: Known,
        store: Store,
        folder: str,
        own: set[str],
        kept: set[str],
        batch_rows: int | None,
        reporter: Reporter,
        total: int,
    ) -> None:
        self._known = known
        self._store = store
        self._folder = folder
        self._own = own
        self._kept = kept
        self._batch_rows = batch_rows
        self._reporter = reporter
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self._now = datetime.now(UTC).isoformat(timespec="seconds")

    def write(self, file: DocumentFile, name: str, begin: int, key: str) -> EnrichedFile:
        """Write one file, unless it is there."""
        target = f"{self._folder}/{name}"
        if (finished := self._finished(file, target, name, key)) is not None:
            self._progress(file.n_rows)
            return finished
        counts = {"rows": 0, "enriched": 0, "num_noise": 0, "batches": 0}
        record = {
            "run_id": self._known.run_id,
            "enriched_at": self._now,
            "columns": self._known.knowledge.schema.names,
            "kept": sorted(self._ours(file) & self._kept),
            "asked": self._known.key,
            "key": key,
        }

        def write(content: BinaryIO) -> None:
            schema = self._schema(file)
            options = parquet_options(schema, plain=file.id_column)
            with _storing(file), pq.ParquetWriter(content, schema, **options) as writer:
                for group in _groups(self._batches(file, schema, begin, counts)):
                    writer.write_table(group, row_group_size=group.num_rows)
                writer.add_key_value_metadata({METADATA: json.dumps(record | counts).encode()})

        stored = self._store.put(target, write)
        return EnrichedFile(name, file.path, stored.bytes, stored.sha256, **counts, reused=False)

    def _ours(self, file: DocumentFile) -> set[str]:
        return own_columns(file) | self._own

    def _schema(self, file: DocumentFile) -> pa.Schema:
        new = self._known.knowledge.schema
        gone = self._ours(file) - self._kept | set(new.names)
        kept = [field for field in file.schema if field.name not in gone]
        metadata = {k: v for k, v in (file.schema.metadata or {}).items() if k != METADATA}
        return pa.schema([*kept, *new], metadata or None)

    def _batches(
        self, file: DocumentFile, schema: pa.Schema, begin: int, counts: dict[str, int]
    ) -> Iterator[pa.RecordBatch]:
        knowledge = self._known.knowledge
        n_kept = len(schema) - len(knowledge.schema)
        for batch in file.batches(self._batch_rows):
            n_rows = batch.num_rows
            joined = knowledge.join(file.ids(batch), begin + counts["rows"], n_rows)
            kept = [batch.column(schema.field(i).name) for i in range(n_kept)]
            yield pa.record_batch([*kept, *joined.columns], schema=schema)
            counts["rows"] += n_rows
            counts["enriched"] += joined.num_known
            counts["num_noise"] += joined.num_noise
            counts["batches"] += 1
            self._progress(n_rows)

    def _progress(self, n_rows: int) -> None:
        with self._lock:
            self._done += n_rows
            done = self._done
        if self.stopped.is_set():
            raise Cancelled("another file has failed")
        self._reporter.progress(done, self._total, "documents")

    def _finished(
        self, file: DocumentFile, target: str, name: str, key: str
    ) -> EnrichedFile | None:
        """Return the file of that name, where it holds what would be written."""
        record = stored_record(self._store, target)
        if record.get("key") != key:
            return None
        with self._store.open(target) as stored:
            sha256 = hashlib.file_digest(stored, "sha256").hexdigest()
            n_bytes = stored.tell()
        return EnrichedFile(name, file.path, n_bytes, sha256, **counts_of(record), reused=True)


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Put small batches together: a reader wants row groups of some size."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        rows = sum(each.num_rows for each in held)
        if rows >= GROUP_ROWS or sum(each.nbytes for each in held) >= GROUP_BYTES:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


@contextmanager
def _storing(file: DocumentFile) -> Iterator[None]:
    """Say of which documents something is that Parquet has no place for."""
    try:
        yield
    except pa.ArrowException as error:
        raise SchemaMismatchError(
            f"{file.path}: it cannot be stored as Parquet ({' '.join(str(error).split())[:120]})",
            hint="leave the column out, or write it with another type",
        ) from error


@contextmanager
def _threads(n_threads: int, stopped: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Give threads that end soon where one of them has failed."""
    threads = ThreadPoolExecutor(max(1, n_threads), "gpucluster-enrich")
    try:
        yield threads
    except BaseException:
        stopped.set()
        raise
    finally:
        threads.shutdown(cancel_futures=True)


def _begins(files: Sequence[DocumentFile]) -> list[int]:
    return [sum(file.n_rows for file in files[:i]) for i in range(len(files))]


def _stem(file: DocumentFile) -> str:
    """Return the name of a file without its end, and without our own, as a store takes it."""
    name = file.path.rpartition("/")[2]
    for end in (".gz", ".zst"):
        name = name.removesuffix(end)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", name.rpartition(".")[0] or name)
    if own_columns(file):
        name = re.sub(r"-[0-9a-f]{12}$", "", name)
    return name.lstrip("._-")[:80] or "documents"
