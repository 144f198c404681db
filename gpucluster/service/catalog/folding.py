"""Lower case that two databases and Python agree on: one character for one."""

from __future__ import annotations

import sys
from functools import cache


@cache
def pairs() -> tuple[str, str]:
    """Return all characters beyond ASCII that have a lower case of one character, and those."""
    upper, lower = [], []
    for number in range(128, sys.maxunicode + 1):
        one = chr(number)
        if one.lower() != one and len(one.lower()) == 1:
            upper.append(one)
            lower.append(one.lower())
    return "".join(upper), "".join(lower)


@cache
def _table() -> dict[int, int]:
    return str.maketrans(*pairs())


def fold(text: str) -> str:
    """Return a text without its case."""
    return text.lower() if text.isascii() else _ascii_lower(text).translate(_table())


_ASCII = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def _ascii_lower(text: str) -> str:
    return text.translate(_ASCII)
