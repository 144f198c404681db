"""What is taken of a model's reply: one answer about the cluster that was asked about.

Documents can talk a model into anything, so a reply is treated as theirs. Whatever it says, only
text that is short, plain and on one line gets into a label, a summary or a keyword.
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gpucluster.labeling.answer.schemas import NAME_LIMIT
from gpucluster.labeling.answer.shapes import InvalidReply, Shape
from gpucluster.labeling.text import is_hidden, one_line, plain

if TYPE_CHECKING:
    from pydantic import JsonValue

LABEL_LIMIT: Final = 80  # characters; a longer label is refused
SUMMARY_LIMIT: Final = 600  # a longer summary is cut
KEYWORD_LIMIT: Final = 40  # a longer keyword is left out
MAX_KEYWORDS: Final = 10
FIELD_LIMIT: Final = 500  # characters of a text in another field, which is cut
MAX_FIELDS: Final = 50
MAX_FIELD_BYTES: Final = 8_000  # of all other fields as JSON
MAX_FIELD_DEPTH: Final = 8
MAX_BYTES: Final = 64_000  # of a reply
MAX_DEPTH: Final = 32
MAX_STARTS: Final = 50  # places of a reply where its JSON may begin

# names of files and of programs, which are no hosts though a slash may follow
_NO_HOST = (
    r"(?:css|csv|html|js|json|pdf|ts|txt|xml|yaml)/"
    r"|(?:(?<=\bado\.)|(?<=\basp\.)|(?<=\bvb\.))net/"
)
_LINK = re.compile(
    rf"\w:/|//|\w\.(?!{_NO_HOST})[a-z]{{2,}}(?::\d+)?/|www\.|\]\s*[\[(]|!\["
    r"|\b(?:javascript|vbscript|mailto|file):|\bdata:\w+/",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"<[a-z/!?]|`|\*\*|(?<!\w)([*_])\w[^*_]*\1(?!\w)", re.IGNORECASE)
_LEADING = "=+-@#>*"  # what makes a line a formula, a heading or an item elsewhere
_RESERVED = re.compile(r"unclustered|cl_\d+(_sub_\d+)*", re.IGNORECASE)  # noise, and ids
MAX_MARKS: Final = 4  # combining ones in a row; more of them cover the lines around
_QUOTES = {
    '"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb",
    "\u201e": "\u201c", "\u300c": "\u300d",
}  # fmt: skip
_FENCE = re.compile(r"```[a-z]*+(.*?)```", re.IGNORECASE | re.DOTALL)
MAX_WRAPS: Final = 3  # lists and objects of one around an answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says of a cluster, cleaned.

    Attributes
    ----------
    label : str
        One line of 1 to 80 characters, without addresses and markup.
    summary : str or None
        One line of at most 600 characters, by the same rules.
    keywords : tuple of str, or None
        At most 10 of at most 40 characters, no two alike, by the same rules.
    fields : dict of str to JSON value
        What else was asked for. Its texts are one line each, and may hold anything visible.
    """

    label: str
    summary: str | None = None
    keywords: tuple[str, ...] | None = None
    fields: Mapping[str, JsonValue] = field(default_factory=dict)


def read_reply(text: str, shape: Shape) -> Answer:
    """Take the answer about a cluster from a model's reply.

    Parameters
    ----------
    text : str
        JSON, bare or in a fence or after prose: one object with a label, alone in whatever is
        around it.
    shape : Shape

    Returns
    -------
    Answer
        A summary or a keyword that breaks a rule is left out: a good label is not thrown away
        for what lies beside it.

    Raises
    ------
    InvalidReply
        There is no answer, or it is of another shape, or its label breaks a rule.
    """
    answer = shape.check(_object(text))
    label = clean_label(answer.pop("label"))
    summary = answer.pop("summary", None)
    keywords = answer.pop("keywords", None)
    return Answer(
        label,
        None if summary is None else _clean_summary(summary),
        None if keywords is None else _clean_keywords(keywords),
        _clean_fields(answer),
    )


def clean_label(label: object) -> str:
    """Return a label by the rules, or raise `InvalidReply`."""
    text = _clean("label", label)
    quotes, inner = {text[:1], text[-1:]}, text[1:-1]
    if inner and _QUOTES.get(text[0]) == text[-1] and not quotes & {*inner}:
        text = inner.strip()
    if text.startswith(tuple(_LEADING)):
        raise InvalidReply(f"label begins with {text[0]!r}, expected a word")
    if _RESERVED.fullmatch(text):
        raise InvalidReply(f"label is {text!r}, which means something else here")
    if len(text) > LABEL_LIMIT:
        raise InvalidReply(f"label has {len(text)} characters, expected at most {LABEL_LIMIT}")
    if not any(c.isalnum() for c in text):
        raise InvalidReply("label has no word in it" if text else "label is empty")
    return text


def _clean(name: str, value: object) -> str:
    """Return a text as one line, or raise where it has what it may not have."""
    if not isinstance(value, str):
        raise InvalidReply(f"{name} is no text")
    line = one_line(value)
    # also as a page or a program further on might read it
    for form in (line, _unescaped(unicodedata.normalize("NFKC", line))):
        if any(map(is_hidden, form)) or _has_towers(form):
            raise InvalidReply(f"{name} has characters that are invisible or cover others")
        seen = one_line(form)
        if _LINK.search(seen):
            raise InvalidReply(f"{name} has an address or a link in it, expected words alone")
        if _MARKUP.search(seen):
            raise InvalidReply(f"{name} has markup in it, expected plain text")
    return line


def _unescaped(text: str) -> str:
    """Return a text as a page might show it that was escaped more than once."""
    for _ in range(3):
        text = html.unescape(text)
    return text


def _has_towers(text: str) -> bool:
    """Whether many combining marks stand on one letter."""
    height = 0
    for character in unicodedata.normalize("NFD", text):
        height = height + 1 if unicodedata.combining(character) else 0
        if height > MAX_MARKS:
            return True
    return False


def _accepted(name: str, value: object) -> str:
    """Return a text as one line; empty where it has what it may not have."""
    try:
        return _clean(name, value)
    except InvalidReply:
        return ""


def _clean_summary(value: JsonValue) -> str | None:
    return plain(_accepted("summary", value), SUMMARY_LIMIT) or None


def _clean_keywords(value: JsonValue) -> tuple[str, ...] | None:
    words = value if isinstance(value, list) else str(value).split(",")
    found: dict[str, str] = {}
    for word in words:
        line = _accepted("keyword", word)
        if len(line) <= KEYWORD_LIMIT and any(c.isalnum() for c in line):
            found.setdefault(line.casefold(), line)
    return tuple(found.values())[:MAX_KEYWORDS] or None


def _clean_fields(fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    if len(fields) > MAX_FIELDS:
        raise InvalidReply(f"the answer has more than {MAX_FIELDS} properties")
    found = _clean_names(fields, 0)
    if len(json.dumps(found, ensure_ascii=False).encode()) > MAX_FIELD_BYTES:
        raise InvalidReply(f"the answer is longer than {MAX_FIELD_BYTES} bytes")
    return found


def _clean_names(fields: Mapping[str, JsonValue], depth: int) -> dict[str, JsonValue]:
    named = ((plain(name, NAME_LIMIT), value) for name, value in fields.items())
    return {name: _clean_field(value, depth + 1) for name, value in named if name}


def _clean_field(value: JsonValue, depth: int) -> JsonValue:
    if depth > MAX_FIELD_DEPTH:
        raise InvalidReply(f"the answer is nested deeper than {MAX_FIELD_DEPTH} levels")
    if isinstance(value, str):
        return plain(value, FIELD_LIMIT)
    if isinstance(value, list):
        return [_clean_field(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return _clean_names(value, depth)
    return value


def _object(text: str) -> dict[str, Any]:
    """Return the one object of a reply that has a label."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise InvalidReply(f"the reply is longer than {MAX_BYTES} bytes")
    found_json = False
    for value in _values(text):
        found_json = True
        answer = _unwrapped(value)
        if answer is not None:
            return answer
    raise InvalidReply("there is no single object with a label" if found_json else "it is no JSON")


def _unwrapped(value: Any) -> dict[str, Any] | None:
    """Return the object with a label that a value is, or that is all there is in it."""
    for _ in range(MAX_WRAPS + 1):
        if isinstance(value, dict) and "label" in value:
            return value
        inner = list(value.values()) if isinstance(value, dict) else value
        if not isinstance(inner, list) or len(inner) != 1:
            return None
        [value] = inner
    return None


def _values(text: str) -> Iterator[Any]:
    """Yield the JSON values that a reply may mean, the likeliest first."""
    text = text.rpartition("</think>")[2].strip().removeprefix("\ufeff")
    for whole in (text, *_FENCE.findall(text)):
        try:
            yield _parse(whole.strip())
        except ValueError:
            continue
    starts = [match.start() for match in re.finditer(r"[{\[]", text)][:MAX_STARTS]
    end = 0
    for start in starts:
        if start < end:
            continue
        try:
            value, end = _DECODER.raw_decode(text, start)
            _check_depth(value)
        except (ValueError, RecursionError):
            continue
        yield value


def _parse(text: str) -> Any:
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("too deep") from error
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    found = [(value, 1)]
    while found:
        each, depth = found.pop()
        if depth > MAX_DEPTH:
            raise ValueError("too deep")
        inner = each.values() if isinstance(each, dict) else each
        if isinstance(each, dict | list):
            found += ((item, depth + 1) for item in inner)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError("JSON has no such number")
    return value


def _short(number: str) -> float:
    return int(number) if len(number) < 19 else _finite(number)  # longer ones fit no int64


_DECODER = json.JSONDecoder(parse_float=_finite, parse_int=_short, parse_constant=_finite)
