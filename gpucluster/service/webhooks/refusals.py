"""Placeholders."""

from __future__ import annotations

from gpucluster.errors import GpuclusterError


class NotFoundError(GpuclusterError):
    """Nothing of that id."""

    code = "not_found"


class ConflictError(GpuclusterError):
    """Something else is in the way."""

    code = "conflict"
