"""A stand-in for RMM: a pool of the driver, under a limit. It gives no memory; CuPy asks it."""

from __future__ import annotations

from rmm import mr as mr
