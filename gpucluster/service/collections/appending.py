"""Documents are added: checked, written to a file of their own, and published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.artifacts.store import Store
from gpucluster.errors import DuplicateIdsError, InputError
from gpucluster.notation import shown
from gpucluster.service.collections.columns import extended, fitted
from gpucluster.service.collections.data import write_data
from gpucluster.service.collections.incoming import Upload
from gpucluster.service.collections.removing import Rewritten, but, find_ids
from gpucluster.service.collections.versions import (
    UNPUBLISHED,
    DataFile,
    Keyed,
    Version,
    Versions,
)
from gpucluster.sources.columns import concatenate

OnDuplicate: TypeAlias = Literal["error", "replace", "skip"]


class KeyReused(Exception):  # noqa: N818 - an answer
    """The key stands for an append of other documents."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of documents that were sent.

    Attributes
    ----------
    version : Version
        The first that has them.
    added, replaced, skipped : int
        How many are new, stand for one that was there, or were there and stayed out.
    is_new : bool
        Whether the version was made now, and not by an earlier request of the same key.
    """

    version: Version
    added: int
    replaced: int = 0
    skipped: int = 0
    is_new: bool = True


def append(
    store: Store,
    versions: Versions,
    upload: Upload,
    *,
    now: datetime,
    on_duplicate: OnDuplicate = "error",
    key: str | None = None,
    pinned: int | None = None,
) -> Appended:
    """Add documents to a collection.

    Parameters
    ----------
    store : Store
    versions : Versions
    upload : Upload
    now : datetime
    on_duplicate : {"error", "replace", "skip"}
        What to do about an id that the collection has.
    key : str, optional
        The same key with the same content is added once.
    pinned : int, optional
        The version that they are to be added to, and to no later one.

    Returns
    -------
    Appended

    Raises
    ------
    DuplicateIdsError
        An id is there twice, or in the collection.
    InputError, SourceError
        A document does not fit.
    KeyReused, Overtaken
        See there.
    """
    ids = _read_ids(upload, versions)
    attempt = _Attempt(store, versions, upload, ids, on_duplicate, now, key)
    earlier = attempt.earlier(versions.latest())
    if earlier is not None:  # also when it was pinned to what was there before
        return earlier
    try:
        version, is_new = versions.revise(attempt.change, pinned=pinned)
    except UNPUBLISHED:
        attempt.forget()
        raise
    if not is_new:
        attempt.forget()
        return attempt.earlier(version) or Appended(
            version, 0, skipped=attempt.skipped, is_new=False
        )
    attempt.forget(version)
    return Appended(version, attempt.added, attempt.replaced, attempt.skipped)


def _read_ids(upload: Upload, versions: Versions) -> pa.Array:
    """Return the ids of all documents, which are all different."""
    latest = versions.latest()
    if latest is None:
        raise LookupError(versions.folder)
    id_column = latest.id_column
    schema = pa.schema([latest.schema.field(id_column)])
    batches = (fitted(b, schema, id_column, {}, upload.where) for b in upload.batches([id_column]))
    ids = concatenate([pa.array([], schema.field(0).type), *(b.column(0) for b in batches)])
    if not len(ids):
        raise InputError("there are no documents in it")
    check_distinct(ids, f"{upload.where}: ")
    return ids


def check_distinct(ids: pa.Array, where: str = "") -> None:
    """Refuse ids that are there twice; `where` comes first in the message."""
    if pc.count_distinct(ids).as_py() < len(ids):
        counted = pc.value_counts(ids)
        twice = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
        raise DuplicateIdsError(
            f"{where}{len(twice):,} ids are there more than once, such as "
            f"{shown(str(twice[0]), 60)}"
        )


class _Written(NamedTuple):
    """The file that was written, and of what; None where nothing was left to write."""

    schema: pa.Schema
    skipped: pa.Array
    file: DataFile | None


class _Attempt:
    """One append, which may have to look again at what others have published meanwhile."""

    def __init__(
        self,
        store: Store,
        versions: Versions,
        upload: Upload,
        ids: pa.Array,
        on_duplicate: OnDuplicate,
        now: datetime,
        key: str | None,
    ) -> None:
        self._store = store
        self._versions = versions
        self._upload = upload
        self._ids = ids
        self._on_duplicate = on_duplicate
        self._now = now
        self._key = key
        self._looked: dict[str, pa.Array] = {}  # ids that files have, by the name of the file
        self._written: _Written | None = None
        self._rewritten = Rewritten(store, versions)
        self.added = self.replaced = self.skipped = 0

    def earlier(self, version: Version | None) -> Appended | None:
        """Return what the same key has already done."""
        if version is None or self._key is None or self._key not in version.keys:
            return None
        noted = version.keys[self._key]
        if noted.sha256 != self._upload.sha256:
            raise KeyReused
        return Appended(self._versions.read(noted.version), noted.rows, is_new=False)

    def change(self, latest: Version) -> Version | None:
        if self.earlier(latest) is not None:
            return None
        found = self._known(latest)
        if len(found) and self._on_duplicate == "error":
            raise DuplicateIdsError(
                f"{len(found):,} ids are in {latest.collection_id} already, such as "
                f"{shown(str(found[0]), 60)}",
                hint="on_duplicate says whether they replace what is there, or are skipped",
            )
        skipped = found if self._on_duplicate == "skip" else found[:0]
        self.skipped = len(skipped)
        self.replaced = len(found) if self._on_duplicate == "replace" else 0
        self.added = len(self._ids) - self.skipped - self.replaced
        own = [latest.id_column, *latest.vector_columns]
        schema = extended(latest.schema, self._upload.schema, own)
        added = self._write(latest, schema, skipped)
        if added is None:
            return None
        kept = [file for file in self._kept(latest, found) if file is not None and file.rows]
        noted = Keyed(
            version=latest.number + 1, sha256=self._upload.sha256, rows=self.added + self.replaced
        )
        return latest.next(
            "append",
            self._now,
            schema=schema,
            files=(*kept, added),
            keys=latest.keys if self._key is None else latest.with_key(self._key, noted),
            details={"added": self.added, "replaced": self.replaced, "skipped": self.skipped},
        )

    def forget(self, kept: Version | None = None) -> None:
        """Remove what was written, but for what a version names."""
        if kept is None:
            self._drop()
        self._rewritten.forget(kept)

    def _kept(self, latest: Version, found: pa.Array) -> Iterator[DataFile | None]:
        """Yield the files that are there, without the documents that are replaced."""
        for file in latest.files:
            if self.replaced and len(self._looked[file.name]):
                yield self._rewritten.file(file, latest, but(found, latest.id_column))
            else:
                yield file

    def _known(self, version: Version) -> pa.Array:
        for file in version.files:
            if file.name not in self._looked:
                self._looked[file.name] = find_ids(self._versions, file, version, self._ids)
        found = [self._looked[file.name] for file in version.files]
        return concatenate([pa.array([], self._ids.type), *found])

    def _write(self, latest: Version, schema: pa.Schema, skipped: pa.Array) -> DataFile | None:
        """Write the documents, unless the same ones have been written already."""
        if self._written is not None:
            if self._written.schema.equals(schema) and self._written.skipped.equals(skipped):
                return self._written.file
            self._drop()
        file = None
        if self.added + self.replaced:
            rows = self._rows(latest, schema, skipped)
            folder = self._versions.folder
            file = write_data(self._store, folder, schema, rows, latest.id_column)
        self._written = _Written(schema, skipped, file)
        return file

    def _drop(self) -> None:
        if self._written is not None and self._written.file is not None:
            self._store.delete(self._versions.key(self._written.file))
        self._written = None

    def _rows(
        self, latest: Version, schema: pa.Schema, skipped: pa.Array
    ) -> Iterator[pa.RecordBatch]:
        for batch in self._upload.batches(None):
            fit = fitted(batch, schema, latest.id_column, latest.features, self._upload.where)
            yield fit.filter(but(skipped, latest.id_column)(fit)) if len(skipped) else fit
