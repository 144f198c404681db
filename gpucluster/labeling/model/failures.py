"""What can go wrong when a model is asked, told apart by what to do about it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from gpucluster.notation import shown

Kind = Literal[
    # the same question may succeed later
    "rate_limited",
    "unavailable",
    "timeout",
    "connection",
    "malformed",
    # no question will
    "quota",
    "unauthorized",
    "not_found",
    # this question will not: the server cannot read it, or will not
    "rejected",
    "refused",
]

RETRYABLE: Final = frozenset({"rate_limited", "unavailable", "timeout", "connection", "malformed"})
FATAL: Final = frozenset({"quota", "unauthorized", "not_found"})

_MESSAGE_LENGTH = 500
_BY_STATUS: Final[dict[int, Kind]] = {
    401: "unauthorized",
    402: "quota",
    403: "unauthorized",
    404: "not_found",
    405: "not_found",
    408: "unavailable",
    409: "unavailable",
    410: "not_found",
    425: "unavailable",
    429: "rate_limited",
}
# what providers say with a status that means something else
_QUOTA = ("insufficient_quota", "credit balance is too low")
_REFUSED = '"content_filter"'  # the code of an error, as Azure has it
_UNAUTHORIZED = ("api_key_invalid", "api key not valid")

_SECRETS = (
    re.compile(r"\b(?:sk|pk|gsk|xai|hf)[-_][\w*-]{6,}"),
    re.compile(r"\bAIza[\w-]{10,}"),
    re.compile(r"(?<=\bBearer )[^\s\"',]+", re.IGNORECASE),
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),
)
# parameters of URLs that let whoever has the URL in, also of a URL within another one's query
_SIGNATURE = re.compile(
    r"((?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)"
    r"|(?:[?&;~]|%3F|%26|u0026)(?:[\w.-]{0,40}(?:signature|token|credential|secret|password|hmac|"
    r"jwt|api_?key|accesskeyid)|(?:[\w.-]{0,40}[_-])?(?:sig|key|auth|pwd)))(?:=|%3D))"
    r"[^&;#\s\"'<>)\\]+",
    re.IGNORECASE,
)
_RETRY_DELAY = re.compile(r'"retryDelay"\s*:\s*"([\d.]+)s"')  # Google says it in the body


class CallError(Exception):
    """One call of a model failed.

    Parameters
    ----------
    message : str
        One line, without secrets.
    kind : Kind
        Says what to do about it.
    retry_after_s : float, optional
        When the server wants to be asked again, where it says so.
    is_billed : bool, optional
        Whether it may cost as an answer does: it came, and is of no use. Omitted: whether it came
        too late.
    """

    def __init__(
        self,
        message: str,
        kind: Kind,
        retry_after_s: float | None = None,
        *,
        is_billed: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.is_billed = kind == "timeout" if is_billed is None else is_billed

    @property
    def retryable(self) -> bool:
        """Whether the same question may be answered later."""
        return self.kind in RETRYABLE

    @property
    def fatal(self) -> bool:
        """Whether no question will be answered."""
        return self.kind in FATAL


def redacted(text: str, *secrets: str) -> str:
    """Return `text` without keys, tokens, signatures, and the `secrets` that are known."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[redacted]")
    for pattern in _SECRETS:
        text = pattern.sub("[redacted]", text)
    return unsigned(text)


def unsigned(text: str) -> str:
    """Return `text` with the signatures, tokens and keys in the queries of its URLs struck out."""
    return _SIGNATURE.sub(r"\1[redacted]", text)


def failure_of(status: int, body: str, headers: Mapping[str, str], *secrets: str) -> CallError:
    """Return the failure that an HTTP answer means.

    Parameters
    ----------
    status : int
        Anything but a success.
    body : str
    headers : mapping of str to str
        By names in lower case, or by any case.
    *secrets : str
        They never come into the message, though the server may repeat them.

    Returns
    -------
    CallError
    """
    said = _said(body)
    lower = body.lower()
    if 300 <= status < 400:
        kind: Kind = "not_found"
        said = "the server redirects elsewhere, which is not followed; correct base_url"
    elif status >= 500:
        kind = "unavailable"
    else:
        kind = _BY_STATUS.get(status, "rejected")
    if status in {400, 403, 429} and any(words in lower for words in _QUOTA):
        kind = "quota"
    elif status == 400 and any(words in lower for words in _UNAUTHORIZED):
        kind = "unauthorized"
    elif status == 400 and _REFUSED in lower:
        kind = "refused"
    said = redacted(" ".join(said.split()), *secrets)
    message = shown(f"HTTP {status}: {said}" if said else f"HTTP {status}", _MESSAGE_LENGTH)
    wait = retry_after(headers)
    if wait is None and (found := _RETRY_DELAY.search(body)):
        wait = _seconds(found[1])
    return CallError(message, kind, wait)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server wants to be left alone, by its headers.

    Parameters
    ----------
    headers : mapping of str to str

    Returns
    -------
    float or None
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _seconds(text)
    if seconds is not None or text is None:
        return seconds
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _seconds(text: str | None) -> float | None:
    """Return a length of time that a header states as a number."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _said(body: str) -> str:
    """Return what a server says went wrong, of the shapes that servers use."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if isinstance(value, list) and value:  # Google puts the error into a list
        value = value[0]
    if isinstance(value, Mapping):
        value = value.get("error", value)
    if isinstance(value, Mapping) and isinstance(value.get("message"), str):
        # the parameter's name is often not in the message
        return " ".join(str(value[key]) for key in ("message", "param") if value.get(key))
    return value if isinstance(value, str) else body
