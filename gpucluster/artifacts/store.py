"""The store port: a file is published once and whole, or it is not there.

A writer never touches a final name. It writes a hidden temporary file in the same folder,
flushes it to the disk, gives it its name in one atomic step, and flushes the folder. So a
reader sees the old state or the new one, whatever kills the writer and whenever.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from gpucluster.errors import (
    DiskFullError,
    GpuclusterError,
    PermissionRefusedError,
    RunLockedError,
    StoreError,
)
from gpucluster.places import Place

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"  # no hidden names, no "..", nothing to escape
KEY = rf"{NAME}(/{NAME})*"
BUFFER_BYTES = 1 << 20
TEMPORARY = ".*.tmp"  # what `LocalStore.put` writes before it publishes


class Stored(NamedTuple):
    """What was written: its length and the hex digest of its content."""

    bytes: int
    sha256: str


class Store(Protocol):
    """Files under keys: relative paths with ``/``, of letters, digits, ``.``, ``_`` and ``-``.

    A key that is missing, or must be and is not, raises Python's own `FileNotFoundError` and
    `FileExistsError`; a refusal of the system is a `StoreError`.
    """

    @property
    def root(self) -> Place:
        """The folder that keys begin in."""

    def put(self, key: str, write: Callable[[BinaryIO], object], *, absent: bool = False) -> Stored:
        """Publish what `write` writes; with `absent`, only where nothing is: one writer wins."""

    def open(self, key: str) -> io.BufferedReader:
        """Open a published file for reading."""

    def read_bytes(self, key: str) -> bytes:
        """Return a whole published file."""

    def exists(self, key: str) -> bool:
        """Whether something is published under `key`."""

    def list(self, prefix: str = "") -> tuple[str, ...]:
        """Return the sorted names directly below `prefix`; none where nothing is."""

    def delete(self, key: str) -> None:
        """Remove a published file; a missing one is no error."""

    def sweep(self, prefix: str, older_than: timedelta) -> None:
        """Remove what writers that were killed so long ago have left below `prefix`."""

    def lease(self, key: str) -> AbstractContextManager[None]:
        """Hold what lies below `key` for this writer alone, or raise `RunLockedError`."""


class Durable:
    """The system calls that decide what a crash leaves behind, and nothing else.

    Tests give `LocalStore` one that fails at its n-th call.
    """

    def make_folder(self, path: Path) -> None:
        """Create one folder."""
        path.mkdir(exist_ok=True)

    def open_temp(self, path: Path) -> io.FileIO:
        """Create a file that does not exist yet, for unbuffered writing."""
        return io.FileIO(path, "x")

    def fsync_file(self, file: io.FileIO) -> None:
        """Bring the content of a file to the disk."""
        os.fsync(file.fileno())

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, unless that name is taken."""
        os.link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        """Move a file over another in one step."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        path.unlink(missing_ok=True)

    def fsync_dir(self, path: Path) -> None:
        """Bring the names in a folder to the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class LocalStore:
    """A `Store` in a folder of a POSIX file system with hard links.

    Parameters
    ----------
    root : Path
        The folder; made with the first write.
    durable : Durable, optional
        How names and contents reach the disk.
    """

    def __init__(self, root: Path, durable: Durable | None = None) -> None:
        self.root = root.expanduser().resolve()
        self._durable = durable or Durable()

    def put(self, key: str, write: Callable[[BinaryIO], object], *, absent: bool = False) -> Stored:
        """Publish what `write` writes under `key`.

        Parameters
        ----------
        key : str
            Where to.
        write : callable
            Gets a binary file that can only be written to, from its start to its end.
        absent : bool
            Whether an existing file is an error instead of being replaced.

        Returns
        -------
        Stored
            Length and digest, taken while writing.

        Raises
        ------
        FileExistsError
            With `absent`, when `key` is taken.
        DiskFullError, PermissionRefusedError, StoreError
            The system refused; nothing was published and no temporary file is left.
        """
        path = self._path(key)
        temp = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
        with _refusals(path, passing=FileExistsError):
            self._make_folder(path.parent)
            try:
                stored = self._write(temp, write)
                if absent:
                    self._link(temp, path)
                    self._durable.unlink(temp)
                else:
                    self._durable.replace(temp, path)
            except BaseException:  # an interrupt must not leave a file behind either
                with contextlib.suppress(OSError):
                    temp.unlink()
                raise
            self._durable.fsync_dir(path.parent)
        return stored

    def open(self, key: str) -> io.BufferedReader:
        """Open a published file for reading."""
        path = self._path(key)
        with _refusals(path, "read", passing=FileNotFoundError):
            return path.open("rb")

    def read_bytes(self, key: str) -> bytes:
        """Return a whole published file."""
        with self.open(key) as file, _refusals(self._path(key), "read"):
            return file.read()

    def exists(self, key: str) -> bool:
        """Whether a file is published under `key`."""
        path = self._path(key)
        with _refusals(path, "read"):
            return path.is_file()

    def list(self, prefix: str = "") -> tuple[str, ...]:
        """Return the sorted names of the files and folders directly below `prefix`."""
        folder = self._path(prefix) if prefix else self.root
        with _refusals(folder, "read"):
            try:
                return tuple(sorted(p.name for p in folder.iterdir() if re.fullmatch(NAME, p.name)))
            except (FileNotFoundError, NotADirectoryError):
                return ()

    def delete(self, key: str) -> None:
        """Remove a published file; a missing one is no error."""
        path = self._path(key)
        if path.is_file():
            with _refusals(path, "delete"):
                self._durable.unlink(path)
                self._durable.fsync_dir(path.parent)

    def sweep(self, prefix: str, older_than: timedelta) -> None:
        """Remove temporary files below `prefix` that nobody has written to for so long."""
        folder = self._path(prefix)
        until = time.time() - older_than.total_seconds()
        with _refusals(folder, "delete"):
            for temp in folder.rglob(TEMPORARY):
                with contextlib.suppress(FileNotFoundError):  # its writer is done
                    if temp.stat().st_mtime < until:
                        temp.unlink()

    @contextlib.contextmanager
    def lease(self, key: str) -> Iterator[None]:
        """Hold the folder `key` for this writer alone.

        The lock goes with the process, however it ends. Whoever takes it removes the temporary
        files of its predecessors.

        Raises
        ------
        RunLockedError
            Another writer holds it.
        """
        folder = self._path(key)
        lock = folder / ".lock"
        with _refusals(folder):
            fd = self._locked(folder, lock)
        try:
            with _refusals(folder):
                for temp in folder.rglob(TEMPORARY):
                    temp.unlink()
            yield
        finally:
            with contextlib.suppress(OSError):  # a lock file left behind does no harm
                lock.unlink()
                folder.rmdir()  # only when nothing was written to it
            os.close(fd)

    def _locked(self, folder: Path, lock: Path) -> int:
        while True:
            self._make_folder(folder)
            with contextlib.suppress(FileNotFoundError):  # its last holder removed it
                return _lock(lock)

    def _path(self, key: str) -> Path:
        path = self.root / key
        if not re.fullmatch(KEY, key) or not path.resolve().is_relative_to(self.root):
            raise no_place(key, self.root)
        return path

    def _make_folder(self, folder: Path) -> None:
        """Create `folder` and what is missing above it, each entry flushed to the disk."""
        if not folder.is_dir():
            self._make_folder(folder.parent)
            try:
                self._durable.make_folder(folder)
            except FileExistsError as error:  # not the one that `put` knows
                if folder.exists() and not folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file") from error
                self._make_folder(folder)  # a folder that somebody else has just removed
            self._durable.fsync_dir(folder.parent)

    def _write(self, temp: Path, write: Callable[[BinaryIO], object]) -> Stored:
        with self._durable.open_temp(temp) as file:
            stored = write_hashed(file, write)
            self._durable.fsync_file(file)
            return stored

    def _link(self, temp: Path, path: Path) -> None:
        try:
            self._durable.link(temp, path)
        except FileExistsError:
            if not path.samefile(temp):  # the same: a network file system lost its first reply
                raise
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise StoreError(
                    f"cannot publish {path}: the file system has no hard links",
                    hint="choose an output folder on a POSIX file system",
                ) from error
            raise


def no_place(key: str, root: Place) -> StoreError:
    """Return the error about a key that is none."""
    return StoreError(
        f"{key!r} is no place in {root}",
        hint="names have letters, digits, '.', '_', '-', and begin with a letter or digit",
    )


class Writable(Protocol):
    """What `write_hashed` needs of a file."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, and return how many bytes of it."""


def write_hashed(file: Writable, write: Callable[[BinaryIO], object]) -> Stored:
    """Let `write` write to a file, and return what it wrote."""
    with _Hashing(file) as hashing:
        buffered = io.BufferedWriter(hashing, BUFFER_BYTES)
        write(buffered)
        buffered.flush()
        return Stored(hashing.bytes, hashing.sha256.hexdigest())


class _Hashing(io.RawIOBase):
    """Hash what reaches a file.

    It has no file descriptor, so that no library writes past it: numpy, given one, reports a
    full disk without an error number.
    """

    def __init__(self, file: Writable) -> None:
        super().__init__()
        self._file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def writable(self) -> bool:
        """Say so to the buffer."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write and hash; less than all when the system takes less."""
        written = self._file.write(data)
        self.sha256.update(memoryview(data)[:written])
        self.bytes += written
        return written


def _lock(path: Path) -> int:
    """Return the descriptor of the lock file at `path`, held by this process."""
    while True:
        with contextlib.ExitStack() as undo:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            undo.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(fd, 200, 0).decode(errors="replace") or "another process"
                raise RunLockedError(
                    f"{path.parent} is in use by {holder}", hint="wait until it has finished"
                ) from None
            # Between open and flock the last holder may have removed the file: then try again.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(fd)):
                    os.truncate(fd, 0)
                    os.write(fd, f"process {os.getpid()} on {socket.gethostname()}".encode())
                    undo.pop_all()
                    return fd


@contextlib.contextmanager
def _refusals(
    path: Path, verb: str = "write", passing: type[OSError] | tuple[()] = ()
) -> Iterator[None]:
    """Translate what the system refuses, but for the one error `passing` that is an answer."""
    try:
        yield
    except passing:
        raise
    except OSError as error:
        if isinstance(error, GpuclusterError):
            raise
        cls, hint = StoreError, "check the disk, then run again: finished stages are kept"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cls, hint = DiskFullError, "make room, then run again: finished stages are kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            cls, hint = PermissionRefusedError, "choose a folder where this user may write"
        what = error.strerror or str(error)
        raise cls(f"cannot {verb} {path}: {what} ({_free(path)})", hint=hint) from error


def _free(path: Path) -> str:
    for folder in path.parents:
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free} bytes free"
    return "free space unknown"
