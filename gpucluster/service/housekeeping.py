"""What is removed in time, by whichever server comes first."""

from __future__ import annotations

import logging
import threading

from gpucluster.service.catalog.port import Catalog, Full
from gpucluster.service.once import forget_answers

logger = logging.getLogger(__name__)

PAUSE_S = 300.0


def keep_house(catalog: Catalog, is_over: threading.Event) -> None:
    """Forget old answers until it is over."""
    while not is_over.wait(PAUSE_S):
        try:
            while forget_answers(catalog):
                pass
        except Full:
            logger.info("the catalog is busy; old answers are forgotten later")
        except Exception:
            logger.exception("old answers were not forgotten")
