"""The shape of a model's answer: what is asked for, and what is checked of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gpucluster.labeling.answer.schemas import (
    LABEL,
    Schema,
    import_jsonschema,
    is_json_schema,
    object_of,
    schema_of,
)
from gpucluster.notation import shown

if TYPE_CHECKING:
    from pydantic import JsonValue

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


class InvalidReply(ValueError):  # noqa: N818 - it is the reply that is wrong
    """A reply that cannot be taken; the message is one line that may be sent back to the model."""


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
    def of(
        cls,
        response_shape: str | Mapping[str, Any] | None,
        *,
        include_summary: bool = True,
        include_keywords: bool = True,
    ) -> Shape:
        """Return the shape that is asked for.

        Parameters
        ----------
        response_shape : str, dict or None
        include_summary, include_keywords : bool
            Whether they are asked for, where no dict says what is.

        Returns
        -------
        Shape

        Raises
        ------
        ValueError
            `check_shape` says why.
        """
        if isinstance(response_shape, Mapping):
            schema = schema_of(response_shape)
            extra = tuple(name for name in schema["properties"] if name not in STANDARD)
            return cls(schema, extra=extra, is_given=is_json_schema(response_shape))
        properties: Schema = {"label": LABEL}
        if include_summary:
            properties["summary"] = _SUMMARY
        if include_keywords:
            properties["keywords"] = _KEYWORDS
        if response_shape is None:
            return cls(object_of(properties))
        check_shape(response_shape)
        schema = {**object_of(properties), "additionalProperties": True}
        return cls(schema, instructions=response_shape.strip())

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
        BackendUnavailableError
            jsonschema is missing.
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
        schema = self.schema
        if not self.is_given:
            # a good name is not thrown away because something beside it is missing
            for name in STANDARD[1:]:
                if taken.get(name) is None:
                    taken.pop(name, None)
            asked = [name for name in known if name in taken or name not in STANDARD[1:]]
            schema = {**schema, "required": asked}
        problem = _problem(taken, schema)
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


def _problem(answer: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
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
