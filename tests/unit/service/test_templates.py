"""Templates of messages that could never be filled are refused when they are given."""

from __future__ import annotations

import json

import pytest

from gpucluster.errors import ConfigError
from gpucluster.service.webhooks.templates import check_template


@pytest.mark.parametrize("depth", [600, 900])
def test_a_template_that_is_too_deep_to_be_filled_is_refused(depth):
    with pytest.raises(ConfigError, match="too deep"):
        check_template(json.loads("[" * depth + "]" * depth), path="channels.0")
