"""Neighbours by float16 products are those of differences in float64, ties and all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from gpucluster.device.arrays import to_device, to_host
from gpucluster.events import Progress, Reporter
from gpucluster.ops import bounded, half, half_neighbors
from gpucluster.ops.neighbors import nearest_neighbors


def by_differences(X: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    sqdist = cdist(X.astype(np.float64), X.astype(np.float64), "sqeuclidean")
    np.fill_diagonal(sqdist, -1)
    order = np.argsort(sqdist, axis=1, kind="stable")[:, :n_neighbors]
    return order, np.maximum(np.take_along_axis(sqdist, order, axis=1), 0)


def check(X: np.ndarray, n_neighbors: int, device: str) -> None:
    rows, sqdist = half_neighbors.half_neighbors(to_device(X, device), n_neighbors)
    rows, sqdist = to_host(rows), to_host(sqdist)
    _, expected = by_differences(X, n_neighbors)
    np.testing.assert_allclose(sqdist, expected, rtol=1e-6)
    assert (rows[:, 0] == np.arange(len(X))).all()
    assert all(len(set(row)) == n_neighbors for row in rows.tolist())
    gap = X[rows].astype(np.float64) - X[:, None]
    np.testing.assert_allclose(np.square(gap).sum(axis=2), expected, rtol=1e-9)
    ties = np.diff(sqdist[:, 1:], axis=1) == 0
    exact_ties = np.diff(np.square(gap).sum(axis=2)[:, 1:], axis=1) == 0
    assert (np.diff(rows[:, 1:], axis=1)[ties & exact_ties] > 0).all()


@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(2, 60), st.integers(1, 40)),
    spread=st.sampled_from([1e-4, 1.0]),
    offset=st.sampled_from([0.0, 20.0]),
)
@settings(max_examples=60)
def test_lists_are_those_of_float64(seed, shape, spread, offset) -> None:
    stream = np.random.default_rng(seed)
    middles = stream.normal(size=(3, shape[1])) + offset
    X = middles[stream.integers(0, 3, shape[0])] + spread * stream.normal(size=shape)
    X[::5] = X[0]  # equal rows
    check(X.astype(np.float32), min(shape[0], 1 + seed % 12), "cpu")


@pytest.mark.parametrize("n_neighbors", [2, 16, 110])
def test_lists_on_each_device(n_neighbors: int, device: str) -> None:
    stream = np.random.default_rng(0)
    X = stream.normal(size=(300, 24)).astype(np.float32)
    X[5::9] = X[5] + np.float32(1e-4) * stream.normal(size=X[5::9].shape).astype(np.float32)
    check(X, n_neighbors, device)


def test_grey_levels_have_ties_everywhere(device: str) -> None:
    X = np.random.default_rng(0).integers(0, 3, size=(200, 6)).astype(np.float32)
    check(X, 9, device)


def test_one_row_far_away_costs_no_other_row_its_proof(device: str, monkeypatch) -> None:
    looked = []
    again = half_neighbors._look_again

    def counted(*given):
        looked.append(len(given[4]))
        again(*given)

    monkeypatch.setattr(half_neighbors, "_look_again", counted)
    X = np.random.default_rng(0).normal(size=(400, 32)).astype(np.float32)
    X[7] *= np.float32(1e5)
    check(X, 8, device)
    assert sum(looked) < 20


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(1).normal(size=(230, 11)).astype(np.float32)
    whole = half_neighbors.half_neighbors(X, 12)
    monkeypatch.setattr(half, "TILE_COLS", 37)
    monkeypatch.setattr(bounded, "TILE_COLS", 37)
    monkeypatch.setattr(half, "TILE_BYTES", 4 * 37 * 50)
    monkeypatch.setattr(half_neighbors, "RANKED_BYTES", 24 * 20 * 60)
    monkeypatch.setattr(bounded, "TILE_BYTES", 12 * 37 * 5)
    monkeypatch.setattr(bounded, "MOST_PAIRS", 30)
    told = []
    cut = half_neighbors.half_neighbors(X, 12, Reporter("prepare", told.append))
    np.testing.assert_array_equal(cut[0], whole[0])
    np.testing.assert_array_equal(cut[1], whole[1])
    assert [each.done for each in told if isinstance(each, Progress)] == [50, 100, 150, 200, 230]


def test_lists_longer_than_the_kernel_keeps(device: str) -> None:
    X = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    n_neighbors = half_neighbors.most_half_neighbors() + 20
    found = nearest_neighbors(to_device(X, device), n_neighbors)
    expected, sqdist = by_differences(X, n_neighbors)
    np.testing.assert_allclose(to_host(found.sqdist), sqdist, rtol=1e-3, atol=1e-4)
    assert (to_host(found.rows) == expected).mean() > 0.99
