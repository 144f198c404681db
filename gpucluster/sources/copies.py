"""Copies of objects on the disk, for formats that are mapped into memory or read elsewhere.

Parquet and JSON lines are read where they are, in ranges.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from gpucluster.ops.blocks import read_ahead
from gpucluster.places import ObjectPath, place
from gpucluster.places.bucket import PART_BYTES, Version
from gpucluster.sources.base import reading

STREAMED = ("parquet", "jsonl")


class Copy:
    """An object on the disk of ``TMPDIR``, for as long as somebody holds this.

    Parameters
    ----------
    path : ObjectPath
    """

    def __init__(self, path: ObjectPath) -> None:
        folder = tempfile.mkdtemp(prefix="gpucluster-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder, path.container, path.name)  # messages tell which object it is
        self.path.parent.mkdir()
        _fetch(path, self.path)
        for end in ("npy", "parquet", "txt") if path.suffix == ".npy" else ():
            ids = path.parent / f"{path.stem}.ids.{end}"
            if ids.is_file():
                _fetch(ids, self.path.with_name(ids.name))


_known: weakref.WeakValueDictionary[tuple[str, Version], Copy] = weakref.WeakValueDictionary()
_lock = Lock()


def copies_of(paths: Sequence[str]) -> list[Copy | None]:
    """Return copies of those paths that are addresses; None for the others.

    What was copied before, is the same, and is still held is not copied again.

    Raises
    ------
    SourceError
        An object is missing, refused, or changes meanwhile.
    DiskFullError
        There is no room for it.
    """
    return [_copy_of(path) for path in paths]


def _copy_of(address: str) -> Copy | None:
    path = place(address)
    if isinstance(path, Path):
        return None
    with reading(address), _lock:
        version = path.bucket.look(path.key).version
        found = _known.get((address, version))
        if found is None:
            found = _known[address, version] = Copy(path)
        return found


def _fetch(path: ObjectPath, target: Path) -> None:
    entry = path.bucket.look(path.key)
    starts = range(0, entry.bytes, PART_BYTES)
    parts = (path.bucket.read_part(entry, at, min(at + PART_BYTES, entry.bytes)) for at in starts)
    with target.open("wb") as file:
        for part in read_ahead(parts):
            file.write(part)
