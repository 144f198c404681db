"""Many small files, fetched together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpucluster.places.paths import Place

TOGETHER = 16  # that are fetched at a time


def readers(paths: Sequence[Place]) -> Iterator[tuple[Place, Callable[[], bytes]]]:
    """Yield small files, and for each what reads the whole of it.

    Those in a bucket are on their way by then, sixteen at a time.
    """
    if all(isinstance(path, Path) for path in paths):
        yield from ((path, path.read_bytes) for path in paths)
        return
    from concurrent.futures import ThreadPoolExecutor

    threads = ThreadPoolExecutor(TOGETHER, "gpucluster-fetch")
    try:
        coming = [threads.submit(path.read_bytes) for path in paths]
        for path, each in zip(paths, coming, strict=True):
            yield path, each.result
    finally:
        threads.shutdown(cancel_futures=True)
