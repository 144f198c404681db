"""The act that finishes a run: its files, and at last the manifest that makes it exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, BinaryIO

from gpucluster.artifacts.files import write_npy
from gpucluster.artifacts.manifest import FILE_NAME, FileEntry, Manifest
from gpucluster.artifacts.run import MODEL, Model
from gpucluster.errors import InternalError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from gpucluster.artifacts.store import Store


def write_files(
    store: Store,
    run_id: str,
    *,
    tables: Mapping[str, pa.Table],
    model: Model | None = None,
    provenance: Mapping[str, str],
) -> dict[str, FileEntry]:
    """Write the files of a run that is not published yet.

    Parameters
    ----------
    store : Store
        The output folder; the caller holds the lease of `run_id`.
    run_id : str
    tables : dict of str to pyarrow.Table
        ``members``, ``centroids`` and ``rejected``, as `gpucluster.artifacts.schema` builds them.
    model : dict of str to dict, optional
        The fitted preparation by step: its ``settings`` as JSON values, and its ``arrays`` by
        name.
    provenance : dict of str to str
        Goes into the metadata of every table, beside the run's id.

    Returns
    -------
    dict of str to FileEntry
        For the manifest.

    Raises
    ------
    StoreError
        A file could not be written.

    Notes
    -----
    Extra memory: one row group of the largest table.
    """
    from gpucluster.artifacts import schema

    provenance = {"run_id": run_id, **provenance}
    files = {}

    def put(name: str, write: Callable[[BinaryIO], object], rows: int | None = None) -> None:
        stored = store.put(f"{run_id}/{name}", write)
        files[name] = FileEntry(**stored._asdict(), rows=rows)

    for table_name, table in tables.items():
        for name, part in schema.parts(table_name, table):
            put(name, partial(schema.write_parquet, part, provenance), part.num_rows)
    for step, fitted in (model or {}).items():
        settings = json.dumps(fitted["settings"], indent=2).encode()
        put(f"{MODEL}/{step}/settings.json", methodcaller("write", settings))
        for name, array in fitted["arrays"].items():
            put(f"{MODEL}/{step}/{name}.npy", partial(write_npy, array))
    return files


def publish(store: Store, manifest: Manifest) -> Manifest:
    """Write the manifest, which makes a run exist.

    Publishing again what is published already changes nothing. So it may be repeated after
    any failure.

    Parameters
    ----------
    store : Store
        The output folder; the caller holds the lease of ``manifest.run_id``.
    manifest : Manifest
        Names the files, which are written.

    Returns
    -------
    Manifest
        As published.

    Raises
    ------
    StoreError
        It could not be written, or another run is published under this id.
    """
    members = sum(
        entry.rows or 0 for name, entry in manifest.files.items() if name.startswith("members")
    )
    if members != manifest.counts.num_points:
        raise InternalError(f"{members} members, but {manifest.counts.num_points} points")
    key = f"{manifest.run_id}/{FILE_NAME}"
    try:
        store.put(key, methodcaller("write", manifest.to_json()), absent=True)
    except FileExistsError:
        return _published(store, key, manifest)
    return manifest


def _published(store: Store, key: str, manifest: Manifest) -> Manifest:
    """Return the manifest that is already there, if it is that of the same run."""
    found = Manifest.from_json(store.read_bytes(key), key)
    same = (manifest.definition_sha256, manifest.data_sha256)
    if (found.definition_sha256, found.data_sha256) != same:
        raise StoreError(
            f"{manifest.run_id} is already published, of another definition or other data",
            hint="choose another run id or output folder",
        )
    return found
