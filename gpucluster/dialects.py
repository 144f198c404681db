"""Definitions as people write them: three file formats, two dialects, one meaning.

`read_body` reads a file; `canonical` puts every setting under its canonical name and
refuses contradictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpucluster.errors import ConfigError
from gpucluster.notation import check_values, describe, read_object, shown
from gpucluster.places import Place, place

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
    "sample_mode": "sample_mode",
    "normalize_features": "normalize_features",
    "multi_feature_strategy": "multi_feature_strategy",
    "feature_weights": "feature_weights",
    "weight_learning_config": "weight_learning_config",
    "overlap_threshold": "overlap_threshold",
    "output_strategy": "output_strategy",
    "hierarchical": "hierarchical",
    "max_hierarchy_depth": "max_hierarchy_depth",
    "effective_feature_method": "effective_feature_method",
    "noise_policy": "noise_policy",
    "assign_by": "assign_by",
    "min_split_size": "min_split_size",
    "hierarchy_method": "hierarchy_method",
    "dimension_reduction": "dimension_reduction",
    "dimensionality_reduction": "dimension_reduction",
}
# settings of the definition that may stand in vector_config, under these names
_DROPPED = {
    "enrich_source": "enrich_source_collection",
    "source_enrichment_config": "source_enrichment_config",
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
    check_values(body)
    result: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for name, value in body.items():
        if name == "vector_config":
            if not isinstance(value, Mapping):
                raise ConfigError(f"got {describe(value)}, expected an object", path=name)
            for inner, inner_value in value.items():
                if inner in _DROPPED:
                    _put(result, _DROPPED[inner], inner_value, f"vector_config.{inner}")
                    continue
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


def read_body(path: str | Place) -> dict[str, Any]:
    """Read a definition file.

    Parameters
    ----------
    path : str or path
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
    path = place(path)
    name = shown(str(path), 120)
    if path.suffix not in DEFINITION_SUFFIXES:
        raise ConfigError(
            f"{name}: got suffix {path.suffix!r}, expected one of {', '.join(DEFINITION_SUFFIXES)}"
        )
    body = read_object(path)
    if path.suffix == ".toml" and isinstance(body.get("tool"), Mapping):
        body = body["tool"].get("gpucluster", {})
    if not isinstance(body, Mapping):
        raise ConfigError(f"{name}: holds {describe(body)}, expected an object of settings")
    return dict(body)
