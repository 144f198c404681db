"""Settings of labelling, as part of a cluster definition."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from gpucluster.errors import ConfigError
from gpucluster.labeling.addresses import prefix_place
from gpucluster.labeling.answer.shapes import check_shape

MAX_SAMPLES = 100
TOKEN_CAPS: Final = ("max_tokens", "max_completion_tokens")  # names of one parameter
# fields of a request that hold keys, in small letters and with _ for -
SECRETS: Final = (
    *("api_key", "apikey", "key", "token", "access_token", "auth_token", "authorization"),
    *("secret", "password", "x_api_key"),
)
MEDIA: Final = ("image_url", "video_url", "audio_url")

Provider = Literal["openai", "google", "anthropic", "openai_compatible", "command", "keywords"]

# what the names of a provider's models begin with
_FAMILIES: dict[str, Provider] = {
    "gpt": "openai",
    "chatgpt": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "gemini": "google",
    "gemma": "google",
    "claude": "anthropic",
}


def _prefix(prefix: str) -> str:
    if prefix_place(prefix) is None:
        raise ValueError("s3://bucket or s3://bucket/folder")
    return prefix


class _Settings(BaseModel):
    # `model_name` is a field of the public API, not one of pydantic's
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class InputMapping(_Settings):
    """How one value of a document reaches the LLM."""

    input_key: str = Field(
        min_length=1, description="Key the LLM receives: text, image_url, video_url, audio_url ..."
    )
    source_type: Literal["payload", "blob", "literal", "vector"] = Field(
        description="Where the value comes from; vector is refused: no LLM reads one."
    )
    path: str | None = Field(default=None, description="Dot path into payload or blobs.")
    override: JsonValue = Field(default=None, description="The value itself, for literal.")

    @model_validator(mode="after")
    def _has_its_source(self) -> InputMapping:
        if self.source_type == "vector":
            raise ValueError("an LLM cannot read a vector; map payload, blob or literal")
        if self.source_type == "literal":
            if self.override is None or self.path is not None:
                raise ValueError("a literal is its override, and has no path")
        elif not (self.path or "").strip() or self.override is not None:
            raise ValueError(f"a {self.source_type} has a path, and no override")
        return self


class LabelingInputs(_Settings):
    """Which parts of a document the LLM sees."""

    input_mappings: tuple[InputMapping, ...] = Field(min_length=1, description="At least one.")


class Prices(_Settings):
    """What a model costs, in US dollars for a million tokens."""

    input: Annotated[float, Field(ge=0)] = Field(description="Of what is sent.")
    output: Annotated[float, Field(ge=0)] = Field(description="Of what is answered.")
    embedding: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Of texts that are embedded; omitted: as what is sent."
    )


class LabelingSettings(_Settings):
    """How clusters are named. A block without `enabled` is enabled."""

    enabled: bool = Field(default=True, description="Whether to label.")
    provider: Provider | None = Field(
        default=None,
        description="Omitted: read off base_url or model_name; keywords, offline, without either.",
    )
    model_name: str | None = Field(
        default=None, min_length=1, description="Model of the provider; keywords has none."
    )
    base_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/]",
        description="Where an OpenAI-compatible server listens, such as vLLM or Ollama.",
    )
    api_key_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Variable of the key: GPUCLUSTER_LLM_..., or one of GPUCLUSTER_LLM_KEY_ENVS.",
    )
    labeling_inputs: LabelingInputs | None = Field(
        default=None, description="Omitted: the whole payload as JSON."
    )
    max_samples_per_cluster: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = Field(
        default=5, description="Documents shown per cluster."
    )
    sample_text_max_length: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Cut texts to this many characters."
    )
    contrast: bool = Field(
        default=False, description="Show up to two documents of the cluster's edge too."
    )
    include_summary: bool = Field(default=True, description="Ask for a summary too.")
    include_keywords: bool = Field(default=True, description="Ask for keywords too.")
    use_embedding_dedup: bool = Field(
        default=False, description="Merge labels that are alike, by embedding_model or an embedder."
    )
    embedding_similarity_threshold: Annotated[float, Field(ge=0.5, le=1)] = Field(
        default=0.8, description="Labels of at least this similarity are alike."
    )
    embedding_model: str | None = Field(
        default=None,
        min_length=1,
        description="Model of the same provider that embeds labels: for dedup and confidence.",
    )
    cache_ttl_seconds: Annotated[int, Field(ge=0, le=2_592_000)] = Field(
        default=604_800,
        description="How long other labellings find a reply; 0: never. Its own: while it is kept.",
    )
    custom_prompt: str | None = Field(
        default=None, min_length=1, description="Replaces the instructions entirely."
    )
    response_shape: str | dict[str, JsonValue] | None = Field(
        default=None, description="Plain English, JSON Schema, or a dict of field to type."
    )
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="Passed to the provider, such as temperature."
    )
    prices: Prices | None = Field(
        default=None, description="Omitted: list prices, where the model is known."
    )
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=30.0, description="Seconds until an attempt counts as failed."
    )
    presign_prefixes: tuple[Annotated[str, AfterValidator(_prefix)], ...] = Field(
        default=(), description="s3://bucket/folder: s3:// URLs below are signed, others left out."
    )

    @field_validator("parameters")
    @classmethod
    def _parameters_hold_no_secret(cls, given: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in given:  # the errors hold no value: it would be shown
            if name.lower().replace("-", "_") in SECRETS:
                raise ConfigError(
                    "a key in a definition would be kept in files",
                    path=f"llm_labeling.parameters.{name}",
                    hint="leave it out, and set GPUCLUSTER_LLM_API_KEY",
                )
        return given

    @field_validator("base_url")
    @classmethod
    def _address_holds_no_secret(cls, address: str | None) -> str | None:
        parts = urlsplit(address or "")
        # the errors hold no address: it would be shown
        if "@" in parts.netloc:
            raise ConfigError(
                "a user name or password in an address would be kept in files",
                path="llm_labeling.base_url",
                hint="leave out what is before the @, and set GPUCLUSTER_LLM_API_KEY",
            )
        if parts.query or parts.fragment:
            raise ConfigError(
                "what follows ? or # in an address would be kept in files, and the path of a "
                "question is put behind it",
                path="llm_labeling.base_url",
                hint="leave it out; a key goes into GPUCLUSTER_LLM_API_KEY",
            )
        return address

    @field_validator("response_shape")
    @classmethod
    def _shape_is_one(cls, shape: Any) -> Any:
        check_shape(shape)
        return shape

    @model_validator(mode="after")
    def _provider_has_what_it_needs(self) -> LabelingSettings:
        provider = self.labels_by
        if provider == "keywords":
            if self.model_name or self.base_url:
                raise ValueError("the provider keywords has no model_name and no base_url")
        elif provider != "command" and not self.model_name:
            raise ValueError(f"{provider} needs a model_name")
        if provider == "openai_compatible" and not self.base_url:
            raise ValueError("openai_compatible needs a base_url: where the server listens")
        if self.embedding_model and provider in {"anthropic", "keywords", "command"}:
            raise ValueError(f"{provider} has no embedding_model")
        return self

    def showing(self, text_column: str | None) -> LabelingSettings:
        """Return the same, with a column of texts as the input where none is mapped."""
        if text_column is None or self.labeling_inputs is not None:
            return self
        text = InputMapping(input_key="text", source_type="payload", path=text_column)
        inputs = LabelingInputs(input_mappings=(text,))
        return self.model_copy(update={"labeling_inputs": inputs})

    @property
    def labels_by(self) -> Provider:
        """Return the provider, named or read off what else is said.

        Raises
        ------
        ValueError
            The model is none whose provider is known.
        """
        if self.provider is not None:
            return self.provider
        if self.base_url is not None:
            return "openai_compatible"
        if self.model_name is None:
            return "keywords"
        family = self.model_name.lower().split("/")[-1]
        for lead, provider in _FAMILIES.items():
            if family.startswith(lead):
                return provider
        raise ValueError(
            f"cannot tell whose model {self.model_name[:60]!r} is: name the provider, one of "
            f"{', '.join(get_args(Provider))}"
        )
