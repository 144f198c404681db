"""What flags and environment change in a definition, and who set which setting."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gpucluster.notation import parse_body

if TYPE_CHECKING:
    from gpucluster.definition import ClusterDefinition

NO_STEPS = "none"

_PARAMS = "vector_config.algorithm_params"
_STEPS = "vector_config.preprocessing_steps"


class Changes:
    """The changes that the options of a command make to a written definition.

    Attributes
    ----------
    fields : dict of str to object
        For `ClusterDefinition.parse`.
    origins : dict of str to str
        The flag or variable behind each changed setting, by its dotted path.
    """

    def __init__(self, written: ClusterDefinition, options: Mapping[str, Any]) -> None:
        self.fields: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self._replaced: list[str] = []
        self._change(options, "hierarchical", "vector_config.hierarchical")
        self._change(options, "sample_size", "vector_config.sample_size")
        self._change(options, "random_state", "random_state")
        self._change_map(written, options["map"])
        self._change_features(options["feature"])
        self._change_filters(options["filter"])
        self._change_algorithm(written, options["algorithm"], options["param"])
        self._change_steps(written, options["steps"], options["step_param"])

    def kept(self, written: ClusterDefinition) -> list[str]:
        """Return the paths of the written settings that still hold."""
        values = written.model_dump(mode="json", exclude_unset=True)
        algorithm = written.vector_config.algorithm
        if algorithm is not None:  # under canonical names
            values["vector_config"]["algorithm_params"] = algorithm.model_dump(exclude_unset=True)
        replaced = tuple(self._replaced)
        return [path for path, _ in flatten(values) if not path.startswith(replaced)]

    def changed(self, definition: ClusterDefinition) -> dict[str, str]:
        """Return `origins`, with every setting of the filters of the changed definition."""
        if "filters" not in self.origins or definition.filters is None:
            return self.origins
        leaves = flatten(definition.filters.to_dict(), "filters")
        return self.origins | {path: self.origins["filters"] for path, _ in leaves}

    def _change(self, options: Mapping[str, Any], name: str, path: str) -> None:
        if options[name] is not None:
            self.fields[name] = options[name]
            self.origins[path] = origin(name)

    def _change_map(self, written: ClusterDefinition, method: str | None) -> None:
        if method is not None:
            settings = written.vector_config.dimension_reduction
            known = settings.model_dump(exclude_unset=True) if settings else {}
            self.fields["dimension_reduction"] = known | {"method": method}
            self.origins["vector_config.dimension_reduction.method"] = origin("map")

    def _change_features(self, uris: Sequence[str]) -> None:
        if uris:
            self._replaced.append("vector_config.feature_uris")
            self.fields["feature_uris"] = list(uris)
            self.origins |= {
                f"vector_config.feature_uris.{i}": origin("feature") for i in range(len(uris))
            }

    def _change_filters(self, texts: Iterable[str]) -> None:
        filters = read_filters(texts)
        if filters is not None:
            self._replaced.append("filters")
            self.fields["filters"] = filters
            self.origins["filters"] = origin("filter")

    def _change_algorithm(
        self, written: ClusterDefinition, name: str | None, params: Iterable[str]
    ) -> None:
        from gpucluster.algorithms import catalogue

        current = written.vector_config.algorithm
        settings = current.model_dump(exclude_unset=True) if current else {}
        if name is not None:
            self.fields["clustering_method"] = name
            self.origins["vector_config.clustering_method"] = origin("algorithm")
            if name != written.vector_config.clustering_method:
                settings = {}  # the written ones are those of another algorithm
                self._replaced.append(_PARAMS)
            self.fields["algorithm_params"] = settings
        kind = catalogue().get(name or str(written.vector_config.clustering_method))
        for text in params:
            key, value = assignment("--param", text)
            key = kind.aliases.get(key, key) if kind else key
            settings[key] = value
            self.origins[f"{_PARAMS}.{key}"] = origin("param")
            self.fields["algorithm_params"] = settings

    def _change_steps(
        self, written: ClusterDefinition, names: str | None, params: Iterable[str]
    ) -> None:
        steps = [
            {"method": step.method, **step.model_dump(exclude_unset=True)}
            for step in written.vector_config.preprocessing_steps or ()
        ]
        if names is not None:
            wanted = [] if names == NO_STEPS else names.split(",")
            steps = [{"method": name.strip()} for name in wanted]
            self._replaced.append(_STEPS)
            self.origins[_STEPS] = origin("steps")
            self.origins |= {f"{_STEPS}.{i}.method": origin("steps") for i in range(len(steps))}
            self.fields["preprocessing_steps"] = steps
        for text in params:
            key, value = assignment("--step-param", text)
            method, _, setting = key.partition(".")
            chosen = [i for i, step in enumerate(steps) if step["method"] == method]
            if not chosen or not setting:
                raise usage_error(
                    f"--step-param {text!r}: expected STEP.NAME=VALUE, "
                    "with a STEP of --steps or the definition"
                )
            for i in chosen:
                steps[i][setting] = value
                self.origins[f"{_STEPS}.{i}.{setting}"] = origin("step_param")
            self.fields["preprocessing_steps"] = steps


def origin(option: str) -> str:
    """Say where the value of an option of the current command comes from."""
    context = click.get_current_context()
    source = context.get_parameter_source(option)
    if source is ParameterSource.ENVIRONMENT:
        return f"{context.auto_envvar_prefix}_{option.upper()}"
    if source is ParameterSource.COMMANDLINE:
        return f"--{option.replace('_', '-')}"
    return "default"


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested settings with their dotted paths; an empty branch is a leaf."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    if not items:
        yield path, value
    for name, item in items:
        yield from flatten(item, f"{path}.{name}" if path else str(name))


def read_filters(texts: Iterable[str]) -> Any:
    """Return what ``--filter`` gives as a definition takes it; None: nothing."""
    conditions: list[Any] = []
    for text in texts:
        if text.lstrip().startswith("{"):
            conditions.append(parse_body(text, "--filter"))
        else:
            name, value = assignment("--filter", text)
            conditions.append({"field": name, "operator": "eq", "value": value})
    return {"AND": conditions} if len(conditions) > 1 else next(iter(conditions), None)


def usage_error(message: str) -> click.UsageError:
    """Return an error about the current command line."""
    return click.UsageError(message, click.get_current_context())


def assignment(option: str, text: str) -> tuple[str, Any]:
    """Split ``name=value``; the value is JSON where it parses, else text."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise usage_error(f"{option} {text!r}: expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
