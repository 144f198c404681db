"""Replies that were paid for, on disk: no crash and no later run pays for them again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucluster.errors import DiskFullError, StoreError
from gpucluster.labeling.asking.spending import Usage
from gpucluster.labeling.model.client import Reply

if TYPE_CHECKING:
    from gpucluster.labeling.model.client import Question

FILE_NAME = "label-cache.sqlite"
BUSY_S = 30.0  # for which one labelling waits while another one writes

_TABLES = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, reply TEXT NOT NULL, asked_by TEXT NOT NULL,
    created_at REAL NOT NULL, expires_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spend (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, labeling_id TEXT NOT NULL, model TEXT,
    calls INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    embedding_tokens INTEGER NOT NULL, usd REAL, at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS spend_of ON spend (labeling_id);
CREATE TABLE IF NOT EXISTS unfinished (request TEXT PRIMARY KEY, labeling_id TEXT NOT NULL);
"""
_FINISHED = ""  # in place of the labelling that asked: only the age of a reply counts now


def question_key(question: Question, model: Mapping[str, Any]) -> str:
    """Return what replies are found by: a digest of all that is asked, and of whom.

    Parameters
    ----------
    question : Question
        Its documents are in its messages, so an edited document makes another key.
    model : dict
        Provider, address, name and parameters, as JSON values.
    """
    asked = [list(question.messages), dict(question.schema), question.max_tokens, dict(model)]
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class ReplyCache:
    """Replies in an SQLite file, each written together with what it cost; from any thread.

    Parameters
    ----------
    path : Path
        Made where it is missing.
    labeling_id : str
        The labelling that asks. Its own replies hold until it is finished, whatever their age.
    ttl_s : float
        How long replies hold for others; 0: for nobody.
    is_fresh : bool
        Whether replies of others do not count; its own count for them all the same.
    now : callable, optional
        Gives the seconds since the epoch.

    Raises
    ------
    StoreError
        The file cannot be opened or written.
    """

    @classmethod
    def unfinished(cls, path: Path, request: str, labeling_id: str) -> str:
        """Return the id of a labelling that was begun for `request` and not finished.

        Where there is none, `labeling_id` is from now on.
        """
        with closing(cls(path, labeling_id, 0)) as cache, cache._transaction() as db:
            db.execute("INSERT OR IGNORE INTO unfinished VALUES (?, ?)", (request, labeling_id))
            found = db.execute("SELECT labeling_id FROM unfinished WHERE request = ?", (request,))
            return str(found.fetchone()[0])

    def __init__(
        self,
        path: Path,
        labeling_id: str,
        ttl_s: float,
        *,
        is_fresh: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._takes_others = ttl_s > 0 and not is_fresh
        self._path = path
        self._labeling_id = labeling_id
        self._ttl_s = ttl_s
        self._now = now
        self._lock = threading.Lock()
        with self._refusals():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")  # what is paid outlives a power cut
                self._db.executescript(_TABLES)
            except BaseException:
                self._db.close()
                raise

    def get(self, key: str) -> Reply | None:
        """Return the reply that was kept under a key and still holds."""
        with self._lock, self._refusals():
            found = self._db.execute(
                "SELECT reply FROM replies WHERE key = ? AND (asked_by = ? OR expires_at > ?)",
                (key, self._labeling_id, self._now() if self._takes_others else float("inf")),
            ).fetchone()
        return None if found is None else _reply(found[0])

    def put(self, key: str, reply: Reply, used: Usage, model: str | None) -> None:
        """Keep a reply and what it cost, both or neither."""
        now = self._now()
        row = (key, json.dumps(asdict(reply)), self._labeling_id, now, now + self._ttl_s)
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", row)
            self._spend(db, key, used, model)

    def note(self, used: Usage, model: str | None) -> None:
        """Keep what something cost of which no reply is kept."""
        with self._transaction() as db:
            self._spend(db, "", used, model)

    def _spend(self, db: sqlite3.Connection, key: str, used: Usage, model: str | None) -> None:
        amounts = (used.calls, used.input_tokens, used.output_tokens, used.embedding_tokens)
        db.execute(
            "INSERT INTO spend (key, labeling_id, model, calls, input_tokens, output_tokens,"
            " embedding_tokens, usd, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, self._labeling_id, model, *amounts, used.usd, self._now()),
        )

    def spent(self, *, is_priced: bool) -> Usage:
        """Return what this labelling has cost so far, in all its attempts."""
        with self._lock, self._refusals():
            calls, sent, answered, embedded, usd = self._db.execute(
                "SELECT coalesce(sum(calls), 0), coalesce(sum(input_tokens), 0),"
                " coalesce(sum(output_tokens), 0), coalesce(sum(embedding_tokens), 0),"
                " coalesce(sum(usd), 0.0) FROM spend WHERE labeling_id = ?",
                (self._labeling_id,),
            ).fetchone()
        return Usage(calls, sent, answered, embedded, usd if is_priced else None)

    def drop(self, keys: list[str]) -> None:
        """Forget replies that led to no name, so that they are asked for again another time."""
        with self._transaction() as db:
            db.executemany("DELETE FROM replies WHERE key = ?", [(key,) for key in keys])

    def finish(self) -> None:
        """Let the replies of this labelling age, and remove what holds for nobody any more."""
        with self._transaction() as db:
            db.execute(
                "UPDATE replies SET asked_by = ? WHERE asked_by = ?", (_FINISHED, self._labeling_id)
            )
            db.execute(
                "DELETE FROM replies WHERE asked_by = ? AND expires_at <= ?",
                (_FINISHED, self._now()),
            )
            # a later labelling under the same id has a budget of its own
            db.execute(
                "UPDATE spend SET labeling_id = labeling_id || '.' || id WHERE labeling_id = ?",
                (self._labeling_id,),
            )
            db.execute("DELETE FROM unfinished WHERE labeling_id = ?", (self._labeling_id,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._refusals():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Translate what SQLite and the system refuse."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            hint = "if it is damaged, remove it: what it holds is asked for again"
            kind: type[StoreError] = StoreError
            if "full" in str(error):
                kind, hint = DiskFullError, "make room, then label again: replies are kept"
            raise kind(f"cannot use {self._path}: {error}", hint=hint) from error


def _reply(text: str) -> Reply | None:
    """Return a reply as it was kept; None for what is damaged, which is asked for again."""
    try:
        reply = Reply(**json.loads(text))
    except (TypeError, ValueError):
        return None
    return reply if isinstance(reply.text, str) else None
