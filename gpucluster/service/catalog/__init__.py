"""What the service knows: records in SQLite or PostgreSQL, behind one port."""

from __future__ import annotations

from pathlib import Path

from gpucluster.errors import ConfigError
from gpucluster.service.catalog.port import Catalog, Clock, utc_now


def open_catalog(url: str, *, clock: Clock = utc_now) -> Catalog:
    """Open the catalog at an address; where there is none yet, it is made.

    Parameters
    ----------
    url : str
        ``postgresql://...``, or a path of a SQLite file, also as ``sqlite:///path`` (relative)
        or ``sqlite:////path``.
    clock : callable, optional
        Says what time it is; for tests.

    Returns
    -------
    Catalog

    Raises
    ------
    ConfigError
        The address is none, or the file lies on a network file system.
    BackendUnavailableError
        PostgreSQL without its driver.
    StoreError, Full
        The database cannot be reached or written to.
    SchemaTooNewError
        A newer version of gpucluster has been there.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in {"postgresql", "postgres"}:
        from gpucluster.service.catalog.postgres import open_postgres

        return open_postgres(url, clock)
    if not separator:
        rest = url
    elif scheme == "sqlite" and rest.startswith("/"):
        rest = rest[1:]
    else:
        rest = ""
    if not rest or "\0" in rest:
        raise ConfigError(
            f"{scheme[:60]!r} is no catalog",
            path="catalog",
            expected="postgresql://..., sqlite:///path or a path",
        )
    from gpucluster.service.catalog.sqlite import open_sqlite

    return open_sqlite(Path(rest), clock)
