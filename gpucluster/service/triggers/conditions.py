"""Whether a condition holds, and the numbers that say so: pure functions of what was measured."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from gpucluster.metrics.recluster import beyond_chance
from gpucluster.notation import describe
from gpucluster.service.catalog.port import Record
from gpucluster.service.refusals import UnavailableError
from gpucluster.wire.triggers import CustomSchedule, DriftSchedule, QualitySchedule, VolumeSchedule

NOTHING_TO_COMPARE = "there is no completed full run to compare with"
_WORSE_ABOVE = ("davies_bouldin_index", "noise_ratio", "should_recluster")
_TESTS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to start, and what that was decided by."""

    fire: bool
    numbers: Mapping[str, Any]


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore")

    fire: StrictBool
    reason: str | None = Field(default=None, max_length=2000)


def judge_volume(schedule: VolumeSchedule, base: Record | None, num_rows: int) -> Verdict:
    """Compare the rows of collections with those of the latest full run."""
    if base is None:
        return _nothing(schedule, NOTHING_TO_COMPARE, num_rows=num_rows)
    before = int(base.body["num_rows"])
    counts = {"num_rows": num_rows, "num_rows_base": before, "base_run_id": base.id}
    return _compared(schedule, (num_rows - before) / max(1, before), "gte", **counts)


def judge_quality(
    schedule: QualitySchedule, latest: Record | None, own_job: str | None, num_rows: int
) -> Verdict:
    """Compare a metric of the latest run with the threshold.

    Parameters
    ----------
    schedule : QualitySchedule
    latest : Record or None
        An execution.
    own_job : str or None
        What the trigger itself started last: that it is no better is no reason to do it again,
        unless there are other rows.
    num_rows : int
        Of the collections.

    Returns
    -------
    Verdict
    """
    if latest is None:
        return _nothing(schedule, "there is no completed run")
    value = (latest.body.get("metrics") or {}).get(schedule.metric)
    if value is None:
        return _nothing(schedule, "the latest run does not have the metric", run_id=latest.id)
    worse = "gt" if schedule.metric in _WORSE_ABOVE else "lt"
    found = _compared(schedule, float(value), schedule.operator or worse, run_id=latest.id)
    if found.fire and latest.id == own_job and latest.body["num_rows"] == num_rows:
        reason = "the latest run is what this trigger started, and no rows came since"
        return Verdict(fire=False, numbers={**found.numbers, "fired": False, "reason": reason})
    return found


def judge_drift(schedule: DriftSchedule, drift: Mapping[str, Any] | None) -> Verdict:
    """Compare how far documents drifted with the threshold; the run that joined them says it."""
    if drift is None:
        return _nothing(schedule, "there are no new documents", num_new=0)
    numbers = {
        "num_new": drift["num_new"],
        "cosine_drift": drift.get("cosine_drift"),
        "embedding_drift": beyond_chance(drift),
        "share_divergence": drift["share_divergence"],
        "share_divergence_expected": drift["share_divergence_expected"],
    }
    if drift["num_new"] < schedule.min_new_rows:
        reason = f"fewer than {schedule.min_new_rows} new documents say nothing"
        return _nothing(schedule, reason, **numbers)
    value = numbers[schedule.metric]
    if value is None:
        return _nothing(schedule, f"{schedule.metric} could not be computed", **numbers)
    return _compared(schedule, float(value), "gte", **numbers)


def judge_reply(schedule: CustomSchedule, reply: Any) -> Verdict:
    """Read what an address answered; ``UnavailableError`` where it is no answer."""
    try:
        read = _Reply.model_validate(reply)
    except ValidationError:
        raise UnavailableError(
            f"the address answered {describe(reply)}, expected fire (true or false) and reason"
        ) from None
    numbers = {"fired": read.fire, "reason": read.reason, "metric": schedule.metric}
    return Verdict(fire=read.fire, numbers={**numbers, "threshold": schedule.threshold})


def _compared(
    schedule: DriftSchedule | VolumeSchedule | QualitySchedule,
    value: float,
    test: str,
    **numbers: Any,
) -> Verdict:
    fire = bool(_TESTS[test](value, schedule.threshold))
    compared = {"fired": fire, "metric": schedule.metric, "value": value, "operator": test}
    return Verdict(fire=fire, numbers={**compared, "threshold": schedule.threshold, **numbers})


def _nothing(
    schedule: DriftSchedule | VolumeSchedule | QualitySchedule, reason: str, **numbers: Any
) -> Verdict:
    compared = {"fired": False, "metric": schedule.metric, "value": None}
    told = {"threshold": schedule.threshold, "reason": reason, **numbers}
    return Verdict(fire=False, numbers={**compared, **told})
