"""When a delivery is tried again, and when it is given up."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random
from typing import Final

DELAYS_S: Final = (5, 30, 120, 600, 1_800, 3_600, 10_800)  # after each failure; the last goes on
JITTER: Final = 0.2  # part of a delay by which it varies, so that not all come back at once
GIVE_UP_AFTER: Final = timedelta(hours=24)

KEEP_DELIVERED: Final = timedelta(days=7)
KEEP_DEAD: Final = timedelta(days=90)


def next_attempt(
    attempts: int, now: datetime, give_up_at: datetime, random: Random
) -> datetime | None:
    """Return when to try again after so many attempts, or None: the last one was made.

    Parameters
    ----------
    attempts : int
        How many failed so far.
    now, give_up_at : datetime
    random : Random
    """
    if now >= give_up_at:
        return None
    delay = DELAYS_S[min(attempts, len(DELAYS_S)) - 1]
    varied = delay * random.uniform(1 - JITTER, 1 + JITTER)
    return min(now + timedelta(seconds=varied), give_up_at)
