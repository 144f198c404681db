"""The cores of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_limits: list[int] = []  # of all who set one: several runs may be under way


def n_threads() -> int:
    """Return the number of cores that this process may use, within `at_most`."""
    has_affinity = hasattr(os, "sched_getaffinity")
    found = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(found, *_limits) if _limits else found


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Use no more cores than `count` meanwhile, in all threads.

    Each core has blocks of rows in work, so fewer take less memory. No result depends on it.
    """
    _limits.append(count)
    try:
        yield
    finally:
        _limits.remove(count)
