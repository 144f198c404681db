"""Documents are taken away: the files that have them are written anew without them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.artifacts.store import Store
from gpucluster.service.collections.columns import fitted
from gpucluster.service.collections.data import empty_data, open_data, read_data, write_data
from gpucluster.service.collections.versions import UNPUBLISHED, DataFile, Version, Versions
from gpucluster.sources.columns import concatenate, to_keys
from gpucluster.sources.filters import Filters
from gpucluster.sources.matching import compile_filter, evaluate

Keep: TypeAlias = Callable[[pa.RecordBatch], Any]  # a mask of the rows that stay


def find_ids(versions: Versions, file: DataFile, version: Version, ids: pa.Array) -> pa.Array:
    """Return those of some ids that a file has.

    Row groups whose ids lie elsewhere, by their statistics, are not read.
    """
    if not len(ids):
        return ids
    bounds = pc.min_max(ids).as_py()
    groups = []
    with open_data(versions, file) as opened:
        metadata = opened.metadata
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = [group.column(i) for i in range(group.num_columns)]
            (known,) = [c.statistics for c in columns if c.path_in_schema == version.id_column]
            told = known and known.has_min_max and type(known.min) is type(bounds["min"])
            if not told or (known.min <= bounds["max"] and bounds["min"] <= known.max):
                groups.append(number)
    found = [pa.array([], ids.type)]
    if groups:
        for batch in read_data(versions, file, [version.id_column], groups=groups):
            keys = to_keys(batch.column(0)).cast(ids.type)
            found.append(keys.filter(pc.is_in(keys, ids)))
    return concatenate(found)


def but(ids: pa.Array, id_column: str) -> Keep:
    """Return what keeps all rows but those of some ids."""

    def keep(batch: pa.RecordBatch) -> Any:
        return pc.invert(pc.is_in(to_keys(batch.column(id_column)).cast(ids.type), ids))

    return keep


class Rewritten:
    """Files that were written anew, each once however often their version was overtaken.

    Which rows of a file go depends on that file alone.

    Parameters
    ----------
    store : Store
    versions : Versions
    """

    def __init__(self, store: Store, versions: Versions) -> None:
        self._store = store
        self._versions = versions
        self._files: dict[str, DataFile | None] = {}

    def file(self, file: DataFile, version: Version, keep: Keep) -> DataFile | None:
        """Return a file without some rows: itself where all stay, None where none does."""
        if file.name not in self._files:
            self._files[file.name] = self._written(file, version, keep)
        return self._files[file.name]

    def forget(self, kept: Version | None = None) -> None:
        """Remove what was written, but for what a version names."""
        named = set() if kept is None else {file.name for file in kept.files}
        for name, file in self._files.items():
            if file is not None and file.name not in {name, *named}:
                self._store.delete(self._versions.key(file))

    def _written(self, file: DataFile, version: Version, keep: Keep) -> DataFile | None:
        def rows(names: list[str]) -> Any:
            for batch in read_data(self._versions, file, names):
                fit = fitted(batch, schema, version.id_column, version.features, file.name)
                yield fit.filter(keep(batch))

        with open_data(self._versions, file) as opened:
            own = set(opened.schema_arrow.names)
        schema = pa.schema([field for field in version.schema if field.name in own])
        written = write_data(
            self._store, self._versions.folder, schema, rows(schema.names), version.id_column
        )
        if 0 < written.rows < file.rows:
            return written
        self._store.delete(self._versions.key(written))
        return file if written.rows else None


def remove(
    store: Store,
    versions: Versions,
    *,
    now: datetime,
    ids: pa.Array | None = None,
    filters: Filters | None = None,
    pinned: int | None = None,
) -> tuple[Version, int]:
    """Take documents away that have some ids, or that filters match.

    Parameters
    ----------
    store : Store
    versions : Versions
    now : datetime
    ids : pyarrow.Array, optional
        Of the type that ids have in the collection.
    filters : Filters, optional
    pinned : int, optional
        The version that they are taken from, and no later one.

    Returns
    -------
    version : Version
        The first without them.
    n_removed : int

    Raises
    ------
    ConfigError, SourceError
        A filter does not fit the columns.
    Overtaken
        See there.
    """
    rewritten = Rewritten(store, versions)
    removed = 0

    def change(latest: Version) -> Version | None:
        nonlocal removed
        files: list[DataFile | None] = []
        for file in latest.files:
            if ids is not None and not len(find_ids(versions, file, latest, ids)):
                files.append(file)
                continue
            keep = but(ids, latest.id_column) if filters is None else not_matching(latest, filters)
            files.append(rewritten.file(file, latest, keep))
        left = tuple(file for file in files if file is not None and file.rows)
        removed = latest.n_rows - sum(file.rows for file in left)
        if not removed:
            return None
        if not left:
            left = (empty_data(store, versions.folder, latest.schema, latest.id_column),)
        return latest.next("delete", now, files=left, details={"removed": removed})

    try:
        version, _ = versions.revise(change, pinned=pinned)
    except UNPUBLISHED:
        rewritten.forget()
        raise
    rewritten.forget(version)
    return version, removed


def not_matching(version: Version, filters: Filters) -> Keep:
    """Return what keeps the rows that filters do not match."""
    known = {field.name: str(field.type) for field in version.schema}

    def keep(batch: pa.RecordBatch) -> Any:
        where = version.collection_id
        expression = compile_filter(filters, batch.schema, known=known, where=where)
        return pa.array(~evaluate(expression, batch))

    return keep
