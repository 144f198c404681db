"""How vectors are clustered: features, sample, preparation, algorithm, and what becomes of it."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gpucluster.algorithms import HDBSCAN, Algorithm, catalogue
from gpucluster.assignment import NoisePolicyText
from gpucluster.errors import ConfigError
from gpucluster.features import WeightLearning
from gpucluster.hierarchy import Division
from gpucluster.metrics.quality import Center
from gpucluster.metrics.recluster import Share
from gpucluster.notation import describe, nearest, setting_error
from gpucluster.preprocess import AnyStep, DisplayReduction
from gpucluster.sources.collection import FeatureUri


class VectorConfig(BaseModel):
    """Which vectors to cluster, how to prepare them, and with what."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    feature_uris: tuple[FeatureUri, ...] = Field(
        default=(), description="Features to cluster on, as mixpeek://extractor@version/output."
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
    sample_mode: Literal["sample_only", "fit_then_assign"] = Field(
        default="sample_only",
        description="Whether the rows that are not in the sample join the clusters that it has.",
    )
    normalize_features: bool = Field(
        default=True,
        description="Scale vectors, of each feature, to unit length before the first step.",
    )
    multi_feature_strategy: Literal["concatenate", "independent", "weighted"] = Field(
        default="concatenate",
        description="Of several features: side by side; each by itself, its clusters dividing "
        "those of the feature before; or side by side with weights that are learned.",
    )
    feature_weights: dict[FeatureUri, Share] | None = Field(
        default=None, description="How much each feature counts. Omitted: 1, or learned."
    )
    weight_learning_config: WeightLearning | None = Field(
        default=None, description="How weights are learned. Omitted: its defaults."
    )
    overlap_threshold: Annotated[float, Field(gt=0.5, le=1)] = Field(
        default=0.7, description="Share of a cluster in another one that makes it its child."
    )
    output_strategy: Literal["single", "per_feature"] = Field(
        default="single", description="One run for all features, or a run for each."
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
        description="keep: noise stays noise. assign_near: it joins the cluster it lies next to, "
        "where it is as similar to the centroid as all but 1 % of the cluster's own rows. "
        "assign_above:t: it joins its nearest cluster from that cosine similarity on. Members say "
        "so. Omitted, with no clustering_method: assign_near.",
    )
    assign_by: Literal["auto", "cosine", "fit"] = Field(
        default="auto",
        description="How later rows find their cluster. cosine: by the centroid they are most "
        "similar to. fit: by the mean they are nearest to, in the space that the steps give. "
        "auto: fit where the algorithm does it that way (kmeans), cosine otherwise. Whether they "
        "join it is always a question of cosine similarity.",
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
        self._check_features()
        if self.reads_tree() and self.clustering_method != HDBSCAN.name:
            raise ConfigError(
                f"condensed_tree is a tree of {HDBSCAN.name}, "
                f"got clustering_method {describe(self.clustering_method)}",
                path="vector_config.hierarchy_method",
                got=self.clustering_method,
                expected=HDBSCAN.name,
                hint=f"set clustering_method: {HDBSCAN.name}, or hierarchy_method: recursive",
            )
        if self.reads_tree():
            self._check_tree()
        return self

    def _check_tree(self) -> None:
        """Raise where a setting has no meaning for the levels of the condensed tree."""
        if self.min_split_size is not None:
            raise ConfigError(
                "condensed_tree does not use it: levels follow min_cluster_size",
                path="vector_config.min_split_size",
            )
        for name in ("cluster_selection_method", "cluster_selection_epsilon", "max_cluster_size"):
            got, value = getattr(self.algorithm, name), HDBSCAN.model_fields[name].default
            if got != value:
                raise ConfigError(
                    f"got {describe(got)}, the levels of condensed_tree are selected with {value}",
                    path=f"vector_config.algorithm_params.{name}",
                    hint="leave it out, or set hierarchy_method: recursive",
                )
        if self.algorithm_params.get("granularities", 2) < 2:
            raise ConfigError(
                "got 1, which leaves condensed_tree no levels",
                path="vector_config.algorithm_params.granularities",
                hint="leave it out: max_hierarchy_depth says how many",
            )

    def _check_features(self) -> None:
        """Raise where the settings of several features contradict each other."""
        known = self.feature_uris
        for uri in self.feature_weights or {}:
            if uri not in known:
                raise ConfigError(
                    f"{describe(uri)} is no feature of feature_uris",
                    path="vector_config.feature_weights",
                    hint=nearest(uri, known) if known else "name the features",
                )
        if self.feature_weights and not any(self.feature_weights.get(uri, 1) for uri in known):
            raise ConfigError("all are 0", path="vector_config.feature_weights")
        if len(set(known)) < len(known):
            raise ConfigError("a feature is named twice", path="vector_config.feature_uris")
        independent = self.multi_feature_strategy == "independent"
        if self.output_strategy == "per_feature" and not independent:
            raise ConfigError(
                f"per_feature needs multi_feature_strategy: independent, "
                f"got {self.multi_feature_strategy}",
                path="vector_config.output_strategy",
            )
        if self.weight_learning_config and self.multi_feature_strategy != "weighted":
            raise ConfigError(
                f"it needs multi_feature_strategy: weighted, got {self.multi_feature_strategy}",
                path="vector_config.weight_learning_config",
            )
        if independent and self.feature_weights is not None:
            raise ConfigError(
                "independent features are not weighted", path="vector_config.feature_weights"
            )
        if independent and self.assign_by == "fit":
            raise ConfigError(
                "independent features have no common space: their clusters are found by cosine",
                path="vector_config.assign_by",
            )
        if independent and self.hierarchical and self.output_strategy == "single":
            raise ConfigError(
                "independent features make the levels themselves",
                path="vector_config.hierarchical",
                hint="set output_strategy: per_feature, or hierarchical: false",
            )

    def weight_learning(self, random_state: int) -> WeightLearning:
        """Return how weights are learned, with the run's seed where it names none."""
        given = self.weight_learning_config or WeightLearning()
        if "random_state" in given.model_fields_set:
            return given
        return given.model_copy(update={"random_state": random_state})

    def weighing_clusters(self, n_samples: int) -> int:
        """Return how many groups judge the weights: as many as are asked for, or sqrt(n)."""
        wanted: int | None = getattr(self.algorithm, "n_clusters", None)
        return max(2, min(wanted or math.isqrt(n_samples), n_samples // 2))

    @property
    def assignment_rule(self) -> Literal["cosine", "fit"]:
        """How later rows find their cluster, in a complete definition."""
        if self.assign_by != "auto":
            return self.assign_by
        by_mean = self.algorithm is not None and self.algorithm.by_nearest_mean
        # rows that are placed in a layout later lie elsewhere than those it was made of
        placed = any(step.trained is not None for step in self.preprocessing_steps or ())
        apart = self.multi_feature_strategy == "independent"
        return "fit" if by_mean and not placed and not apart else "cosine"

    def reads_tree(self) -> bool:
        """Whether the levels come from the tree of the one fit."""
        return self.hierarchical and self.hierarchy_method == "condensed_tree"

    def division(self, n_samples: int, random_state: int) -> Division | None:
        """Return how the clusters of a complete definition are divided; None: not at all."""
        if not self.hierarchical or self.algorithm is None or self.reads_tree():
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
            path = "vector_config.algorithm_params"
            raise setting_error(error, kind, path) from error
