"""What an LLM sees of a document: texts, other values, and addresses of media."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gpucluster.labeling.addresses import is_allowed
from gpucluster.labeling.question.values import as_json, as_text, follow
from gpucluster.labeling.settings import MEDIA, InputMapping, LabelingInputs

if TYPE_CHECKING:
    from pydantic import JsonValue

BLOBS: Final = ("document_blobs", "source_blobs")  # in the order in which they are looked into


@dataclass(frozen=True, slots=True)
class Medium:
    """An image, video or sound by its address.

    Attributes
    ----------
    kind : str
        ``image_url``, ``video_url`` or ``audio_url``.
    url : str
        Begins with http, https, s3 or, of an image, ``data:image/``.
    """

    kind: str
    url: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A document as an LLM sees it.

    Attributes
    ----------
    fields : dict of str to JSON value
        ``text``, joined by newlines in the order of the mappings; other input keys as they are.
    media : tuple of Medium
        In the order of the mappings.
    """

    fields: Mapping[str, JsonValue]
    media: tuple[Medium, ...] = ()


def columns_needed(inputs: LabelingInputs | None) -> list[str] | None:
    """Return the columns that the mappings may read: of ``a.b`` both ``a`` and ``a.b``.

    Parameters
    ----------
    inputs : LabelingInputs or None

    Returns
    -------
    list of str, or None
        Not all of them need to be there. None where every column is read.
    """
    if inputs is None:
        return None
    names: dict[str, None] = {}
    for mapping in inputs.input_mappings:
        for steps in _ways(mapping):
            names |= dict.fromkeys(".".join(steps[:cut]) for cut in range(1, len(steps) + 1))
    return list(names)


def read_sample(
    payload: Mapping[str, Any],
    inputs: LabelingInputs | None,
    *,
    max_length: int | None,
    leave_out: Container[str] = (),
) -> tuple[Sample | None, list[str]]:
    """Take from a document what an LLM is shown.

    Parameters
    ----------
    payload : dict
        A row: structs are dicts, lists are lists.
    inputs : LabelingInputs or None
        None shows the whole row.
    max_length : int or None
        Texts of the document are cut to so many characters; literals are not.
    leave_out : container of str
        Columns that are not shown with the whole row, such as vectors.

    Returns
    -------
    sample : Sample or None
        None where nothing of the document is left: literals alone say nothing about it.
    omitted : list of str
        The input keys of the mappings that led to nothing, or to an address that is refused.
    """
    if inputs is None:
        row = {
            as_text(name): as_json(value, max_length)
            for name, value in payload.items()
            if name not in leave_out
        }
        fields = {name: value for name, value in row.items() if _says(value)}
        return (Sample(fields) if fields else None), []
    found: dict[str, list[JsonValue]] = {}
    media: list[Medium] = []
    omitted: list[str] = []
    says_something = False
    for mapping in inputs.input_mappings:
        key = mapping.input_key
        value = _value(mapping, payload, max_length)
        if not _says(value):
            omitted.append(key)
            continue
        says_something |= mapping.source_type != "literal"
        if key in MEDIA:
            media.append(Medium(key, str(value)))
        else:
            found.setdefault(key, []).append(value)
    if not says_something:
        return None, omitted
    fields = {key: _together(key, values) for key, values in found.items()}
    return Sample(fields, tuple(media)), omitted


def _together(key: str, values: list[JsonValue]) -> JsonValue:
    if key == "text":
        return "\n".join(map(str, values))
    return values[0] if len(values) == 1 else values


def _value(mapping: InputMapping, payload: Mapping[str, Any], max_length: int | None) -> JsonValue:
    """Return what a mapping leads to; None for what cannot be shown."""
    is_literal = mapping.source_type == "literal"
    limit = None if is_literal or mapping.input_key in MEDIA else max_length
    if is_literal:
        value = as_json(mapping.override, limit)
    else:
        followed = (as_json(follow(payload, way), limit) for way in _ways(mapping))
        value = next(filter(_says, followed), None)
    if mapping.input_key in MEDIA:
        url = value.strip() if isinstance(value, str) else ""
        return url if is_allowed(mapping.input_key, url) else None
    if mapping.input_key == "text" and _says(value) and not isinstance(value, str):
        return as_text(json.dumps(value, ensure_ascii=False), limit)
    return value


def _ways(mapping: InputMapping) -> list[list[str]]:
    """Return the paths that a mapping may mean, the one that is tried first at the beginning."""
    if mapping.path is None:
        return []
    steps = mapping.path.strip().split(".")
    if mapping.source_type == "blob" and steps[0] not in BLOBS:
        return [[blobs, *steps] for blobs in BLOBS]
    return [steps]


def _says(value: JsonValue) -> bool:
    """Whether a value is more than null, an empty text or an empty container."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and value not in ([], {})
