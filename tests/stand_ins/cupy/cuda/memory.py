"""The pool of the memory of `cupy.stand_in`."""

from __future__ import annotations

from typing import Any

from cupy import stand_in

OutOfMemoryError = stand_in.OutOfMemoryError


class MemoryPool:
    def free_all_blocks(self, stream: Any = None) -> None:
        stand_in.trim()

    def used_bytes(self) -> int:
        return stand_in.used_bytes()

    def free_bytes(self) -> int:
        return stand_in.held_bytes() - stand_in.used_bytes()

    def total_bytes(self) -> int:
        return stand_in.held_bytes()

    def get_limit(self) -> int:
        return stand_in.limit_bytes

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        if fraction is not None:
            size = int(fraction * stand_in.total_bytes)
        stand_in.limit_bytes = size or 0
