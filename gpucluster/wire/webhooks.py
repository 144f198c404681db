"""Webhooks over the wire: where events are sent, and what became of that."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from gpucluster.wire.base import Answer, Pagination, Request, Time, Title

MOST_SECONDS: Final = 10.0  # that a receiver may take
MASK: Final = "********"  # stands for what is kept and not shown

# the published names; those of objects, collections and alerts are accepted, and never sent
EventType: TypeAlias = Literal[
    "object.created",
    "objects.created.batch",
    "object.updated",
    "object.deleted",
    "collection.created",
    "collection.updated",
    "collection.deleted",
    "collection.documents.written",
    "cluster.created",
    "cluster.updated",
    "cluster.deleted",
    "cluster.execution.started",
    "cluster.execution.completed",
    "cluster.execution.failed",
    "trigger.created",
    "trigger.updated",
    "trigger.deleted",
    "trigger.paused",
    "trigger.resumed",
    "trigger.fired",
    "trigger.execution.completed",
    "trigger.execution.failed",
    "taxonomy.created",
    "taxonomy.updated",
    "taxonomy.deleted",
    "alert.created",
    "alert.updated",
    "alert.deleted",
    "alert.triggered",
    "alert.execution.completed",
    "alert.execution.failed",
]
OTHER_NAMES: Final = {"cluster.completed": "cluster.execution.completed"}  # of the same event
DeliveryStatus: TypeAlias = Literal["pending", "delivered", "dead"]


def _usual(name: Any) -> Any:
    return OTHER_NAMES.get(name, name) if isinstance(name, str) else name


_Text = Annotated[str, Field(max_length=500)]


class WebhookConfig(Request):
    """An address that events are posted to, signed."""

    url: str = Field(description="Begins with https://.")
    headers: dict[str, str] = Field(
        default_factory=dict,
        max_length=20,
        description=f"Sent besides our own. Values are never shown again: {MASK} stands for them.",
    )
    payload_template: dict[str, Any] | None = Field(
        default=None,
        description="What is sent instead of the event: {{event_type}}, {{subject.id}},"
        " {{metadata.run_id}} and the like stand for its fields.",
    )
    timeout: float = Field(
        default=MOST_SECONDS, gt=0, le=MOST_SECONDS, description="Seconds for a whole call."
    )


class SlackConfig(Request):
    """An incoming webhook of Slack."""

    webhook_url: str = Field(description="Never shown again but for its host.")
    channel: _Text | None = Field(default=None, description="Instead of the one that it is for.")
    username: _Text | None = Field(default=None, description="Who the message seems to be from.")
    icon_emoji: _Text | None = Field(default=None, description="Its picture, as :name:.")
    icon_url: _Text | None = Field(default=None, description="Its picture, by address.")
    blocks_template: str | None = Field(
        default=None,
        max_length=10_000,
        description="Blocks as JSON, with placeholders as in payload_template.",
    )


class EmailConfig(Request):
    """Addresses of people; this service sends no mail."""

    to_addresses: list[str] = Field(min_length=1, description="Who gets it.")
    subject_template: str | None = Field(default=None, description="Its first line.")
    body_template: str | None = Field(default=None, description="Its text.")
    content_type: Literal["plain_text", "html", "markdown", "json"] = Field(
        default="html", description="What the text is written in."
    )
    cc_addresses: list[str] = Field(default_factory=list, description="Who gets a copy.")
    bcc_addresses: list[str] = Field(default_factory=list, description="Who gets one unseen.")


class WebhookChannel(Request):
    """Events go to an address."""

    channel: Literal["webhook"] = Field(description="Its kind.")
    configs: WebhookConfig = Field(description="Where, and how.")


class SlackChannel(Request):
    """Events go to Slack."""

    channel: Literal["slack"] = Field(description="Its kind.")
    configs: SlackConfig = Field(description="Where, and how.")


class EmailChannel(Request):
    """Events would go to people by mail: refused."""

    channel: Literal["email"] = Field(description="Its kind.")
    configs: EmailConfig = Field(description="Where, and how.")


Channel: TypeAlias = Annotated[
    WebhookChannel | SlackChannel | EmailChannel, Field(discriminator="channel")
]


class WebhookInput(Request):
    """A webhook, to be created or written anew."""

    webhook_name: Title = Field(description="Unique in its namespace.")
    event_types: list[Annotated[EventType, BeforeValidator(_usual)]] = Field(
        min_length=1, max_length=100, description="Which events."
    )
    channels: list[Channel] = Field(min_length=1, max_length=10, description="Where they go.")
    is_active: bool = Field(default=True, description="Whether anything is sent.")
    webhook_id: str | None = Field(
        default=None,
        pattern=r"^wh_[a-fA-F0-9]{16}$",
        description="Omitted: the service gives one. It cannot be changed.",
    )
    # what answers hold may be sent back with them
    internal_id: str | None = Field(default=None, description="Of no meaning here.")
    disabled_reason: str | None = Field(default=None, description="Set by the service alone.")
    created_at: str | None = Field(default=None, description="Set by the service alone.")
    updated_at: str | None = Field(default=None, description="Set by the service alone.")


class ChannelAnswer(Answer):
    """Where events go, without its secrets."""

    channel: str = Field(description="webhook or slack.")
    configs: dict[str, Any] = Field(description=f"As given; {MASK} stands for what is secret.")


class WebhookOutput(Answer):
    """A webhook."""

    webhook_id: str = Field(description="Its id, from wh_.")
    webhook_name: str = Field(description="Its name.")
    event_types: list[str] = Field(description="Which events are sent.")
    channels: list[ChannelAnswer] = Field(description="Where they go.")
    is_active: bool = Field(description="Whether anything is sent.")
    disabled_reason: str | None = Field(
        default=None, description="Why the service stopped, where it did."
    )
    created_at: Time = Field(description="When it was made.")
    updated_at: Time = Field(description="When it was last changed.")


class WebhookCreated(WebhookOutput):
    """A new webhook, and the secret that tells its messages from those of others."""

    secret: str = Field(description="From whsec_; shown this once.")


class SecretAnswer(Answer):
    """A new secret; the one before is used beside it for a while."""

    webhook_id: str = Field(description="Whose it is.")
    secret: str = Field(description="From whsec_; shown this once.")
    previous_until: Time = Field(description="Until when messages carry both signatures.")


class ListWebhooksRequest(Request):
    """Which webhooks are meant."""

    event_type: str | None = Field(default=None, description="Those that want these events.")
    is_active: bool | None = Field(default=None, description="Those that are, or are not.")


class ListWebhooksResponse(Answer):
    """Webhooks, the oldest first."""

    results: list[WebhookOutput] = Field(description="One page of them.")
    pagination: Pagination = Field(description="Where it lies.")
    total: int = Field(description="All that are meant.")


class Attempt(Answer):
    """One call of a receiver."""

    attempted_at: Time = Field(description="When.")
    status_code: int | None = Field(default=None, description="What was answered.")
    error: str | None = Field(default=None, description="Why it does not count, where it does not.")
    elapsed_ms: int = Field(description="How long it took.")


class DeliveryOutput(Answer):
    """An event on its way to one channel of a webhook."""

    delivery_id: str = Field(description="Its id, from dlv_.")
    webhook_id: str = Field(description="Whose it is.")
    channel_index: int = Field(description="Which of the channels, from 0.")
    event_id: str = Field(description="The same in each message of the event.")
    event_type: str = Field(description="What happened.")
    status: DeliveryStatus = Field(description="dead: given up.")
    attempt_count: int = Field(description="Calls so far.")
    attempts: list[Attempt] = Field(description="The last of them, oldest first.")
    next_attempt_at: Time | None = Field(default=None, description="Of a pending one.")
    give_up_at: Time = Field(description="When the last call is made.")
    created_at: Time = Field(description="When it was put on its way.")
    updated_at: Time = Field(description="When that last changed.")
    event: dict[str, Any] = Field(description="What is sent, where no template says otherwise.")


class ListDeliveriesRequest(Request):
    """Which deliveries are meant."""

    status: DeliveryStatus | None = Field(default=None, description="Those alone.")


class ListDeliveriesResponse(Answer):
    """Deliveries, the newest first."""

    results: list[DeliveryOutput] = Field(description="One page of them.")
    pagination: Pagination = Field(description="Where it lies.")
    total: int = Field(description="All that are meant.")


class PingAnswer(Answer):
    """What a test put on its way."""

    deliveries: list[DeliveryOutput] = Field(description="One for each channel.")


class RedeliverAnswer(Answer):
    """How many were put on their way again."""

    redelivered: int = Field(description="Dead ones that are pending now.")
