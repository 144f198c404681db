"""Settings of LLM labelling, as part of a cluster definition."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class _Settings(BaseModel):
    # `model_name` is a field of the public API, not one of pydantic's
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class InputMapping(_Settings):
    """How one value of a document reaches the LLM."""

    input_key: str = Field(min_length=1, description="Key the LLM receives, such as text.")
    source_type: Literal["payload", "blob", "literal", "vector"] = Field(
        description="Where the value comes from."
    )
    path: str | None = Field(default=None, description="Dot path into payload or blobs.")
    override: JsonValue = Field(default=None, description="The value itself, for literal.")


class LabelingInputs(_Settings):
    """Which parts of a document the LLM sees."""

    input_mappings: tuple[InputMapping, ...] = Field(min_length=1, description="At least one.")


class LabelingSettings(_Settings):
    """How clusters are named. A block without `enabled` is enabled."""

    enabled: bool = Field(default=True, description="Whether to label.")
    provider: (
        Literal["openai", "google", "anthropic", "openai_compatible", "command", "keywords"] | None
    ) = Field(default=None, description="Omitted: read off model_name.")
    model_name: str | None = Field(default=None, description="Model of the provider.")
    labeling_inputs: LabelingInputs | None = Field(
        default=None, description="Omitted: the whole payload as JSON."
    )
    max_samples_per_cluster: Annotated[int, Field(ge=1, le=100)] = Field(
        default=5, description="Documents shown per cluster."
    )
    sample_text_max_length: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Cut texts to this many characters."
    )
    include_summary: bool = Field(default=True, description="Ask for a summary too.")
    include_keywords: bool = Field(default=True, description="Ask for keywords too.")
    use_embedding_dedup: bool = Field(default=False, description="Merge labels that are alike.")
    embedding_similarity_threshold: Annotated[float, Field(ge=0.5, le=1)] = Field(
        default=0.8, description="Labels above this similarity are alike."
    )
    cache_ttl_seconds: Annotated[int, Field(ge=0, le=2_592_000)] = Field(
        default=604_800, description="How long replies are kept; 0 keeps none."
    )
    custom_prompt: str | None = Field(default=None, description="Replaces the prompt entirely.")
    response_shape: str | dict[str, JsonValue] | None = Field(
        default=None, description="Plain English, JSON Schema, or a dict of field to type."
    )
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="Passed to the provider."
    )
