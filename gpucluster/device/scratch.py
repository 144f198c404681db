"""Folders of files that a process shares with others while it lives, and that go with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gpucluster.errors import PermissionRefusedError, StoreError

ABANDONED_S = 60.0  # younger folders may not be locked yet


@contextlib.contextmanager
def scratch_folder(where: Path | None, prefix: str) -> Iterator[Path]:
    """Make a folder that is removed at the end, or by the next one if this process is killed.

    The system's own folder of temporary files, which `where` of None means, is left to the system.

    Raises
    ------
    PermissionRefusedError, StoreError
        None can be made there.
    """
    try:
        if where is not None:
            where.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(where, prefix)
        made = tempfile.TemporaryDirectory(prefix=prefix, dir=where)
    except OSError as error:
        kind = PermissionRefusedError if isinstance(error, PermissionError) else StoreError
        raise kind(
            f"{where or tempfile.gettempdir()}: no folder can be made there: {error.strerror}",
            hint="name another folder",
        ) from error
    with made as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # until this process ends, however it does
            yield Path(name)
        finally:
            os.close(descriptor)


def _remove_abandoned(where: Path, prefix: str) -> None:
    """Remove folders that no living process has locked."""
    for folder in where.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another user's, or just removed
            if time.time() - folder.stat().st_mtime < ABANDONED_S:
                continue
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(descriptor)
