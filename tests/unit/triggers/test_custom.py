"""What of an address of a condition is shown, kept, and signed."""

from __future__ import annotations

import pytest

from gpucluster.errors import ConfigError
from gpucluster.wire.triggers import ListTriggersRequest, UpdateTriggerRequest
from tests.helpers.scheduled import CLUSTER, CREATE, NS, Stage

URL = "https://hooks.example.com/ask?token=canary"
MASKED = "https://hooks.example.com/ask?********"
CUSTOM = {"condition_type": "custom", "url": URL}


def patch(stage: Stage, trigger: str, **schedule):
    given = UpdateTriggerRequest(schedule_config={"condition_type": "custom", **schedule})
    return stage.triggers.patch(NS, trigger, given)


def test_what_an_address_lets_in_by_is_shown_to_nobody(stage: Stage) -> None:
    trigger = stage.create("conditional", CUSTOM)
    (listed,) = stage.triggers.list(NS, ListTriggersRequest()).results
    for shown in (stage.get(trigger), listed, stage.triggers.pause(NS, trigger)):
        assert shown.schedule_config["url"] == MASKED
        assert "canary" not in shown.model_dump_json()
        assert "whsec_" not in shown.model_dump_json()


def test_a_mask_stands_for_what_is_kept_for_the_same_address(stage: Stage) -> None:
    trigger = stage.create("conditional", CUSTOM)
    assert patch(stage, trigger, url=MASKED, threshold=3).schedule_config["url"] == MASKED
    for other in (MASKED.replace("hooks", "evil"), "https://evil.example.com/?********"):
        with pytest.raises(ConfigError, match="stands for what is kept"):
            patch(stage, trigger, url=other)
    stage.clock.advance(hours=1)
    stage.run()
    ((url, body),) = stage.answers.asked
    assert (url, body["threshold"]) == (URL, 3)


def test_the_secret_is_in_the_first_answer_and_signs(stage: Stage) -> None:
    request = CREATE.validate_python(
        {"trigger_type": "conditional", "schedule_config": CUSTOM, "cluster_id": CLUSTER}
    )
    made = stage.triggers.create(NS, "trig_a", request, cluster_id="clust_b")
    assert made.secret is not None
    other = stage.triggers.rotate_secret(NS, "trig_a")
    stage.clock.advance(hours=1)
    stage.run()
    (secrets,) = stage.answers.secrets
    assert [each["secret"] for each in secrets] == [other.secret, made.secret]


def test_a_trigger_that_asks_nobody_has_no_secret_until_it_does(stage: Stage) -> None:
    trigger = stage.create("conditional", {"condition_type": "volume", "threshold": 1})
    assert stage.record(trigger).body["secrets"] == []
    patch(stage, trigger, url=URL)
    assert len(stage.record(trigger).body["secrets"]) == 1
