"""The store port in a bucket: what a rename is on a disk, a conditional write is there."""

from __future__ import annotations

import contextlib
import errno
import io
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

from gpucluster.artifacts.object_lease import ObjectLease
from gpucluster.artifacts.store import KEY, NAME, LocalStore, Store, Stored, no_place, write_hashed
from gpucluster.errors import DiskFullError, GpuclusterError, PermissionRefusedError, StoreError
from gpucluster.places import ObjectPath, Place
from gpucluster.places.reading import open_object

SPOOL_BYTES = 8 << 20  # kept in memory before they are sent; more lie in a temporary file
AGAIN = "run again: finished stages are kept"


def open_store(folder: Place) -> Store:
    """Return the store of an output folder, on a disk or in a bucket."""
    return LocalStore(folder) if isinstance(folder, Path) else ObjectStore(folder)


class ObjectStore:
    """A `Store` in a bucket of S3, Google Cloud Storage or Azure, or below a prefix in it.

    An object appears whole, and with its last byte. Of those who write one that must not be
    there, the service lets one through: a service that does not is found out before anything
    is published. While a lease is held, writes of whoever lost it are refused.

    Parameters
    ----------
    root : ObjectPath
        The folder.
    """

    def __init__(self, root: ObjectPath) -> None:
        self.root = root
        self._leases: list[ObjectLease] = []

    def put(self, key: str, write: Callable[[BinaryIO], object], *, absent: bool = False) -> Stored:
        """Publish what `write` writes under `key`.

        Parameters
        ----------
        key : str
            Where to.
        write : callable
            Gets a binary file that can only be written to, from its start to its end.
        absent : bool
            Whether an existing object is an error instead of being replaced. What is written is
            held in memory then.

        Returns
        -------
        Stored
            Length and digest, taken while writing.

        Raises
        ------
        FileExistsError
            With `absent`, when `key` is taken.
        DiskFullError, PermissionRefusedError, StoreError
            It was refused, or a lease was lost; or the service does not answer, and then it may
            be published or not. A reply that was lost is no error.
        """
        path = self._path(key)
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            file = cast("IO[bytes]", spool)
            with _spooling():
                stored = write_hashed(file, write)
            self._require_leases()
            with _refusals(path, passing=FileExistsError):
                if absent:
                    path.bucket.require_conditions(self.root.key)
                    file.seek(0)
                    path.bucket.write_if(path.key, file.read())
                else:
                    path.bucket.write(path.key, file, stored.bytes)
        self._require_leases()  # what was sent meanwhile is named by no manifest of ours
        return stored

    def open(self, key: str) -> io.BufferedReader:
        """Open a published file for reading."""
        path = self._path(key)
        with _refusals(path, "read", passing=FileNotFoundError):
            entry = path.bucket.look(path.key)
            return open_object(path.bucket, entry, partial(_refusals, path, "read"))

    def read_bytes(self, key: str) -> bytes:
        """Return a whole published file."""
        path = self._path(key)
        with _refusals(path, "read", passing=FileNotFoundError):
            return path.read_bytes()

    def exists(self, key: str) -> bool:
        """Whether a file is published under `key`."""
        path = self._path(key)
        with _refusals(path, "read"):
            return path.is_file()

    def list(self, prefix: str = "") -> tuple[str, ...]:
        """Return the sorted names of the files and folders directly below `prefix`."""
        folder = self._path(prefix) if prefix else self.root
        with _refusals(folder, "read"):
            names = folder.bucket.names(folder.key)
        return tuple(name for name in names if re.fullmatch(NAME, name))

    def delete(self, key: str) -> None:
        """Remove a published file; a missing one is no error."""
        path = self._path(key)
        with _refusals(path, "delete"):
            path.bucket.delete(path.key)

    def sweep(self, prefix: str, older_than: timedelta) -> None:
        """Do nothing: what was sent of an object is invisible, and goes by a rule of the bucket."""

    @contextlib.contextmanager
    def lease(self, key: str) -> Iterator[None]:
        """Hold what lies below `key` for this writer alone.

        See `ObjectLease`. A lease whose holder was killed ends after a minute.

        Raises
        ------
        RunLockedError
            Another writer holds it.
        """
        folder = self._path(key)
        lease = ObjectLease(folder)
        with _refusals(folder):
            folder.bucket.require_conditions(self.root.key)
            lease.take()
        self._leases.append(lease)
        try:
            yield
        finally:
            self._leases.remove(lease)
            lease.release()

    def _require_leases(self) -> None:
        for lease in self._leases:
            with _refusals(lease.folder):
                lease.require()

    def _path(self, key: str) -> ObjectPath:
        if not re.fullmatch(KEY, key):
            raise no_place(key, self.root)
        return self.root / key


@contextlib.contextmanager
def _spooling() -> Iterator[None]:
    """Translate what the own disk refuses; what `write` raises by itself passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise DiskFullError(
            f"no space is left in {tempfile.gettempdir()} for what is to be sent",
            hint="free some, or let TMPDIR name a larger disk",
        ) from error


@contextlib.contextmanager
def _refusals(
    path: ObjectPath, verb: str = "write", passing: type[OSError] | tuple[()] = ()
) -> Iterator[None]:
    """Translate what a service refuses, but for the one error `passing` that is an answer."""
    try:
        yield
    except OSError as error:
        no_bucket = "bucket" in str(error.strerror)
        if isinstance(error, GpuclusterError) or (isinstance(error, passing) and not no_bucket):
            raise
        cls, hint = StoreError, AGAIN
        if isinstance(error, PermissionError):
            cls, hint = PermissionRefusedError, "name a folder where these credentials may write"
        elif error.errno == errno.ENOTSUP:
            hint = "without them two writers may both win: choose another bucket, or a local folder"
        elif no_bucket:
            hint = "create it, or name another one"
        raise cls(f"cannot {verb} {path}: {error.strerror or error}", hint=hint) from error
