"""A file on a disk that is there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from gpucluster.artifacts.manifest import FILE_NAME
from gpucluster.errors import ConfigError, DiskFullError, PermissionRefusedError, StoreError
from gpucluster.places import is_address

_KINDS = {
    errno.ENOSPC: DiskFullError,
    errno.EDQUOT: DiskFullError,
    errno.EACCES: PermissionRefusedError,
    errno.EPERM: PermissionRefusedError,
    errno.EROFS: PermissionRefusedError,
}


def on_disk(path: str | Path) -> Path:
    """Return the file that a path names, in which ``~`` stands for a user's folder.

    It is asked for before the work whose result is written, which may take long.

    Raises
    ------
    ConfigError
        It would lie in a bucket, or with a user who is not known here.
    StoreError
        Its folder is not there.
    """
    if is_address(str(path)):
        raise ConfigError(
            f"got {str(path)!r}, expected a file on a disk", hint="write it there, then copy it"
        )
    try:
        file = Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"got {str(path)!r}, whose user is not known here") from error
    if not file.parent.is_dir():
        raise StoreError(
            f"cannot write {file}: there is no such folder", hint="make it, or name another one"
        )
    return file


def table_file(path: str | Path, inputs: Iterable[object], setting: str) -> Path:
    """Return the file of a table about a run, which is none that a run is made of.

    Parameters
    ----------
    path : str or Path
    inputs : iterable of object
        What was read; those that are files may not be named again.
    setting : str
        Under which it was named.

    Raises
    ------
    ConfigError
        It is called otherwise than ``.parquet``, lies in the folder of a run or on no disk, or a
        run was made of it.
    """
    file = on_disk(path)
    if file.suffix != ".parquet" or (file.parent / FILE_NAME).exists():
        raise ConfigError(
            f"got {str(path)!r}, expected a name that ends in .parquet, outside a run's folder",
            path=setting,
        )
    known = [Path(each) for each in inputs if isinstance(each, str | Path)]
    if file.exists() and any(each.exists() and file.samefile(each) for each in known):
        raise ConfigError(f"{path} is what the run read: it would be lost", path=setting)
    return file


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all; one that is there is replaced.

    Raises
    ------
    DiskFullError, PermissionRefusedError, StoreError
        The system refused; what was there before is still there.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temp.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temp.replace(path)
        finally:
            temp.unlink(missing_ok=True)
    except OSError as error:
        kind = _KINDS.get(error.errno or 0, StoreError)
        hint = "make room, or name a file in a folder where this user may write"
        raise kind(f"cannot write {path}: {error.strerror}", hint=hint) from error
