"""One logger for the package; the edges decide where its lines go."""

from __future__ import annotations

import logging

logger = logging.getLogger("gpucluster")
logger.addHandler(logging.NullHandler())
