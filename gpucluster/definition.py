"""The cluster definition: what to do, whatever the door it comes through.

`ClusterDefinition` composes the settings of the stages. `parse` reads it from keywords,
a mapping, or a JSON, YAML or TOML file, in either dialect of the request bodies, and
refuses what it does not know by the nearest name that it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from gpucluster.algorithms import HDBSCAN, Algorithm, catalogue
from gpucluster.assignment import NoisePolicyText
from gpucluster.dialects import LIFTED, canonical
from gpucluster.errors import ConfigError
from gpucluster.hierarchy import Division
from gpucluster.labeling.settings import LabelingSettings
from gpucluster.metrics.quality import Center
from gpucluster.metrics.recluster import QualityThresholds
from gpucluster.notation import describe, nearest, setting_error
from gpucluster.preprocess import AnyStep, DisplayReduction
from gpucluster.sources.collection import FeatureUri
from gpucluster.sources.filters import Condition, Filters

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VectorConfig(_Settings):
    """Which vectors to cluster, how to prepare them, and with what."""

    feature_uris: tuple[FeatureUri, ...] = Field(
        default=(), description="Features to cluster on, as scheme://extractor@version/output."
    )
    clustering_method: str | None = Field(
        default=None, description="Algorithm. Omitted: chosen by the plan, with its preparation."
    )
    algorithm_params: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of the algorithm; the rest are defaults."
    )
    preprocessing_steps: tuple[AnyStep, ...] | None = Field(
        default=None, description="In order. Omitted: none, or the plan's where it chooses."
    )
    sample_size: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="Cluster this many rows, drawn by their ids. Omitted: all."
    )
    normalize_features: bool = Field(
        default=True, description="Scale vectors to unit length before the first step."
    )
    hierarchical: bool = Field(default=False, description="Divide clusters further.")
    max_hierarchy_depth: Annotated[int, Field(ge=1, le=10)] = Field(
        default=3, description="Levels of the hierarchy; 1 divides nothing."
    )
    min_split_size: Annotated[int, Field(ge=4)] | None = Field(
        default=None,
        description="Rows that a cluster needs to be divided. "
        "Omitted: 3 times hdbscan's min_cluster_size, at least 100.",
    )
    hierarchy_method: Literal["recursive", "condensed_tree"] = Field(
        default="recursive",
        description="recursive: UMAP and HDBSCAN on each cluster; "
        "condensed_tree: the levels of the one tree that hdbscan has built.",
    )
    effective_feature_method: Center = Field(
        default="mean", description="What stands for a cluster: mean, median or medoid."
    )
    noise_policy: NoisePolicyText = Field(
        default="keep",
        description="keep: noise stays noise. assign_above:t: it joins its nearest cluster from "
        "that cosine similarity on, and says so.",
    )
    dimension_reduction: DisplayReduction | None = Field(
        default=None, description="Display coordinates. Omitted: none."
    )

    @property
    def feature_outputs(self) -> list[str]:
        """The last part of each feature URI: the column that may hold the vectors."""
        return [uri.rsplit("/", maxsplit=1)[-1] for uri in self.feature_uris]

    @model_validator(mode="after")
    def _algorithm_is_valid(self) -> VectorConfig:
        if self.clustering_method is None and self.algorithm_params:
            raise ConfigError(
                "parameters without an algorithm",
                path="vector_config.algorithm_params",
                hint=f"name it in clustering_method: {', '.join(catalogue())}",
            )
        _ = self.algorithm
        wants_tree = self.hierarchical and self.hierarchy_method == "condensed_tree"
        if wants_tree and self.clustering_method != HDBSCAN.name:
            raise ConfigError(
                f"condensed_tree is a tree of {HDBSCAN.name}, "
                f"got clustering_method {describe(self.clustering_method)}",
                path="vector_config.hierarchy_method",
                got=self.clustering_method,
                expected=HDBSCAN.name,
                hint=f"set clustering_method: {HDBSCAN.name}, or hierarchy_method: recursive",
            )
        return self

    def division(self, n_samples: int, random_state: int) -> Division | None:
        """Return how the clusters of a complete definition are divided; None: not at all."""
        if not self.hierarchical or self.algorithm is None:
            return None
        return Division.below(
            self.algorithm,
            levels=self.max_hierarchy_depth,
            min_split_size=self.min_split_size,
            n_samples=n_samples,
            random_state=random_state,
        )

    @cached_property
    def algorithm(self) -> Algorithm | None:
        """The algorithm with its parameters, or None when the plan chooses."""
        if self.clustering_method is None:
            return None
        known = catalogue()
        if self.clustering_method not in known:
            raise ConfigError(
                f"got {describe(self.clustering_method)}, expected an algorithm",
                path="vector_config.clustering_method",
                got=self.clustering_method,
                expected=", ".join(known),
                hint=nearest(self.clustering_method, known),
            )
        kind = known[self.clustering_method]
        params = dict(self.algorithm_params)
        for alias, name in kind.aliases.items():
            if alias in params and params.setdefault(name, params[alias]) != params[alias]:
                raise ConfigError(
                    f"{name} and {alias} say different things",
                    path="vector_config.algorithm_params",
                    hint=f"keep {name}",
                )
            params.pop(alias, None)
        try:
            return kind.model_validate(params)
        except ValidationError as error:
            raise config_error(error, kind, "vector_config.algorithm_params") from error


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
    cluster_type: Literal["vector"] = Field(default="vector", description="What to group by.")
    vector_config: VectorConfig = Field(default_factory=VectorConfig, description="How to group.")
    filters: Filters | None = Field(
        default=None, description="Which rows are meant. Omitted: all of them."
    )
    llm_labeling: LabelingSettings | None = Field(default=None, description="How to name.")
    quality_thresholds: QualityThresholds = Field(
        default_factory=QualityThresholds, description="When to redo."
    )
    on_bad_rows: Literal["quarantine", "error"] = Field(
        default="quarantine", description="What becomes of NaN, Inf, zero and null vectors."
    )
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.01, description="Share of bad rows above which quarantine becomes an error."
    )
    random_state: Seed = Field(
        default=42, description="Seed of every stage that does not name its own."
    )

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
        return self.replace(**changes)

    def replace(self, **vector_config: Any) -> ClusterDefinition:
        """Return the definition with changed, already valid, fields of `vector_config`."""
        config = self.vector_config
        values = {name: getattr(config, name) for name in config.model_fields_set} | vector_config
        return self.model_copy(update={"vector_config": VectorConfig(**values)})

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as JSON values in its canonical form, defaults filled in."""
        filled = self.model_dump(mode="json")
        if self.vector_config.algorithm is not None:
            params = self.vector_config.algorithm.model_dump(mode="json")
            filled["vector_config"]["algorithm_params"] = params
        return filled


def config_error(error: ValidationError, model: type[BaseModel], prefix: str = "") -> ConfigError:
    """Turn pydantic's report into one line that names the field and what it takes."""
    return setting_error(error, lambda steps: _names(model, steps), prefix)


def _names(model: type[BaseModel], steps: Sequence[str]) -> list[str]:
    """Return the settings of the innermost model that `steps` lead to."""
    from typing import get_args

    from gpucluster.preprocess import STEP_TYPES

    tagged: dict[str, type[BaseModel]] = {**STEP_TYPES, "condition": Condition, "group": Filters}
    for step in steps:
        if step in tagged:
            model = tagged[step]
        elif step in model.model_fields:
            annotation = model.model_fields[step].annotation
            for kind in (annotation, *get_args(annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    model = kind
    names = list(model.model_fields)
    return names + list(LIFTED) if model in {ClusterDefinition, VectorConfig} else names


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
