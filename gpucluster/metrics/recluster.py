"""Whether a clustering should be redone, and why."""

from __future__ import annotations

import math
import operator as op
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class QualityThresholds(BaseModel):
    """Bounds beyond which a result should be redone; None switches a rule off."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    silhouette_score: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        default=0.25, description="Redo below this silhouette."
    )
    mean_cosine_to_centroid: Share | None = Field(
        default=0.5, description="Redo below this mean similarity to the centroid."
    )
    noise_ratio: Share | None = Field(default=0.40, description="Redo above this share of noise.")
    cluster_size_entropy: Share | None = Field(
        default=0.30, description="Redo below this balance of cluster sizes."
    )
    num_clusters: Annotated[int, Field(ge=0)] | None = Field(
        default=1, description="Redo with this many clusters or fewer."
    )
    noise_ratio_rise: Share | None = Field(
        default=0.10, description="Redo when rows that joined have this much more noise."
    )
    mean_cosine_fall: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=0.05, description="Redo when rows that joined are this much less similar."
    )
    share_divergence: Share | None = Field(
        default=0.10,
        description="Redo when the shares of the clusters diverge by this much (Jensen-Shannon, "
        "base 2), beside what chance gives.",
    )
    mean_shift: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=0.15,
        description="Redo when the mean of the unit rows moved this far, beside what chance gives.",
    )
    growth: Annotated[float, Field(ge=0)] | None = Field(
        default=0.50, description="Redo when this many rows came to each row of the base run."
    )
    surged_share: Share | None = Field(
        default=0.05, description="Redo when a cluster doubled its share and holds more than this."
    )
    centroid_shift: Annotated[float, Field(ge=0)] | None = Field(
        default=0.50,
        description="Redo when an updated centroid left the fit's by this part of the way to the "
        "next one.",
    )
    min_new_rows: Annotated[int, Field(ge=1)] = Field(
        default=50, description="Rows that joined; fewer say nothing, and fire no rule."
    )


_OPERATORS = {
    "silhouette_score": "<",
    "mean_cosine_to_centroid": "<",
    "noise_ratio": ">",
    "cluster_size_entropy": "<",
    "num_clusters": "<=",
}
_OF_DRIFT = (
    *("noise_ratio_rise", "mean_cosine_fall", "share_divergence", "mean_shift"),
    *("growth", "surged_share", "centroid_shift"),
)
_TESTS: dict[str, Callable[[float, float], bool]] = {"<": op.lt, ">": op.gt, "<=": op.le}


def judge(
    metrics: Mapping[str, float | None], num_clusters: int, thresholds: QualityThresholds
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rules that fire, and the metrics that could not be judged.

    Parameters
    ----------
    metrics : mapping of str to float or None
        Run-level metrics; one that is None cannot fire a rule.
    num_clusters : int
    thresholds : QualityThresholds

    Returns
    -------
    reasons : list of dict
        ``metric``, ``value``, ``op``, ``threshold``, ``baseline`` and ``baseline_run_id`` of each
        rule that fired.
    not_evaluated : list of str
    """
    values = {**metrics, "num_clusters": num_clusters}
    rules = [(metric, values.get(metric), operator) for metric, operator in _OPERATORS.items()]
    return _fired(rules, thresholds)


def judge_drift(
    drift: Mapping[str, Any], thresholds: QualityThresholds, base_run_id: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rules that rows which joined clusters fire, beside the base run.

    Parameters
    ----------
    drift : mapping
        As `metrics.drift.measure_drift` says it; with ``centroid_shift`` where centroids moved.
    thresholds : QualityThresholds
    base_run_id : str

    Returns
    -------
    reasons : list of dict
        As of `judge`. What is beyond chance counts: the expected divergence is taken off, and
        the expected shift by squares.
    not_evaluated : list of str
    """
    divergence = beyond_chance(drift)
    surged = [cluster["share"] for cluster in drift["surged"]]
    values = {
        **drift,
        "share_divergence": divergence,
        "mean_shift": math.sqrt(
            max(0.0, drift["mean_shift"] ** 2 - drift["mean_shift_expected"] ** 2)
        ),
        "surged_share": None if divergence is None else max(surged, default=0.0),
    }
    baselines = {
        "noise_ratio_rise": drift["noise_ratio_base"],
        "mean_cosine_fall": drift["mean_cosine_base"],
        "surged_share": drift["surged"][0]["share_base"] if surged else None,
    }
    rules = [(name, values[name], ">") for name in _OF_DRIFT if name in values]
    return _fired(rules, thresholds, base_run_id, baselines)


def active_rules(thresholds: QualityThresholds) -> list[str]:
    """Return the rules that rows which joined clusters could fire."""
    names = (*_OPERATORS, *_OF_DRIFT)
    return [name for name in names if getattr(thresholds, name) is not None]


def beyond_chance(drift: Mapping[str, Any]) -> float | None:
    """Return what the shares diverge by beside what chance gives; None: it is not known."""
    divergence = drift.get("share_divergence")
    if divergence is None:
        return None
    return max(0.0, float(divergence) - float(drift.get("share_divergence_expected") or 0))


def _fired(
    rules: Iterable[tuple[str, float | None, str]],
    thresholds: QualityThresholds,
    base_run_id: str | None = None,
    baselines: Mapping[str, float | None] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    reasons: list[dict[str, Any]] = []
    not_evaluated: list[str] = []
    for metric, value, operator in rules:
        threshold = getattr(thresholds, metric)
        if threshold is None:
            continue
        if value is None:
            not_evaluated.append(metric)
        elif _TESTS[operator](value, threshold):
            reasons.append(
                {
                    "metric": metric,
                    "value": value,
                    "op": operator,
                    "threshold": threshold,
                    "baseline": (baselines or {}).get(metric),
                    "baseline_run_id": base_run_id,
                }
            )
    return reasons, not_evaluated
