"""Asks addresses that people gave whether to start."""

from __future__ import annotations

import json
from typing import Any

from gpucluster.service.outbound import Outbound, OutboundError
from gpucluster.service.outbound.signing import signed
from gpucluster.service.refusals import UnavailableError
from gpucluster.service.triggers.port import Question


class Asking:
    """Asks by POST, signed as messages of webhooks are; what is asked and answered is JSON.

    Parameters
    ----------
    outbound : Outbound
    """

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    def check(self, url: str, *, path: str) -> None:
        """Refuse by ``ConfigError`` an address that may not be called."""
        self._outbound.check(url, path=path)

    def ask(self, question: Question) -> Any:
        """Return what is answered; ``UnavailableError`` where that is nothing of use."""
        content = json.dumps(question.body, allow_nan=False).encode()
        headers = signed(question.secrets, question.id, question.now, content)
        try:
            reply = self._outbound.post(
                question.url, content, {**headers, "Content-Type": "application/json"}
            )
        except OutboundError as error:
            raise UnavailableError(f"the address of the condition: {error}") from None
        if not 200 <= reply.status < 300:
            raise UnavailableError(f"the address of the condition answered {reply.status}")
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError):
            raise UnavailableError("the address of the condition answered no JSON") from None
