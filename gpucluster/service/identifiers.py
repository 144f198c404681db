"""Names of things: a prefix that says what they are, and characters that need no escape."""

from __future__ import annotations

import hashlib
import re
import secrets

PREFIXES = {
    "cluster": "clust",
    "execution": "run",
    "task": "task",
    "trigger": "trig",
    "taxonomy": "tax",
    "webhook": "wh",
    "collection": "col",
    "template": "tmpl",
    "event": "evt",
    "delivery": "dlv",
}
NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def new_id(kind: str, seed: str | None = None) -> str:
    """Return an id for a new thing.

    Parameters
    ----------
    kind : str
        One of `PREFIXES`.
    seed : str, optional
        What it is made of: the same seed gives the same id, so that a request that is repeated
        finds what it made the first time. Omitted: by chance.
    """
    n_chars = 16 if kind == "webhook" else 24
    if seed is None:
        digits = secrets.token_hex(n_chars // 2)
    else:
        digits = hashlib.sha256(f"{kind}:{seed}".encode()).hexdigest()[:n_chars]
    return f"{PREFIXES[kind]}_{digits}"
