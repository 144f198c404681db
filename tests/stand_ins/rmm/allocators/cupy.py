"""What lets CuPy allocate through RMM."""

from __future__ import annotations

from typing import Any

from rmm import mr


def rmm_cupy_allocator(nbytes: int) -> Any:
    return mr.get_current_device_resource().allocate(nbytes)
