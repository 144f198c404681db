"""Distances that float32 products cannot tell apart, against float64 references."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist

from gpucluster.algorithms import DBSCAN
from gpucluster.events import Reporter
from gpucluster.ops import neighbors as neighbors_module
from gpucluster.ops.connectivity import nearest_cores, radius_components
from gpucluster.ops.neighbors import nearest_neighbors, neighbor_cost
from gpucluster.ops.spanning import mutual_reachability_tree


def repeated_unit_rows() -> np.ndarray:
    X = np.random.default_rng(0).normal(size=(200, 384)).astype(np.float32)
    return np.tile(X / np.linalg.norm(X, axis=1, keepdims=True), (3, 1))


def far_blobs(offset: float, n_samples: int = 600) -> np.ndarray:
    """Two tight blobs on either side of zero: no single centre takes the offset off."""
    generator = np.random.default_rng(1)
    side = np.where(np.arange(n_samples) % 2, offset, -offset)[:, None]
    return (side + generator.normal(scale=0.02, size=(n_samples, 80))).astype(np.float32)


def grid(n_samples: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 3, (n_samples, 20)).astype(np.float32)


AWKWARD = {
    "repeated": repeated_unit_rows(),
    "far 30": far_blobs(30),
    "far 300": far_blobs(300),
    "far 30000": far_blobs(30000),
    "ties": grid(700),
    "tiny": (far_blobs(0) * 1e-21).astype(np.float32),
    "outlier": np.concatenate([far_blobs(0), np.full((1, 80), 1e6, np.float32)]),
    "equal": np.ones((40, 30), np.float32),
}


def sqdist_of(X: np.ndarray) -> np.ndarray:
    return cdist(X.astype(np.float64), X.astype(np.float64), "sqeuclidean")


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("n_neighbors", [2, 10, 38])
def test_neighbors_are_exact_and_ties_go_to_the_lower_row(name: str, n_neighbors: int) -> None:
    X = AWKWARD[name]
    found = nearest_neighbors(X, n_neighbors)
    sqdist = sqdist_of(X)
    expected = np.sort(sqdist, axis=1)[:, :n_neighbors]
    listed = np.take_along_axis(sqdist, found.rows.astype(np.int64), axis=1)
    np.testing.assert_allclose(listed, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(len(X)))
    if name in {"ties", "equal", "repeated"}:  # their distances are the same sum in any order
        np.fill_diagonal(sqdist, -1)
        rank = np.argsort(sqdist, axis=1, kind="stable")[:, :n_neighbors]
        np.testing.assert_array_equal(found.rows, rank)


@pytest.mark.parametrize("name", AWKWARD)
def test_radius_components_agree_with_the_tree_search(name: str) -> None:
    X = AWKWARD[name]
    radius = float(np.sqrt(np.median(np.sort(sqdist_of(X), axis=1)[:, 4]))) or 1e-4
    if name == "ties":
        radius = 3.0  # inclusive, and many pairs lie at it
    brute = DBSCAN(eps=radius, min_samples=4, algorithm="brute").fit(X)
    tree = DBSCAN(eps=radius, min_samples=4, algorithm="kd_tree").fit(X)
    assert brute.info == tree.info
    np.testing.assert_array_equal(brute.labels_, tree.labels_)


def test_repeated_rows_are_clusters() -> None:
    X = AWKWARD["repeated"]
    for algorithm in ("brute", "kd_tree"):
        found = DBSCAN(eps=1e-4, min_samples=3, algorithm=algorithm).fit(X)
        assert found.n_clusters_ == 200
        assert (found.labels_ >= 0).all()


@pytest.mark.parametrize("name", AWKWARD)
def test_a_row_is_within_any_radius_of_itself(name: str) -> None:
    labels, is_core = radius_components(AWKWARD[name], 1e-30, 1)
    assert is_core.all()
    assert (labels >= 0).all()


def test_nearest_cores_are_those_of_the_definition() -> None:
    X, radius = AWKWARD["ties"], 4.0
    sqdist = sqdist_of(X)
    is_core = np.arange(len(X)) % 7 == 0
    rows = np.flatnonzero(~is_core)
    found = nearest_cores(X, rows, is_core, radius, Reporter("test"))
    to_core = np.where(is_core, sqdist[rows], np.inf)
    expected = np.where(to_core.min(axis=1) <= radius**2, to_core.argmin(axis=1), -1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("alpha", [1.0, 0.7])
def test_spanning_tree_is_exact(name: str, alpha: float) -> None:
    X, min_samples = AWKWARD[name], 3
    neighbors = nearest_neighbors(X, min_samples + 2, exact=True)
    tree = mutual_reachability_tree(X, neighbors, min_samples, alpha=alpha)
    distance = np.sqrt(sqdist_of(X))
    core = np.sort(distance, axis=1)[:, min_samples]
    reach = np.maximum(np.maximum(distance / alpha, core[:, None]), core)
    unit = reach.max() or 1.0
    # an edge of weight 0 is no edge to scipy
    exact = (minimum_spanning_tree(reach / unit + 1).data - 1) * unit
    np.testing.assert_allclose(np.sort(tree[:, 2]), np.sort(exact), rtol=1e-9, atol=1e-13 * unit)


def test_exact_lists_are_never_approximated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors_module, "EXACT_LIMIT_FLOP", 0)
    assert nearest_neighbors(grid(100), 5, exact=True).method == "exact"


def test_costs_count_the_copies() -> None:
    matrix = 4 * 1000 * 100
    assert neighbor_cost(1000, 100, 5).bytes >= matrix
    assert DBSCAN().cost(1000, 100, "cpu").bytes >= matrix
    assert DBSCAN(metric="cosine").cost(1000, 100, "cpu").bytes >= 2 * matrix


@pytest.mark.parametrize("metric", ["euclidean", "l2", "cosine"])
def test_a_power_without_minkowski_is_refused(metric: str) -> None:
    with pytest.raises(ValidationError, match="p is 3, but metric"):
        DBSCAN(metric=metric, p=3)
    assert DBSCAN(metric="minkowski", p=3).p == 3


def test_kernels_compile_where_nothing_can_be_cached(tmp_path: Path) -> None:
    script = (
        "from numba.core.dispatcher import Dispatcher\n"
        "def refuse(self):\n"
        "    raise RuntimeError('cannot cache function: no locator available')\n"
        "Dispatcher.enable_caching = refuse\n"
        "import numpy as np\n"
        "from gpucluster.ops.compiled import find\n"
        "print(find(np.array([0, 0, 1], np.int32), 2))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"
