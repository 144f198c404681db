"""Where matrices of many rows lie: in memory, or in files that the system pages in and out.

A matrix on disk is an ordinary array over a file without a name. Whatever reads or writes it
knows nothing of that: the system keeps the pages in memory that are used, as far as there is
room, and takes them back when something else needs it. What is made of such a matrix row by row
is as large, so it lies beside it: see `like`. Where other processes work on its rows, the file has
a name as long as its array lives, and any part of it can be `lent` to them.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from pydantic import ByteSize, TypeAdapter, ValidationError

from gpucluster.device.arrays import namespace
from gpucluster.device.memory import address_space_left, available_bytes
from gpucluster.errors import ConfigError, DiskFullError, PermissionRefusedError, StoreError
from gpucluster.notation import describe
from gpucluster.types import StorageRequest

PREFIX = "gpucluster-"
SMALL_BYTES = 128 << 20  # blocks of rows are smaller, and never on disk


@dataclass(frozen=True, slots=True)
class Room:
    """What a run may take of the host.

    Attributes
    ----------
    requested : {"auto", "memory", "disk"}
        Where matrices of all rows lie; ``auto``: in memory, or on disk where it is too small.
    memory_bytes : int
    disk_bytes : int
        Free where `folder` is.
    folder : Path
        Where matrices lie that are on disk.
    is_all : bool
        Whether that is all the memory that is free, and not what somebody has allowed.
    counts_files : bool
        Whether matrices on disk count as memory: where it is address space that is short.
    """

    requested: StorageRequest
    memory_bytes: int
    disk_bytes: int
    folder: Path
    is_all: bool
    counts_files: bool = False

    @classmethod
    def of(
        cls,
        requested: StorageRequest = "auto",
        memory_limit: int | str | None = None,
        folder: str | Path = ".",
    ) -> Self:
        """Look at what is free.

        Parameters
        ----------
        requested : {"auto", "memory", "disk"}
        memory_limit : int or str, optional
            Memory that the run may take at most: bytes, or such as ``6GB`` or ``512MiB``.
        folder : path
            It need not exist yet.

        Raises
        ------
        ConfigError
            `requested` is none of the three, or the limit is no size.
        """
        if requested not in get_args(StorageRequest):
            raise ConfigError(
                f"got {requested!r}, expected one of {', '.join(get_args(StorageRequest))}",
                path="storage",
                got=requested,
            )
        free, place = available_bytes("cpu"), Path(folder).absolute()
        limit = free if memory_limit is None else _bytes(memory_limit)
        exists = next(each for each in (place, *place.parents) if each.exists())
        return cls(
            requested=requested,
            memory_bytes=min(free, limit),
            disk_bytes=shutil.disk_usage(exists).free,
            folder=place,
            is_all=limit >= free,
            counts_files=address_space_left() is not None,
        )


def _bytes(size: int | str) -> int:
    try:
        found = int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError:
        found = 0
    if found <= 0 or isinstance(size, bool):
        raise ConfigError(
            f"got {describe(size)}, expected bytes, such as 6GB or 512MiB",
            path="memory_limit",
            got=size,
        )
    return found


@dataclass(frozen=True, slots=True)
class Site:
    """A folder where matrices lie on disk.

    Attributes
    ----------
    folder : Path
        Exists; better on no network file system, unless others have to see it.
    fleet : object or None
        Other processes that see the folder, and work on the rows of matrices in it: a `Fleet`,
        which is known above.
    is_named : bool
        Whether the first file there has a name, by which it may be kept.
    """

    folder: Path
    fleet: object | None = None
    is_named: bool = False

    @property
    def has_names(self) -> bool:
        """Whether files there have names as long as their arrays live."""
        return self.is_named or self.fleet is not None


class _File(mmap.mmap):
    """The pages of a matrix on disk; where it lies, and the path where it has a name."""

    site: Site
    path: Path | None


def on_disk(shape: Sequence[int], site: str | Path | Site, dtype: Any = np.float32) -> Any:
    """Return an array of zeros in a file of its own, which is gone with it.

    However this process ends, unless the site gives it a name.

    Parameters
    ----------
    shape : sequence of int
    site : path or Site
    dtype : dtype, default float32

    Raises
    ------
    DiskFullError
        There is not so much room. It is taken now: later, the system would have no way to say it
        but to end the process.
    StoreError
        No file can be made there.
    """
    site = site if isinstance(site, Site) else Site(Path(site))
    n_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
    pages, path = _pages(n_bytes, site)
    pages.site, pages.path = replace(site, is_named=False), path
    if path is not None:
        weakref.finalize(pages, path.unlink, missing_ok=True)
    return np.ndarray(tuple(shape), dtype, buffer=pages)


def _pages(n_bytes: int, site: Site) -> tuple[_File, Path | None]:
    """Map a new file."""
    kind: Any = tempfile.TemporaryFile
    if site.has_names:
        kind = partial(tempfile.NamedTemporaryFile, delete=False)
    try:
        with kind(prefix=PREFIX, dir=site.folder) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, n_bytes)
                pages = _File(file.fileno(), n_bytes)
            except OSError:
                if site.has_names:
                    Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise _refused(error, n_bytes, site.folder) from error
    return pages, Path(file.name) if site.has_names else None


def mapped(path: Path, shape: Sequence[int], site: Site) -> Any:
    """Return the float32 matrix in a file of somebody else's, not to be written.

    Parameters
    ----------
    path : Path
    shape : sequence of int
        Its first rows.
    site : Site
        Where what is made of it lies.

    Raises
    ------
    OSError, ValueError
        There is no such file, or it has fewer rows.
    """
    with path.open("rb") as file:
        pages = _File(file.fileno(), 0, access=mmap.ACCESS_READ)
    pages.site, pages.path = site, path
    if len(pages) < 4 * math.prod(shape):
        raise ValueError(f"{path} has fewer rows")
    return np.ndarray(tuple(shape), np.float32, buffer=pages)


def name_of(array: Any) -> Path | None:
    """Return the file of a matrix on disk, where it has a name."""
    file = _file_of(array)
    return None if file is None else file.path


def is_on_disk(array: Any) -> bool:
    """Whether an array lies in a file of `on_disk`, or is a view of one that does."""
    return _file_of(array) is not None


def like(X: Any, shape: Sequence[int], dtype: Any = np.float32, *, to_lend: bool = False) -> Any:
    """Return an array to be written that lies where `X` does: memory, disk or GPU.

    What is small lies in memory, even beside a matrix on disk.

    Parameters
    ----------
    X : array
    shape : sequence of int
    dtype : dtype, default float32
    to_lend : bool, default False
        Where others work on the rows of `X`, they must see this array, however small.
    """
    file = _file_of(X)
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if file is not None and (n_bytes > SMALL_BYTES or (to_lend and file.site.fleet is not None)):
        return on_disk(shape, file.site, dtype)
    return namespace(X).empty(tuple(shape), dtype)


def take(X: Any, rows: Any) -> Any:
    """Return a copy of rows in memory, read in the order in which they lie.

    From a matrix on disk, rows in any order would bring each page many times.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    rows : ndarray of shape (n,), int

    Returns
    -------
    ndarray of shape (n, n_features)
    """
    if not is_on_disk(X):
        return X[rows]
    order = np.argsort(rows, kind="stable")
    found = np.empty((len(rows), X.shape[1]), X.dtype)
    found[order] = X[rows[order]]
    return found


def site_of(X: Any) -> Site | None:
    """Return where a matrix lies whose rows other processes can see, or None."""
    file = _file_of(X)
    return None if file is None or lent(X) is None else file.site


@dataclass(frozen=True, slots=True)
class Lent:
    """An array in a file that other processes open."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def opened(self) -> Any:
        """Return the array; it can be written, and then is in all processes."""
        return np.ndarray(self.shape, self.dtype, buffer=_mapped(self.path), offset=self.offset)


def lent(array: Any) -> Lent | None:
    """Return how others open an array; None where they cannot."""
    file = _file_of(array)
    if file is None or file.path is None or not array.flags.c_contiguous:
        return None
    begin = np.frombuffer(file, np.uint8, 1).ctypes.data
    return Lent(str(file.path), array.ctypes.data - begin, array.shape, array.dtype.str)


_MAPPED: dict[str, mmap.mmap] = {}  # of files that others have lent, by path


def _mapped(path: str) -> mmap.mmap:
    for known in [known for known in tuple(_MAPPED) if not Path(known).exists()]:
        _MAPPED.pop(known, None)  # its array has died, and so does the mapping
    pages = _MAPPED.get(path)
    if pages is None:
        with Path(path).open("r+b") as file:
            pages = _MAPPED[path] = mmap.mmap(file.fileno(), 0)
    return pages


def release(folder: str) -> None:
    """Let go of the files of a folder: as long as one is mapped, its room on the disk is taken."""
    for known in [known for known in tuple(_MAPPED) if str(Path(known).parent) == folder]:
        _MAPPED.pop(known, None)


def _file_of(array: Any) -> _File | None:
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, _File) else None


def _refused(error: OSError, n_bytes: int, folder: str | Path) -> StoreError:
    said = f"{folder}: a matrix of {n_bytes / 1e9:,.3g} GB cannot be kept there"
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        free = shutil.disk_usage(folder).free
        return DiskFullError(
            f"{said}: {free / 1e9:,.3g} GB are free", hint="make room, or name another folder"
        )
    kind = PermissionRefusedError if isinstance(error, PermissionError) else StoreError
    return kind(f"{said}: {error.strerror or error}", hint="name another folder")
