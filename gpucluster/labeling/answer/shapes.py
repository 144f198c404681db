"""The shape of a model's answer: what is asked for, and what is checked of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gpucluster.labeling.answer.replies import InvalidReply
from gpucluster.labeling.answer.schemas import (
    LABEL,
    Schema,
    import_jsonschema,
    is_json_schema,
    object_of,
    schema_of,
)
from gpucluster.notation import describe, shown

if TYPE_CHECKING:
    from pydantic import JsonValue

    from gpucluster.labeling.settings import LabelingSettings  # they check shapes

MAX_BYTES: Final = 20_000
STANDARD: Final = ("label", "summary", "keywords")

_SUMMARY: Schema = {
    "type": "string",
    "description": "One or two sentences on what the documents have in common.",
}
_KEYWORDS: Schema = {
    "type": "array",
    "items": {"type": "string"},
    "description": "3 to 5 keywords.",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What one answer has.

    Attributes
    ----------
    schema : dict
        JSON Schema of one object with a label.
    instructions : str or None
        The shape in plain English, where it was given so. The object may then have more
        properties than those of the schema.
    extra : tuple of str
        Names of the properties beside label, summary and keywords, as far as they are known.
    is_given : bool
        Whether the schema was written by the user: then all that it says holds.
    """

    schema: Mapping[str, Any]
    instructions: str | None = None
    extra: tuple[str, ...] = ()
    is_given: bool = False

    @classmethod
    def of(cls, settings: LabelingSettings) -> Shape:
        """Return the shape that the settings ask for.

        Parameters
        ----------
        settings : LabelingSettings

        Returns
        -------
        Shape

        Raises
        ------
        ValueError
            `check_shape` says why.
        BackendUnavailableError
            The shape is a JSON Schema, and jsonschema is missing.
        """
        given = settings.response_shape
        if isinstance(given, Mapping):
            if is_given := is_json_schema(given):
                import_jsonschema()
            schema = schema_of(given)
            extra = tuple(name for name in schema["properties"] if name not in STANDARD)
            return cls(schema, extra=extra, is_given=is_given)
        properties: Schema = {"label": LABEL}
        if settings.include_summary:
            properties["summary"] = _SUMMARY
        if settings.include_keywords:
            properties["keywords"] = _KEYWORDS
        if given is None:
            return cls(object_of(properties))
        check_shape(given)
        schema = {**object_of(properties), "additionalProperties": True}
        return cls(schema, instructions=given.strip())

    def check(self, answer: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Return what of an answer belongs to the shape.

        Parameters
        ----------
        answer : dict

        Returns
        -------
        dict
            Without the properties that were not asked for. Keywords in one text, with commas
            between them, have become a list.

        Raises
        ------
        InvalidReply
            The answer has another shape.
        """
        known = self.schema["properties"]
        taken = {
            name: value
            for name, value in answer.items()
            if name in known or (self.instructions is not None and name not in STANDARD)
        }
        words = taken.get("keywords")
        if isinstance(words, str) and known["keywords"].get("type") == "array":
            taken["keywords"] = [word.strip() for word in words.split(",") if word.strip()]
        if self.is_given:
            problem = _problem_by_library(taken, self.schema)
        else:
            # a good name is not thrown away because something beside it is missing
            for name in ("summary", "keywords"):
                if taken.get(name) is None:
                    taken.pop(name, None)
            asked = [name for name in known if name in taken or name not in STANDARD[1:]]
            problem = _problem(taken, {**self.schema, "required": asked})
        if problem is not None:
            raise InvalidReply(problem)
        return taken


def check_shape(response_shape: str | Mapping[str, Any] | None) -> None:
    """Raise when a `response_shape` cannot be asked for.

    Parameters
    ----------
    response_shape : str, dict or None

    Raises
    ------
    ValueError
        In one line: a type that is unknown, a schema that is wrong or refers to elsewhere,
        a label that is no text, or more than there may be.
    """
    if response_shape is None:
        return
    try:
        size = len(json.dumps(response_shape, ensure_ascii=False).encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("response_shape cannot be written as JSON") from error
    if size > MAX_BYTES:
        raise ValueError(f"response_shape has {size:,} bytes, expected at most {MAX_BYTES:,}")
    if isinstance(response_shape, Mapping):
        schema_of(response_shape)
    elif not response_shape.strip():
        raise ValueError("response_shape is empty")


def _problem_by_library(answer: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    jsonschema = import_jsonschema()
    validator = jsonschema.Draft202012Validator(schema)
    try:
        error = jsonschema.exceptions.best_match(validator.iter_errors(answer))
    except (ArithmeticError, TypeError, ValueError):  # numbers that are too large to compare
        return "it does not fit the schema"
    if error is None:
        return None
    where = error.json_path.removeprefix("$").removeprefix(".")
    return shown(f"{where}: {error.message}" if where else error.message, 200)


def _problem(value: JsonValue, schema: Mapping[str, Any], where: str = "") -> str | None:
    """Return what is wrong by a schema of our own, of which only these keywords are used."""
    name = where or "the answer"
    fits = {
        "string": isinstance(value, str),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "boolean": isinstance(value, bool),
        "array": isinstance(value, list),
        "object": isinstance(value, Mapping),
    }
    if not fits[schema["type"]]:
        return shown(f"{name} is {describe(value)}, expected {schema['type']}", 200)
    if "enum" in schema and value not in schema["enum"]:
        return shown(f"{name} is {describe(value)}, expected {' | '.join(schema['enum'])}", 200)
    inner: list[tuple[JsonValue, Mapping[str, Any], str]] = []
    if isinstance(value, list):
        inner = [(item, schema["items"], f"{where}[{i}]") for i, item in enumerate(value)]
    elif isinstance(value, Mapping):
        for key in schema["required"]:
            if key not in value:
                return f"{name} has no {key}"
        if not schema["additionalProperties"] and (more := value.keys() - schema["properties"]):
            return f"{name} has {describe(min(more))}, which was not asked for"
        of = schema["properties"]
        inner = [(v, of[k], f"{where}.{k}".lstrip(".")) for k, v in value.items() if k in of]
    problems = (_problem(*each) for each in inner)
    return next((problem for problem in problems if problem is not None), None)
