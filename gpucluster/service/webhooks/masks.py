"""What of a channel is secret, shown as a mask, and what a mask that is sent back stands for.

Values of headers, the query of an address, and the path of an address of Slack may each let
whoever knows it write there. They are kept with the secret that signs, apart from what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from gpucluster.errors import ConfigError
from gpucluster.wire.webhooks import MASK

Channel: TypeAlias = Mapping[str, Any]  # {channel, configs}

ADDRESS: Final = {"webhook": "url", "slack": "webhook_url"}  # the field that holds it


def masked(channel: Channel) -> dict[str, Any]:
    """Return a channel as it is shown.

    Parameters
    ----------
    channel : mapping
    """
    configs = dict(channel["configs"])
    field = ADDRESS[channel["channel"]]
    configs[field] = shown_address(channel["channel"], configs[field])
    if "headers" in configs:
        configs["headers"] = dict.fromkeys(configs["headers"], MASK)
    return {"channel": channel["channel"], "configs": configs}


def unmasked(channel: Channel, kept: Sequence[Channel], *, path: str) -> dict[str, Any]:
    """Return a channel with what its masks stand for: the values of one to the same address.

    A secret that is kept goes nowhere but to the address that it was given for.

    Parameters
    ----------
    channel : mapping
    kept : sequence of mapping
        Channels as they are so far.
    path : str
        Of the channel, for messages.

    Raises
    ------
    ConfigError
        A mask stands for nothing.
    """
    kind, configs = channel["channel"], dict(channel["configs"])
    field = ADDRESS[kind]
    given = configs[field]
    own = [each for each in kept if each["channel"] == kind]
    same = next((each for each in own if each["configs"][field] == given), None) or next(
        (each for each in own if masked(each)["configs"][field] == given), None
    )
    known: Mapping[str, Any] = same["configs"] if same else {}
    if MASK in given:
        configs[field] = known.get(field) or _unknown(f"{path}.configs.{field}")
    headers = {name.lower(): value for name, value in known.get("headers", {}).items()}
    if "headers" in configs:
        configs["headers"] = {
            name: value
            if value != MASK
            else headers.get(name.lower()) or _unknown(f"{path}.configs.headers")
            for name, value in configs["headers"].items()
        }
    return {"channel": kind, "configs": configs}


def shown_address(kind: str, url: str) -> str:
    """Return an address of a kind of channel as it is shown."""
    parts = urlsplit(url)
    if kind == "slack":
        return f"{parts.scheme}://{parts.netloc}/{MASK}"
    lead, mark, _ = url.partition("?")
    return f"{lead}?{MASK}" if mark else lead


def _unknown(path: str) -> str:
    raise ConfigError(
        f"{MASK} stands for a value that is kept for this address, and there is none",
        path=path,
        hint="Write the value itself",
    )
