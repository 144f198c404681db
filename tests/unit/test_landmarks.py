"""Landmarks stand for all rows: weights, means and radii are those of their rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.ops.assign import _step_in_namespace, lloyd_step
from gpucluster.ops.landmarks import landmarks


@settings(max_examples=30, deadline=None)
@given(
    n_samples=st.integers(2, 80),
    n_features=st.integers(1, 6),
    share=st.floats(0.05, 1),
    offset=st.sampled_from([0.0, 100.0]),
    seed=st.integers(0, 2**16),
)
def test_landmarks_describe_their_rows(
    n_samples: int, n_features: int, share: float, offset: float, seed: int
) -> None:
    X = np.random.default_rng(seed).normal(offset, size=(n_samples, n_features)).astype(np.float32)
    found = landmarks(X, max(1, int(share * n_samples)), seed)
    assert found.weights.sum() == n_samples
    np.testing.assert_array_equal(np.bincount(found.labels), found.weights)
    for k, mean in enumerate(found.means):
        rows = X[found.labels == k].astype(np.float64)
        np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-5, atol=1e-4)
        sqdist = ((rows - rows.mean(axis=0)) ** 2).sum(axis=1)
        assert found.mean_sqdist[k] == pytest.approx(sqdist.mean(), rel=1e-3, abs=1e-6)
        assert found.max_sqdist[k] == pytest.approx(sqdist.max(), rel=1e-3, abs=1e-6)


def test_equal_rows_need_one_landmark() -> None:
    found = landmarks(np.ones((50, 3), np.float32), 10, 0)
    assert (found.means == 1).all()
    assert found.weights.sum() == 50
    assert (found.max_sqdist == 0).all()


def test_a_small_remote_group_has_a_landmark_of_its_own() -> None:
    X = np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32)
    X[::1000] += 1000
    found = landmarks(X, 20, 7)
    assert (np.bincount(found.labels[::1000], minlength=20) > 0).sum() >= 1
    assert not set(found.labels[::1000]) & set(np.delete(found.labels, np.s_[::1000]))


def test_landmarks_repeat_themselves_and_follow_the_seed() -> None:
    X = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    first, again, other = landmarks(X, 100, 1), landmarks(X, 100, 1), landmarks(X, 100, 2)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.labels != other.labels).any()


def test_the_body_for_a_gpu_gives_the_same_step() -> None:
    drawn = np.random.default_rng(0)
    X = drawn.normal(size=(2000, 16)).astype(np.float32)
    centers = X[:50].copy()
    ours, theirs = lloyd_step(X, centers), _step_in_namespace(X, centers, None)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    np.testing.assert_allclose(ours.sums, theirs.sums, atol=1e-3)
    np.testing.assert_allclose(ours.sqdist, theirs.sqdist, atol=1e-4)
