"""Signatures by which receivers tell our messages from those of others: Standard Webhooks."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from standardwebhooks import Webhook

BOTH_FOR: Final = timedelta(hours=24)  # for which the secret before is used beside a new one


def new_secret() -> str:
    """Return a secret of 256 bits."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def rotated(kept: Iterable[Mapping[str, Any]], secret: str, now: datetime) -> list[dict[str, Any]]:
    """Return what is kept once there is a new secret: it, and the last one for a while.

    Parameters
    ----------
    kept : iterable of mapping
        Secrets, the newest first.
    secret : str
    now : datetime
    """
    until = (now + BOTH_FOR).isoformat()
    last = [{**each, "until": until} for each in kept][:1]
    return [{"secret": secret, "until": None}, *last]


def signed(
    kept: Sequence[Mapping[str, Any]], message_id: str, now: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers that sign a body by each secret that counts.

    Parameters
    ----------
    kept : sequence of mapping
    message_id : str
        The same in each attempt.
    now : datetime
    body : bytes
    """
    counting = [
        each["secret"]
        for each in kept
        if each["until"] is None or now < datetime.fromisoformat(each["until"])
    ]
    signatures = [Webhook(secret).sign(message_id, now, body.decode()) for secret in counting]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
