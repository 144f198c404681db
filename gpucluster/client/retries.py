"""Asking again, where that can neither do a thing twice nor lose it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gpucluster.client.answers import failure_of
from gpucluster.client.calls import Flow, Reply, Send, Sleep
from gpucluster.client.errors import ConnectionFailedError
from gpucluster.errors import ClientError

BUSY = frozenset({429, 502, 503, 504})  # nothing was done, or the key tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often is asked, and how long between.

    Attributes
    ----------
    tries : int
        Requests for one call at most.
    first_s : float
        The longest first pause; every further one may be twice as long. A pause is drawn between
        none and that, so that many who were cut off together do not return together.
    longest_s : float
        No pause is longer. A service that asks for more is not asked again.
    """

    tries: int = 4
    first_s: float = 0.5
    longest_s: float = 30.0

    def pause(self, n_tried: int, asked_s: float | None = None) -> float:
        """Return the seconds before the next try.

        Parameters
        ----------
        n_tried : int
        asked_s : float, optional
            What the service asked for: no less.
        """
        drawn = random.uniform(0, min(self.longest_s, self.first_s * 2 ** (n_tried - 1)))  # noqa: S311
        return drawn if asked_s is None else asked_s + min(drawn, self.first_s)


def reply_to(send: Send, retries: Retries, *, is_read: bool, is_repeatable: bool) -> Flow[Reply]:
    """Return the answer of a request, asking again where that is safe.

    Parameters
    ----------
    send : Send
        With a key, unless it only reads: the same for each try.
    retries : Retries
    is_read : bool
        Whether it changes nothing.
    is_repeatable : bool
        Whether it can be sent again.
    """
    n_tried = 0
    while True:
        n_tried += 1
        asked_s: float | None = None
        error: ClientError
        try:
            reply: Reply = yield send
        except ConnectionFailedError as failed:
            error, again = failed, True
        else:
            if reply.status < 300:
                return reply
            error = failure_of(reply)
            asked_s = error.retry_after_s
            again = (
                reply.status in BUSY
                or (reply.status == 500 and is_read)
                or (reply.status == 409 and error.details.get("code") == "under_way")
            )
            again = again and (asked_s is None or asked_s <= retries.longest_s)
        if not again or not is_repeatable or n_tried >= retries.tries:
            raise error
        yield Sleep(retries.pause(n_tried, asked_s))
