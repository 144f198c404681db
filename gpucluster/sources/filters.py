"""Which rows are meant: conditions on plain columns, as a request writes them.

`gpucluster.sources.matching` compiles them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    model_serializer,
    model_validator,
)

from gpucluster.errors import ConfigError

MAX_DEPTH = 10
MAX_CONDITIONS = 1_000
MAX_VALUES = 10_000  # of one ``in``
MAX_TEXT = 10_000  # characters of one value

Operator: TypeAlias = Literal[
    "eq", "ne", "gt", "lt", "gte", "lte", "in", "nin",
    "contains", "starts_with", "ends_with", "regex", "text", "exists", "is_null",
]  # fmt: skip

GROUPS = ("AND", "OR", "NOT")
ORDER = ("gt", "lt", "gte", "lte")
TEXTUAL = ("contains", "starts_with", "ends_with", "regex", "text")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Condition(_Settings):
    """A field compared with a value."""

    field: str = Field(
        min_length=1, max_length=500, description="Column, or dot path into a struct column."
    )
    operator: Operator = Field(default="eq", description="How to compare.")
    value: JsonValue = Field(
        default=None,
        description="With what: a list for in and nin; true or false for exists and is_null "
        "(omitted: true); a text or number for the others. Lists know contains, an element, and in "
        "and nin, any of them.",
    )

    @model_validator(mode="after")
    def _value_fits(self) -> Condition:
        if self.operator in {"exists", "is_null"}:
            if self.value is None:
                object.__setattr__(self, "value", True)
            fits, expected = isinstance(self.value, bool), "true or false"
        elif self.operator in {"in", "nin"}:
            values = self.value if isinstance(self.value, list) else []
            fits = 1 <= len(values) <= MAX_VALUES and all(map(_is_scalar, values))
            expected = f"a list of 1 to {MAX_VALUES:,} texts, numbers or booleans, none null"
        elif self.operator == "contains" and not isinstance(self.value, str):
            fits = _is_scalar(self.value)
            expected = "a text that is not empty; of lists also a number or boolean"
        elif self.operator in TEXTUAL:
            fits = isinstance(self.value, str) and bool(self.value.strip())
            expected = "a text that is not empty"
        elif self.operator in ORDER:
            fits = _is_scalar(self.value) and not isinstance(self.value, bool)
            expected = "a number or a text"
        else:
            fits, expected = _is_scalar(self.value), "a text, number or boolean"
            if self.value is None or isinstance(self.value, list):
                expected += "; is_null finds null" if self.value is None else "; in takes a list"
        for value in self.value if isinstance(self.value, list) else [self.value]:
            if isinstance(value, str) and len(value) > MAX_TEXT:
                fits, expected = False, f"at most {MAX_TEXT:,} characters"
        if not fits:
            raise ValueError(f"expected {expected}, for {self.operator}")
        if self.operator == "regex":
            _check_pattern(str(self.value))
        return self


class Filters(_Settings):
    """Conditions that are combined; what stands side by side must all hold."""

    AND: tuple[_Item, ...] = Field(default=(), description="All of these hold.")
    OR: tuple[_Item, ...] = Field(default=(), description="At least one of these holds.")
    NOT: tuple[_Item, ...] = Field(default=(), description="None of these holds.")
    case_sensitive: bool | None = Field(
        default=None,
        description="Whether case counts when texts are compared, but for gt, gte, lt and lte. "
        "Omitted: as in the group around; at the top it does not.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_bare(cls, given: Any) -> Any:
        """Write ``{"field": value}`` as the condition that it stands for."""
        if not isinstance(given, Mapping):
            return given
        _check_extent(given)
        if any(name in given for name in GROUPS):
            return {
                name: [_spelled(item) for item in value]
                if name in GROUPS and isinstance(value, list | tuple)
                else value
                for name, value in given.items()
            }
        case = {name: value for name, value in given.items() if name == "case_sensitive"}
        bare = {name: value for name, value in given.items() if name not in case}
        if _is_condition(bare):
            return {"AND": [bare], **case}
        conditions = [
            {"field": name, "operator": "eq", "value": value} for name, value in bare.items()
        ]
        return {"AND": conditions, **case} if conditions else case

    @model_validator(mode="after")
    def _groups_hold_something(self) -> Filters:
        for name in self.model_fields_set & set(GROUPS):
            if not getattr(self, name):
                raise ValueError(f"expected at least one condition in {name}")
        return self

    @model_serializer
    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form as JSON values: the groups that hold something."""
        groups = {
            name: [item.model_dump(mode="json") for item in getattr(self, name)]
            for name in GROUPS
            if getattr(self, name)
        }
        case = {} if self.case_sensitive is None else {"case_sensitive": self.case_sensitive}
        return groups | case

    def conditions(self) -> Iterator[Condition]:
        """Yield every condition, of nested groups too."""
        for item in (*self.AND, *self.OR, *self.NOT):
            if isinstance(item, Condition):
                yield item
            else:
                yield from item.conditions()


def _kind(item: Any) -> str:
    if isinstance(item, BaseModel):
        return "condition" if isinstance(item, Condition) else "group"
    return "condition" if isinstance(item, Mapping) and _is_condition(item) else "group"


_Item: TypeAlias = Annotated[
    Annotated[Condition, Tag("condition")] | Annotated[Filters, Tag("group")], Discriminator(_kind)
]
Filters.model_rebuild()


def _is_condition(item: Mapping[str, Any]) -> bool:
    return "field" in item and len(item) > 1


def _spelled(item: Any) -> Any:
    """Return ``{"field": value}`` as a condition; of several, their group."""
    if not isinstance(item, Mapping) or _is_condition(item) or len(item) != 1:
        return item
    ((name, value),) = item.items()
    known = name in GROUPS or name == "case_sensitive"
    return item if known else {"field": name, "operator": "eq", "value": value}


def _is_scalar(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bool | int)


def _check_extent(given: Mapping[str, Any]) -> None:
    """Refuse what is too deep or too large before anything recurses into it."""
    seen, n_items = [(1, given)], 0
    while seen:
        depth, group = seen.pop()
        if depth > MAX_DEPTH:
            raise ConfigError(f"nested deeper than {MAX_DEPTH} groups", path="filters")
        for name in GROUPS:
            items = group.get(name)
            if isinstance(items, list | tuple):
                n_items += len(items)
                seen += [(depth + 1, item) for item in items if isinstance(item, Mapping)]
        if n_items > MAX_CONDITIONS:
            raise ConfigError(f"more than {MAX_CONDITIONS:,} conditions", path="filters")


def _check_pattern(pattern: str) -> None:
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except (pa.ArrowInvalid, UnicodeEncodeError) as error:
        why = str(error).removeprefix("Invalid regular expression: ").splitlines()[0]
        raise ValueError(f"expected a regular expression of RE2 ({why[:60]})") from error
