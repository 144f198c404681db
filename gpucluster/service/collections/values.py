"""Values of documents as JSON."""

from __future__ import annotations

import base64
import datetime as dt
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa


def to_json(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the values of a column as JSON knows them.

    Times are ISO 8601, bytes Base64, decimals text, and numbers that are not finite null.
    """
    values = column.to_pylist()
    if _is_plain(column.type):
        return list(values)
    return [json_value(value) for value in values]


def _is_plain(type_: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return any(test(type_) for test in tests)


def json_value(value: Any) -> Any:  # noqa: PLR0911 - one for each kind
    """Return one value as JSON knows it."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple():  # a map is a list of tuples
            return [json_value(item) for item in value]
        case dict():
            return {name: json_value(item) for name, item in value.items()}
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return value.total_seconds()
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return str(value)
        case _:
            return value
