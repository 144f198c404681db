"""How many replies are kept: those that were not used for the longest time go first."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from typing import Final

from gpucluster.errors import ConfigError

LIMIT: Final = "GPUCLUSTER_LABEL_CACHE_MB"  # a variable: definitions share the file
LIMIT_MB: Final = 500
RESUMABLE_S: Final = 30 * 86_400.0  # for which a labelling that did not end keeps its replies

_SIZED = """
WITH sized AS (
    SELECT key, asked_by, used_at, length(key) + length(asked_by) + length(reply) AS bytes,
        asked_by IN (
            SELECT labeling_id FROM labelings WHERE NOT is_finished AND used_at > :since
        ) AS is_needed
    FROM replies
)
"""
_COUNT = _SIZED + "SELECT COUNT(*), TOTAL(bytes), TOTAL(is_needed) FROM sized"
_PRUNE = f"""
{_SIZED}
, ranked AS (
    SELECT key, asked_by, is_needed, SUM(bytes) OVER (
        ORDER BY is_needed DESC, used_at DESC, key, asked_by ROWS UNBOUNDED PRECEDING
    ) AS bytes FROM sized
)
DELETE FROM replies WHERE (key, asked_by) IN (
    SELECT key, asked_by FROM ranked WHERE NOT is_needed AND bytes > :most
)
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """What replies are there.

    Attributes
    ----------
    replies : int
    bytes : int
        Of their texts and keys.
    needed : int
        Of labellings that did not end, or left something to be asked for: no limit removes these.
    """

    replies: int
    bytes: int
    needed: int


def most_bytes() -> int:
    """Return how many bytes of replies may stay.

    Raises
    ------
    ConfigError
        The variable of the environment is no number.
    """
    text = os.environ.get(LIMIT, "").strip()
    if text and not (text.isascii() and text.isdecimal()):
        raise ConfigError(
            f"got {text!r}, expected a whole number of megabytes",
            path=LIMIT,
            hint=f"leave it out for {LIMIT_MB}; 0 keeps no reply longer than it is needed",
        )
    return int(text or LIMIT_MB) * 1_000_000


def prune(db: sqlite3.Connection, now: float, most: int) -> None:
    """Delete replies above `most` bytes, within a transaction.

    A reply is needed as long as its labelling may go on: these count first, and stay.
    """
    if _bytes_in_use(db) > most:  # which is more than what they have, and known at once
        db.execute(_PRUNE, {"since": now - RESUMABLE_S, "most": most})


def kept(db: sqlite3.Connection, now: float) -> Kept:
    """Count the replies."""
    return Kept(*map(int, db.execute(_COUNT, {"since": now - RESUMABLE_S}).fetchone()))


def mostly_empty(db: sqlite3.Connection) -> bool:
    """Whether more than half of the file waits to be filled again."""
    free, pages = (_pragma(db, name) for name in ("freelist_count", "page_count"))
    return 2 * free > pages


def _bytes_in_use(db: sqlite3.Connection) -> int:
    pages = _pragma(db, "page_count") - _pragma(db, "freelist_count")
    return pages * _pragma(db, "page_size")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
