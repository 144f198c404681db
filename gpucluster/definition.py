"""The cluster definition: what to do, whatever the door it comes through.

`ClusterDefinition` composes the settings of the stages. `parse` reads it from keywords,
a mapping, or a JSON, YAML or TOML file, in either dialect of the request bodies, and
refuses what it does not know by the nearest name that it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from gpucluster.algorithms import catalogue
from gpucluster.dialects import LIFTED, canonical
from gpucluster.enrichment.settings import ENRICHING, EnrichmentSettings
from gpucluster.errors import ConfigError
from gpucluster.grouping import AttributeConfig
from gpucluster.labeling.settings import LabelingSettings
from gpucluster.metrics.recluster import QualityThresholds, Share
from gpucluster.notation import describe, setting_error
from gpucluster.sources.filters import Filters
from gpucluster.vector_config import VectorConfig

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClusterDefinition(_Settings):
    """Everything that decides the result of a run, and nothing else.

    Read one with `parse`: the constructor takes the canonical form alone.
    """

    cluster_name: str | None = Field(default=None, description="Name of the definition.")
    description: str | None = Field(default=None, description="For people.")
    metadata: dict[str, JsonValue] = Field(default_factory=dict, description="Kept, never read.")
    collection_ids: tuple[str, ...] = Field(
        default=(), description="Sources; on the command line, paths."
    )
    cluster_type: Literal["vector", "attribute"] = Field(
        default="vector", description="What to group by: vectors, or the values of columns."
    )
    vector_config: VectorConfig = Field(
        default_factory=VectorConfig, description="How to group by vectors."
    )
    attribute_config: AttributeConfig | None = Field(
        default=None, description="Which columns to group by."
    )
    filters: Filters | None = Field(
        default=None, description="Which rows are meant. Omitted: all of them."
    )
    llm_labeling: LabelingSettings | None = Field(default=None, description="How to name.")
    enrich_source_collection: bool = Field(
        default=False, description="Whether documents get what the run knows, after it."
    )
    source_enrichment_config: EnrichmentSettings | None = Field(
        default=None, description="What they get. Omitted: cluster_id, and label where it has any."
    )
    quality_thresholds: QualityThresholds = Field(
        default_factory=QualityThresholds, description="When to redo."
    )
    on_bad_rows: Literal["quarantine", "error"] = Field(
        default="quarantine", description="What becomes of NaN, Inf, zero and null vectors."
    )
    max_bad_fraction: Share = Field(
        default=0.01, description="Share of bad rows above which quarantine becomes an error."
    )
    random_state: Seed = Field(
        default=42, description="Seed of every stage that does not name its own."
    )

    @model_validator(mode="after")
    def _type_has_its_config(self) -> ClusterDefinition:
        if self.cluster_type == "vector":
            if self.attribute_config is not None:
                raise ConfigError(
                    "it needs cluster_type: attribute, got vector", path="attribute_config"
                )
            return self
        if self.attribute_config is None:
            raise ConfigError(
                "missing", path="attribute_config", hint="name the attributes to group by"
            )
        config = self.vector_config
        unused = {
            "clustering_method": config.clustering_method,
            "preprocessing_steps": config.preprocessing_steps,
            "hierarchical": config.hierarchical,
            "feature_weights": config.feature_weights,
            "multi_feature_strategy": config.multi_feature_strategy != "concatenate",
            "sample_mode": config.sample_mode != "sample_only",
            "noise_policy": config.noise_policy != "keep",
            "assign_by": config.assign_by != "auto",
        }
        for name, value in unused.items():
            if value:
                raise ConfigError(
                    "attribute clustering does not use it", path=f"vector_config.{name}"
                )
        return self

    @classmethod
    def parse(
        cls, given: Mapping[str, Any] | ClusterDefinition | None = None, /, **fields: Any
    ) -> ClusterDefinition:
        """Read a definition in any of its forms.

        Parameters
        ----------
        given : mapping or ClusterDefinition, optional
            A request body of either dialect, or a definition to change.
        **fields
            Changes on top of `given`: fields of the definition or of ``vector_config``,
            under any of their names.

        Returns
        -------
        ClusterDefinition

        Raises
        ------
        ConfigError
            A key is unknown, a value out of range, or two forms of one setting disagree.
        """
        if isinstance(given, ClusterDefinition):
            if not fields:
                return given
            given = given._as_given()
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(
                f"the definition is {describe(given)}, expected an object of settings"
            )
        merged = canonical(dict(given or {}))
        for name, value in canonical(fields).items():
            if name == "vector_config":
                merged[name] = {**(merged.get(name) or {}), **value}
            else:
                merged[name] = value
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise config_error(error, cls) from error

    def _as_given(self) -> dict[str, Any]:
        """Return only what was set, as it was set."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        config = self.vector_config
        given["vector_config"] = {name: getattr(config, name) for name in config.model_fields_set}
        return given

    def with_seeds(self) -> ClusterDefinition:
        """Return the definition with the run's seed in all stages that do not name their own."""
        config = self.vector_config
        changes: dict[str, Any] = {}
        if config.algorithm is not None and "random_state" in type(config.algorithm).model_fields:
            params = {"random_state": self.random_state, **config.algorithm_params}
            changes["algorithm_params"] = params
        if config.preprocessing_steps is not None:
            changes["preprocessing_steps"] = tuple(
                step.model_copy(update={"random_state": self.random_state})
                if "random_state" in type(step).model_fields
                and "random_state" not in step.model_fields_set
                else step
                for step in config.preprocessing_steps
            )
        if config.multi_feature_strategy == "weighted" and config.feature_weights is None:
            changes["weight_learning_config"] = config.weight_learning(self.random_state)
        return self.replace(**changes)

    def replace(self, **vector_config: Any) -> ClusterDefinition:
        """Return the definition with changed, already valid, fields of `vector_config`."""
        config = self.vector_config
        values = {name: getattr(config, name) for name in config.model_fields_set} | vector_config
        return self.model_copy(update={"vector_config": VectorConfig(**values)})

    def each_feature(self) -> list[ClusterDefinition]:
        """Return the definition of each run: one, or one for each feature."""
        config = self.vector_config
        if config.output_strategy == "single" or len(config.feature_uris) < 2:
            return [self]
        alone = {"multi_feature_strategy": "concatenate", "output_strategy": "single"}
        return [self.replace(feature_uris=(uri,), **alone) for uri in config.feature_uris]

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as JSON values in its canonical form, defaults filled in."""
        filled = self.model_dump(mode="json")
        if self.vector_config.algorithm is not None:
            params = self.vector_config.algorithm.model_dump(mode="json")
            filled["vector_config"]["algorithm_params"] = params
        return filled

    def deciding(self) -> dict[str, Any]:
        """Return `to_dict` without what comes after a run: names and enrichment of documents."""
        settings = self.to_dict() | {"llm_labeling": None}
        return {name: value for name, value in settings.items() if name not in ENRICHING}


def config_error(error: ValidationError, model: type[BaseModel], prefix: str = "") -> ConfigError:
    """Turn pydantic's report into one line that names the field and what it takes."""
    besides: dict[type, Iterable[str]] = {ClusterDefinition: LIFTED, VectorConfig: LIFTED}
    return setting_error(error, model, prefix, besides=besides)


def definition_schema() -> dict[str, Any]:
    """Return the JSON Schema of the canonical form, with the parameters of each algorithm."""
    schema = ClusterDefinition.model_json_schema()
    known = catalogue()
    properties = schema["$defs"]["VectorConfig"]["properties"]
    names: list[str | None] = [*known, None]
    properties["clustering_method"] = {
        "enum": names,
        "default": None,
        "description": properties["clustering_method"]["description"],
    }
    properties["algorithm_params"] = {
        "anyOf": [
            algorithm.model_json_schema() | {"title": name} for name, algorithm in known.items()
        ],
        "description": properties["algorithm_params"]["description"],
    }
    return schema
