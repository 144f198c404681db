"""Replies that were paid for, on disk: no crash and no later run pays for them again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucluster.errors import DiskFullError, PermissionRefusedError, StoreError
from gpucluster.labeling.asking.pruning import Kept, kept, most_bytes, mostly_empty, prune
from gpucluster.labeling.asking.spending import Usage
from gpucluster.labeling.model.protocol import Reply

if TYPE_CHECKING:
    from gpucluster.labeling.model.protocol import Question
    from gpucluster.labeling.settings import Prices

FILE_NAME = "label-cache.sqlite"
BUSY_S = 30.0  # for which one labelling waits while another one writes
USES = 1_000  # of replies that are noted at a time

_VERSION = 3
_TABLES = """
CREATE TABLE replies (
    key TEXT NOT NULL, asked_by TEXT NOT NULL, reply TEXT NOT NULL, expires_at REAL NOT NULL,
    used_at REAL NOT NULL, PRIMARY KEY (key, asked_by)
) WITHOUT ROWID;
CREATE TABLE labelings (
    labeling_id TEXT PRIMARY KEY, calls INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,
    embedding_tokens INTEGER NOT NULL DEFAULT 0, estimate TEXT,
    used_at REAL NOT NULL, is_finished INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE unfinished (request TEXT PRIMARY KEY, labeling_id TEXT NOT NULL) WITHOUT ROWID;
"""


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

    Whenever a labelling begins or ends, replies above the limit go: see `pruning`.

    Parameters
    ----------
    path : Path
        Made where it is missing.
    labeling_id : str
        The labelling that asks. Its own replies hold whatever their age.
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
        """Return the id of a labelling that was begun for `request` and not handed over.

        Where there is none, `labeling_id` is from now on.
        """
        with closing(cls(path, labeling_id, 0)) as cache, cache._transaction() as db:
            db.execute("INSERT OR IGNORE INTO unfinished VALUES (?, ?)", (request, labeling_id))
            found = db.execute("SELECT labeling_id FROM unfinished WHERE request = ?", (request,))
            return str(found.fetchone()[0])

    @classmethod
    def begun(cls, path: Path, request: str) -> str | None:
        """Return the id of a labelling that was begun for `request` and not handed over."""
        if not path.exists():
            return None
        with closing(cls(path, "", 0)) as cache, cache._lock, cache._refusals():
            found = cache._db.execute(
                "SELECT labeling_id FROM unfinished WHERE request = ?", (request,)
            ).fetchone()
        return None if found is None else str(found[0])

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
        self.labeling_id = labeling_id
        self._ttl_s = ttl_s
        self._now = now
        self._lock = threading.Lock()
        self._used: set[tuple[str, str]] = set()  # replies whose use is not noted yet
        with self._refusals():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")  # what is paid outlives a power cut
                self._make_tables()
            except BaseException:
                self._db.close()
                raise

    def _make_tables(self) -> None:
        """Make the tables of a new file; what an earlier version has kept is asked for again."""
        if self._db.execute("PRAGMA user_version").fetchone()[0] == _VERSION:
            return
        self._db.execute("BEGIN IMMEDIATE")
        if self._db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            kept = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (name,) in kept.fetchall():
                self._db.execute(f'DROP TABLE "{name}"')
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._db.execute("COMMIT")
        self._shrink()

    def begin(self) -> None:
        """Say that this labelling is at work: none of its replies goes until it has ended."""
        with self._transaction() as db:
            self._spend(db, Usage())
            db.execute(
                "UPDATE labelings SET is_finished = 0 WHERE labeling_id = ?", (self.labeling_id,)
            )
        self._prune()

    def get(self, key: str) -> Reply | None:
        """Return the reply that was kept under a key and still holds; its own before others'."""
        with self._lock, self._refusals():
            found = self._db.execute(
                "SELECT reply, asked_by FROM replies"
                " WHERE key = ? AND (asked_by = ? OR expires_at > ?)"
                " ORDER BY asked_by = ? DESC, expires_at DESC LIMIT 1",
                (
                    *(key, self.labeling_id),
                    self._now() if self._takes_others else float("inf"),
                    self.labeling_id,
                ),
            ).fetchone()
            if found is not None:
                self._used.add((key, found[1]))
        if len(self._used) >= USES:
            self._note_uses()
        return None if found is None else _reply(found[0])

    def put(self, key: str, reply: Reply, used: Usage) -> None:
        """Keep a reply and what it cost, both or neither."""
        now, text = self._now(), json.dumps(asdict(reply))
        row = (key, self.labeling_id, text, now + self._ttl_s, now)
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", row)
            self._spend(db, used)

    def note(self, used: Usage) -> None:
        """Keep what something cost of which no reply is kept."""
        with self._transaction() as db:
            self._spend(db, used)

    def _spend(self, db: sqlite3.Connection, used: Usage) -> None:
        amounts = (used.calls, used.input_tokens, used.output_tokens, used.embedding_tokens)
        db.execute(
            "INSERT INTO labelings VALUES (?, ?, ?, ?, ?, NULL, ?, 0)"
            " ON CONFLICT (labeling_id) DO UPDATE SET calls = calls + excluded.calls,"
            " used_at = excluded.used_at,"
            " input_tokens = input_tokens + excluded.input_tokens,"
            " output_tokens = output_tokens + excluded.output_tokens,"
            " embedding_tokens = embedding_tokens + excluded.embedding_tokens",
            (self.labeling_id, *amounts, self._now()),
        )

    def spent(self, prices: Prices | None) -> Usage:
        """Return what this labelling has used so far, in all its attempts, and what that costs."""
        with self._lock, self._refusals():
            found = self._db.execute(
                "SELECT calls, input_tokens, output_tokens, embedding_tokens FROM labelings"
                " WHERE labeling_id = ?",
                (self.labeling_id,),
            ).fetchone()
        return Usage(*(found or ())).at(prices)

    def estimate(self, make: Callable[[], Usage]) -> Usage:
        """Return what this labelling was expected to cost when it began, made the first time."""
        find = "SELECT estimate FROM labelings WHERE labeling_id = ?"
        with self._lock, self._refusals():
            found = self._db.execute(find, (self.labeling_id,)).fetchone()
        if found is not None and found[0] is not None:
            return Usage(**json.loads(found[0]))
        made = make()
        with self._transaction() as db:
            self._spend(db, Usage())
            db.execute(
                "UPDATE labelings SET estimate = ? WHERE labeling_id = ?",
                (json.dumps(asdict(made)), self.labeling_id),
            )
        return made

    def drop(self, keys: list[str]) -> None:
        """Forget replies that led to no name, so that they are asked for again another time."""
        with self._transaction() as db:
            db.executemany("DELETE FROM replies WHERE key = ?", [(key,) for key in keys])

    def end(self, labeling_id: str, *, is_finished: bool) -> None:
        """Take note that the names are published.

        Parameters
        ----------
        labeling_id : str
            Who has the replies and the spending from now on.
        is_finished : bool
            Whether nothing is left to be asked for, so that no reply is needed any more.
        """
        ids = (labeling_id, self.labeling_id)
        with self._transaction() as db:
            if labeling_id != self.labeling_id:
                moved = "SET labeling_id = ? WHERE labeling_id = ?"
                db.execute("UPDATE OR REPLACE replies SET asked_by = ? WHERE asked_by = ?", ids)
                db.execute(f"UPDATE OR REPLACE labelings {moved}", ids)
                db.execute("DELETE FROM unfinished WHERE labeling_id = ?", ids[1:])
            done = (is_finished, labeling_id)
            db.execute("UPDATE labelings SET is_finished = ? WHERE labeling_id = ?", done)
        self._prune()

    def kept(self) -> Kept:
        """Count the replies."""
        with self._lock, self._refusals():
            return kept(self._db, self._now())

    def empty(self) -> None:
        """Forget all replies but those that are needed; what was spent stays known."""
        with self._transaction() as db:
            prune(db, self._now(), 0)
        self._shrink()

    def close(self) -> None:
        """Close the file."""
        self._note_uses()
        with self._lock:
            self._db.close()

    def _note_uses(self) -> None:
        """Write down which replies were used just now: many at a time, as it is no matter which."""
        with self._lock:
            used, self._used = self._used, set()
        if used:
            rows = [(self._now(), *one) for one in used]
            find = "UPDATE replies SET used_at = ? WHERE key = ? AND asked_by = ?"
            with suppress(StoreError), self._transaction() as db:
                db.executemany(find, rows)

    def _prune(self) -> None:
        """Keep the limit; names are worth more than it, and do not fail by it."""
        self._note_uses()
        with suppress(StoreError), self._transaction() as db:
            prune(db, self._now(), most_bytes())
        self._shrink()

    def _shrink(self) -> None:
        """Give back a file's empty half, where nobody is in the way; else another time."""
        with suppress(StoreError), self._lock, self._refusals():
            if mostly_empty(self._db):
                self._db.execute("VACUUM")

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
            elif "readonly" in str(error) or "unable to open" in str(error):
                kind = PermissionRefusedError
                hint = "let this user write the file and its folder: replies are kept there"
            raise kind(f"cannot use {self._path}: {error}", hint=hint) from error


def _reply(text: str) -> Reply | None:
    """Return a reply as it was kept; None for what is damaged, which is asked for again."""
    try:
        reply = Reply(**json.loads(text))
    except (TypeError, ValueError):
        return None
    return reply if isinstance(reply.text, str) else None
