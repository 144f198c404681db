"""Columns that a run has written become part of a collection, and go again.

Whoever enriches writes a file for each file of a version, with the same rows. Documents that were
added meanwhile stay as they are; where anything else has changed, it has to be done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import pyarrow as pa

from gpucluster.artifacts.store import Store
from gpucluster.errors import ConfigError
from gpucluster.service.collections.columns import extended, fitted
from gpucluster.service.collections.data import open_data, read_data, write_data
from gpucluster.service.collections.versions import (
    UNPUBLISHED,
    DataFile,
    Enrichment,
    Overtaken,
    Version,
    Versions,
)


def check_targets(version: Version, columns: Sequence[str], *, overwrite: bool) -> None:
    """Refuse to replace columns that no run has written.

    Raises
    ------
    ConfigError
        One of them is what documents are read by: the id, a vector, the text. Or it is another
        column that no run has written, and `overwrite` does not say so.
    """
    ours = {name for each in version.enrichments for name in each.columns}
    fixed = {version.id_column, version.text_column, *version.vector_columns}
    for name in columns:
        if name in fixed:
            raise ConfigError(
                f"{name!r} is what {version.collection_id} is read by",
                path="fields",
                hint="choose another target_field",
            )
        if name in version.schema.names and name not in ours and not overwrite:
            raise ConfigError(
                f"{version.collection_id} has a column {name!r} that no run has written",
                path="fields",
                hint="choose another target_field; overwrite: true replaces it",
            )


def publish(
    versions: Versions,
    replaced: Mapping[str, DataFile],
    *,
    columns: Sequence[str],
    run_id: str,
    expected: Version,
    now: datetime,
) -> Version:
    """Publish files that have columns of a run besides.

    Parameters
    ----------
    versions : Versions
    replaced : mapping of str to DataFile
        What stands for each file of `expected`, by its name; with the same rows, in the folder of
        the collection.
    columns : sequence of str
        Those that the run has written.
    run_id : str
    expected : Version
        The version that was enriched.
    now : datetime

    Returns
    -------
    Version

    Raises
    ------
    Overtaken
        Meanwhile somebody changed or removed documents, and did not only add some.
    ConfigError
        The files are not those of `expected`.
    """
    rows = {file.name: file.rows for file in expected.files if file.rows}
    if {name: file.rows for name, file in replaced.items() if file.rows} != rows:
        raise ConfigError(
            f"{run_id}: the enriched files are not those of version {expected.number}"
        )
    noted = Enrichment(
        run_id=run_id, columns=tuple(columns), version=expected.number + 1, created_at=now
    )

    def change(latest: Version) -> Version:
        names = {file.name for file in latest.files}
        if not names >= rows.keys():
            raise Overtaken
        files = tuple(_standing(file, replaced.get(file.name), run_id) for file in latest.files)
        own = noted.model_copy(update={"version": latest.number + 1})
        kept = [each for each in latest.enrichments if each.run_id != run_id]
        schema = schema_of(versions, latest, files)
        return latest.next(
            "enrich",
            now,
            files=files,
            schema=schema,
            enrichments=_valid([*kept, own], schema),
            details={"run_id": run_id, "columns": list(columns)},
        )

    version, _ = versions.revise(change)
    return version


def _standing(file: DataFile, new: DataFile | None, run_id: str) -> DataFile:
    if new is None:
        return file
    return new.model_copy(update={"before": file.name, "run_id": run_id})


def undo(store: Store, versions: Versions, *, run_id: str, now: datetime) -> Version:
    """Take away the columns that a run has written, however often it has.

    Where nothing has happened to a file since, it is the one of before again, with what other
    runs had written; otherwise it is written anew without the columns, as in a collection that
    began with them. No document is lost.

    Raises
    ------
    LookupError
        The collection has no columns of that run.
    """
    version = _undo_latest(store, versions, run_id, now)
    while run_id in {each.run_id for each in version.enrichments}:
        version = _undo_latest(store, versions, run_id, now)
    return version


def _undo_latest(store: Store, versions: Versions, run_id: str, now: datetime) -> Version:
    """Take away what a run has written last."""
    written: dict[str, DataFile] = {}

    def change(latest: Version) -> Version:
        found = [each for each in latest.enrichments if each.run_id == run_id]
        if not found:
            raise LookupError(run_id)
        earlier = _before(versions, found[0])
        before = {} if earlier is None else {file.name: file for file in earlier.files}
        files = []
        for file in latest.files:
            own = before.get(file.before or "") if file.run_id == run_id else None
            if own is None:
                own = _without(store, versions, latest, file, found[0].columns, written)
            files.append(own)
        schema = schema_of(versions, latest, files)
        kept = () if earlier is None else earlier.enrichments
        known = {run_id, *(each.run_id for each in kept)}
        later = [each for each in latest.enrichments if each.run_id not in known]
        return latest.next(
            "undo",
            now,
            files=tuple(files),
            schema=schema,
            enrichments=_valid([*kept, *later], schema),
            details={"run_id": run_id, "columns": list(found[0].columns)},
        )

    try:
        version, _ = versions.revise(change)
    except UNPUBLISHED:
        for file in written.values():
            store.delete(versions.key(file))
        raise
    return version


def _before(versions: Versions, enrichment: Enrichment) -> Version | None:
    """Return the version that was enriched; None where the first one has the columns."""
    return None if enrichment.version == 1 else versions.read(enrichment.version - 1)


def _valid(enrichments: Sequence[Enrichment], schema: pa.Schema) -> tuple[Enrichment, ...]:
    """Return enrichments with the columns that are there and that no later one has written."""
    left = set(schema.names)
    found = []
    for each in reversed(enrichments):
        columns = tuple(name for name in each.columns if name in left)
        left -= set(columns)
        if columns:
            found.append(each.model_copy(update={"columns": columns}))
    return tuple(reversed(found))


def _without(
    store: Store,
    versions: Versions,
    version: Version,
    file: DataFile,
    columns: Sequence[str],
    written: dict[str, DataFile],
) -> DataFile:
    """Return a file without some columns: itself where it has none of them."""
    with open_data(versions, file) as opened:
        names = set(opened.schema_arrow.names)
    if not names & set(columns):
        return file
    if file.name not in written:
        left = [f for f in version.schema if f.name in names and f.name not in columns]
        schema = pa.schema(left)
        features, where = version.features, file.name
        rows = (
            fitted(batch, schema, version.id_column, features, where)
            for batch in read_data(versions, file, schema.names)
        )
        written[file.name] = write_data(store, versions.folder, schema, rows, version.id_column)
    return written[file.name]


def schema_of(versions: Versions, latest: Version, files: Sequence[DataFile]) -> pa.Schema:
    """Return the columns that some files have together, those that are known in their order."""
    own = [latest.id_column, *latest.vector_columns]
    found = pa.schema([latest.schema.field(name) for name in own])
    for file in files:
        with open_data(versions, file) as opened:
            found = extended(found, opened.schema_arrow, own)
    order = {name: at for at, name in enumerate(latest.schema.names)}
    return pa.schema(sorted(found, key=lambda field: order.get(field.name, len(order))))
