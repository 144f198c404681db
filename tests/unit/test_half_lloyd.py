"""Lloyd's iteration by proven labels goes the way of the one with bounds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gpucluster.device.arrays import to_device, to_host
from gpucluster.ops import streaming
from gpucluster.ops.assign import SEGMENT_ROWS, cluster_sums, segment_parts
from gpucluster.ops.half_lloyd import HalfLloyd
from gpucluster.ops.lloyd import Lloyd


@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_both_go_the_same_way(offset: float, device: str) -> None:
    stream = np.random.default_rng(0)
    X = (stream.normal(size=(3000, 24)) + offset).astype(np.float32)
    start = X[:30].copy()
    bounds, halves = Lloyd(X, start), HalfLloyd(to_device(X, device), to_device(start, device))
    for _ in range(12):
        np.testing.assert_array_equal(to_host(halves.labels), bounds.labels)
        np.testing.assert_allclose(to_host(halves.means()), bounds.means(), rtol=1e-6, atol=1e-6)
        moved = bounds.means()
        went = halves.move(to_device(moved, device))
        assert went == pytest.approx(bounds.move(moved), rel=1e-9)
    np.testing.assert_allclose(to_host(halves.sqdist()), bounds.sqdist(), rtol=1e-9)


def test_rows_that_come_in_blocks_go_the_same_way(device, monkeypatch) -> None:
    monkeypatch.setattr(streaming, "STREAM_BYTES", 4 * 24 * 700)
    stream = np.random.default_rng(0)
    X = stream.normal(size=(3000, 24)).astype(np.float32)
    centers = to_device(X[:30].copy(), device)
    held, comes = HalfLloyd(to_device(X, device), centers), HalfLloyd(X, centers)
    for _ in range(4):
        np.testing.assert_array_equal(to_host(comes.labels), to_host(held.labels))
        means = held.means()
        np.testing.assert_array_equal(to_host(comes.means()), to_host(means))
        assert comes.move(means) == held.move(means)
    np.testing.assert_array_equal(to_host(comes.sqdist()), to_host(held.sqdist()))


def test_an_empty_cluster_gets_the_farthest_row(device: str) -> None:
    X = np.array([[0, 0], [0, 1], [1, 0], [9, 9]], np.float32)
    far = np.array([[0, 0], [50, 50]], np.float32)
    lloyd = HalfLloyd(to_device(X, device), to_device(far, device))
    assert to_host(lloyd.means())[1].tolist() == [9, 9]


def test_segments_are_cut_into_parts_in_order() -> None:
    stream = np.random.default_rng(0)
    labels = np.sort(stream.integers(-1, 5, 4000))
    labels[labels == 2] = 3  # an empty one
    bounds = np.searchsorted(labels, np.arange(6))
    starts, firsts = segment_parts(bounds)
    assert starts[0] == bounds[0]
    assert starts[-1] == len(labels)
    assert (np.diff(starts) > 0).all()
    assert (np.diff(starts) <= SEGMENT_ROWS).all()
    np.testing.assert_array_equal(starts[firsts], bounds)
    X = stream.normal(size=(4000, 3)).astype(np.float32)
    parts = np.add.reduceat(X.astype(np.float64), starts[:-1])
    sums = [parts[a:b].sum(axis=0) for a, b in pairwise(firsts)]
    np.testing.assert_allclose(sums, cluster_sums(X, labels.astype(np.int32), 5))
