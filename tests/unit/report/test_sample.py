"""Which points are drawn where all are too many."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from gpucluster.report.sample import CELLS, FEW, few_of_each, sample


@given(st.integers(0, 400), st.integers(1, 500), st.integers(1, 30), st.integers(0, 99))
def test_as_many_as_asked_for_and_some_of_every_cluster(n_points, count, n_clusters, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, n_clusters, n_points).astype(np.int32)
    coordinates = rng.normal(size=(n_points, 2)).astype(np.float32)
    chosen = sample(labels, coordinates, count)
    assert len(chosen) == min(count, n_points)
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, sample(labels, coordinates, count))
    names, sizes = np.unique(labels, return_counts=True)
    few = few_of_each(labels, count)
    kept = dict(zip(*np.unique(labels[chosen], return_counts=True), strict=True))
    for name, size in zip(names, sizes, strict=True):
        assert kept.get(name, 0) >= min(few, size)


def test_sparse_places_keep_more_and_dense_ones_stay_dense():
    rng = np.random.default_rng(0)
    dense = rng.uniform(0, 0.2, (100_000, 2))
    sparse = rng.uniform(0.8, 1.0, (2_000, 2))
    coordinates = np.concatenate([dense, sparse, [[0, 0], [1, 1]]]).astype(np.float32)
    chosen = sample(np.zeros(len(coordinates), np.int32), coordinates, 5_000)
    n_sparse = np.count_nonzero(chosen >= len(dense))
    # each has a chance that falls with the square root of how many lie in its cell
    counts, *_ = np.histogram2d(*coordinates.T, bins=CELLS)
    of_cells = np.repeat(counts[counts > 0], counts[counts > 0].astype(int))
    rate = brentq(lambda x: np.sum(-np.expm1(-x / np.sqrt(of_cells))) - 5_000, 0, 10)
    at = np.minimum((coordinates[-2_002:] * CELLS).astype(int), CELLS - 1)
    expected = np.sum(-np.expm1(-rate / np.sqrt(counts[tuple(at.T)])))
    assert abs(n_sparse - expected) < 4 * np.sqrt(expected)
    assert 200 < expected < 320  # 98 by a uniform sample, 600 where density itself counts


def test_of_a_small_cluster_some_are_kept_and_not_those_that_come_first():
    labels = np.zeros(20_000, np.int32)
    labels[:200] = 1
    coordinates = np.random.default_rng(0).uniform(size=(len(labels), 2)).astype(np.float32)
    kept = sample(labels, coordinates, 400)
    small = kept[kept < 200]
    assert len(small) >= FEW == few_of_each(labels, 400)
    assert np.count_nonzero(small >= 100) >= FEW / 4
