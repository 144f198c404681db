"""Addresses in S3 that are made readable at the moment of sending."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from gpucluster.errors import BackendUnavailableError, ConfigError
from gpucluster.labeling.addresses import S3, place, prefix_place

if TYPE_CHECKING:
    from obstore.store import RetryConfig, S3Store

EXPIRY: Final = timedelta(minutes=15)
PATIENCE: Final[RetryConfig] = {"max_retries": 2, "retry_timeout": timedelta(seconds=5)}


class Presigner:
    """Makes addresses in S3 readable for a while, for whoever they are sent to.

    Credentials, region and endpoint are those of the AWS variables of the environment. What it
    returns is a secret for as long as it is valid: send it, and neither store nor log it.

    Parameters
    ----------
    prefixes : iterable of str
        What it may sign lies below one of these: ``s3://bucket``, or ``s3://bucket/folder``,
        which is not above ``s3://bucket/folder2``. Documents write the addresses, so that the
        buckets must be named. What is no prefix is refused by `LabelingSettings`.

    Notes
    -----
    Threads may share one.
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._prefixes = [*filter(None, map(prefix_place, prefixes))]
        self._stores: dict[str, S3Store] = {}
        self._lock = threading.Lock()

    def check(self) -> None:
        """Refuse, before any work, what would let no address be signed here.

        Where no variable holds credentials, the machine is asked for its own, as clouds give them.

        Raises
        ------
        BackendUnavailableError, ConfigError
            As `sign`.
        """
        for bucket, _ in self._prefixes:
            self._signed(bucket, "a")

    def allows(self, url: str) -> bool:
        """Whether `sign` would return an address, for `url` as `read_sample` lets it pass."""
        return not url.startswith(S3) or self._signable(url) is not None

    def sign(self, url: str) -> str | None:
        """Return an address that can be read without credentials for 15 minutes.

        Parameters
        ----------
        url : str

        Returns
        -------
        str or None
            Other addresses than those of S3 as they are. None for one that may not be signed.

        Raises
        ------
        BackendUnavailableError
            obstore is missing.
        ConfigError
            There are no credentials.
        """
        if not url.startswith(S3):
            return url
        where = self._signable(url)
        return None if where is None else self._signed(*where)

    def _signable(self, url: str) -> tuple[str, str] | None:
        """Return bucket and key of an address below a prefix."""
        where = place(url)
        if where is None:
            return None
        bucket, key = where
        below = any(
            of == bucket and (not lead or f"{key}/".startswith(f"{lead}/"))
            for of, lead in self._prefixes
        )
        return where if below else None

    def _signed(self, bucket: str, key: str) -> str:
        """Return a signed address."""
        try:
            import obstore
            from obstore.exceptions import BaseError
        except ImportError as error:
            raise BackendUnavailableError(
                "signing addresses in S3 needs obstore, which is missing",
                hint="pip install 'gpucluster[s3]'",
            ) from error
        try:
            store = self._store(bucket)
            return obstore.sign(store, "GET", key, EXPIRY)
        except (BaseError, TypeError, ValueError) as error:
            raise ConfigError(
                f"addresses in the bucket {bucket} cannot be signed ({type(error).__name__})",
                path="llm_labeling.presign_prefixes",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or no presign_prefixes",
            ) from error

    def _store(self, bucket: str) -> S3Store:
        from obstore.store import S3Store

        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = S3Store(bucket, retry_config=PATIENCE)
            return self._stores[bucket]
