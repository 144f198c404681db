"""What is given at a door: a definition in any form, and rows wherever they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucluster.errors import ConfigError, SchemaMismatchError
from gpucluster.notation import describe

if TYPE_CHECKING:
    from gpucluster.artifacts import Run
    from gpucluster.definition import ClusterDefinition
    from gpucluster.labeling.settings import LabelingSettings
    from gpucluster.sources import Source

Definition = Mapping[str, Any] | str | Path


def read_definition(
    definition: ClusterDefinition | Definition | None, fields: Mapping[str, Any]
) -> ClusterDefinition:
    """Read a definition, a request body or a file of one, changed by `fields`."""
    from gpucluster.definition import ClusterDefinition
    from gpucluster.dialects import read_body

    if isinstance(definition, str | Path):
        definition = read_body(definition)
    return ClusterDefinition.parse(definition, **fields)


def read_run_id(run_id: str | None) -> str | None:
    """Return the name that a run is to have; `ConfigError` where it is no name of a folder."""
    from gpucluster.artifacts.store import NAME

    if run_id is not None and not (isinstance(run_id, str) and re.fullmatch(NAME, run_id)):
        raise ConfigError(
            f"got {describe(run_id)}, expected letters, digits, '.', '_' and '-', at most 128",
            path="run_id",
        )
    return run_id


# who is asked; settings of another one say nothing about it
_WHO = ("provider", "model_name", "base_url")
_OF_WHOM = (
    *("provider", "model_name", "base_url", "api_key_env", "parameters", "prices"),
    *("embedding_model", "use_embedding_dedup"),
)


def read_labeling_settings(
    settings: LabelingSettings | Mapping[str, Any] | None,
    fields: Mapping[str, Any],
    before: Mapping[str, Any] | None,
) -> LabelingSettings:
    """Read the settings of labelling.

    Parameters
    ----------
    settings : LabelingSettings, mapping or None
        None: those of `before`, but for who is asked where `fields` name another one.
    fields : mapping
        Changes on top.
    before : mapping or None
        The settings that hold where nothing is said.
    """
    from gpucluster.definition import ClusterDefinition
    from gpucluster.labeling.settings import LabelingSettings

    if settings is None:
        settings = dict(before or {})
        if any(fields.get(name, settings.get(name)) != settings.get(name) for name in _WHO):
            settings = {name: value for name, value in settings.items() if name not in _OF_WHOM}
    if not isinstance(settings, LabelingSettings | Mapping):
        raise ConfigError(f"got {describe(settings)}, expected settings by name", path="settings")
    if isinstance(settings, LabelingSettings):
        settings = {name: getattr(settings, name) for name in settings.model_fields_set}
    block = {**settings, "enabled": True, **fields}
    parsed = ClusterDefinition.parse({"llm_labeling": block}).llm_labeling
    return parsed or LabelingSettings()


def open_rows(
    data: Any,
    definition: ClusterDefinition,
    *,
    id_column: str | None,
    vector_column: str | None,
    truth_column: str | None = None,
) -> Source:
    """Open the vectors of the feature that the definition names."""
    from gpucluster.sources import FeaturesSource, open_feature

    config = definition.vector_config

    def open_(uri: str | None) -> Source:
        return open_feature(
            data,
            uri,
            id_column=id_column,
            vector_column=vector_column,
            truth_column=truth_column,
        )

    if len(config.feature_uris) < 2:
        return open_(config.feature_uris[0] if config.feature_uris else None)
    if vector_column is not None:
        raise ConfigError(
            f"got one column for {len(config.feature_uris)} features",
            path="vector_column",
            hint="leave it out: each feature URI names its column",
        )
    if hasattr(data, "read_next_batch"):
        raise ConfigError(
            "a stream is read once, and several features are read one after the other",
            path="vector_config.feature_uris",
            hint="give a table, a data set or files",
        )
    sources = {uri: open_(uri) for uri in config.feature_uris}
    return FeaturesSource(sources, normalize=config.normalize_features)


def open_like(data: Any, base: Run, *, id_column: str | None, vector_column: str | None) -> Source:
    """Open rows that are to be what the base run was made of."""
    from gpucluster.definition import ClusterDefinition

    definition = ClusterDefinition.parse(base.manifest.definition)
    theirs: Any = base.manifest.source.get("columns") or {}

    def opened(id_column: str | None, vector_column: str | None) -> Source:
        return open_rows(data, definition, id_column=id_column, vector_column=vector_column)

    one = len(definition.vector_config.feature_uris) < 2
    given = {"id_column": id_column, "vector_column": vector_column}
    same = {
        "id_column": id_column or theirs.get("id"),
        "vector_column": vector_column or (theirs.get("vector") if one else None),
    }
    wanted = {name for name in same.values() if name is not None}
    if hasattr(data, "read_next_batch"):  # can be opened once
        return opened(**(same if wanted <= set(data.schema.names) else given))
    try:
        source = opened(**given)
    except (ConfigError, SchemaMismatchError):  # ambiguous by itself; the base run had these
        if same == given:
            raise
        return opened(**same)
    columns = source.info.columns
    differs = (columns.id, columns.vector) != (same["id_column"], same["vector_column"])
    if differs and wanted and wanted <= set(source.info.fields):
        return opened(**same)
    return source


def text_column_of(source: Source, base: Run, given: str | None) -> str | None:
    """Return the column of texts, and raise where one that was named is not there."""
    from gpucluster.sources import check_names

    if given is not None:
        check_names({"text": given}, source.info.fields, source.info.where)
        return given
    theirs: Any = base.manifest.source.get("columns") or {}
    name: str | None = theirs.get("text")
    return name if name in source.info.fields else None
