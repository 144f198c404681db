"""The cores of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_most: int | None = None


def n_threads() -> int:
    """Return the number of cores that this process may use, within `at_most`."""
    has_affinity = hasattr(os, "sched_getaffinity")
    found = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(found, _most or found)


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Use no more cores than `count` meanwhile, in all threads.

    Each core has blocks of rows in work, so fewer take less memory. No result depends on it.
    """
    global _most  # noqa: PLW0603 - as the machine, it is the same for all
    before, _most = _most, count
    try:
        yield
    finally:
        _most = before
