"""Which settings of labelling are refused."""

from __future__ import annotations

from typing import Any

import pytest

from gpucluster.definition import ClusterDefinition
from gpucluster.errors import ConfigError
from gpucluster.labeling.settings import LabelingSettings


@pytest.mark.parametrize("who", ["bob", "bob:hunter2", ":hunter2", "bob:hunter2%40", ""])
@pytest.mark.parametrize("rest", ["", ":8080/v1", "?a=b", "#a"])
def test_an_address_with_a_password_is_refused_and_not_repeated(who: str, rest: str) -> None:
    block = {"model_name": "m", "base_url": f"http://{who}@host{rest}"}
    with pytest.raises(ConfigError, match="base_url: a user name or password") as caught:
        ClusterDefinition.parse({"llm_labeling": block})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://host/@a", "https://[::1]:80/v1"])
def test_other_addresses_are_taken(address: str) -> None:
    assert LabelingSettings(model_name="m", base_url=address).base_url == address


@pytest.mark.parametrize(
    "more",
    [
        {"model_name": "claude-x"},
        {"model_name": "m", "provider": "anthropic"},
        {"provider": "keywords"},
        {"provider": "command"},
    ],
)
def test_who_embeds_nothing_has_no_model_that_embeds(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no embedding_model"):
        LabelingSettings(embedding_model="e", **more)


def test_nothing_is_signed_unless_a_bucket_is_named() -> None:
    assert LabelingSettings().presign_prefixes == ()


@pytest.mark.parametrize(
    "prefix",
    ["", "s3://", "bucket", "https://bucket", "s3:/bucket", "s3:///a", "s3://b ucket", "s3://a/.."],
)
def test_a_prefix_that_is_none_is_refused_with_the_definition(prefix: str) -> None:
    block = {"model_name": "m", "base_url": "http://a", "presign_prefixes": ["s3://a-b/c", prefix]}
    with pytest.raises(ConfigError, match=r"presign_prefixes\.1: got .*, expected s3://bucket or"):
        ClusterDefinition.parse({"llm_labeling": block})


def test_labels_may_be_merged_by_what_the_settings_do_not_name() -> None:
    assert LabelingSettings(model_name="claude-x", use_embedding_dedup=True).use_embedding_dedup


@pytest.mark.parametrize("name", ["api_key", "Authorization", "X-Api-Key"])
def test_no_key_is_a_parameter(name):
    with pytest.raises(ConfigError, match="a key in a definition would be kept in files") as found:
        ClusterDefinition.parse({"llm_labeling": {"parameters": {name: "sk-canary"}}})
    assert "canary" not in str(found.value)
