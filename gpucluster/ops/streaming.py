"""Rows that come to where the work runs, block by block, in blocks that fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpucluster.device.arrays import is_on_gpu, namespace, to_device
from gpucluster.device.memory import available_bytes, rows_per_block
from gpucluster.device.select import Device
from gpucluster.events import Reporter
from gpucluster.ops.blocks import read_ahead, row_blocks

STREAM_BYTES = 1 << 30  # of a block: large enough that launches cost nothing beside it
SPARE_BYTES = 2 << 30  # of a GPU: tiles, blocks, centres, what the libraries take
FEWEST_ROWS = 1024  # of a block that is still halved


def placed(X: Any, needed_bytes: int) -> Any:
    """Return rows of the host on the GPU, where there is room for work that needs so many bytes.

    Otherwise as they are; `each_block` brings them block by block.
    """
    if is_on_gpu(X) or needed_bytes > available_bytes("gpu"):
        return X
    try:
        return to_device(X, "gpu")
    except MemoryError:  # somebody else took it
        return X


def workplace(X: Any, device: Device) -> tuple[Any, Any]:
    """Return the rows for one or two passes on a device, and numpy or CuPy.

    They are on the device where it has room for them and as much again.
    """
    if device == "cpu":
        return X, np
    import cupy

    return placed(X, 2 * X.nbytes + SPARE_BYTES), cupy


def each_block(
    work: Callable[[slice, Any], None],
    X: Any,
    xp: Any,
    reporter: Reporter | None = None,
) -> None:
    """Call ``work(rows, block)`` for each block of rows, in order, in arrays of `xp`.

    Rows of a host that are needed on a GPU come block by block, the next one while one is worked
    on. When memory runs out, the block is done again as two.

    Parameters
    ----------
    work : callable
        May be called again for rows of a call that ran out of memory.
    X : array of shape (n_rows, n_features), float32, C-contiguous
    xp : module
        NumPy or CuPy: where the work runs.
    reporter : Reporter, optional
        Asked for cancellation after each block, and told that blocks became smaller.

    Raises
    ------
    MemoryError
        Not even the smallest blocks fit.

    Notes
    -----
    Blocks depend on the shape of `X` alone, whether it has to come or not. Extra memory: up to
    three blocks where it has to.
    """
    block_rows = min(rows_per_block(4 * X.shape[1], STREAM_BYTES), max(1, len(X)))
    start = 0
    while start < len(X):
        try:
            for rows, block in _arriving(X, xp, start, block_rows):
                work(rows, block)
                start = rows.stop
                if reporter is not None:
                    reporter.cancel.raise_if_cancelled()
        except MemoryError:
            if block_rows <= FEWEST_ROWS:
                raise
            block_rows = max(FEWEST_ROWS, block_rows // 2)
            if reporter is not None:
                reporter.warn(
                    "smaller_blocks",
                    f"memory ran out: the work goes on with blocks of {block_rows:,} rows",
                )


def _arriving(X: Any, xp: Any, start: int, block_rows: int) -> Iterator[tuple[slice, Any]]:
    """Yield blocks from row `start` on, as arrays of `xp`."""
    blocks = (
        slice(start + rows.start, start + rows.stop)
        for rows in row_blocks(len(X) - start, block_rows)
    )
    if namespace(X) is xp:
        yield from ((rows, X[rows]) for rows in blocks)
        return
    stream = xp.cuda.Stream(non_blocking=True)  # so that blocks come beside the work

    def upload(rows: slice) -> Any:
        with stream:
            there = xp.asarray(X[rows])
            stream.synchronize()
        return there

    for rows, block in read_ahead((rows, upload(rows)) for rows in blocks):
        yield rows, block
        del block
        # its memory belongs to the other stream, which does not wait for work on it
        xp.cuda.get_current_stream().synchronize()
