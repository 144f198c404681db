"""Definitions as people write them: three file formats, two dialects, one meaning.

`read_body` reads a file; `canonical` puts every setting under its canonical name and
refuses contradictions.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpucluster.errors import ConfigError

MAX_DEPTH = 32
MAX_VALUES = 100_000  # a small YAML text can stand for billions of them
MAX_BYTES = 8 << 20
DEFINITION_SUFFIXES = (".json", ".yaml", ".yml", ".toml")

# the settings of vector_config that may stand at the top, under these names
LIFTED = {
    "feature_addresses": "feature_uris",
    "feature_uri": "feature_uris",
    "feature_uris": "feature_uris",
    "algorithm": "clustering_method",
    "clustering_method": "clustering_method",
    "algorithm_config": "algorithm_params",
    "algorithm_params": "algorithm_params",
    "preprocessing_steps": "preprocessing_steps",
    "sample_size": "sample_size",
    "normalize_features": "normalize_features",
    "hierarchical": "hierarchical",
    "max_hierarchy_depth": "max_hierarchy_depth",
    "min_split_size": "min_split_size",
    "hierarchy_method": "hierarchy_method",
    "dimension_reduction": "dimension_reduction",
    "dimensionality_reduction": "dimension_reduction",
}
_PER_METHOD = {
    "kmeans_parameters": "kmeans",
    "dbscan_parameters": "dbscan",
    "hdbscan_parameters": "hdbscan",
}


def canonical(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return `body` with every setting under its canonical name.

    Raises
    ------
    ConfigError
        Two names of one setting have different values, or something is in it that no
        definition holds.
    """
    _check_values(body)
    result: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for name, value in body.items():
        if name == "vector_config":
            if not isinstance(value, Mapping):
                raise ConfigError(f"got {describe(value)}, expected an object", path=name)
            for inner, inner_value in value.items():
                _vector_setting(config, inner, inner_value, f"vector_config.{inner}")
        elif name in LIFTED or name in _PER_METHOD:
            _vector_setting(config, name, value, name)
        elif name == "feature_vector" and isinstance(value, Mapping):
            if set(value) != {"feature_address"}:
                raise ConfigError(
                    f"got the keys {describe(sorted(value))}, expected feature_address alone",
                    path=name,
                )
            _put(config, "feature_uris", [value["feature_address"]], "feature_vector")
        elif name == "source_collection_ids":
            _put(result, "collection_ids", value, name)
        elif name == "llm_labeling" and isinstance(value, Mapping) and "model" in value:
            block = {key: item for key, item in value.items() if key != "model"}
            _put(block, "model_name", value["model"], "llm_labeling.model")
            _put(result, name, block, name)
        else:
            _put(result, name, value, name)
    if config or "vector_config" in body:
        _put(result, "vector_config", config, "vector_config")
    return result


def _vector_setting(config: dict[str, Any], name: str, value: Any, path: str) -> None:
    """Put one setting of vector_config where it belongs."""
    if name in _PER_METHOD:
        if value is None:
            return
        _put(config, "clustering_method", _PER_METHOD[name], path)
        name = "algorithm_params"
    target = LIFTED.get(name, name)
    if target == "feature_uris" and isinstance(value, str):
        value = [value]
    if name == "dimensionality_reduction" and isinstance(value, Mapping):
        value = dict(value)
        if "n_components" in value:
            _put(value, "components", value.pop("n_components"), f"{path}.n_components")
    _put(config, target, value, path)


def _put(settings: dict[str, Any], name: str, value: Any, path: str) -> None:
    if name in settings and settings[name] != value:
        raise ConfigError(
            f"got {describe(value)}, but {name} was given as {describe(settings[name])}",
            path=path,
            got=value,
            hint="say it once",
        )
    settings[name] = value


def _check_values(body: Mapping[str, Any]) -> None:
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


def read_body(path: str | Path) -> dict[str, Any]:
    """Read a definition file.

    Parameters
    ----------
    path : str or Path
        JSON, YAML or TOML by its suffix; in TOML also a ``[tool.gpucluster]`` table.

    Returns
    -------
    dict
        As written; `ClusterDefinition.parse` makes sense of it.

    Raises
    ------
    ConfigError
        The file is missing, too large, or not what its suffix says.
    """
    path = Path(path)
    name = shown(str(path), 120)
    if path.suffix not in DEFINITION_SUFFIXES:
        raise ConfigError(
            f"{name}: got suffix {path.suffix!r}, expected one of {', '.join(DEFINITION_SUFFIXES)}"
        )
    try:
        fits = path.stat().st_size <= MAX_BYTES
        text = path.read_text(encoding="utf-8-sig") if fits else ""
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be read ({_one_line(error)})") from error
    if not fits:
        raise ConfigError(f"{name}: larger than {MAX_BYTES} bytes, which no definition is")
    body = _parsers()[path.suffix](text, name)
    if path.suffix == ".toml" and isinstance(body.get("tool"), Mapping):
        body = body["tool"].get("gpucluster", {})
    if not isinstance(body, Mapping):
        raise ConfigError(f"{name}: holds {describe(body)}, expected an object of settings")
    return dict(body)


def parse_body(text: str, name: str) -> Any:
    """Parse definition text of unknown form (standard input): JSON, or else YAML."""
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
