"""Requests to a bucket, each of which ends, and says whether it was carried out."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from gpucluster.errors import BackendUnavailableError
from gpucluster.places.trouble import Changed, Unsure, plainly

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

T = TypeVar("T")

PATIENCE: Final[RetryConfig] = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
PAUSES_S: Final = (0.1, 1.0)  # before a request is sent again that obstore has given up
PART_BYTES = 8 << 20  # sent or read at a time, or more, since a service takes ...
MAX_PARTS = 9_000
SENDERS = 4
WRITER = "writer"  # a name that every service takes
SETTINGS = ("AWS_", "AZURE_", "GOOGLE_")  # begin the variables that obstore reads


class Version(NamedTuple):
    """What tells the content of an object from what it was, or will be."""

    e_tag: str | None
    number: str | None


class Entry(NamedTuple):
    """What is known of an object without reading it."""

    key: str
    bytes: int
    modified: datetime  # by the clock of the service
    version: Version


class Bucket:
    """A bucket, or a container of Azure; any thread may use it.

    Parameters
    ----------
    address : str
        ``s3://name``, ``gs://name`` or ``az://name``.

    Raises
    ------
    BackendUnavailableError
        obstore is missing.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._is_sound = False
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise BackendUnavailableError(
                f"{address} is read with obstore, which is missing",
                hint="pip install 'gpucluster[s3]'",
            ) from error
        with plainly(address):
            self._store: ObjectStore = from_url(address, retry_config=PATIENCE)

    def look(self, key: str) -> Entry:
        """Return what is known of an object; `FileNotFoundError` where there is none."""
        import obstore

        return self._ask(key, lambda: _entry(obstore.head(self._store, key)))

    def read(self, key: str) -> tuple[bytes, Entry]:
        """Return a whole object."""
        import obstore

        def get() -> tuple[bytes, Entry]:
            found = obstore.get(self._store, key)
            return bytes(found.bytes()), _entry(found.meta)

        return self._ask(key, get)

    def read_part(self, entry: Entry, start: int, stop: int) -> bytes:
        """Return bytes of an object; `Changed` where it is another one by now."""
        import obstore

        options: Any = {"range": (start, stop)}
        if entry.version.e_tag is not None:
            options["if_match"] = entry.version.e_tag
        return self._ask(
            entry.key,
            lambda: bytes(obstore.get(self._store, entry.key, options=options).bytes()),
        )

    def below(self, folder: str) -> list[Entry]:
        """Return all objects in a folder and the folders in it, by their keys."""
        import obstore

        def entries() -> Iterator[Entry]:
            for batch in obstore.list(self._store, folder or None):
                yield from map(_entry, batch)

        return sorted(self._ask(folder, lambda: list(entries())))

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the objects and folders that are directly in a folder."""
        import obstore

        found = self._ask(folder, lambda: obstore.list_with_delimiter(self._store, folder or None))
        paths = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths})

    def write(self, key: str, file: IO[bytes], n_bytes: int) -> None:
        """Write an object, whatever is there; what is large goes in parts, and appears at once."""
        import obstore

        def put() -> None:
            file.seek(0)
            if n_bytes <= PART_BYTES:
                obstore.put(self._store, key, file.read(), use_multipart=False)
            else:
                part = max(PART_BYTES, n_bytes // MAX_PARTS)
                sending: Any = {"chunk_size": part, "max_concurrency": SENDERS}
                obstore.put(self._store, key, file, **sending)

        self._ask(key, put)

    def write_if(self, key: str, body: bytes, match: Version | None = None) -> Version:
        """Write an object where there is none, or where it is still `match`.

        A reply may be lost, and then nobody knows whether the object was written. So each
        write carries a word of its own, and where an object is in the way that has it, it was.

        Raises
        ------
        FileExistsError
            There is an object.
        Changed
            It is not `match` any more.
        """
        import obstore

        token = secrets.token_hex(16)
        mode: Any = "create"
        if match is not None:
            said = {"e_tag": match.e_tag, "version": match.number}
            mode = {name: value for name, value in said.items() if value is not None}

        def put() -> Version:
            attributes = {WRITER: token}
            done = obstore.put(self._store, key, body, mode=mode, attributes=attributes)
            return Version(done["e_tag"], done["version"])

        try:
            return self._ask(key, put)
        except (FileExistsError, FileNotFoundError, Changed, Unsure) as error:
            is_own, version = self._look_who(key, token)
            if is_own and version is not None:
                return version
            if isinstance(error, Unsure) and version not in (None, match):  # somebody else was here
                what = "it is another one"
                kind = FileExistsError if match is None else Changed
                raise kind(errno.EEXIST, what, f"{self.address}/{key}") from None
            raise

    def _look_who(self, key: str, token: str) -> tuple[bool, Version | None]:
        """Return whether an object was written with `token`, and its version, if there is one."""
        import obstore

        def get() -> tuple[bool, Version]:
            found = obstore.get(self._store, key, options={"head": True})
            return found.attributes.get(WRITER) == token, _entry(found.meta).version

        try:
            return self._ask(key, get)
        except FileNotFoundError:
            return False, None

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        import obstore

        try:
            self._ask(key, lambda: obstore.delete(self._store, key))
        except FileNotFoundError as error:
            if "bucket" in str(error.strerror):
                raise

    def time(self, folder: str) -> datetime:
        """Return what the clock of the service says, by writing an object and removing it."""
        key = f"{folder}/.time-{secrets.token_hex(8)}".removeprefix("/")
        try:
            self.write_if(key, b"")
            return self.look(key).modified
        finally:
            self.delete(key)

    def require_conditions(self, folder: str) -> None:
        """Try out, once, whether the conditions of writes are kept.

        Raises
        ------
        OSError
            A write was carried out whose condition did not hold, or there are no such writes.
        """
        if self._is_sound:
            return
        key = f"{folder}/.probe-{secrets.token_hex(8)}".removeprefix("/")
        self.write_if(key, b"first")
        try:
            for refusal, match in ((FileExistsError, None), (Changed, Version('"0"', "1"))):
                try:
                    self.write_if(key, b"second", match)
                except refusal:
                    continue
                raise OSError(errno.ENOTSUP, "it ignores the condition of a write", self.address)
        finally:
            self.delete(key)
        self._is_sound = True

    def _ask(self, key: str, request: Callable[[], T]) -> T:
        """Send a request, and send it again where it may not have arrived."""
        for pause in PAUSES_S:
            try:
                with plainly(f"{self.address}/{key}"):
                    return request()
            except Unsure:
                time.sleep(pause)
        with plainly(f"{self.address}/{key}"):
            return request()


def _entry(meta: Any) -> Entry:
    version = Version(meta["e_tag"], meta.get("version"))
    return Entry(meta["path"], meta["size"], meta["last_modified"], version)


_open: dict[Any, Bucket] = {}
_lock = Lock()


def bucket(address: str) -> Bucket:
    """Return the bucket at an address, which is opened once for the same variables."""
    settings = tuple(sorted(each for each in os.environ.items() if each[0].startswith(SETTINGS)))
    with _lock:
        if (address, settings) not in _open:
            _open[address, settings] = Bucket(address)
        return _open[address, settings]
