"""Settings as text: JSON, YAML and TOML read within bounds, and values shown in one line."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from gpucluster.errors import ConfigError
from gpucluster.places import Place

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_DEPTH = 32
MAX_VALUES = 100_000  # a small YAML text can stand for billions of them
MAX_BYTES = 8 << 20


def check_values(body: Mapping[str, Any]) -> None:
    """Refuse what is absurdly large or deep, and what cannot be written as JSON."""
    n_values = 0
    found: list[tuple[tuple[Any, ...], Any]] = [((), body)]
    while found:
        path, value = found.pop()
        if isinstance(value, Mapping | list | tuple):
            n_values += len(value)
            if n_values > MAX_VALUES:
                raise ConfigError(f"more than {MAX_VALUES} values", path=dotted(path[:1]))
            if len(path) > MAX_DEPTH:
                raise ConfigError(f"nested deeper than {MAX_DEPTH} levels", path=dotted(path[:1]))
        if isinstance(value, Mapping):
            for name in value:
                if not isinstance(name, str) or not _is_unicode(name):
                    raise ConfigError("its name is no text", path=dotted((*path, name)))
            found += (((*path, name), item) for name, item in value.items())
        elif isinstance(value, list | tuple):
            found += (((*path, position), item) for position, item in enumerate(value))
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"got {value}, expected a finite number", path=dotted(path))
        elif isinstance(value, str) and not _is_unicode(value):
            raise ConfigError(f"got {describe(value)}, which is no Unicode", path=dotted(path))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def dotted(path: Iterable[object]) -> str:
    """Return the way to a setting as it may stand in a one-line message."""
    steps = (
        shown(step, 40) if isinstance(step, str) and step.strip() else describe(step, 40)
        for step in path
    )
    return shown(".".join(steps), 100) or "the definition"


def is_number(value: object, kind: type = Real) -> bool:
    """Say whether a value is a number of a kind, which True and False are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


def yes_or_no(path: str, value: object) -> bool:
    """Return True or False; a `ConfigError` for what only counts as one of them: "no" is true."""
    if not isinstance(value, bool):
        raise ConfigError(f"got {describe(value)}, expected True or False", path=path, got=value)
    return value


def describe(value: object, limit: int = 60) -> str:
    """Return `value` as it may stand in a one-line message."""
    try:
        return shown(repr(value), limit)
    except (ValueError, RecursionError):  # thousands of digits, or of levels
        return f"{type(value).__name__} that is too large to show"


def shown(text: str, limit: int) -> str:
    """Return at most `limit` printable characters that stand for `text`."""
    text = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known name that is most like `name`, or with all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    listed = ", ".join(known)
    return f"known are: {listed}" if len(listed) <= 150 else f"known are: {listed[:147]}..."


def setting_error(
    error: ValidationError,
    model: Any,
    prefix: str = "",
    *,
    besides: Mapping[type, Iterable[str]] | None = None,
) -> ConfigError:
    """Turn pydantic's report into one line that names the setting and what it takes.

    Parameters
    ----------
    error : pydantic.ValidationError
    model : type
        What was to be read: a model, or a union of models.
    prefix : str, optional
        What the path begins with.
    besides : mapping, optional
        Names of settings that a model takes besides its fields.

    Returns
    -------
    ConfigError
    """
    from gpucluster.fields import locate  # it brings pydantic along

    first = error.errors(include_url=False)[0]
    spot = locate(model, first["loc"])
    steps = [str(step) for step in spot.steps]
    path = dotted([prefix, *steps] if prefix else steps)
    if first["type"] == "extra_forbidden":
        return ConfigError(
            "unknown setting",
            path=path,
            got=first["input"],
            hint=nearest(steps[-1], spot.names(besides)),
        )
    if first["type"] == "union_tag_invalid":
        return _no_such_kind(first["ctx"], path)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return cause
    if cause is not None and isinstance(first["input"], Mapping):  # of several settings together
        return ConfigError(str(cause), path=path, got=first["input"])
    expected = _expected(first)
    if first["type"] == "missing":
        return ConfigError("missing", path=path, expected=expected)
    return ConfigError(
        f"got {describe(first['input'])}, expected {expected}",
        path=path,
        got=first["input"],
        expected=expected,
    )


def _no_such_kind(context: Mapping[str, str], path: str) -> ConfigError:
    """Return the error for an object that says of itself to be of a kind that there is not."""
    tag, tags = context["tag"], context["expected_tags"]
    name = context["discriminator"].strip("'")
    return ConfigError(
        f"got {describe(tag)}, no such {name}",
        path=f"{path}.{name}",
        got=tag,
        expected=tags,
        hint=nearest(tag, tags.replace("'", "").split(", ")),
    )


def _expected(found: Mapping[str, Any]) -> str:
    """Return in words what would have been right."""
    if found["type"] == "too_short":
        return f"{found['ctx']['min_length']} or more"
    return shown(found["msg"].removeprefix("Input should be ").removeprefix("Value error, "), 110)


def read_object(path: Place) -> dict[str, Any]:
    """Read a file of settings.

    Parameters
    ----------
    path : Path or ObjectPath
        JSON, YAML or TOML by its suffix.

    Returns
    -------
    dict
        As written.

    Raises
    ------
    ConfigError
        The file is missing, too large, not what its suffix says, or holds no object.
    """
    name = shown(str(path), 120)
    try:
        fits = path.stat().st_size <= MAX_BYTES
        text = path.read_text(encoding="utf-8-sig") if fits else ""
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be read ({_one_line(error)})") from error
    if not fits:
        raise ConfigError(f"{name}: larger than {MAX_BYTES} bytes, which no settings are")
    body = _parsers()[path.suffix](text, name)
    if not isinstance(body, Mapping):
        raise ConfigError(f"{name}: holds {describe(body)}, expected an object of settings")
    return dict(body)


def parse_body(text: str, name: str) -> Any:
    """Parse text of unknown form (standard input): JSON, or else YAML."""
    parse = _parse_json if text.lstrip().startswith("{") else _parse_yaml
    return parse(text, name)


def _parse_json(text: str, name: str) -> Any:
    import json

    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: is no JSON ({_one_line(error)})") from error


def _parse_yaml(text: str, name: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe, and strict about doubled keys, of which YAML keeps the last in silence."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            _without_doubles([(str(key), None) for key in keys])
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except ConfigError:
        raise
    # PyYAML's constructors let plain ValueError and friends through (an impossible date, say)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{name}: is no YAML ({_one_line(error)})") from error


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict, unless one key stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ConfigError("is given twice", path=describe(double).strip("'"), hint="say it once")
    return found


def _parse_toml(text: str, name: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: is no TOML ({_one_line(error)})") from error


def _parsers() -> dict[str, Callable[[str, str], Any]]:
    return {".json": _parse_json, ".yaml": _parse_yaml, ".yml": _parse_yaml, ".toml": _parse_toml}


def _one_line(error: BaseException) -> str:
    return shown(" ".join(str(error).split()), 120)
