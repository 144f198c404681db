"""What is seen to in time, by whichever server comes first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from gpucluster.service.catalog.port import Full

logger = logging.getLogger(__name__)

PAUSE_S = 300.0
BREATH_S = 0.05  # between parts, for whoever else wants to write


def keep_house(chores: Mapping[str, Callable[[], bool]], is_over: threading.Event) -> None:
    """See to what comes up, until it is over.

    Parameters
    ----------
    chores : mapping of str to callable
        By what they are for; each does a part, and says whether there may be more.
    is_over : threading.Event
    """
    while not is_over.wait(PAUSE_S):
        for name, chore in chores.items():
            try:
                while chore() and not is_over.wait(BREATH_S):
                    pass
            except Full:
                logger.info("the catalog is busy; %s: later", name)
            except Exception:
                logger.exception("%s: not done", name)
