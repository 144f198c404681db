"""Objects as files, read where it is asked for, in ranges."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

from gpucluster.places.bucket import PART_BYTES, Bucket, Entry

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Guard: TypeAlias = Callable[[], AbstractContextManager[None]]

AHEAD_BYTES = 1 << 20  # fetched at least


class _Ranges(io.RawIOBase):
    """The content of an object as it was when it was opened; an `OSError` once it is another."""

    def __init__(self, bucket: Bucket, entry: Entry, guard: Guard) -> None:
        super().__init__()
        self._bucket = bucket
        self._entry = entry
        self._guard = guard
        self._at = 0

    def readable(self) -> bool:
        """Say so to the buffer."""
        return True

    def seekable(self) -> bool:
        """Say so to the buffer."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go somewhere else."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer, as far as there is something."""
        view = memoryview(buffer).cast("B")
        stop = min(self._at + len(view), self._at + PART_BYTES, self._entry.bytes)
        if stop <= self._at:
            return 0
        with self._guard():
            found = self._bucket.read_part(self._entry, self._at, stop)
        view[: len(found)] = found
        self._at += len(found)
        return len(found)


def open_object(bucket: Bucket, entry: Entry, guard: Guard = nullcontext) -> io.BufferedReader:
    """Open an object for reading.

    Parameters
    ----------
    bucket : Bucket
    entry : Entry
    guard : callable
        Gives what every request is made in, to translate its errors.

    Returns
    -------
    io.BufferedReader

    Notes
    -----
    Extra memory: `AHEAD_BYTES`, and 8 MiB while a larger range is read.
    """
    return io.BufferedReader(_Ranges(bucket, entry, guard), AHEAD_BYTES)
