"""Which points are drawn where all are too many."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.report.sample import few_of_each, sample


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
    dense = rng.uniform(0, 0.2, (40_000, 2))
    sparse = rng.uniform(0.8, 1.0, (400, 2))
    coordinates = np.concatenate([dense, sparse]).astype(np.float32)
    labels = np.zeros(len(coordinates), np.int32)
    chosen = sample(labels, coordinates, 4_000)
    n_sparse = np.count_nonzero(chosen >= len(dense))
    uniform = 4_000 * len(sparse) / len(coordinates)
    assert uniform * 1.5 < n_sparse < 1_000
