"""What a line of the cache holds: layouts are padded to whole ones, and computed by them."""

from __future__ import annotations

LANES = 16  # numbers of float32
LINE_BYTES = 4 * LANES
