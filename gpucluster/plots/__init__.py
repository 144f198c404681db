"""Pictures of a finished run: what is drawn is gathered here, `report.drawing` draws it."""

from __future__ import annotations

from gpucluster.plots.kinds import KINDS, plot

__all__ = ["KINDS", "plot"]
