"""Channels: what is sent to each kind, and what is refused before anything is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from gpucluster.errors import ConfigError
from gpucluster.service.outbound import Outbound
from gpucluster.service.outbound.signing import signed
from gpucluster.service.webhooks.masks import ADDRESS, Channel
from gpucluster.service.webhooks.templates import check_template, filled

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[ -~]{0,4096}")
# what we say about a message ourselves, or what would change how it is read
_OURS: Final = {
    *("connection", "content-encoding", "content-length", "content-type", "expect", "host"),
    *("keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
}
_SLACK: Final = ("channel", "username", "icon_emoji", "icon_url")


@dataclass(frozen=True, slots=True)
class Message:
    """What goes to one address."""

    url: str
    body: bytes
    headers: Mapping[str, str]
    timeout_s: float


def check_channel(channel: Channel, outbound: Outbound, *, path: str) -> None:
    """Refuse a channel that nothing could be sent to.

    Parameters
    ----------
    channel : mapping
    outbound : Outbound
    path : str
        Of the channel, for messages.

    Raises
    ------
    ConfigError
        Something of it is wrong.
    """
    configs, field = channel["configs"], ADDRESS[channel["channel"]]
    outbound.check(configs[field], path=f"{path}.configs.{field}")
    for name, value in configs.get("headers", {}).items():
        where = f"{path}.configs.headers"
        lower = name.lower()
        if not _NAME.fullmatch(name) or lower in _OURS or lower.startswith(("proxy-", "webhook-")):
            raise ConfigError(f"no header of this name may be set: {name[:100]!r}", path=where)
        if not _VALUE.fullmatch(value):
            expected = "up to 4,096 visible ASCII characters"
            raise ConfigError(f"the value of {name} is not {expected}", path=where)
    if configs.get("payload_template") is not None:
        check_template(configs["payload_template"], path=f"{path}.configs.payload_template")
    if configs.get("blocks_template") is not None:
        where = f"{path}.configs.blocks_template"
        check_template(_blocks(configs["blocks_template"], path=where), path=where)


def message(
    channel: Channel, secrets: Sequence[Mapping[str, Any]], event: Mapping[str, Any], now: datetime
) -> Message:
    """Return what is sent of an event.

    Parameters
    ----------
    channel : mapping
    secrets : sequence of mapping
        Those that sign.
    event : mapping
    now : datetime
    """
    configs = channel["configs"]
    if channel["channel"] == "slack":
        body = _json(_of_slack(configs, event))
        return Message(configs["webhook_url"], body, _TYPE, 10.0)
    template = configs.get("payload_template")
    body = _json(event if template is None else filled(template, event))
    headers = {**configs["headers"], **_TYPE, **signed(secrets, event["event_id"], now, body)}
    return Message(configs["url"], body, headers, configs["timeout"])


_TYPE: Final = {"content-type": "application/json"}


def _of_slack(configs: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:
    subject = event["subject"]
    payload: dict[str, Any] = {"text": f"{event['event_type']}: {subject['type']} {subject['id']}"}
    payload |= {name: configs[name] for name in _SLACK if configs.get(name) is not None}
    if configs.get("blocks_template") is not None:
        payload["blocks"] = filled(json.loads(configs["blocks_template"]), event)
    return payload


def _blocks(text: str, *, path: str) -> list[Any]:
    try:
        blocks = json.loads(text)
    except (RecursionError, ValueError):
        blocks = None
    if not isinstance(blocks, list):
        raise ConfigError("no list in JSON", path=path, expected="a JSON list of blocks")
    return blocks


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
