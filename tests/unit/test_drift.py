"""Drift is told from chance, and every rule fires by its own number alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from gpucluster.metrics.drift import Stock, jensen_shannon, measure_drift
from gpucluster.metrics.recluster import QualityThresholds, judge, judge_drift

counts = st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(sum)


@given(counts, st.randoms())
def test_divergence_is_that_of_scipy(first: list[int], random: object) -> None:
    second = first[:]
    random.shuffle(second)
    p, q = np.array(first), np.array(second)
    found = jensen_shannon(p, q)
    assert 0 <= found <= 1
    assert found == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-9)
    assert found == pytest.approx(jensen_shannon(q, p))
    assert jensen_shannon(p, 3 * p) == pytest.approx(0, abs=1e-12)


def test_what_has_nothing_in_common_diverges_by_one() -> None:
    assert jensen_shannon(np.array([5, 0]), np.array([0, 9])) == 1


def stock(counts: object, n_rows: int, mean: object = (0.5, 0.0), cosine: float = 0.8) -> Stock:
    return Stock(np.array(counts), n_rows, np.array(mean, float), cosine)


def test_draws_of_the_same_shares_are_no_drift() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(200))
    base = rng.multinomial(20_000, shares)
    for size in (60, 300, 3000):
        new = rng.multinomial(size, shares)
        drift = measure_drift(stock(base, 20_000), stock(new, size), 0.1)
        chance = drift["share_divergence_expected"]
        assert abs(drift["share_divergence"] - chance) < 0.25 * chance
        assert drift["surged"] == []
    assert chance < 0.02  # while 60 rows of 200 clusters diverge by a third
    few = measure_drift(stock(base, 20_000), stock(rng.multinomial(60, shares), 60), 0.1)
    assert few["share_divergence"] > 0.3
    assert judge_drift(few, QualityThresholds(), "run_a")[0] == []


@pytest.mark.parametrize(
    ("mean", "drift"), [((1.0, 0.0), 0.0), ((0.1, 0.1), 1 - 0.5**0.5), ((-1.0, 0.0), 2.0)]
)
def test_the_angle_between_means_does_not_depend_on_their_lengths(
    mean: tuple[float, float], drift: float
) -> None:
    found = measure_drift(stock([5], 5), stock([5], 5, mean), 1.0)
    assert found["cosine_drift"] == pytest.approx(drift, abs=1e-12)
    assert 0 <= found["cosine_drift"] <= 2
    assert measure_drift(stock([5], 5), stock([5], 5, (0, 0)), 1.0)["cosine_drift"] is None


def test_a_cluster_that_doubles_is_named() -> None:
    base = stock([100, 50, 850], 1000)
    new = stock([90, 25, 385], 500)
    found = measure_drift(base, new, 0.5)["surged"]
    assert found == []  # 18 % are not twice 10 %
    found = measure_drift(base, stock([210, 25, 265], 500), 0.5)["surged"]
    assert found == [{"cluster_id": "cl_0", "share": 0.42, "share_base": 0.1}]
    assert measure_drift(base, stock([2, 1, 5], 8), 0.1)["surged"] == []  # by chance


def test_the_numbers_are_what_they_say() -> None:
    base = stock([60, 30], 100, mean=(0.6, 0.0), cosine=0.8)
    new = stock([10, 20], 50, mean=(0.5, 0.1), cosine=0.7)
    drift = measure_drift(base, new, 0.4)
    assert drift["noise_ratio_rise"] == pytest.approx(0.4 - 0.1)
    assert drift["mean_cosine_fall"] == pytest.approx(0.1)
    assert drift["growth"] == pytest.approx(0.4)
    assert drift["mean_shift"] == pytest.approx(np.hypot(0.1, 0.1))
    scatter = 1 - 0.36
    assert drift["mean_shift_expected"] == pytest.approx(np.sqrt(scatter * (1 / 50 + 1 / 100)))


def test_without_members_there_is_nothing_to_compare() -> None:
    drift = measure_drift(stock([60, 40], 100), stock([0, 0], 70, cosine=None), 0.4)
    assert drift["share_divergence"] is None
    assert drift["mean_cosine_fall"] is None
    reasons, without = judge_drift(drift, QualityThresholds(), "run_a")
    assert {"share_divergence", "mean_cosine_fall"} <= set(without)
    assert [reason["metric"] for reason in reasons][:1] == ["noise_ratio_rise"]


CALM = {
    "noise_ratio_rise": 0.0,
    "noise_ratio_base": 0.02,
    "mean_cosine_fall": 0.0,
    "mean_cosine_base": 0.8,
    "share_divergence": 0.03,
    "share_divergence_expected": 0.03,
    "mean_shift": 0.02,
    "mean_shift_expected": 0.02,
    "growth": 0.1,
    "surged": [],
    "centroid_shift": 0.1,
}
ALARMS = {
    "noise_ratio_rise": {"noise_ratio_rise": 0.11},
    "mean_cosine_fall": {"mean_cosine_fall": 0.051},
    "share_divergence": {"share_divergence": 0.14},
    "mean_shift": {"mean_shift": 0.16},
    "growth": {"growth": 0.51},
    "surged_share": {"surged": [{"cluster_id": "cl_1", "share": 0.06, "share_base": 0.02}]},
    "centroid_shift": {"centroid_shift": 0.6},
}


@pytest.mark.parametrize("metric", ALARMS)
def test_each_rule_fires_by_its_own_number_and_can_be_switched_off(metric: str) -> None:
    thresholds = QualityThresholds()
    assert judge_drift(CALM, thresholds, "run_a") == ([], [])
    drift = CALM | ALARMS[metric]
    (reason,), without = judge_drift(drift, thresholds, "run_a")
    assert without == []
    assert reason["metric"] == metric
    assert reason["value"] > reason["threshold"] == getattr(thresholds, metric)
    assert reason["baseline_run_id"] == "run_a"
    assert judge_drift(drift, thresholds.model_copy(update={metric: None}), "run_a") == ([], [])
    raised = thresholds.model_copy(update={metric: reason["value"]})
    assert judge_drift(drift, raised, "run_a") == ([], [])


def test_what_is_near_chance_is_taken_off() -> None:
    drift = CALM | {"share_divergence": 0.35, "share_divergence_expected": 0.33}
    assert judge_drift(drift, QualityThresholds(), "run_a")[0] == []


def test_absolute_rules_have_no_baseline() -> None:
    metrics = {"silhouette_score": 0.1, "noise_ratio": None}
    reasons, without = judge(metrics, 5, QualityThresholds())
    assert [(one["metric"], one["baseline_run_id"]) for one in reasons] == [
        ("silhouette_score", None)
    ]
    assert "noise_ratio" in without
