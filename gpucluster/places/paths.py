"""Addresses of objects, used like paths."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeAlias

from gpucluster.errors import ConfigError
from gpucluster.places.bucket import Bucket, Entry, bucket
from gpucluster.places.reading import open_object

SCHEMES = ("s3", "gs", "az")
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)})://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,222}")
_WILD = re.compile(r"[*?\[]")


class State(NamedTuple):
    """What is known of an object from outside, under the names that a file has them."""

    st_size: int
    st_mtime_ns: int
    e_tag: str | None


@dataclass(frozen=True, order=True, repr=False)
class ObjectPath:
    """The address of an object, or of a folder: what begins with the same names.

    Attributes
    ----------
    scheme : {"s3", "gs", "az"}
    container : str
        The bucket.
    key : str
        Names with ``/`` between them; empty for the bucket itself.
    """

    scheme: str
    container: str
    key: str = ""

    @classmethod
    def parse(cls, address: str) -> ObjectPath:
        """Read ``scheme://bucket/key``.

        Raises
        ------
        ConfigError
            It is no address. What it says is not repeated where it may hold a secret.
        """
        scheme, _, rest = address.partition("://")
        container, _, key = rest.partition("/")
        if not _BUCKET.fullmatch(container):
            raise ConfigError(
                f"an address begins {scheme}://BUCKET/, with the name of a bucket alone",
                hint="credentials and endpoint come from the environment",
            )
        names = [name for name in key.split("/") if name]
        if any(name in {".", ".."} for name in names):
            raise ConfigError(f"got {address!r}: no name in an address is '.' or '..'")
        return cls(scheme, container, "/".join(names))

    @property
    def bucket(self) -> Bucket:
        """What answers requests."""
        return bucket(f"{self.scheme}://{self.container}")

    @property
    def name(self) -> str:
        """The last name; empty of a bucket."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> ObjectPath:
        """The folder that it is in; that of a bucket is itself."""
        return ObjectPath(self.scheme, self.container, self.key.rpartition("/")[0])

    def __truediv__(self, names: str) -> ObjectPath:
        return ObjectPath(self.scheme, self.container, f"{self.key}/{names}".strip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.container}/{self.key}".rstrip("/")

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def absolute(self) -> ObjectPath:
        """Return itself."""
        return self

    def stat(self) -> State:
        """Return size and time; `FileNotFoundError` where there is no object."""
        return _state(self.bucket.look(self.key))

    def is_file(self) -> bool:
        """Whether there is an object."""
        try:
            return bool(self.key) and bool(self.bucket.look(self.key))
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether there are objects below; a bucket without any is a folder too."""
        try:
            return bool(self.bucket.names(self.key)) or not self.key
        except FileNotFoundError:
            return False

    def exists(self) -> bool:
        """Whether there is an object, or are some below."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """Return a whole object."""
        return self.bucket.read(self.key)[0]

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return a whole object as text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:
        """Open an object for reading: what is asked for is fetched, and no more."""
        return open_object(self.bucket, self.bucket.look(self.key))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of all objects below, by their paths from here."""
        start = len(self.key) + 1 if self.key else 0
        return {entry.key[start:]: entry.bytes for entry in self.bucket.below(self.key)}

    def iterdir(self) -> Iterator[ObjectPath]:
        """Yield what is directly below, sorted; `FileNotFoundError` where nothing is."""
        names = self.bucket.names(self.key)
        if not names:
            raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(self))
        yield from (self / name for name in names)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Yield the objects below that match, sorted; ``**`` stands for any folders."""
        fixed = pattern[: match.start()] if (match := _WILD.search(pattern)) else pattern
        start = f"{self.key}/" if self.key else ""
        wanted = re.compile(re.escape(start) + _regex(pattern))
        for entry in self.bucket.below((start + fixed).rpartition("/")[0]):
            if wanted.fullmatch(entry.key):
                yield ObjectPath(self.scheme, self.container, entry.key)

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """Yield the objects at any depth below that match, sorted."""
        return self.glob(f"**/{pattern}")


Place: TypeAlias = Path | ObjectPath


def is_address(path: object) -> bool:
    """Whether something is the address of an object, or of a folder of objects."""
    return isinstance(path, ObjectPath) or (
        isinstance(path, str) and _ADDRESS.match(path) is not None
    )


def place(path: str | os.PathLike[str] | ObjectPath) -> Place:
    """Return where something lies.

    Parameters
    ----------
    path : str or path
        ``s3://``, ``gs://`` and ``az://`` begin addresses; anything else is a path on a disk, in
        which ``~`` stands for the user's folder.

    Raises
    ------
    ConfigError
        It is an address of another kind.
    """
    if isinstance(path, ObjectPath):
        return path
    if is_address(path):
        return ObjectPath.parse(str(path))
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)", os.fspath(path))
    if scheme and (scheme[2] or scheme[1] in SCHEMES):
        raise ConfigError(
            f"got {scheme[1]}:/..., expected a path, or text that begins with "
            f"{', '.join(f'{known}://' for known in SCHEMES)}",
            hint=None if scheme[2] else "pathlib takes a / out of an address",
        )
    return Path(path).expanduser()


def for_arrow(path: Place) -> Any:
    """Return what pyarrow is to read from; a file on a disk it reads by itself."""
    return path if isinstance(path, Path) else path.open()


def _state(entry: Entry) -> State:
    return State(entry.bytes, int(entry.modified.timestamp() * 1e9), entry.version.e_tag)


def _regex(pattern: str) -> str:
    """Return a glob as a regular expression: only ``**`` goes beyond a ``/``."""
    words = {"**/": "(?:.+/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    found = []
    for part in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", pattern):
        if part.startswith("[") and part.endswith("]") and len(part) > 2:
            inside = part[1:-1].replace("\\", "\\\\")
            found.append(f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]")
        else:
            found.append(words.get(part) or re.escape(part))
    return "".join(found)
