"""The emulator catches what tests of kernels are for: each planted mistake is found."""

from __future__ import annotations

import numpy as np
import pytest

from gpucluster.device.kernels import (
    FOLD_NEAREST,
    FOLD_NEIGHBORS,
    SCAN_CAST,
    SEGMENT_SUMS,
    read_source,
)
from tests.kernels import emulator

FLOAT_MAX = np.finfo(np.float32).max


def changed(spec, old, new):
    source = read_source(spec.file)
    assert source.count(old) == 1
    return source.replace(old, new)


def column_sums(library, schedule):
    X, shift = np.ones((64, 40), np.float32), np.zeros(40, np.float32)
    X[::2, 3] = np.nan
    cast, flags = np.empty(X.shape, np.float16), np.zeros(64, np.uint8)
    scales, norms, residuals = np.empty((3, 64), np.float32)
    sums = np.empty((1, 40), np.float32)
    values = X, shift, 64, 40, 64, 0, 1, cast, scales, norms, residuals, flags, sums
    emulator.run(library, SCAN_CAST, *values, schedule=schedule)
    return sums


def test_a_missing_barrier_is_seen_under_some_schedule(libraries) -> None:
    whole = emulator.build(SCAN_CAST, libraries)
    broken = emulator.build(SCAN_CAST, libraries, changed(SCAN_CAST, "  __syncthreads();", ""))
    found = [column_sums(broken, schedule) for schedule in emulator.SCHEDULES]
    assert all((column_sums(whole, schedule) == 32).all() for schedule in emulator.SCHEDULES)
    assert not all((sums == 32).all() for sums in found)


def test_a_barrier_that_some_threads_never_reach_is_reported(libraries) -> None:
    source = changed(SCAN_CAST, "  __syncthreads();", "  if (threadIdx.x < 8) __syncthreads();")
    library = emulator.build(SCAN_CAST, libraries, source)
    with pytest.raises(emulator.DivergentBarrierError, match="scan_cast_f32"):
        column_sums(library, 0)


def test_a_wrong_tie_is_seen(libraries) -> None:
    source = changed(FOLD_NEAREST, "b.index < a.index", "b.index > a.index")
    library = emulator.build(FOLD_NEAREST, libraries, source)
    dots, columns = np.zeros((2, 40), np.float32), np.zeros((5, 40), np.float32)
    of_rows = np.ones((3, 2), np.float32)
    skip, label = np.full(2, -1, np.int32), np.full(2, np.iinfo(np.int32).max, np.int32)
    kept = np.full((3, 2), -FLOAT_MAX, np.float32)
    sizes = 0, 2, 40, 0, 40
    emulator.run(library, FOLD_NEAREST, dots, *sizes, columns, *of_rows, skip, *kept, label)
    assert (label != 0).any()


def neighbors(library, dots, n_kept=40):
    n_others = dots.shape[1]
    columns = np.zeros((5, n_others), np.float32)
    columns[0] = 1
    of_rows, skip = np.ones((3, 1), np.float32), np.full(1, -1, np.int32)
    bounds = np.full((1, n_kept), -FLOAT_MAX, np.float32)
    found = np.full((1, n_kept), np.iinfo(np.int32).max, np.int32)
    sizes = 0, 1, n_others, 0, n_others
    given = dots, *sizes, columns, *of_rows, skip, n_kept, bounds, found
    emulator.run(library, FOLD_NEIGHBORS, *given)
    return found[0].tolist()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("kept[s] >= value", "kept[s] > value"),  # the later of equal ones first
        ("index_before = index_end;", ""),  # between two slots of a lane
        ("if (here > place)", "if (here > place && lane > 0)"),
    ],
)
def test_a_list_out_of_order_is_seen(libraries, right: str, wrong: str) -> None:
    equal = np.zeros((1, 70), np.float32)
    rising = np.arange(70, dtype=np.float32)[None]  # each pushes what was kept from slot to slot
    whole = emulator.build(FOLD_NEIGHBORS, libraries)
    assert neighbors(whole, equal) == list(range(40))
    assert neighbors(whole, rising) == list(range(69, 29, -1))
    broken = emulator.build(FOLD_NEIGHBORS, libraries, changed(FOLD_NEIGHBORS, right, wrong))
    found = neighbors(broken, equal), neighbors(broken, rising)
    assert found != (list(range(40)), list(range(69, 29, -1)))


def test_an_unguarded_tail_is_seen(libraries) -> None:
    spec = SEGMENT_SUMS["float32"]
    source = changed(spec, "f < n_features; f += blockDim.x", "f < blockDim.x; f += blockDim.x")
    library = emulator.build(spec, libraries, source)
    X, order, starts = np.ones((1, 300), np.float32), np.zeros(1, np.int32), np.array([0, 1])
    sums = np.zeros((1, 300))
    emulator.run(library, spec, X, order, starts, 1, 300, sums)
    assert (sums != 1).any()


def test_sources_are_one_text_each_file_once() -> None:
    source = read_source("fold_nearest.cu")
    assert '#include "' not in source
    assert "#pragma once" not in source
    assert source.count("struct Nearest") == source.count("const int LANES") == 1
