"""Bearer tokens: ``gpc_<id>_<secret>``, of which the service keeps a digest."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias

from gpucluster.service.catalog.port import Catalog, Query, Record
from gpucluster.service.refusals import NotFoundError

Scope: TypeAlias = Literal["metrics", "read", "run", "admin"]
SCOPES: tuple[Scope, ...] = ("metrics", "read", "run", "admin")
ANY = "*"  # every namespace
KIND = "token"
REMEMBERED_S = 5.0  # how long a token works on after it was revoked
MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Token:
    """What a token allows.

    Attributes
    ----------
    token_id : str
    namespace : str
        The one it is for; `ANY` for all.
    scopes : frozenset of Scope
    """

    token_id: str
    namespace: str
    scopes: frozenset[Scope]

    def allows(self, scope: Scope) -> bool:
        """Whether it allows something; a larger scope has the smaller ones in it."""
        return any(SCOPES.index(own) >= SCOPES.index(scope) for own in self.scopes)


EVERYTHING = Token("none", ANY, frozenset(SCOPES))


class Tokens:
    """The tokens of a service.

    Parameters
    ----------
    catalog : Catalog
        Where they are kept.
    admin : str, optional
        One more, that the operator chose; it is not kept.
    """

    def __init__(self, catalog: Catalog, admin: str | None = None) -> None:
        self._catalog = catalog
        self._admin = _digest(admin) if admin else None
        self._remembered: dict[str, tuple[float, Token | None]] = {}
        self._lock = threading.Lock()

    def remembered(self, text: str) -> tuple[bool, Token | None]:
        """Return whether it was looked up just now, and what came of that; no database is asked."""
        found = self._remembered.get(_digest(text))
        return (False, None) if found is None or found[0] < time.monotonic() else (True, found[1])

    def check(self, text: str) -> Token | None:
        """Return what a token allows; None where it is none, is revoked, or has expired."""
        digest = _digest(text)
        token = self._look_up(text, digest)
        with self._lock:
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[digest] = time.monotonic() + REMEMBERED_S, token
        return token

    def _look_up(self, text: str, digest: str) -> Token | None:
        if self._admin is not None and hmac.compare_digest(digest, self._admin):
            return EVERYTHING
        prefix, _, rest = text.partition("_")
        token_id, _, _ = rest.partition("_")
        if prefix != "gpc" or not token_id:
            return None
        with self._catalog.reading() as tx:
            record = tx.get("", KIND, token_id)
        if record is None or not _is_live(record, self._catalog.clock()):
            return None
        if not any(hmac.compare_digest(digest, known) for known in _digests(record, self._now())):
            return None
        return Token(token_id, record.body["namespace"], frozenset(record.body["scopes"]))

    def issue(
        self,
        namespace: str,
        scopes: Iterable[Scope],
        *,
        name: str | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[Record, str]:
        """Make a token, and return its record and its text: the only time that it is shown."""
        token_id = secrets.token_hex(8)
        text = _text(token_id)
        body = {
            "token_id": token_id,
            "token_name": name,
            "namespace": namespace,
            "scopes": sorted(scopes, key=SCOPES.index),
            "sha256": [{"digest": _digest(text), "until": None}],
            "expires_at": None if expires_at is None else expires_at.isoformat(),
        }
        with self._catalog.writing() as tx:
            record = tx.create(Record(ns="", kind=KIND, id=token_id, body=body, status="active"))
        return record, text

    def rotate(self, token_id: str, *, overlap_until: datetime) -> tuple[Record, str]:
        """Give a token another secret; the one before works until `overlap_until`."""
        text = _text(token_id)
        with self._catalog.writing() as tx:
            record = tx.get("", KIND, token_id)
            if record is None:
                raise NotFoundError(f"there is no token {token_id}")
            last: list[dict[str, Any]] = [
                {**entry, "until": entry["until"] or overlap_until.isoformat()}
                for entry in record.body["sha256"][-1:]
            ]
            digests = [*last, {"digest": _digest(text), "until": None}]
            record = tx.replace(replace(record, body={**record.body, "sha256": digests}))
        self._forget()
        return record, text

    def revoke(self, token_id: str) -> None:
        """Take a token back."""
        with self._catalog.writing() as tx:
            if not tx.delete("", KIND, token_id):
                raise NotFoundError(f"there is no token {token_id}")
        self._forget()

    def list(self, query: Query) -> list[Record]:
        """Return tokens, newest first; their secrets are not known."""
        with self._catalog.reading() as tx:
            return list(tx.page("", KIND, query).records)

    def is_empty(self) -> bool:
        """Whether none was ever issued."""
        return self._admin is None and not self.list(Query(limit=1))

    def _forget(self) -> None:
        with self._lock:
            self._remembered.clear()

    def _now(self) -> datetime:
        return self._catalog.clock()


def _text(token_id: str) -> str:
    return f"gpc_{token_id}_{secrets.token_hex(32)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digests(record: Record, now: datetime) -> list[str]:
    return [
        entry["digest"]
        for entry in record.body["sha256"]
        if entry["until"] is None or datetime.fromisoformat(entry["until"]) > now
    ]


def _is_live(record: Record, now: datetime) -> bool:
    expires = record.body["expires_at"]
    return expires is None or datetime.fromisoformat(expires) > now
