"""Many small files become a few, and files that no version names are removed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from gpucluster.artifacts.store import Store
from gpucluster.service.collections.columns import fitted
from gpucluster.service.collections.data import begun_at, read_data, write_data
from gpucluster.service.collections.versions import (
    UNPUBLISHED,
    DataFile,
    Overtaken,
    Version,
    Versions,
)

if TYPE_CHECKING:
    import pyarrow as pa

SMALL_BYTES = 64 << 20  # a smaller file is put together with its neighbours ...
WHOLE_BYTES = 256 << 20  # ... until they have this
KEPT = timedelta(days=1)


def compact(store: Store, versions: Versions, *, now: datetime) -> Version:
    """Put small neighbouring files together; documents and their order stay.

    Returns
    -------
    Version
        The latest one, where nothing is to be done.

    Raises
    ------
    Overtaken
        Somebody changed what was being put together; what was added since does not matter.
    """
    base = versions.latest()
    if base is None:
        raise LookupError(versions.folder)
    groups = [group for group in _groups(base.files) if len(group) > 1]
    if not groups:
        return base
    written = {}
    for group in groups:
        rows = _rows(versions, base, group)
        written[group[0].name] = write_data(
            store, versions.folder, base.schema, rows, base.id_column
        )
    gone = {file.name for group in groups for file in group}

    def change(latest: Version) -> Version:
        if not {file.name for file in latest.files} >= gone:
            raise Overtaken
        files = [
            written.get(file.name, file)
            for file in latest.files
            if file.name in written or file.name not in gone
        ]
        return latest.next("compact", now, files=tuple(files), details={"files": len(gone)})

    try:
        version, _ = versions.revise(change)
    except UNPUBLISHED:
        for file in written.values():
            store.delete(versions.key(file))
        raise
    return version


def _groups(files: Sequence[DataFile]) -> Iterator[list[DataFile]]:
    """Yield neighbours that are to be one file; what stayed where it was is none of them."""
    group: list[DataFile] = []
    for file in files:
        fits = file.sha256 is not None and file.bytes < SMALL_BYTES
        if not fits or sum(each.bytes for each in group) + file.bytes > WHOLE_BYTES:
            yield group
            group = []
        if fits:
            group.append(file)
    yield group


def _rows(
    versions: Versions, version: Version, files: Sequence[DataFile]
) -> Iterator[pa.RecordBatch]:
    for file in files:
        for batch in read_data(versions, file, version.schema.names):
            yield fitted(batch, version.schema, version.id_column, version.features, file.name)


def sweep(store: Store, versions: Versions, older_than: timedelta = KEPT) -> list[str]:
    """Remove data files that no version names, and return their names; and what is half written.

    Younger ones may be named by what is being written just now. Files of enrichments bear the
    name of what they were made of, and are found again by it, however old they are: they stay.
    """
    store.sweep(versions.folder, older_than)
    named = {file.name for n in versions.numbers() for file in versions.read(n).files}
    until = (time.time() - older_than.total_seconds()) * 1000
    removed = []
    for name in store.list(f"{versions.folder}/data"):
        begun = begun_at(name)
        if f"../data/{name}" not in named and begun is not None and begun < until:
            store.delete(f"{versions.folder}/data/{name}")
            removed.append(name)
    return removed
