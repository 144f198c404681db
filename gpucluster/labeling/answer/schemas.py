"""JSON Schemas of what a user asks for: from words for types, or from a schema of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gpucluster.errors import BackendUnavailableError
from gpucluster.labeling.text import plain
from gpucluster.notation import describe, shown

NAME_LIMIT: Final = 64  # characters of a property's name
MAX_PROPERTIES: Final = 50
MAX_DEPTH: Final = 5  # objects and lists within each other
MAX_NODES: Final = 2_000  # what a schema may grow to when references are followed
TYPES: Final = ("string", "number", "integer", "boolean")

Schema = dict[str, Any]

LABEL: Final[Schema] = {"type": "string", "description": "The name: 2 to 6 words."}

# where a JSON Schema has schemas in it
_NAMED = {"properties", "dependentSchemas"}
_LISTED = {"allOf", "anyOf", "oneOf", "prefixItems"}
_SINGLE = {
    "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
_DROPPED = {"$anchor", "$comment", "$defs", "$id", "$schema", "definitions"}
# a pattern can take for ever, and dynamic references have no bounded form
_REFUSED = {"$dynamicAnchor", "$dynamicRef", "$recursiveRef", "pattern", "patternProperties"}


def is_json_schema(given: Mapping[str, Any]) -> bool:
    """Whether a shape is a JSON Schema, and not words for types."""
    return "$schema" in given or (
        given.get("type") == "object" and isinstance(given.get("properties"), Mapping)
    )


def schema_of(given: Mapping[str, Any]) -> Schema:
    """Return the JSON Schema of a shape that is a dict.

    Parameters
    ----------
    given : dict
        Words for types, or a JSON Schema.

    Returns
    -------
    dict
        Of one object with a label, and without references.

    Raises
    ------
    ValueError
        In one line, what is wrong with it.
    """
    if is_json_schema(given):
        schema = _Resolver(given).resolve(given)
        if schema.get("type") != "object" or "properties" not in schema:
            raise _wrong("must describe one object, with its properties")
        _check_by_library(schema)
    else:
        schema = _from_words(given, "response_shape")
    properties = {"label": LABEL, **schema["properties"]}
    required = [name for name in schema.get("required", ()) if name != "label"]
    schema = {
        **schema,
        "properties": properties,
        "required": ["label", *required],
        "additionalProperties": False,
    }
    _check_standard(properties)
    _check_size(schema)
    return schema


def object_of(properties: Mapping[str, Any]) -> Schema:
    """Return the JSON Schema of an object that has all these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _from_words(given: Any, where: str, depth: int = 1) -> Schema:
    """Return the JSON Schema of the short form: words for types, and dicts and lists of them."""
    where = shown(where, 80)
    if isinstance(given, str):
        return _from_word(given, where)
    if depth > MAX_DEPTH:
        raise ValueError(f"response_shape is nested deeper than {MAX_DEPTH} levels")
    if isinstance(given, list | tuple) and len(given) == 1:
        return {"type": "array", "items": _from_words(given[0], f"{where}[0]", depth + 1)}
    if isinstance(given, Mapping) and given:
        _check_names(given)
        return object_of(
            {name: _from_words(of, f"{where}.{name}", depth + 1) for name, of in given.items()}
        )
    raise ValueError(f"{where} is {describe(given)}, expected a type, a list of one, or a dict")


def _from_word(given: str, where: str) -> Schema:
    options = [option.strip() for option in given.split("|")]
    if len(options) == 1 and options[0] in TYPES:
        return {"type": options[0]}
    if len(options) == 1:
        raise ValueError(
            f"{where} is {describe(given)}, expected {', '.join(TYPES)}, a list of one, a dict, "
            "or alternatives such as 'high | low'"
        )
    if not all(options) or {*options} & {*TYPES, "null"}:
        raise ValueError(f"{where} is {describe(given)}: alternatives are texts, not types")
    return {"type": "string", "enum": list(dict.fromkeys(options))}


def _wrong(how: str) -> ValueError:
    return ValueError(f"the JSON Schema {how}")


class _Resolver:
    """Writes a JSON Schema out: references replaced by what they stand for, within bounds."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.n_nodes = 0

    def resolve(self, schema: Any, depth: int = 0) -> Any:
        """Return a schema without references."""
        self.n_nodes += 1
        if self.n_nodes > MAX_NODES or depth > 4 * MAX_DEPTH:
            raise _wrong("is too large or too deep, or refers to itself")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise _wrong(f"has {describe(schema)} where a schema belongs")
        found: Schema = {}
        if "$ref" in schema:
            target = self.resolve(self.target(schema["$ref"]), depth + 1)
            found |= target if isinstance(target, Mapping) else {"allOf": [target]}
        for keyword, value in schema.items():
            if keyword in _REFUSED:
                raise _wrong(f"uses {keyword}, which is not supported")
            if keyword == "$ref" or keyword in _DROPPED:
                continue
            found[keyword] = self.inner(keyword, value, depth + 1)
        if isinstance(found.get("properties"), Mapping):
            _check_required(found.get("required", []), found["properties"])
        return found

    def inner(self, keyword: str, value: Any, depth: int) -> Any:
        """Return what a keyword says, the schemas in it resolved."""
        if keyword in _NAMED and isinstance(value, Mapping):
            _check_names(value)
            return {name: self.resolve(of, depth) for name, of in value.items()}
        if keyword in _LISTED and isinstance(value, list | tuple):
            return [self.resolve(of, depth) for of in value]
        if keyword in _SINGLE:
            return self.resolve(value, depth)
        if keyword in _NAMED | _LISTED:
            raise _wrong(f"has {describe(value)} as its {keyword}")
        return value

    def target(self, reference: Any) -> Any:
        """Return what a reference within the schema stands for."""
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise _wrong(f"refers to {describe(reference)}, expected #/$defs/a_name")
        found: Any = self.root
        for step in reference[2:].split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise _wrong(f"refers to {describe(reference)}: nothing is there")
            found = found[name]
        return found


def _check_required(required: Any, properties: Mapping[str, Any]) -> None:
    if not isinstance(required, list | tuple):
        raise _wrong(f"requires {describe(required)}, expected a list of names")
    for name in required:
        if not isinstance(name, str) or name not in properties:
            raise _wrong(f"requires {describe(name)}, which it does not have")


def _check_names(names: Mapping[Any, Any]) -> None:
    for name in names:
        if not (isinstance(name, str) and name and plain(name, NAME_LIMIT) == name):
            raise ValueError(
                f"{describe(name)} is no name of a property: they are one line of at most "
                f"{NAME_LIMIT} visible characters"
            )


def _check_standard(properties: Mapping[str, Any]) -> None:
    """Refuse a label, summary or keywords of another type than the artifacts hold."""
    for name, types in (("label", "string"), ("summary", "string"), ("keywords", "string array")):
        schema = properties.get(name, {"type": "string"})
        if not isinstance(schema, Mapping) or schema.get("type") not in types.split():
            raise ValueError(f"{name} must be of the type {types.replace(' ', ' or ')}")
        items = schema.get("items", {"type": "string"})
        if not isinstance(items, Mapping) or items.get("type") != "string":
            raise ValueError(f"{name} must be a list of string")


def _check_size(schema: Mapping[str, Any]) -> None:
    n_properties = 0
    found: list[tuple[Any, int]] = [(schema, 1)]
    while found:
        each, depth = found.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"response_shape is nested deeper than {MAX_DEPTH} levels")
        if not isinstance(each, Mapping):
            continue
        properties = each.get("properties", {})
        n_properties += len(properties)
        if n_properties > MAX_PROPERTIES:
            raise ValueError(f"response_shape has more than {MAX_PROPERTIES} properties")
        inner = [of for keyword in _NAMED for of in each.get(keyword, {}).values()]
        inner += [each[keyword] for keyword in _SINGLE if keyword in each]
        inner += [of for keyword in _LISTED for of in each.get(keyword, ())]
        found += ((of, depth + _is_container(of)) for of in inner)


def _is_container(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") not in TYPES


def import_jsonschema() -> Any:
    """Return the library, or raise `BackendUnavailableError`."""
    try:
        import jsonschema
    except ImportError as error:
        raise BackendUnavailableError(
            "answers of a model are checked by jsonschema, which is missing",
            hint="pip install 'gpucluster[llm]'",
        ) from error
    return jsonschema


def _check_by_library(schema: Mapping[str, Any]) -> None:
    """Refuse what is no JSON Schema, where the library that knows is there."""
    try:
        jsonschema = import_jsonschema()
    except BackendUnavailableError:
        return
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise _wrong(f"is wrong: {shown(error.message, 100)}") from error
