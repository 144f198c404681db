"""What of a text can be seen: one line of it, and that cut to a length."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

ELLIPSIS: Final = "…"

# they take no room, and most of them are left over from web pages
_NO_WIDTH = dict.fromkeys(
    map(ord, "\u00ad\u034f\u115f\u1160\u180e\u200b\u2060\u2800\u3164\ufeff\uffa0")
)
# control, format (among them bidirectional ones), private use, halves of surrogate pairs
_HIDDEN = {"Cc", "Cf", "Co", "Cs"}
_JOINERS = "\u200c\u200d"
_RUN_OF_JOINERS = re.compile(f"[{_JOINERS}]+")
# letters without case and their marks, emoji and their colours: without what joins or parts them
# Persian and Hindi read differently, and a family falls apart
_JOINED = {"Lo", "Lm", "Mc", "Mn", "Sk", "Sm", "So"}
_TAGS = re.compile("(?<=\U0001f3f4)[\U000e0020-\U000e007f]+")  # of a flag; hidden anywhere else


def one_line(text: str) -> str:
    """Return a text in one line, without what takes no room.

    Joiners stay where they join. What is hidden otherwise stays too: see `is_hidden`.
    """
    text = _TAGS.sub("", text.translate(_NO_WIDTH))
    return " ".join(_RUN_OF_JOINERS.sub(_joiner, text).split())


def is_hidden(character: str) -> bool:
    """Whether a character is not seen, though it may change what is; spaces and joiners are not."""
    is_other = unicodedata.category(character) in _HIDDEN
    return is_other and character not in _JOINERS and not character.isspace()


def visible(text: str) -> str:
    """Return what can be seen of a text, in one line."""
    return one_line("".join(c for c in text if not is_hidden(c)))


def cut(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters: cut behind a word, with an ellipsis."""
    if len(text) <= limit:
        return text
    start = text[:limit]
    word_ends = start.rfind(" ")
    at = word_ends if word_ends > limit // 2 else limit - 1
    return start[:at].rstrip(f" ,;:-{_JOINERS}") + ELLIPSIS


def plain(text: str, limit: int) -> str:
    """Return a text as one line of visible characters; this never fails.

    Parameters
    ----------
    text : str
    limit : int
        Most characters. A longer text is cut, behind a word where there is one, and ends with an
        ellipsis.

    Returns
    -------
    str
        Possibly empty. Addresses and markup stay.
    """
    # a text is not looked at much further than it is shown
    return cut(visible(text[: 20 * limit + 1000]), limit)


def without_joiners(text: str) -> str:
    """Return a text without what tells apart only how its letters are drawn."""
    return _RUN_OF_JOINERS.sub("", text)


def _joiner(run: re.Match[str]) -> str:
    """Return the first joiner of a run before a character that it can join, else nothing.

    What is before may be a Latin letter or a digit, to which a Persian ending is joined.
    """
    before, after = run.string[: run.start()][-1:], run.string[run.end() :][:1]
    joins = bool(after) and unicodedata.category(after) in _JOINED
    is_after_one = before.isalnum() or (bool(before) and unicodedata.category(before) in _JOINED)
    return run[0][0] if joins and is_after_one else ""
