"""Lower case that two databases and Python agree on: one character for one."""

from __future__ import annotations

import string
import sys
from functools import cache


@cache
def pairs() -> tuple[str, str]:
    """Return all characters beyond ASCII that have a lower case, and their lower case."""
    upper = [one for one in map(chr, range(128, sys.maxunicode + 1)) if one.lower() != one]
    return "".join(upper), "".join(one.lower()[0] for one in upper)  # of two, only İ has a dot


def fold(text: str) -> str:
    """Return a text without its case."""
    return text.lower() if text.isascii() else text.translate(_table())


@cache
def _table() -> dict[int, int]:
    upper, lower = pairs()
    return str.maketrans(string.ascii_uppercase + upper, string.ascii_lowercase + lower)
