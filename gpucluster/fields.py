"""Where in a model a report of pydantic points to, in the words of whoever wrote the value.

Between the fields a report names the branch of a union that was tried: a tag, or the name of a
type. Nobody has written these, so they are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, JsonValue, Tag
from pydantic.fields import FieldInfo

Step = str | int
_JSON: Any = JsonValue


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a value.

    Attributes
    ----------
    steps : tuple of str or int
        The way to it: fields, keys and positions.
    models : tuple of type
        What the object may be that has the last step.
    """

    steps: tuple[Step, ...]
    models: tuple[type[BaseModel], ...]

    def names(self, besides: Mapping[type, Iterable[str]] | None = None) -> list[str]:
        """Return the fields of that object, and what its models take besides."""
        more = besides or {}
        named = [name for model in self.models for name in (*_named(model), *more.get(model, ()))]
        return list(dict.fromkeys(named))


@dataclass(frozen=True, slots=True)
class _Branch:
    """A type that a value may have, and the words by which a report calls it."""

    kind: Any
    words: frozenset[str]


def locate(annotation: Any, loc: Sequence[Step]) -> Spot:
    """Return the place that a report names.

    Parameters
    ----------
    annotation : type or pydantic.fields.FieldInfo
        What the whole value is.
    loc : sequence of str or int
        As pydantic reports it.

    Returns
    -------
    Spot
    """
    branches, is_tagged = _branches(annotation)
    around, steps = branches, list[Step]()
    for step in loc:
        called = [branch for branch in branches if step in branch.words]
        inside = [kind for branch in branches for kind in _inside(branch.kind, step)]
        if called and (is_tagged or not inside):
            branches, is_tagged = called, False
        elif inside or len(branches) < 2 or _is_unknown(step, branches):
            steps.append(step)
            around = branches
            found = [_branches(kind) for kind in inside]
            branches = [branch for each, _ in found for branch in each]
            is_tagged = any(tagged for _, tagged in found)
    models = (branch.kind for branch in around)
    return Spot(tuple(steps), tuple(m for m in models if is_model(m)))


def _is_unknown(step: Step, branches: Sequence[_Branch]) -> bool:
    """Whether a step is no type of a union, but a field that none of its models has."""
    return isinstance(step, int) or all(is_model(branch.kind) for branch in branches)


def _branches(annotation: Any) -> tuple[list[_Branch], bool]:
    """Return the types that a value may have but None, and whether a tag tells which it has."""
    metadata: list[Any] = []
    while True:
        if isinstance(annotation, FieldInfo):
            metadata += [annotation, *annotation.metadata]
            annotation = annotation.annotation
        elif get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata += more
        elif annotation in (_JSON, _JSON.__name__):  # which names itself inside
            annotation = _JSON.__value__
        else:
            break
    if get_origin(annotation) not in {Union, UnionType}:
        words = {getattr(annotation, "__name__", "")}
        words |= {each.tag for each in metadata if isinstance(each, Tag)}
        return [_Branch(annotation, frozenset(words))], False
    by = [m.discriminator for m in metadata if isinstance(m, FieldInfo | Discriminator)]
    field = next((each for each in by if each is not None), None)
    found = list[_Branch]()
    for member in get_args(annotation):
        if member is not type(None):
            found += [_tagged(branch, field) for branch in _branches(member)[0]]
    return found, field is not None


def _tagged(branch: _Branch, field: Any) -> _Branch:
    """Return a branch with the values of the field that tells it from the others."""
    if not isinstance(field, str) or not is_model(branch.kind):
        return branch
    values = get_args(branch.kind.model_fields[field].annotation)
    return _Branch(branch.kind, branch.words | {str(value) for value in values})


def _inside(kind: Any, step: Step) -> list[Any]:
    """Return what lies a step inside of a value of a type; nothing where it has no such step."""
    if is_model(kind):
        return [_fields(kind)[step]] if step in _fields(kind) else []
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return [args[1]] if isinstance(step, str) else []
    if origin is Literal or not isinstance(step, int):
        return []
    return [arg for arg in args if arg is not Ellipsis]


def _fields(model: type[BaseModel]) -> dict[Step, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _named(model: type[BaseModel]) -> list[str]:
    return [str(name) for name in _fields(model)]


def is_model(kind: Any) -> bool:
    """Whether a type is a class of models."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)
