"""Taxonomies in a folder, on a disk or in a bucket: what they are called, and their versions.

    <out>/<taxonomy_id>/
      taxonomy.json                    name, description, metadata: the one file that may change
      versions/00000001/manifest.json  written last, and only if there is none; then it is fixed
      versions/00000001/centroids.parquet, model/

A taxonomy exists with ``taxonomy.json`` and its first finished version. It is deleted with the
former; what is left of one that is gone is swept away before a new one takes its place.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue

from gpucluster.artifacts import Manifest, Run, Store, open_store, write_files
from gpucluster.artifacts.files import digest, read_sealed, seal
from gpucluster.artifacts.manifest import FILE_NAME, RunId
from gpucluster.errors import (
    ArtifactError,
    CorruptArtifactError,
    RunLockedError,
    TaxonomyNotFoundError,
)
from gpucluster.events import Reporter
from gpucluster.places import Place

if TYPE_CHECKING:
    from gpucluster.taxonomy.freezing import Frozen

SCHEMA_VERSION = 1
RECORD = "taxonomy.json"
VERSIONS = "versions"
PREFIX, DIGITS = "tax_", 16
WAIT_S, ASK_AGAIN_S = 90.0, 0.05  # for another writer; a lease in a bucket ends after a minute


class Record(BaseModel):
    """What a taxonomy is called: the content of ``taxonomy.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    taxonomy_id: RunId
    taxonomy_name: str
    description: str | None = None
    metadata: dict[str, JsonValue] = {}
    source_taxonomy_id: RunId | None = None
    created_at: AwareDatetime
    updated_at: AwareDatetime

    @classmethod
    def new(cls, taxonomy_id: str, name: str, **fields: Any) -> Self:
        """Return the record of a taxonomy that begins now."""
        now = datetime.now(UTC)
        return cls(
            taxonomy_id=taxonomy_id, taxonomy_name=name, created_at=now, updated_at=now, **fields
        )


class Shelf:
    """The taxonomies in a folder.

    Parameters
    ----------
    out : Path or ObjectPath
        Runs may lie there, too.
    """

    def __init__(self, out: Place) -> None:
        self._store: Store = open_store(out)

    @property
    def root(self) -> Place:
        """The folder."""
        return self._store.root

    def ids(self) -> list[str]:
        """Return the ids of the taxonomies that exist, sorted."""
        return [
            name
            for name in self._store.list()
            if name.startswith(PREFIX) and self.is_there(name) and self.versions(name)
        ]

    def is_there(self, taxonomy_id: str) -> bool:
        """Whether a taxonomy has a record."""
        return self._store.exists(f"{taxonomy_id}/{RECORD}")

    def id_of(self, name: str) -> str:
        """Return the id of the taxonomy of a name, or one that it may have."""
        taken: set[str] = set()
        for folder in self._store.list():
            if folder.startswith(PREFIX) and self.is_there(folder):
                if self.record(folder).taxonomy_name == name:
                    return folder
                taken.add(folder)
        key = name
        while (found := PREFIX + digest({"taxonomy_name": key})[:DIGITS]) in taken:
            key += "\0"  # the one of this name is called otherwise by now
        return found

    def record(self, taxonomy_id: str) -> Record:
        """Return what a taxonomy is called.

        Raises
        ------
        TaxonomyNotFoundError, CorruptArtifactError, SchemaTooNewError
            There is none, or it is damaged, or of a newer version.
        """
        where = self.root / taxonomy_id / RECORD
        try:
            text = self._store.read_bytes(f"{taxonomy_id}/{RECORD}")
        except FileNotFoundError as error:
            raise TaxonomyNotFoundError(f"no taxonomy at {where.parent}") from error
        try:
            return Record.model_validate_json(json.dumps(read_sealed(text, where, SCHEMA_VERSION)))
        except (ValueError, TypeError, RecursionError) as error:
            raise CorruptArtifactError(
                f"{where} is damaged: {str(error).splitlines()[0]}",
                hint="promote its run again, into another folder",
            ) from error

    def write_record(self, record: Record) -> None:
        """Publish what a taxonomy is called; the caller holds it."""
        text = seal(json.loads(record.model_dump_json()))
        self._store.put(f"{record.taxonomy_id}/{RECORD}", methodcaller("write", text))

    def versions(self, taxonomy_id: str) -> list[int]:
        """Return the numbers of the finished versions, ascending."""
        folder = f"{taxonomy_id}/{VERSIONS}"
        return [
            int(name)
            for name in self._store.list(folder)
            if re.fullmatch(r"\d{8}", name) and self._store.exists(f"{folder}/{name}/{FILE_NAME}")
        ]

    def version(self, taxonomy_id: str, number: int) -> Run:
        """Open a version, as the base of rows that join it.

        Raises
        ------
        TaxonomyNotFoundError
            There is none of that number.
        """
        path = self.root / taxonomy_id / VERSIONS / f"{number:08d}"
        found = Run.if_finished(path)
        if found is None:
            known = ", ".join(map(str, self.versions(taxonomy_id)))
            raise TaxonomyNotFoundError(
                f"{taxonomy_id} has no version {number}", hint=f"it has {known}" if known else None
            )
        return found

    @contextmanager
    def held(self, taxonomy_id: str, reporter: Reporter) -> Iterator[None]:
        """Hold a taxonomy for this writer alone; wait while another one does."""
        until = time.monotonic() + WAIT_S
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._store.lease(taxonomy_id))
                    break
                except RunLockedError:
                    if time.monotonic() > until:
                        raise
                reporter.cancel.raise_if_cancelled()
                time.sleep(ASK_AGAIN_S)
            yield

    @contextmanager
    def named(self, name: str, reporter: Reporter) -> Iterator[str]:
        """Hold the taxonomy of a name, or the id that it may have; yield that id.

        Whoever gives a name holds it like this, so that no two taxonomies get it.
        """
        while True:
            taxonomy_id = self.id_of(name)
            with self.held(taxonomy_id, reporter):
                if self.id_of(name) == taxonomy_id:  # else it was given meanwhile, or is free again
                    yield taxonomy_id
                    return

    def add(self, record: Record, frozen: Frozen) -> int:
        """Write the next version of a taxonomy; return its number. The caller holds it.

        The latest one is returned where the same was promoted in the same way.
        """
        taxonomy_id = record.taxonomy_id
        known = self._begun(record)
        if known:
            latest: Any = self.version(taxonomy_id, known[-1]).manifest.taxonomy
            if latest["promotion_sha256"] == frozen.facts["promotion_sha256"]:
                return known[-1]
        number = known[-1] + 1 if known else 1
        folder = f"{taxonomy_id}/{VERSIONS}/{number:08d}"
        self._sweep(folder)  # what a writer that was killed has left
        # a version says where it comes from, not what it is called: copies of it are the same
        files = write_files(
            self._store,
            folder,
            tables={"centroids": frozen.table},
            model=frozen.model,
            provenance={"run_id": frozen.manifest.run_id},
        )
        self._publish(frozen.manifest, frozen.facts, taxonomy_id, number, files)
        return number

    def copy(self, version: Run, record: Record) -> int:
        """Write a version of another taxonomy as the first one of this. The caller holds it."""
        self._begun(record)
        folder = f"{record.taxonomy_id}/{VERSIONS}/{1:08d}"
        self._sweep(folder)
        for name in version.manifest.files:
            with (version.path / name).open("rb") as file:
                self._store.put(f"{folder}/{name}", partial(shutil.copyfileobj, file))
        manifest = version.manifest
        self._publish(manifest, manifest.taxonomy or {}, record.taxonomy_id, 1, manifest.files)
        return 1

    def delete(self, taxonomy_id: str) -> None:
        """Delete a taxonomy and all its versions. The caller holds it."""
        self._store.delete(f"{taxonomy_id}/{RECORD}")  # from here on there is none
        self._sweep(f"{taxonomy_id}/{VERSIONS}")

    def _begun(self, record: Record) -> list[int]:
        """Write the record of a taxonomy that has none; return the versions that there are."""
        taxonomy_id = record.taxonomy_id
        if not self.is_there(taxonomy_id):
            self._sweep(f"{taxonomy_id}/{VERSIONS}")  # of one that was deleted, and not to its end
            self.write_record(record)
        return self.versions(taxonomy_id)

    def _publish(
        self,
        manifest: Manifest,
        facts: Mapping[str, Any],
        taxonomy_id: str,
        number: int,
        files: Mapping[str, Any],
    ) -> None:
        """Write the manifest, which makes a version exist."""
        named = manifest.model_copy(
            update={
                "run_id": f"{taxonomy_id}-v{number}",
                "definition_key": digest({"taxonomy_id": taxonomy_id})[:16],
                "taxonomy": {**facts, "taxonomy_id": taxonomy_id, "version": number},
                "completed_at": datetime.now(UTC),
                "files": dict(files),
            }
        )
        key = f"{taxonomy_id}/{VERSIONS}/{number:08d}/{FILE_NAME}"
        try:
            self._store.put(key, methodcaller("write", named.to_json()), absent=True)
        except FileExistsError as error:  # a lease that was lost; what is there stays
            raise RunLockedError(
                f"version {number} of {taxonomy_id} has been written by another process",
                hint="promote again: that makes the next one",
            ) from error

    def _sweep(self, prefix: str) -> None:
        """Delete all that lies below a folder, and the folder."""
        for name in self._store.list(prefix):
            self._sweep(f"{prefix}/{name}")
        self._store.delete(prefix)
        folder = self.root / prefix
        if isinstance(folder, Path) and folder.is_dir():
            try:
                folder.rmdir()
            except OSError as error:
                raise ArtifactError(f"cannot remove {folder}: {error.strerror}") from error
