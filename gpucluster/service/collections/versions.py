"""Versions of a collection: manifests with consecutive numbers, each written once.

The next number is the commit point. Of those who write it one wins, the others look at what is
there now and try again; so no append is lost and readers see all of a change or nothing of it.
Data files are there before the manifest that names them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from gpucluster.artifacts.store import Store
from gpucluster.errors import (
    ArtifactError,
    ConfigError,
    CorruptArtifactError,
    InputError,
    SourceError,
)
from gpucluster.places import Place, is_address
from gpucluster.sources.collection import Collection, Feature

FORMAT = 1
NAME = r"[0-9]{8}\.collection\.json"
KEYS_KEPT = 256  # of the latest appends
ATTEMPTS = 200  # of one change, each time overtaken by another

Made: TypeAlias = Literal["create", "append", "delete", "enrich", "undo", "compact"]


class Overtaken(Exception):  # noqa: N818 - it says what happened, as FileExistsError does
    """A version of that number is there already."""


# What tells for sure that nothing was published; of what a store raises, nobody knows.
UNPUBLISHED = (Overtaken, LookupError, ConfigError, InputError, SourceError, ArtifactError)


class _Noted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DataFile(_Noted):
    """A Parquet file of a version."""

    name: str = Field(description="Path from the folder of the manifest, or where else it lies.")
    rows: int
    bytes: int
    sha256: str | None = Field(
        default=None, description="Null for a file that stayed where it was."
    )
    state: str | None = Field(default=None, description="What changes when such a file does.")
    before: str | None = Field(
        default=None, description="The file that it was made of, by adding columns."
    )
    run_id: str | None = Field(default=None, description="The run whose columns those are.")


class Enrichment(_Noted):
    """Columns that a run has written."""

    run_id: str
    columns: tuple[str, ...]
    version: int = Field(description="The version that has them first.")
    created_at: AwareDatetime


class Keyed(_Noted):
    """An append that was given a key, so that it happens once."""

    version: int
    sha256: str = Field(description="Of what was appended.")
    rows: int


class _Meta(_Noted):
    """What the manifest of a version has besides what the engine reads."""

    format: int
    version: int
    parent: int | None = None
    created_at: AwareDatetime
    made_by: Made
    details: dict[str, JsonValue]
    n_rows: int
    columns: dict[str, str]
    arrow_schema: str
    files: tuple[DataFile, ...]
    enrichments: tuple[Enrichment, ...] = ()
    keys: dict[str, Keyed] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What a collection holds at one moment.

    Attributes
    ----------
    collection_id : str
    number : int
        From 1.
    created_at : datetime
    made_by : str
        What kind of change it is.
    details : mapping
        JSON values about that change.
    id_column : str
    text_column : str or None
    features : mapping of str to Feature
        By their URIs; each names its column.
    schema : pyarrow.Schema
        All columns of all files; a file may lack some.
    files : tuple of DataFile
        In reading order.
    enrichments : tuple of Enrichment
        Those that hold, in the order they came.
    keys : mapping of str to Keyed
        The latest appends that have one.
    parent : int or None
        The number of the version before.
    """

    collection_id: str
    number: int
    created_at: Any
    made_by: Made
    id_column: str
    text_column: str | None
    features: Mapping[str, Feature]
    schema: pa.Schema
    files: tuple[DataFile, ...]
    details: Mapping[str, JsonValue]
    enrichments: tuple[Enrichment, ...] = ()
    keys: Mapping[str, Keyed]
    parent: int | None = None

    @property
    def n_rows(self) -> int:
        """Documents in it."""
        return sum(file.rows for file in self.files)

    @property
    def vector_columns(self) -> list[str]:
        """The columns of its features."""
        return [feature.column for feature in self.features.values() if feature.column]

    @property
    def payload(self) -> list[str]:
        """All other columns but the ids."""
        hidden = {self.id_column, *self.vector_columns}
        return [name for name in self.schema.names if name not in hidden]

    @property
    def columns(self) -> dict[str, str]:
        """Types of the payload."""
        return {name: str(self.schema.field(name).type) for name in self.payload}

    def next(self, made_by: Made, created_at: Any, **changes: Any) -> Version:
        """Return what comes after it."""
        own: dict[str, Any] = {"number": self.number + 1, "parent": self.number, "details": {}}
        return replace(self, made_by=made_by, created_at=created_at, **own | changes)

    def with_key(self, key: str, noted: Keyed) -> dict[str, Keyed]:
        """Return its keys and another one; the oldest are let go."""
        kept = {**self.keys, key: noted}
        return dict([*kept.items()][-KEYS_KEPT:])

    def to_manifest(self) -> bytes:
        """Return it as the engine reads it."""
        meta = _Meta(
            format=FORMAT,
            version=self.number,
            parent=self.parent,
            created_at=self.created_at,
            made_by=self.made_by,
            details=dict(self.details),
            n_rows=self.n_rows,
            columns=self.columns,
            arrow_schema=base64.b64encode(self.schema.serialize()).decode(),
            files=self.files,
            enrichments=self.enrichments,
            keys=dict(self.keys),
        )
        collection = Collection(
            collection_id=self.collection_id,
            files=tuple(file.name for file in self.files),
            id_column=self.id_column,
            text_column=self.text_column,
            features=dict(self.features),
            meta=meta.model_dump(mode="json", exclude_none=True),
        )
        body = collection.model_dump(mode="json", exclude_none=True)
        return json.dumps(body, indent=1).encode() + b"\n"

    @classmethod
    def from_manifest(cls, collection: Collection) -> Version:
        """Return what a manifest says; ``ValidationError`` where no version wrote it."""
        meta = _Meta.model_validate(collection.meta)
        return cls(
            collection_id=collection.collection_id,
            number=meta.version,
            created_at=meta.created_at,
            made_by=meta.made_by,
            details=meta.details,
            id_column=collection.id_column or "document_id",
            text_column=collection.text_column,
            features=collection.features,
            schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(meta.arrow_schema))),
            files=meta.files,
            enrichments=meta.enrichments,
            keys=meta.keys,
            parent=meta.parent,
        )


def folder_of(ns: str, collection_id: str) -> str:
    """Return the key of the folder of a collection."""
    return f"ns/{ns}/collections/{collection_id}"


class Versions:
    """The versions of one collection.

    Parameters
    ----------
    store : Store
    folder : str
        The key of the collection's folder.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self.folder = folder

    def numbers(self) -> list[int]:
        """Return the numbers of all, in order."""
        names = self._store.list(f"{self.folder}/versions")
        return [int(name[:8]) for name in names if re.fullmatch(NAME, name)]

    def latest(self) -> Version | None:
        """Return the latest version, or None."""
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def read(self, number: int) -> Version:
        """Return a version.

        Raises
        ------
        LookupError
            There is none of that number.
        CorruptArtifactError
            It is damaged.
        """
        try:
            content = self._store.read_bytes(self._key(number))
        except FileNotFoundError:
            raise LookupError(self._key(number)) from None
        try:
            return Version.from_manifest(Collection.model_validate_json(content))
        except (ValueError, pa.ArrowException) as error:  # what pydantic raises is one
            why = " ".join(str(error).split())[:120]
            raise CorruptArtifactError(f"{self.path(number)} is damaged ({why})") from error

    def has(self, number: int) -> bool:
        """Whether there is a version of that number."""
        return 0 < number < 10**8 and self._store.exists(self._key(number))

    def path(self, number: int) -> Place:
        """Return where the manifest of a version lies."""
        return self._store.root / self._key(number)

    def open_place(self, file: DataFile) -> str:
        """Return where a file of a version lies."""
        if is_address(file.name) or file.name.startswith("/"):
            return file.name
        return str(self._store.root / self.key(file))

    def key(self, file: DataFile) -> str:
        """Return the key of a file of ours."""
        return f"{self.folder}/{file.name.removeprefix('../')}"

    def commit(self, version: Version) -> Version:
        """Publish a version; `Overtaken` where its number is taken.

        A first one begins a collection, so nothing may be left of another: neither by a removal
        that was broken off, nor by a change that came after one.
        """
        if version.number == 1 and self.numbers():
            raise Overtaken
        content = version.to_manifest()
        try:
            self._store.put(
                self._key(version.number), lambda file: file.write(content), absent=True
            )
        except FileExistsError:
            raise Overtaken from None
        return version

    def revise(
        self, change: Callable[[Version], Version | None], *, pinned: int | None = None
    ) -> tuple[Version, bool]:
        """Publish what `change` makes of the latest version.

        Parameters
        ----------
        change : callable
            Gets the latest version, again each time that another one came first; returns its
            next, or None where there is nothing to do.
        pinned : int, optional
            The only version that it may be made of.

        Returns
        -------
        version : Version
            The one that holds now.
        is_new : bool
            Whether it was published by this call.

        Raises
        ------
        Overtaken
            The latest version is not the pinned one.
        LookupError
            There is no version.
        """
        for _ in range(ATTEMPTS):
            latest = self.latest()
            if latest is None:
                raise LookupError(self.folder)
            if pinned is not None and latest.number != pinned:
                raise Overtaken
            changed = change(latest)
            if changed is None:
                return latest, False
            try:
                return self.commit(changed), True
            except Overtaken:
                if pinned is not None:
                    raise
        raise Overtaken

    def _key(self, number: int) -> str:
        return f"{self.folder}/versions/{number:08d}.collection.json"
