"""A lease on a folder of a bucket: an object that its holder renews."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
import threading
import time
from datetime import timedelta

from gpucluster.errors import RunLockedError, StoreError
from gpucluster.places import ObjectPath
from gpucluster.places.bucket import Version
from gpucluster.places.trouble import Changed

EXPIRY_S = 60.0  # after which a lease that is not renewed may be taken, by the service's clock
RENEW_S = 10.0
TRUST_S = 40.0  # for which its holder believes in it without asking
END_S = 5.0  # for which whoever ends waits for a renewal that is on its way


class ObjectLease:
    """The object ``.lock`` in a folder, which says who works there.

    It is created where there is none; renewed every ten seconds by a write on the condition that
    it is still the same; and taken over by such a write, once it was not renewed for a minute.
    Ages are differences of the service's own dates, so no clock of a machine counts. A holder
    that was held up asks before it goes on: if nobody took the lease over, the lease is its own.

    Parameters
    ----------
    folder : ObjectPath
    """

    def __init__(self, folder: ObjectPath) -> None:
        self.folder = folder
        self._lock = folder / ".lock"
        self._token = secrets.token_hex(16)
        self._renewals = 0
        self._version: Version | None = None
        self._known_at = 0.0
        self._is_lost = False
        self._asking = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def take(self) -> None:
        """Take the lease, or raise `RunLockedError`; an `OSError` where the service fails."""
        begun = time.monotonic()
        try:
            self._version = self._write(None)
        except FileExistsError:
            self._version = self._take_over()
        self._known_at = begun
        self._thread.start()

    def _take_over(self) -> Version:
        bucket = self.folder.bucket
        try:
            body, entry = bucket.read(self._lock.key)
        except FileNotFoundError:  # its holder has just released it
            return self._write_or_refuse(None, "another process")
        try:
            holder = str(json.loads(body)["holder"])
        except (ValueError, KeyError, TypeError):
            holder = "another process"
        left = timedelta(seconds=EXPIRY_S) - (bucket.time(self.folder.key) - entry.modified)
        if left > timedelta(0):
            raise RunLockedError(
                f"{self.folder} is in use by {holder}",
                hint="wait until it has finished; if it was killed, "
                f"try again in {left.total_seconds():.0f} s",
            )
        return self._write_or_refuse(entry.version, holder)

    def _write_or_refuse(self, match: Version | None, holder: str) -> Version:
        try:
            return self._write(match)
        except (FileExistsError, FileNotFoundError, Changed) as error:
            raise RunLockedError(
                f"{self.folder} is in use by {holder}", hint="wait until it has finished"
            ) from error

    def require(self) -> None:
        """Raise `StoreError` unless the lease is held; ask where that is not known."""
        with self._asking:
            if not self._is_lost and time.monotonic() - self._known_at > TRUST_S:
                self._renew()
        if self._is_lost:
            raise StoreError(
                f"{self.folder}: another process has taken over, since this one was held up",
                hint="run again: it waits for the other one, or shows what that has found",
            )

    def release(self) -> None:
        """Give the lease back; one that cannot be given back ends by itself."""
        self._released.set()
        self._thread.join(END_S)
        if self._is_lost or self._thread.is_alive():
            return
        with contextlib.suppress(OSError):
            self.require()
            self.folder.bucket.delete(self._lock.key)

    def _keep(self) -> None:
        while not self._released.wait(RENEW_S):
            with contextlib.suppress(OSError), self._asking:  # else the next time
                self._renew()
            if self._is_lost:
                return

    def _renew(self) -> None:
        begun = time.monotonic()
        try:
            try:
                self._version = self._write(self._version)
            except Changed:  # perhaps by a renewal of our own that no answer came to
                self._version = self._write(self._own())
        except (Changed, FileExistsError, FileNotFoundError):
            self._is_lost = True
        else:
            self._known_at = begun

    def _own(self) -> Version:
        """Return the version of the object, if this lease wrote it; raise `Changed` otherwise."""
        body, entry = self.folder.bucket.read(self._lock.key)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(body)["token"] == self._token:
                return entry.version
        raise Changed(errno.EEXIST, "it is another writer's", str(self._lock))

    def _write(self, match: Version | None) -> Version:
        self._renewals += 1
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        # a number, since objects of equal content have equal tags
        said = {"holder": holder, "token": self._token, "renewals": self._renewals}
        return self.folder.bucket.write_if(self._lock.key, json.dumps(said).encode(), match)
