"""Requests and answers about triggers: what starts executions by itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from gpucluster.metrics.recluster import QualityThresholds
from gpucluster.notation import setting_error
from gpucluster.wire.base import Answer, Name, Request, Time

MIN_INTERVAL_S = 300
MIN_CHECK_S = 60
MAX_SECONDS = 366 * 24 * 3600  # of any time that a schedule names

TriggerType: TypeAlias = Literal["cron", "interval", "event", "conditional"]
TriggerStatus: TypeAlias = Literal["active", "paused", "disabled", "failed"]
EventType: TypeAlias = Literal["documents_added", "documents_updated", "batch_completed"]
RunMode: TypeAlias = Literal["full", "assign"]
QualityMetric: TypeAlias = Literal[
    "silhouette_score", "davies_bouldin_index", "calinski_harabasz_score",
    "mean_cosine_to_centroid", "noise_ratio", "cluster_size_entropy", "should_recluster",
]  # fmt: skip


class CronSchedule(Request):
    """At times of the calendar, as cron of Debian keeps them."""

    cron_expression: str = Field(
        min_length=1,
        max_length=200,
        description="Minute, hour, day of the month, month, day of the week.",
    )
    timezone: str = Field(
        default="UTC", max_length=100, description="Whose clock it is read on: Europe/Berlin."
    )


class IntervalSchedule(Request):
    """Every so many seconds, counted from when the trigger was made or resumed."""

    interval_seconds: int = Field(
        ge=MIN_INTERVAL_S, le=MAX_SECONDS, description="From one time to the next."
    )
    start_immediately: bool = Field(default=False, description="Whether the first time is now.")


class EventSchedule(Request):
    """When enough happened to a collection."""

    event_type: EventType = Field(description="What is counted.")
    event_threshold: int = Field(default=1, ge=1, le=1 << 53, description="How many are enough.")
    collection_id: Name = Field(description="Where it happens.")
    cooldown_seconds: int = Field(
        default=300, ge=0, le=MAX_SECONDS, description="Shortest time from one start to the next."
    )


class _Checked(Request):
    check_interval_seconds: int = Field(
        default=3600, ge=MIN_CHECK_S, le=MAX_SECONDS, description="From one check to the next."
    )


class DriftSchedule(_Checked):
    """When documents that came since the last full run are unlike those of that run."""

    condition_type: Literal["drift"]
    metric: Literal["cosine_drift", "embedding_drift"] = Field(
        default="cosine_drift",
        description="cosine_drift: 1 - cosine of the mean rows. embedding_drift: what the shares "
        "of the clusters diverge by (Jensen-Shannon, base 2), beside what chance gives.",
    )
    threshold: float = Field(ge=0, le=2, description="Starts when the number reaches it.")
    min_new_rows: int = Field(
        default=QualityThresholds.model_fields["min_new_rows"].default,
        ge=1,
        description="Fewer new documents say nothing.",
    )


class VolumeSchedule(_Checked):
    """When the collections have grown since the last full run."""

    condition_type: Literal["volume"]
    metric: Literal["growth"] = Field(default="growth", description="New rows for each row then.")
    threshold: float = Field(gt=0, le=1e9, description="Starts when the growth reaches it.")


class QualitySchedule(_Checked):
    """When a metric of the latest run is on the wrong side of a bound."""

    condition_type: Literal["quality"]
    metric: QualityMetric = Field(description="Which one.")
    operator: Literal["gt", "gte", "lt", "lte"] | None = Field(
        default=None,
        description="Starts when the metric is so beside the threshold. Omitted: gt or lt, "
        "whichever is worse for this metric.",
    )
    threshold: float = Field(description="The bound.")


class CustomSchedule(_Checked):
    """When an address of yours says so."""

    condition_type: Literal["custom"]
    url: str = Field(
        min_length=1, max_length=2000, description="Is asked by POST, answers {fire, reason}."
    )
    metric: str | None = Field(default=None, max_length=200, description="Is passed on to it.")
    threshold: float | None = Field(default=None, description="Is passed on to it.")


ConditionalSchedule: TypeAlias = Annotated[
    DriftSchedule | VolumeSchedule | QualitySchedule | CustomSchedule,
    Field(discriminator="condition_type"),
]
AnySchedule: TypeAlias = (
    CronSchedule
    | IntervalSchedule
    | EventSchedule
    | DriftSchedule
    | VolumeSchedule
    | QualitySchedule
    | CustomSchedule
)

_SCHEDULES: dict[str, Any] = {
    "cron": CronSchedule,
    "interval": IntervalSchedule,
    "event": EventSchedule,
    "conditional": ConditionalSchedule,
}


def read_schedule(trigger_type: TriggerType, given: Any) -> AnySchedule:
    """Return a schedule of a type; ``ConfigError`` names the setting that is wrong."""
    kind = _SCHEDULES[trigger_type]
    try:
        schedule: AnySchedule = TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        raise setting_error(error, kind, "schedule_config") from error
    return schedule


class TriggerExecutionConfig(Request):
    """What is clustered, where no definition is named."""

    collection_ids: list[Name] = Field(min_length=1, description="Sources.")
    config: dict[str, Any] = Field(description="The rest of a definition: algorithm, and so on.")

    @model_validator(mode="after")
    def _sources_stand_once(self) -> TriggerExecutionConfig:
        if {"collection_ids", "source_collection_ids"} & self.config.keys():
            raise ValueError("expected collection_ids beside config, and not in it")
        return self


class _Create(Request):
    cluster_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="The definition, by its id."
    )
    execution_config: TriggerExecutionConfig | None = Field(
        default=None, description="Instead of `cluster_id`: a definition is made of it."
    )
    mode: RunMode = Field(
        default="full", description="full clusters anew; assign lets new documents join."
    )
    description: str | None = Field(default=None, max_length=2000, description="For people.")
    status: Literal["active", "paused"] = Field(default="active", description="At the beginning.")

    @model_validator(mode="after")
    def _one_target(self) -> _Create:
        if (self.cluster_id is None) == (self.execution_config is None):
            raise ValueError("expected cluster_id or execution_config, and not both")
        return self


class CreateCronTrigger(_Create):
    """A trigger at times of the calendar."""

    trigger_type: Literal["cron"]
    schedule_config: CronSchedule


class CreateIntervalTrigger(_Create):
    """A trigger at equal distances."""

    trigger_type: Literal["interval"]
    schedule_config: IntervalSchedule


class CreateEventTrigger(_Create):
    """A trigger by what happens to a collection."""

    trigger_type: Literal["event"]
    schedule_config: EventSchedule


class CreateConditionalTrigger(_Create):
    """A trigger by a number that is looked at from time to time."""

    trigger_type: Literal["conditional"]
    schedule_config: ConditionalSchedule


CreateTriggerRequest: TypeAlias = Annotated[
    CreateCronTrigger | CreateIntervalTrigger | CreateEventTrigger | CreateConditionalTrigger,
    Field(discriminator="trigger_type"),
]


class UpdateTriggerRequest(Request):
    """What changes; what is omitted stays."""

    schedule_config: dict[str, Any] | None = Field(
        default=None, description="The whole schedule anew; its type stays."
    )
    description: str | None = Field(default=None, max_length=2000, description="For people.")
    status: Literal["active", "paused", "disabled"] | None = Field(
        default=None, description="active resumes, also after failures."
    )


class TriggerModel(Answer):
    """A trigger, and how it fared."""

    trigger_id: str
    cluster_id: str | None = Field(default=None, description="The definition that it runs.")
    namespace_id: str
    internal_id: str = Field(description="The namespace too; nothing stands above one here.")
    execution_config: TriggerExecutionConfig = Field(description="What is clustered.")
    trigger_type: TriggerType
    schedule_config: dict[str, Any] = Field(description="With its defaults.")
    mode: RunMode
    status: TriggerStatus
    last_triggered_at: Time | None = Field(default=None, description="When it last started one.")
    last_execution_job_id: str | None = Field(default=None, description="What it started.")
    next_scheduled_at: Time | None = Field(
        default=None, description="When it starts or checks next; null: nothing is planned."
    )
    execution_count: int = Field(default=0, description="Executions that it started.")
    consecutive_failures: int = Field(default=0, description="At 5 its status is failed.")
    last_execution_status: str | None = None
    last_execution_error: str | None = None
    event_counter: int = Field(default=0, description="What happened since the last start.")
    last_cooldown_at: Time | None = Field(default=None, description="When a cooldown began.")
    created_at: Time
    updated_at: Time
    created_by: str | None = None
    description: str | None = None


class TriggerCreated(TriggerModel):
    """A trigger that was just made."""

    secret: str | None = Field(
        default=None,
        description="Signs what the address of a custom condition is asked, by Standard Webhooks; "
        "it is in this answer and in no other.",
    )


class TriggerSecret(Answer):
    """What signs questions from now on."""

    trigger_id: str
    secret: str
    previous_until: Time = Field(description="Until then, the one before signs as well.")


class ListTriggersRequest(Request):
    """Which triggers are meant, and in which order."""

    cluster_id: str | None = Field(default=None, description="Those of this definition.")
    trigger_type: TriggerType | None = Field(default=None, description="Those of this type.")
    status: TriggerStatus | None = Field(default=None, description="Those of this status.")
    offset: int = Field(default=0, ge=0, le=1 << 53, description="Skipped.")
    limit: int = Field(default=50, ge=1, le=1000, description="Most of a page.")
    sort_by: Literal[
        "created_at", "updated_at", "status", "trigger_type", "next_scheduled_at",
        "last_triggered_at", "execution_count", "consecutive_failures",
    ] = Field(default="created_at", description="A field of triggers.")  # fmt: skip
    direction: Literal["asc", "desc"] = Field(default="desc", description="Which end is first.")


class ListTriggersResponse(Answer):
    """A page of triggers."""

    results: list[TriggerModel]
    total: int
    offset: int
    limit: int


class TriggerHistoryRequest(Request):
    """Which part of a history is meant; the newest come first."""

    offset: int = Field(default=0, ge=0, le=1 << 53, description="Skipped.")
    limit: int = Field(default=50, ge=1, le=1000, description="Most of a page.")
    status_filter: str | None = Field(default=None, max_length=50, description="Of this status.")


class TriggerExecutionHistoryItem(Answer):
    """One time that a trigger was due."""

    job_id: str | None = Field(description="What was started; null: nothing.")
    triggered_at: Time
    scheduled_at: Time | None = Field(
        default=None, description="When it was due; null: somebody asked for it."
    )
    status: str = Field(
        description="pending, completed, failed or canceled; skipped, and `error` says why; "
        "checking or checked, of a condition that was looked at."
    )
    execution_time_ms: int | None = None
    error: str | None = None
    num_clusters: int | None = None
    num_documents: int | None = None
    check: dict[str, Any] | None = Field(default=None, description="Numbers of a condition.")


class TriggerHistoryResponse(Answer):
    """A page of a history."""

    trigger_id: str
    executions: list[TriggerExecutionHistoryItem]
    total: int
    offset: int
    limit: int
