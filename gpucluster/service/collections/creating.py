"""Collections are made: empty, or of files where they lie.

Whatever is said of a feature is compared with the files, by the engine's own reader.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from gpucluster.artifacts.store import Store
from gpucluster.errors import ConfigError, DtypeError, SchemaMismatchError
from gpucluster.notation import shown
from gpucluster.places import ObjectPath, Place, place
from gpucluster.service.collections.columns import extended, first_schema, named_features
from gpucluster.service.collections.data import empty_data
from gpucluster.service.collections.incoming import ID
from gpucluster.service.collections.versions import DataFile, Overtaken, Version, Versions
from gpucluster.service.refusals import ForbiddenError
from gpucluster.sources.base import SourceInfo, reading
from gpucluster.sources.collection import Collection, Feature, open_feature
from gpucluster.sources.columns import is_key
from gpucluster.sources.digests import file_state
from gpucluster.sources.opening import common_format, expand
from gpucluster.sources.parquet import open_file

MAX_FILES = 10_000


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

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        features = {
            uri: feature.model_dump(mode="json", exclude_none=True)
            for uri, feature in self.features.items()
        }
        return {**asdict(self), "features": features}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Draft:
        """Return what `to_json` was given."""
        features = {
            uri: Feature.model_validate(feature) for uri, feature in given["features"].items()
        }
        return cls(**{**given, "features": features})


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
    schemas = [parquet_schema(path) for path in paths]
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


def parquet_schema(path: str) -> tuple[pa.Schema, int]:
    """Return the columns of a Parquet file, and how many rows it has."""
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
        with reading(str(where)):  # a zero in a name, and links that lead to each other
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
