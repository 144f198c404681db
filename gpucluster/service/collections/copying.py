"""Documents that are elsewhere become files of a new collection.

Each try to copy them writes into the same folder, which is that try's alone. A file that one has
finished is kept by the next, as long as what it is made of is what it was. The first version names
the files; before it is there, nobody reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

import pyarrow as pa

from gpucluster.artifacts.files import digest
from gpucluster.artifacts.store import Store
from gpucluster.errors import CorruptArtifactError, DtypeError
from gpucluster.events import Reporter
from gpucluster.notation import shown
from gpucluster.places import place
from gpucluster.service.collections.appending import check_distinct
from gpucluster.service.collections.columns import extended, fitted, named_features
from gpucluster.service.collections.creating import Draft, parquet_schema
from gpucluster.service.collections.data import open_data, read_data, write_data
from gpucluster.service.collections.incoming import Heard, Limits, Upload
from gpucluster.service.collections.uploads import Kind, bytes_to_read, check_bytes, open_stored
from gpucluster.service.collections.versions import DataFile, Version, Versions
from gpucluster.sources.columns import concatenate, is_list, storage
from gpucluster.sources.detect import check_names
from gpucluster.sources.digests import file_state

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
Opener: TypeAlias = Callable[[Version, Heard], Upload]


@dataclass(frozen=True, slots=True)
class Part:
    """Documents of one file, table or collection.

    Attributes
    ----------
    to_read : int
        What is read of it in all: bytes or rows.
    open : callable
        Opens it for a version; what it is given gets how much of `to_read` was read.
    state : str or None
        What changes when the documents do; None where nothing tells.
    """

    to_read: int
    open: Opener
    state: str | None = None


def kind_of(path: str) -> Kind:
    """Return what a file is by its name; `DtypeError` where such are not copied."""
    for end, kind in COPIED.items():
        if path.lower().endswith(end):
            return kind
    raise DtypeError(
        f"{shown(path, 120)}: files of this kind are not copied",
        hint=f"their names end in {', '.join(COPIED)}; gpucluster convert writes Parquet",
    )


def part_of(path: str, limits: Limits, check: Callable[[str], object]) -> Part:
    """Return a file as a part; `check` is asked about it again when it is opened."""
    kind, where = kind_of(path), place(path)
    state, n_bytes = file_state(path), where.stat().st_size
    check_bytes(n_bytes, limits, path)

    def open_(version: Version, heard: Heard) -> Upload:
        check(path)
        return open_stored(where, kind, version, limits, path, heard)

    return Part(bytes_to_read(kind, n_bytes), open_, state)


def as_stored(draft: Draft, paths: Sequence[str]) -> Draft:
    """Return a draft whose vectors are float16 where it says nothing else and all files have that.

    Lines of JSON have float64, so those of a collection with such a file are float32.
    """
    halves = {
        uri: {uri, str(feature.column)}
        for uri, feature in named_features(draft.features).items()
        if draft.features[uri].dtype is None and feature.kind == "dense"
    }
    for path in paths:
        if not halves:  # most often after the first file
            break
        schema = parquet_schema(path)[0] if kind_of(path) == "parquet" else pa.schema([])
        halves = {uri: names for uri, names in halves.items() if _is_half(schema, names)}
    stored = {uri: draft.features[uri].model_copy(update={"dtype": "float16"}) for uri in halves}
    return replace(draft, features={**draft.features, **stored})


def _is_half(schema: pa.Schema, names: set[str]) -> bool:
    types = [storage(field.type) for field in schema if field.name in names]
    return bool(types) and all(
        is_list(type_) and pa.types.is_float16(type_.value_type) for type_ in types
    )


class _Copied(NamedTuple):
    """A file that is finished, its columns and its ids."""

    file: DataFile
    schema: pa.Schema
    ids: Sequence[pa.Array]


def copy_documents(
    store: Store,
    versions: Versions,
    draft: Draft,
    parts: Sequence[Part],
    *,
    folder: str,
    unit: str,
    reporter: Reporter,
    details: Mapping[str, str],
) -> Version:
    """Make a collection of documents that are elsewhere, and are not needed there after that.

    Parameters
    ----------
    store : Store
    versions : Versions
    draft : Draft
    parts : sequence of Part
    folder : str
        In the folder ``data`` of the collection; held for this writer alone meanwhile.
    unit : str
        What `Part.to_read` counts.
    reporter : Reporter
        Asked for each batch whether to stop. Finished files stay then.
    details : mapping
        Noted in the version.

    Raises
    ------
    SourceError, InputError, ConfigError
        A file cannot be read, does not fit, or an id is there twice.
    Overtaken
        See there.
    RunLockedError
        Another writer has the folder.
    """
    version = draft.version(datetime.now(UTC))
    total, before = sum(part.to_read for part in parts), 0
    done: list[_Copied] = []
    # what a file holds depends on the files before it: the first to come set the types of columns
    key = digest([{uri: f.model_dump() for uri, f in version.features.items()}, version.id_column])

    def heard(read: int) -> None:
        reporter.progress(min(before + read, total), total, unit)

    with store.lease(f"{versions.folder}/data/{folder}"):
        for number, part in enumerate(parts):
            heard(0)
            key = digest([key, part.state])
            name = f"{folder}/{number:05d}-{key[:16]}.parquet"
            found = None if part.state is None else _finished(store, versions, version, name)
            if found is None:
                found = _copied(store, versions, version, part.open(version, heard), name)
            done.append(found)
            version = replace(version, schema=found.schema)
            before += part.to_read
        heard(0)
        check_names({"text": version.text_column}, version.schema.names, version.collection_id)
        ids = [column for each in done for column in each.ids]
        check_distinct(concatenate([pa.array([], version.schema.field(0).type), *ids]))
        files = tuple(each.file for each in done)
        _drop_others(store, versions, folder, {file.name for file in files})
        counts = {"files": len(files), "added": sum(file.rows for file in files)}
        return versions.commit(replace(version, files=files, details={**counts, **details}))


def _copied(
    store: Store, versions: Versions, version: Version, upload: Upload, name: str
) -> _Copied:
    """Write documents into a file."""
    schema = _extended(version, upload.schema)
    ids: list[pa.Array] = []

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in upload.batches(None):
            fit = fitted(batch, schema, version.id_column, version.features, upload.where)
            ids.append(fit.column(version.id_column))
            yield fit

    file = write_data(store, versions.folder, schema, rows(), version.id_column, name=name)
    return _Copied(file, schema, ids)


def _finished(store: Store, versions: Versions, version: Version, name: str) -> _Copied | None:
    """Return what an earlier try has written under that name, if it is whole."""
    key = f"{versions.folder}/data/{name}"
    if not store.exists(key):
        return None
    with store.open(key) as stored:
        sha256 = hashlib.file_digest(stored, "sha256").hexdigest()
        n_bytes = stored.tell()
    file = DataFile(name=f"../data/{name}", rows=0, bytes=n_bytes, sha256=sha256)
    try:
        with open_data(versions, file) as opened:
            schema = _extended(version, opened.schema_arrow)
            n_rows = opened.metadata.num_rows
        batches = [*read_data(versions, file, [version.id_column])]
    except CorruptArtifactError:
        return None
    if sum(batch.num_rows for batch in batches) != n_rows:
        return None
    ids = [batch.column(0) for batch in batches]
    return _Copied(file.model_copy(update={"rows": n_rows}), schema, ids)


def _extended(version: Version, columns: pa.Schema) -> pa.Schema:
    return extended(version.schema, columns, [version.id_column, *version.vector_columns])


def _drop_others(store: Store, versions: Versions, folder: str, kept: set[str]) -> None:
    """Remove what tries have left that found other documents."""
    for name in store.list(f"{versions.folder}/data/{folder}"):
        if f"../data/{folder}/{name}" not in kept:
            store.delete(f"{versions.folder}/data/{folder}/{name}")
