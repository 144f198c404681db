"""What the fake server answers: names made of the words of the documents, and vectors of texts."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

from gpucluster.labeling.question.prompts import SCHEMA_FOLLOWS

DIMENSIONS: Final = 256
DEFAULT_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "summary": {"type": "string"},
        "keywords": {"type": "array", "items": {"type": "string"}},
    },
}

_WORD = re.compile(r"[^\W\d_]{3,}")
_COMMON = frozenset(
    _WORD.findall(
        "about after all also and any are been but can could did does for from had has have her "
        "his how into its more most not one only other our out over said she some such than "
        "that the their them then there these they this those through very was were what when "
        "which who will with would you your https http www com "
    )
)
# an instruction in a document, which a model that obeys takes for its own
_ORDER = re.compile(
    r"\bIGNORE\b.*?\breply with:\s*(?P<reply>.+)|^\s*SYSTEM:\s*(?P<system>.+)",
    re.DOTALL | re.MULTILINE,
)


def answer(body: Mapping[str, Any], *, obey: bool = False) -> str:
    """Return the content of the reply to a request.

    Parameters
    ----------
    body : mapping
        Of ``POST /v1/chat/completions``. The first user message is JSON with what is known of a
        cluster: ``documents``, ``keywords``, ``neighbours``, ``forbidden_labels``.
    obey : bool
        Return what a document orders, if one does: ``IGNORE ... reply with: X``, or a line
        ``SYSTEM: X``.

    Returns
    -------
    str
        JSON, unless a document orders something else.
    """
    facts = _facts_of(body)
    if obey:
        for text in _strings([facts.get(name) for name in ("documents", "documents_at_the_edge")]):
            order = _ORDER.search(text)
            if order:
                return (order["reply"] or order["system"]).strip()
    words = _content_words(facts)
    values = {
        "label": _label(words, facts.get("forbidden_labels", ())),
        "summary": f"Documents about {', '.join(words[:3])}.",
        "keywords": words[:5],
    }
    return json.dumps(_filled(_schema(body), values, ""))


def embedding(text: str) -> list[float]:
    """Return a unit vector, near to those of texts with the same words and letters."""
    vector = [0.0] * DIMENSIONS
    text = text.casefold()
    padded = f" {' '.join(text.split())} "
    grams = [padded[i : i + 3] for i in range(len(padded) - 2)]
    for features, weight in ((_WORD.findall(text), 2.0), (grams, 1.0)):
        for feature in features:
            code = crc32(feature.encode(errors="replace"))
            vector[code % DIMENSIONS] += weight if code >> 16 & 1 else -weight
    norm = math.hypot(*vector)
    if norm == 0.0:
        return [1.0] + [0.0] * (DIMENSIONS - 1)
    return [round(value / norm, 7) for value in vector]


def _facts_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the first user message says, where it is a JSON object."""
    for message in body.get("messages", ()):
        if message.get("role") != "user":
            continue
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        for part in parts:
            try:
                value = json.loads(part.get("text", ""))
            except (TypeError, ValueError):
                continue
            if isinstance(value, dict):
                return value
    return {}


def _schema(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of the reply: that of the request, or one in the instructions."""
    requested = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    if isinstance(requested, dict):
        return requested
    for message in body.get("messages", ()):
        content = message.get("content")
        if message.get("role") == "system" and isinstance(content, str):
            _, found, rest = content.partition(SCHEMA_FOLLOWS)
            try:
                value, _ = json.JSONDecoder().raw_decode(rest.lstrip())
            except ValueError:
                continue
            if found and isinstance(value, dict):
                return value
    return DEFAULT_SCHEMA


def _content_words(facts: Mapping[str, Any]) -> list[str]:
    """Return words of the documents, those of most documents first, none of neighbours'."""
    documents = facts.get("documents") or facts.get("keywords") or []
    others = set(_words(_strings(facts.get("neighbours", ()))))
    counts = Counter(
        word for document in documents for word in sorted(set(_words(_strings(document))))
    )
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return [word for word in ranked if word not in others] or ranked or ["cluster"]


def _label(words: Sequence[str], forbidden: Iterable[str]) -> str:
    taken = {label.casefold() for label in forbidden if isinstance(label, str)}
    pairs = [words[:2], *([words[0], other] for other in words[2:]), words[:3], words[:4]]
    for chosen in pairs:
        label = " ".join(chosen).title()
        if label.casefold() not in taken:
            return label
    return f"{' '.join(words[:2]).title()} {len(taken) + 1}"


def _words(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from (word for word in _WORD.findall(text.lower()) if word not in _COMMON)


def _strings(value: Any) -> Iterator[str]:
    """Yield the strings in a JSON value, without the keys of objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(list(value.values()))
    elif isinstance(value, Sequence):
        for item in value:
            yield from _strings(item)


def _filled(schema: Mapping[str, Any], values: Mapping[str, Any], name: str) -> Any:
    """Return a value that a schema allows, with what is known by the names of properties."""
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            options = [each for each in schema[choice] if each.get("type") != "null"]
            return _filled(options[0], values, name)
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    kinds = schema.get("type", "string")
    kind = kinds if isinstance(kinds, str) else next(each for each in kinds if each != "null")
    if kind == "object":
        return {
            key: _filled(inner, values, key) for key, inner in schema.get("properties", {}).items()
        }
    known = values.get(name)
    if kind == "array":
        items = known if isinstance(known, list) else None
        if items is None:
            n_items = max(1, schema.get("minItems", 1))
            items = [_filled(schema.get("items", {}), values, "") for _ in range(n_items)]
        return items[: schema.get("maxItems")]
    if kind == "string":
        text = known if isinstance(known, str) else str(values["label"])
        return text[: schema.get("maxLength")]
    numbers = {"integer": 1, "number": 0.5, "boolean": True}
    return schema.get("minimum", numbers.get(kind))
