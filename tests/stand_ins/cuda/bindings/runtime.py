"""The pool of the driver: a number."""

from __future__ import annotations


class cudaMemPool_t(int):  # noqa: N801
    pass
