"""Requests under an ``Idempotency-Key``: done once, answered as often as they are sent.

The answer is kept for a day. Whoever sends the same request while it is being worked on waits for
that answer. A server that died over one leaves a record behind that is taken over after a while;
ids of what the request makes follow from its key, so that the second try finds what the first one
made.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from starlette.concurrency import run_in_threadpool

from gpucluster.service.catalog.port import Catalog, Changed, Record, Taken
from gpucluster.service.refusals import InvalidError, UnderWayError

KIND = "idempotency"
KEPT = timedelta(hours=24)
ABANDONED = timedelta(seconds=60)  # of those that take longer, what was made is found
WAIT_S = 30.0
LOOK_S, MOST_LOOK_S = 0.05, 1.0
MOST_BYTES = 1 << 20  # of an answer that is kept
MAX_KEY = 255
NOT_KEPT = {401, 409, 413, 429}  # nothing was done, and the next try may end otherwise


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Once:
    """The requests of a service that carry a key.

    Parameters
    ----------
    catalog : Catalog
        Where answers are kept.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def begin(self, ns: str, key: str, fingerprint: str) -> KeptAnswer | Record:
        """Take up a request.

        Whoever waits holds no thread: the request that is waited for needs one.

        Parameters
        ----------
        ns : str
        key : str
            Of `digest_of`.
        fingerprint : str
            Digest of its body.

        Returns
        -------
        KeptAnswer or Record
            The answer, or what `finish` gets when there is one.

        Raises
        ------
        InvalidError
            The key was used for another body.
        UnderWayError
            It is still being worked on.
        """
        until, pause = time.monotonic() + WAIT_S, LOOK_S
        while (found := await run_in_threadpool(self._take_up, ns, key, fingerprint)) is None:
            if time.monotonic() > until:
                raise UnderWayError(
                    "the request with this Idempotency-Key is still being worked on",
                    hint="send it again",
                )
            await asyncio.sleep(pause)
            pause = min(MOST_LOOK_S, 2 * pause)
        return found

    def _take_up(self, ns: str, key: str, fingerprint: str) -> KeptAnswer | Record | None:
        now = self._catalog.clock()
        body = {"fingerprint": fingerprint, "begun_at": now.isoformat(), "answer": None}
        fresh = Record(ns=ns, kind=KIND, id=key, body=body, due_at=now + KEPT)
        with self._catalog.reading() as tx:
            found = tx.get(ns, KIND, key)
        try:
            if found is None:
                with self._catalog.writing() as tx:
                    return tx.create(fresh)
            if found.body["fingerprint"] != fingerprint:
                raise InvalidError(
                    "this Idempotency-Key was used for another body",
                    loc=["header", "Idempotency-Key"],
                )
            answer = found.body["answer"]
            if answer is not None:
                headers = tuple((name, value) for name, value in answer["headers"])
                return KeptAnswer(answer["status"], headers, base64.b64decode(answer["body"]))
            if found.updated_at is not None and now - found.updated_at > ABANDONED:
                with self._catalog.writing() as tx:
                    return tx.replace(replace(found, body=body))
        except (Taken, Changed):  # somebody else was quicker
            pass
        return None

    def finish(self, begun: Record, answer: KeptAnswer | None) -> None:
        """Keep the answer of a request; without one, let the next try begin anew."""
        kept: dict[str, Any] | None = None
        if answer is not None:
            kept = {
                "status": answer.status,
                "headers": [list(header) for header in answer.headers],
                "body": base64.b64encode(answer.body).decode(),
            }
        with self._catalog.writing() as tx:
            try:
                begun = tx.replace(replace(begun, body={**begun.body, "answer": kept}))
                if kept is None:
                    tx.delete(begun.ns, KIND, begun.id)
            except Changed:
                return  # it was taken for abandoned, and somebody else answers


def forget_answers(catalog: Catalog) -> int:
    """Remove answers that were kept for long enough, and return how many."""
    with catalog.writing() as tx:
        due = tx.claim(KIND, hold=KEPT, limit=1000)
        for record in due:
            tx.delete(record.ns, KIND, record.id)
    return len(due)


def digest_of(*parts: str) -> str:
    """Return what tells requests apart: who sent which one under which key."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
