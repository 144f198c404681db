"""Whether a clustering should be redone, and why."""

from __future__ import annotations

from collections.abc import Mapping
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


_OPERATORS = {
    "silhouette_score": "<",
    "mean_cosine_to_centroid": "<",
    "noise_ratio": ">",
    "cluster_size_entropy": "<",
    "num_clusters": "<=",
}


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
        ``metric``, ``value``, ``op``, ``threshold``, ``baseline_run_id`` of each rule that fired.
    not_evaluated : list of str
    """
    values = {**metrics, "num_clusters": num_clusters}
    reasons: list[dict[str, Any]] = []
    not_evaluated: list[str] = []
    for metric, operator in _OPERATORS.items():
        threshold, value = getattr(thresholds, metric), values.get(metric)
        if threshold is None:
            continue
        if value is None:
            not_evaluated.append(metric)
            continue
        fires = {"<": value < threshold, ">": value > threshold, "<=": value <= threshold}
        if fires[operator]:
            reasons.append(
                {
                    "metric": metric,
                    "value": value,
                    "op": operator,
                    "threshold": threshold,
                    "baseline_run_id": None,
                }
            )
    return reasons, not_evaluated
