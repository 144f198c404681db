"""Rows that come block by block: in order, in blocks that become smaller when memory runs out."""

from __future__ import annotations

import numpy as np
import pytest

from gpucluster.errors import Cancelled, GpuclusterWarning
from gpucluster.events import CancelToken, Reporter
from gpucluster.ops import streaming
from gpucluster.ops.streaming import FEWEST_ROWS, each_block


def blocks_of(X, limit_rows, reporter=None):
    """Return the rows of each call that memory was enough for."""
    done = []

    def work(rows, block):
        np.testing.assert_array_equal(block, X[rows])
        if len(block) > limit_rows:
            raise MemoryError("too many rows")
        done.append(rows)

    each_block(work, X, np, reporter)
    return done


@pytest.fixture(name="X")
def ten_thousand_rows(monkeypatch):
    X = np.arange(30_000, dtype=np.float32).reshape(10_000, 3)
    monkeypatch.setattr(streaming, "STREAM_BYTES", 4 * 3 * 6000)
    return X


def test_blocks_cover_all_rows_in_order(X) -> None:
    assert blocks_of(X, 6000) == [slice(0, 6000), slice(6000, 10_000)]


def test_blocks_become_smaller_when_memory_runs_out(X) -> None:
    told = []
    reporter = Reporter("cluster", told.append)
    with pytest.warns(GpuclusterWarning, match="goes on with blocks of"):
        done = blocks_of(X, 2000, reporter)
    assert [rows.stop - rows.start for rows in done] == [1500] * 6 + [1000]
    assert [rows.start for rows in done] == list(range(0, 10_000, 1500))
    codes = [event.code for event in told if hasattr(event, "code")]
    assert codes == ["smaller_blocks", "smaller_blocks"]


def test_what_does_not_fit_in_the_smallest_blocks_is_an_error(X) -> None:
    with pytest.raises(MemoryError, match="too many rows"):
        blocks_of(X, FEWEST_ROWS - 1)


def test_a_cancelled_run_stops_between_blocks(X) -> None:
    cancel = CancelToken()
    seen = []

    def work(rows, block):
        seen.append(rows)
        cancel.cancel()

    with pytest.raises(Cancelled):
        each_block(work, X, np, Reporter("cluster", cancel=cancel))
    assert len(seen) == 1
