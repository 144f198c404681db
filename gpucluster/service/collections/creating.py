"""Collections are made: empty, of files where they lie, or of copies of files.

Whatever is said of a feature is compared with the files, by the engine's own reader.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.artifacts.store import Store
from gpucluster.errors import ConfigError, DtypeError, DuplicateIdsError, SchemaMismatchError
from gpucluster.notation import shown
from gpucluster.places import ObjectPath, Place, place
from gpucluster.service.collections.columns import (
    extended,
    first_schema,
    fitted,
    named_features,
)
from gpucluster.service.collections.data import empty_data, write_data
from gpucluster.service.collections.incoming import ID, Limits, Upload
from gpucluster.service.collections.uploads import Kind, open_upload
from gpucluster.service.collections.versions import DataFile, Overtaken, Version, Versions
from gpucluster.service.refusals import ForbiddenError
from gpucluster.sources.base import SourceInfo, reading
from gpucluster.sources.collection import Collection, Feature, open_feature
from gpucluster.sources.columns import concatenate, is_key
from gpucluster.sources.detect import check_names
from gpucluster.sources.digests import file_state
from gpucluster.sources.opening import common_format, expand
from gpucluster.sources.parquet import open_file

COPIED: dict[str, Kind] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl.gz",
    ".ndjson.gz": "jsonl.gz",
    ".jsonl.zst": "jsonl.zst",
    ".ndjson.zst": "jsonl.zst",
}
MAX_FILES = 10_000
Opener: TypeAlias = Callable[[Version], Upload]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a collection is to be.

    Attributes
    ----------
    collection_id : str
    features : mapping of str to Feature
        By their URIs.
    id_column, text_column : str, optional
    """

    collection_id: str
    features: Mapping[str, Feature]
    id_column: str | None = None
    text_column: str | None = None

    def version(self, now: datetime, **changes: Any) -> Version:
        """Return its first version, without files."""
        features = named_features(self.features)
        id_column = self.id_column or ID
        first = Version(
            collection_id=self.collection_id,
            number=1,
            created_at=now,
            made_by="create",
            id_column=id_column,
            text_column=self.text_column,
            features=features,
            schema=first_schema(id_column, features),
            files=(),
            details={},
            keys={},
        )
        return replace(first, **changes)


def create_empty(store: Store, versions: Versions, draft: Draft, now: datetime) -> Version:
    """Make a collection without documents; `Overtaken` where files of it are there already.

    What a server left that died before anybody knew of it is the same, and is taken.
    """
    first = draft.version(now)
    if first.text_column is not None and first.text_column not in first.schema.names:
        text = pa.field(first.text_column, pa.string())
        first = replace(first, schema=first.schema.append(text))
    file = empty_data(store, versions.folder, first.schema, first.id_column)
    try:
        return versions.commit(replace(first, files=(file,)))
    except Overtaken:
        store.delete(versions.key(file))
        there = versions.latest()
        if there is None or there.n_rows or replace(there, created_at=now, files=()) != first:
            raise
        return there


def create_of_files(
    versions: Versions, draft: Draft, paths: Sequence[str], now: datetime
) -> Version:
    """Make a collection of Parquet files that stay where they are.

    Parameters
    ----------
    versions : Versions
    draft : Draft
    paths : sequence of str
        Of `allowed_files`.
    now : datetime

    Raises
    ------
    SourceError, InputError, ConfigError
        A file cannot be read, or is not what the draft says.
    Overtaken
        See there.
    """
    if common_format(paths) != "parquet":
        raise DtypeError(
            f"{shown(paths[0], 120)}: only Parquet files can stay where they are",
            hint="copy: true reads lines of JSON too; gpucluster convert writes Parquet",
        )
    found = {uri: _look(paths, draft, uri) for uri in draft.features}
    infos = list(found.values())
    id_column = infos[0].columns.id
    if id_column is None:
        raise SchemaMismatchError(
            f"{shown(paths[0], 120)}: no column holds ids", hint="name one with id_column"
        )
    features = {
        uri: feature.model_copy(
            update={"column": found[uri].columns.vector, "dtype": found[uri].dtype}
        )
        for uri, feature in draft.features.items()
    }
    schemas = [_schema(path) for path in paths]
    schema = _together(schemas, id_column, [str(f.column) for f in features.values()])
    files = tuple(
        DataFile(name=path, rows=n_rows, bytes=place(path).stat().st_size, state=file_state(path))
        for path, (_, n_rows) in zip(paths, schemas, strict=True)
    )
    first = draft.version(now, id_column=id_column, features=features, schema=schema, files=files)
    return versions.commit(replace(first, details={"files": len(files)}))


def _look(paths: Sequence[str], draft: Draft, uri: str) -> SourceInfo:
    """Return what the engine makes of a feature of some files."""
    manifest = Collection(
        collection_id=draft.collection_id,
        files=tuple(paths),
        id_column=draft.id_column,
        text_column=draft.text_column,
        features=dict(draft.features),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "draft.collection.json")
        path.write_text(manifest.model_dump_json(exclude_none=True))
        return open_feature(path, uri).info


def _schema(path: str) -> tuple[pa.Schema, int]:
    with reading(path), open_file(path) as file:
        return file.schema_arrow, file.metadata.num_rows


def _together(
    schemas: Sequence[tuple[pa.Schema, int]], id_column: str, vectors: Sequence[str]
) -> pa.Schema:
    """Return the columns of all files."""
    first, _ = schemas[0]
    key = first.field(id_column).type
    is_number = pa.types.is_integer(key) and is_key(key)
    fixed = [pa.field(id_column, pa.int64() if is_number else pa.string())]
    fixed += [pa.field(name, first.field(name).type) for name in vectors]
    schema = pa.schema(fixed)
    for own, _ in schemas:
        schema = extended(schema, own, [id_column, *vectors])
    return schema


def copies_of(paths: Sequence[str], limits: Limits) -> list[Opener]:
    """Return what opens Parquet files and lines of JSON; `limits` are those of each file."""

    def opener(path: str) -> Opener:
        kind = _kind(path)
        return lambda version: open_upload(place(path), kind, version, limits, called=path)

    return [opener(path) for path in paths]


def create_of_copies(
    store: Store,
    versions: Versions,
    draft: Draft,
    openers: Sequence[Opener],
    now: datetime,
) -> Version:
    """Make a collection of documents that are elsewhere, and are not needed there after that.

    Parameters
    ----------
    store : Store
    versions : Versions
    draft : Draft
    openers : sequence of callable
        Each opens documents for a version.
    now : datetime

    Raises
    ------
    SourceError, InputError, ConfigError
        A file cannot be read, does not fit, or an id is there twice.
    Overtaken
        See there.
    """
    version = draft.version(now)
    own = [version.id_column, *version.vector_columns]
    files: list[DataFile] = []
    ids: list[pa.Array] = []

    def rows(upload: Upload) -> Iterator[pa.RecordBatch]:
        for batch in upload.batches(None):
            where = upload.where
            fit = fitted(batch, version.schema, version.id_column, version.features, where)
            ids.append(fit.column(version.id_column))
            yield fit

    try:
        for open_ in openers:
            upload = open_(version)
            version = replace(version, schema=extended(version.schema, upload.schema, own))
            files.append(
                write_data(store, versions.folder, version.schema, rows(upload), version.id_column)
            )
        check_names({"text": version.text_column}, version.schema.names, version.collection_id)
        _check_distinct(concatenate([pa.array([], version.schema.field(0).type), *ids]))
        details = {"files": len(files), "added": sum(file.rows for file in files)}
        return versions.commit(replace(version, files=tuple(files), details=details))
    except BaseException:  # of a collection that is not there yet, nobody reads
        for file in files:
            store.delete(versions.key(file))
        raise


def _kind(path: str) -> Kind:
    for end, kind in COPIED.items():
        if path.lower().endswith(end):
            return kind
    raise DtypeError(
        f"{shown(path, 120)}: files of this kind are not copied",
        hint=f"their names end in {', '.join(COPIED)}; gpucluster convert writes Parquet",
    )


def _check_distinct(ids: pa.Array) -> None:
    if pc.count_distinct(ids).as_py() < len(ids):
        counted = pc.value_counts(ids)
        twice = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
        raise DuplicateIdsError(
            f"{len(twice):,} ids are there more than once, such as {shown(str(twice[0]), 60)}"
        )


def allowed_files(paths: Sequence[str], roots: Sequence[str], own: Place) -> list[str]:
    """Return the files that some paths stand for.

    Parameters
    ----------
    paths : sequence of str
        Files, folders and globs: absolute paths on a disk, or addresses.
    roots : sequence of str
        Where files may lie, by word of the operator; no link leads out of there.
    own : Place
        The folder of the service, which nobody imports from.

    Raises
    ------
    ForbiddenError
        A path, or a file that it stands for, lies elsewhere.
    SourceError
        Nothing lies there.
    """
    if not roots:
        raise ForbiddenError(
            "collections cannot be made of files here",
            hint="the operator says with import_roots where files may lie; or upload documents",
        )
    allowed = [_resolved(place(root)) for root in roots]
    found: list[str] = []
    for path in paths:
        _check_inside(path, allowed, own)
        for file in expand(path):
            found.append(_check_inside(file, allowed, own))
            if len(found) > MAX_FILES:
                raise ConfigError(f"more than {MAX_FILES:,} files", path="source.paths")
    return list(dict.fromkeys(found))


def _check_inside(path: str, roots: Sequence[Place], own: Place) -> str:
    where = place(path)
    resolved = _resolved(where)
    is_relative = isinstance(where, Path) and not Path(path).is_absolute()
    inside = any(_is_below(resolved, root) for root in roots)
    if is_relative or not inside or _is_below(resolved, _resolved(own)):
        raise ForbiddenError(
            f"{shown(path, 120)} does not lie where the operator allows files to be imported from",
            hint="start the server with --import-roots, the folder or bucket above it; its own root"
            " and relative paths are never imported from",
        )
    return str(resolved)


def _resolved(where: Place) -> Place:
    if isinstance(where, Path):
        return where.resolve()
    if any(part in {"", ".", ".."} for part in where.key.split("/")) and where.key:
        raise ForbiddenError(f"{shown(str(where), 120)} is no address of an object")
    return where


def _is_below(where: Place, root: Place) -> bool:
    if isinstance(where, ObjectPath) or isinstance(root, ObjectPath):
        if not isinstance(where, ObjectPath) or not isinstance(root, ObjectPath):
            return False
        same = (where.scheme, where.container) == (root.scheme, root.container)
        inside = where.key == root.key or where.key.startswith(f"{root.key}/")
        return same and (inside or not root.key)
    return where.is_relative_to(root)
