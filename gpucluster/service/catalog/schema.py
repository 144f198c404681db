"""The tables, and how those of an older version become those of this one.

Each migration brings the layout from one version to the next; all of them make it from nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import gpucluster
from gpucluster.errors import SchemaTooNewError

Execute = Callable[[str], Sequence[Sequence[object]]]

# What stands in braces are the database's words. Bodies lie apart, so that going through what is
# searched and counted reads little.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE gpucluster_records (
            key {key},
            ns {text} NOT NULL, kind {text} NOT NULL, id {text} NOT NULL,
            name {text}, status {text}, parent {text},
            text {text} NOT NULL, searched {text} NOT NULL,
            due_at BIGINT, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL,
            version BIGINT NOT NULL,
            UNIQUE (ns, kind, id),
            UNIQUE (ns, kind, name)
        )
        """,
        "CREATE INDEX gpucluster_by_time ON gpucluster_records (ns, kind, created_at, id)",
        """
        CREATE INDEX gpucluster_by_status ON gpucluster_records (ns, kind, status, created_at, id)
        """,
        """
        CREATE INDEX gpucluster_by_parent ON gpucluster_records (ns, kind, parent, created_at, id)
        """,
        "CREATE INDEX gpucluster_by_due ON gpucluster_records (kind, due_at)",
        """
        CREATE TABLE gpucluster_bodies (
            key BIGINT PRIMARY KEY REFERENCES gpucluster_records (key) ON DELETE CASCADE,
            body {text} NOT NULL{json}
        )
        """,
        "{functions}",
        "CREATE TABLE gpucluster_counters (name {text} PRIMARY KEY, value BIGINT NOT NULL)",
    ),
    ("CREATE INDEX gpucluster_by_age ON gpucluster_records (kind, updated_at)",),
    ("{folded_index}",),
)
VERSION = len(MIGRATIONS)


def migrate(execute: Execute, words: Mapping[str, str], where: str) -> None:
    """Bring the tables to this version, within a transaction that nobody else has.

    Parameters
    ----------
    execute : callable
        Runs a statement and returns its rows.
    words : mapping
        What stands for the words of `MIGRATIONS`.
    where : str
        The database, for messages.

    Raises
    ------
    SchemaTooNewError
        A newer version of gpucluster has been here.
    """
    execute(
        "CREATE TABLE IF NOT EXISTS gpucluster_catalog"
        " (version BIGINT NOT NULL, written_by VARCHAR(100) NOT NULL)"
    )
    rows = execute("SELECT version, written_by FROM gpucluster_catalog")
    version, writer = rows[0] if rows else (0, "")
    if not isinstance(version, int) or version > VERSION:
        raise SchemaTooNewError(
            f"{where}: the catalog has layout {version}, this version knows {VERSION}",
            hint=f"install gpucluster {writer} or newer",
        )
    if version == VERSION:
        return
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            execute(statement.format(**words))
    execute("DELETE FROM gpucluster_catalog")
    execute(
        "INSERT INTO gpucluster_catalog (version, written_by)"
        f" VALUES ({VERSION}, '{gpucluster.__version__}')"
    )
