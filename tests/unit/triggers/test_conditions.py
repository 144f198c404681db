"""Each condition with its numbers, whether it holds or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpucluster.metrics.drift import Stock, measure_drift
from gpucluster.service.catalog.port import Record
from gpucluster.service.refusals import UnavailableError
from gpucluster.service.triggers.conditions import (
    judge_drift,
    judge_quality,
    judge_reply,
    judge_volume,
)
from gpucluster.wire.triggers import read_schedule


def condition(kind: str, **more: Any) -> Any:
    return read_schedule("conditional", {"condition_type": kind, **more})


def execution(**body: Any) -> Record:
    return Record(ns="n", kind="execution", id="run_1", body={"num_rows": 1000, **body})


@pytest.mark.parametrize(("num_rows", "fire"), [(1499, False), (1500, True), (900, False)])
def test_volume_is_growth_since_the_full_run(num_rows: int, fire: bool) -> None:
    found = judge_volume(condition("volume", threshold=0.5), execution(), num_rows)
    assert found.fire is fire
    assert found.numbers == {
        "fired": fire,
        "metric": "growth",
        "value": (num_rows - 1000) / 1000,
        "operator": "gte",
        "threshold": 0.5,
        "num_rows": num_rows,
        "num_rows_base": 1000,
        "base_run_id": "run_1",
    }


def test_volume_without_a_full_run_says_so() -> None:
    found = judge_volume(condition("volume", threshold=0.5), None, 10)
    assert not found.fire
    assert found.numbers["reason"] == "there is no completed full run to compare with"
    assert found.numbers["num_rows"] == 10
    assert judge_volume(condition("volume", threshold=2), execution(num_rows=0), 3).fire


@pytest.mark.parametrize(
    ("metric", "operator", "value", "fire"),
    [
        ("silhouette_score", None, 0.29, True),  # low is bad
        ("silhouette_score", None, 0.3, False),
        ("noise_ratio", None, 0.31, True),  # high is bad
        ("noise_ratio", None, 0.3, False),
        ("davies_bouldin_index", None, 2.0, True),
        ("should_recluster", "gte", 0.3, True),
        ("silhouette_score", "gt", 0.4, True),
        ("cluster_size_entropy", "lte", 0.3, True),
        ("mean_cosine_to_centroid", "lt", 0.3, False),
    ],
)
def test_quality_is_a_metric_of_the_latest_run(
    metric: str, operator: str | None, value: float, fire: bool
) -> None:
    schedule = condition("quality", metric=metric, operator=operator, threshold=0.3)
    found = judge_quality(schedule, execution(metrics={metric: value}), None, 1000)
    assert (found.fire, found.numbers["fired"]) == (fire, fire)
    assert found.numbers["value"] == value
    assert found.numbers["run_id"] == "run_1"


def test_quality_that_is_not_known_starts_nothing() -> None:
    schedule = condition("quality", metric="silhouette_score", threshold=0.3)
    for latest in (None, execution(metrics={"silhouette_score": None}), execution(metrics=None)):
        found = judge_quality(schedule, latest, None, 1000)
        assert not found.fire
        assert found.numbers["reason"]


def test_a_run_that_is_as_bad_as_before_is_not_repeated_for_ever() -> None:
    schedule = condition("quality", metric="silhouette_score", threshold=0.3)
    bad = execution(metrics={"silhouette_score": 0.1})
    assert judge_quality(schedule, bad, "run_0", 1000).fire
    own = judge_quality(schedule, bad, "run_1", 1000)
    assert not own.fire
    assert own.numbers["fired"] is False
    assert "no rows came since" in own.numbers["reason"]
    assert judge_quality(schedule, bad, "run_1", 1001).fire


def drift(angle: float, shares: list[int], n: int = 1000) -> dict[str, Any]:
    base = Stock(np.array([500, 500]), 1000, np.array([0.8, 0.0]), 0.9)
    mean = 0.5 * np.array([np.cos(angle), np.sin(angle)])
    return measure_drift(base, Stock(np.array(shares), n, mean, 0.9), 1.0)


def test_drift_is_an_angle_between_means_or_a_divergence_of_shares() -> None:
    turned = drift(np.pi / 3, [500, 500])
    by_angle = condition("drift", metric="cosine_drift", threshold=0.5)
    by_shares = condition("drift", metric="embedding_drift", threshold=0.1)
    found = judge_drift(by_angle, turned)
    assert found.numbers["value"] == pytest.approx(0.5)
    assert judge_drift(condition("drift", threshold=0.499), turned).fire
    assert not judge_drift(condition("drift", threshold=0.501), turned).fire
    assert not judge_drift(by_shares, turned).fire
    moved = drift(0.0, [950, 50])
    found = judge_drift(by_shares, moved)
    assert found.fire
    assert found.numbers["cosine_drift"] == pytest.approx(0, abs=1e-12)  # both are told
    assert found.numbers["value"] == found.numbers["embedding_drift"]
    expected = found.numbers["share_divergence"] - found.numbers["share_divergence_expected"]
    assert found.numbers["value"] == pytest.approx(expected)
    assert not judge_drift(by_angle, moved).fire


def test_few_new_documents_and_none_say_nothing() -> None:
    far = drift(np.pi / 2, [40, 0], 40)
    found = judge_drift(condition("drift", threshold=0.1), far)
    assert not found.fire
    assert "fewer than 50" in found.numbers["reason"]
    assert found.numbers["cosine_drift"] == pytest.approx(1)
    assert judge_drift(condition("drift", threshold=0.1, min_new_rows=40), far).fire
    assert judge_drift(condition("drift", threshold=0.1), None).numbers["num_new"] == 0
    noise = drift(0.0, [0, 0])
    found = judge_drift(condition("drift", metric="embedding_drift", threshold=0), noise)
    assert not found.fire
    assert "could not be computed" in found.numbers["reason"]


@pytest.mark.parametrize("fire", [True, False])
def test_an_address_answers_whether(fire: bool) -> None:
    schedule = condition("custom", url="https://example.com", metric="sales", threshold=3)
    found = judge_reply(schedule, {"fire": fire, "reason": "so", "more": 1})
    assert found.fire is fire
    assert found.numbers == {"fired": fire, "reason": "so", "metric": "sales", "threshold": 3.0}


@pytest.mark.parametrize(
    "reply", [None, [], "yes", {}, {"fire": "true"}, {"fire": 1}, {"fire": True, "reason": 3}]
)
def test_what_is_no_answer_is_none(reply: Any) -> None:
    with pytest.raises(UnavailableError, match="expected fire"):
        judge_reply(condition("custom", url="https://example.com"), reply)
