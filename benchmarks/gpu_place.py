"""Where `gpu.py` works: numpy or CuPy, how time is taken there, what fits, and data made there."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from cases import NOISE_SHARE, SPREAD
from gpu_record import DeviceLostError

SHARE_OF_MEMORY = 0.6  # of what is free, for the rows of a subject and what they need
MADE_VALUES = 1 << 24  # at a time, by the generator


@dataclass(frozen=True)
class Limits:
    """The largest shapes of a run."""

    rows: int
    features: int
    clusters: int


Case = tuple[int, int, int]  # rows, features, clusters
SCALES = {
    "full": Limits(sys.maxsize, sys.maxsize, sys.maxsize),
    "small": Limits(200_000, sys.maxsize, 1000),
    "cpu": Limits(2000, 64, 50),
}


@dataclass(frozen=True)
class Shape:
    """Rows, features and clusters of a subject; `wanted` is how many rows there should be."""

    rows: int
    features: int
    clusters: int
    wanted: int

    @property
    def case(self) -> str:
        """The name of the case."""
        scaled = "" if self.is_whole else f" (of {self.wanted:,})"
        clusters = f", k={self.clusters}" if self.clusters else ""
        return f"{self.rows:,} x {self.features}{clusters}{scaled}"

    @property
    def is_whole(self) -> bool:
        """Whether there are as many rows as there should be."""
        return self.rows == self.wanted

    def at_full(self, ms: float) -> float:
        """Return milliseconds for these rows, of a goal for all, of what takes time by the row."""
        return ms * self.rows / self.wanted


def graded(sizes: Iterable[int], limit: int) -> dict[int, int]:
    """Return for each size one within the limit: where they are cut, the next is half of it."""
    falling = sorted(set(sizes), reverse=True)
    if falling[0] <= limit:
        return {size: size for size in falling}
    return {size: min(size, max(2, limit >> place)) for place, size in enumerate(falling)}


class Place:
    """A device, and how large and how often subjects are on it."""

    def __init__(self, device: Literal["cpu", "gpu"], limits: Limits, repeats: int) -> None:
        self.device, self.limits, self.repeats = device, limits, repeats
        self.xp: ModuleType = np
        if self.on_gpu:
            import cupy

            from gpucluster.device.memory import open_pool

            open_pool()  # as in a run: cuML would bring an allocator of its own
            self.xp = cupy

    @property
    def on_gpu(self) -> bool:
        """Whether this is a GPU."""
        return self.device == "gpu"

    def shape(
        self, rows: int, features: int, clusters: int = 0, *, row_bytes: int | None = None
    ) -> Shape:
        """Return a shape within the limits, of rows that fit; they need `row_bytes` each."""
        from gpucluster.device.memory import available_bytes

        n_features = min(features, self.limits.features)
        most = min(rows, self.limits.rows)
        each = row_bytes if row_bytes is not None else 4 * features
        free = available_bytes(self.device)
        fitting = int(SHARE_OF_MEMORY * free) // each
        if fitting < most:
            most = max(1000, fitting // 1000 * 1000)
        n_clusters = min(clusters, self.limits.clusters, max(2, most // 10)) if clusters else 0
        return Shape(most, n_features, n_clusters, rows)

    def within(self, cases: list[Case]) -> list[Case]:
        """Return cases within the limits, each once; what differs goes on to, if it can."""
        features = graded((case[1] for case in cases), self.limits.features)
        clusters = graded((case[2] for case in cases), self.limits.clusters)
        found: dict[Case, Case] = {}
        for rows, n_features, n_clusters in cases:
            sizes = features[n_features], clusters[n_clusters]
            found.setdefault((min(rows, self.limits.rows), *sizes), (rows, *sizes))
        return list(found.values())

    def synchronize(self) -> None:
        """Wait until the device has done all."""
        if self.on_gpu:
            self.xp.cuda.Device().synchronize()

    def check(self) -> None:
        """Raise where the device can be used no more: a fault ends the context of its process."""
        if not self.on_gpu:
            return
        try:
            self.xp.arange(8).sum().get()
            self.synchronize()
        except Exception as error:
            raise DeviceLostError(str(error)) from error

    def clear(self) -> None:
        """Give memory back, so that each subject finds what the first one found."""
        gc.collect()
        if self.on_gpu:
            from gpucluster.device.arrays import forget_resident
            from gpucluster.device.memory import free_pools

            forget_resident()
            free_pools()
            self.xp.get_default_memory_pool().free_all_blocks()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def host(self, array: Any) -> Any:
        """Return an array on the host."""
        return self.xp.asnumpy(array) if self.on_gpu else np.asarray(array)

    def time(
        self, work: Callable[[], Any], *, most_s: float = 6.0, repeats: int | None = None
    ) -> dict[str, Any]:
        """Return the median of several times of some work, in milliseconds, after one that warms.

        By CUDA's events, on the stream that CuPy and torch share; `wall_ms` is by the clock, from
        a device at rest to a device at rest. No repeat begins after `most_s`, the warm one
        counted in, but there is one at least.
        """
        begun = time.perf_counter()
        self._once(work)
        runs = []
        for _ in range(repeats or self.repeats):
            runs.append(self._once(work))
            if time.perf_counter() - begun > most_s:
                break
        median = statistics.median(run["ms"] for run in runs)
        return {
            "ms": median,
            "wall_ms": statistics.median(run["wall_ms"] for run in runs),
            "spread": (max(r["ms"] for r in runs) - min(r["ms"] for r in runs)) / (median or 1),
            "repeats": len(runs),
            "runs": runs,
        }

    def _once(self, work: Callable[[], Any]) -> dict[str, float]:
        self.synchronize()
        begun = time.perf_counter()
        if not self.on_gpu:
            work()
            wall = 1e3 * (time.perf_counter() - begun)
            return {"ms": wall, "wall_ms": wall}
        cuda = self.xp.cuda
        first, last = cuda.Event(), cuda.Event()
        first.record()
        kept = work()
        last.record()
        self.synchronize()
        wall = 1e3 * (time.perf_counter() - begun)
        del kept
        return {"ms": float(cuda.get_elapsed_time(first, last)), "wall_ms": wall}

    # Data, made where they are needed: uploading would take longer than most subjects.

    def uniform(self, n_values: int, seed: int) -> Any:
        """Return uniform numbers above 0 and up to 1, float32: hashed counters, the same anywhere.

        The hash is lowbias32 of C. Wellons' hash-prospector.
        """
        xp = self.xp
        key = int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0])
        bits = xp.arange(n_values, dtype=np.uint32)
        bits *= np.uint32(0x9E3779B1)
        bits += np.uint32(key)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            bits ^= bits >> np.uint32(shift)
            bits *= np.uint32(factor)
        found = (bits >> np.uint32(8)).astype(np.float32)
        found += np.float32(1)
        found *= np.float32(2.0**-24)
        return found

    def normal(self, rows: int, features: int, seed: int) -> Any:
        """Return a matrix of normal numbers, float32, by Box and Muller."""
        xp = self.xp
        out = xp.empty((rows, features), np.float32)
        step = max(1, MADE_VALUES // features)
        for number, start in enumerate(range(0, rows, step)):
            block = out[start : start + step]
            half = -(-block.size // 2)
            radius = self.uniform(half, 2 * (seed * 100_003 + number))
            angle = self.uniform(half, 2 * (seed * 100_003 + number) + 1)
            radius = xp.sqrt(np.float32(-2) * xp.log(radius))
            angle *= np.float32(2 * np.pi)
            made = xp.concatenate((radius * xp.cos(angle), radius * xp.sin(angle)))
            block[...] = made[: block.size].reshape(block.shape)
        return out

    def directions(self, clusters: int, features: int, seed: int) -> Any:
        """Return random rows of unit length, float32."""
        found = self.normal(clusters, features, seed)
        found /= self.xp.sqrt((found * found).sum(axis=1))[:, None]
        return found

    def clustered(
        self,
        rows: int,
        features: int,
        clusters: int,
        seed: int = 0,
        *,
        spread: float = SPREAD,
        tail: bool = False,
    ) -> tuple[Any, Any]:
        """Return rows around random directions, and their labels, int32.

        With `tail`, the shares of clusters fall as one over their number, and a tenth of the rows
        lies anywhere, labelled -1; as the synthetic sets of `cases`.
        """
        xp = self.xp
        centers = self.directions(clusters, features, 7 * seed + 1)
        shares = 1 / np.arange(1, clusters + 1) if tail else np.ones(clusters)
        ends = xp.asarray(np.cumsum(shares / shares.sum())[:-1].astype(np.float32))
        labels = xp.searchsorted(ends, self.uniform(rows, 7 * seed + 2)).astype(np.int32)
        X = self.normal(rows, features, 7 * seed + 3)
        X *= np.float32(spread / features**0.5)
        is_noise = self.uniform(rows, 7 * seed + 4) < np.float32(NOISE_SHARE if tail else 0)
        step = max(1, MADE_VALUES // features)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            kept = xp.where(is_noise[part], 0, 1).astype(np.float32)
            X[part] += centers[labels[part]] * kept[:, None]
        labels[is_noise] = -1
        return X, labels
