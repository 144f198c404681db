"""Primitives against plain references, on awkward shapes and with ties."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist
from sklearn.cluster import DBSCAN as SklearnDBSCAN
from sklearn.metrics import adjusted_rand_score

from gpucluster.ops.assign import cluster_sums, lloyd_step, nearest_center
from gpucluster.ops.blocks import map_blocks
from gpucluster.ops.connectivity import radius_components
from gpucluster.ops.moments import moments
from gpucluster.ops.neighbors import nearest_neighbors
from gpucluster.ops.normalize import lies_far, unit_rows
from gpucluster.ops.spanning import mutual_reachability_tree


def normal(n_samples: int, n_features: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_samples, n_features)).astype(np.float32)


def with_ties(n_samples: int, n_features: int) -> np.ndarray:
    """A grid with duplicates: every distance is shared by many pairs."""
    return np.random.default_rng(0).integers(0, 3, (n_samples, n_features)).astype(np.float32)


@pytest.mark.parametrize("X", [normal(700, 9), normal(50, 3) + 1e3, with_ties(600, 4)])
@pytest.mark.parametrize("n_neighbors", [1, 2, 17])
def test_neighbors_are_the_nearest(X: np.ndarray, n_neighbors: int) -> None:
    found = nearest_neighbors(X, n_neighbors)
    exact = np.sort(cdist(X, X, "sqeuclidean"), axis=1)[:, :n_neighbors]
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(len(X)))
    np.testing.assert_allclose(found.sqdist, exact, rtol=1e-4, atol=1e-4)
    for listed in found.rows:
        assert len(set(listed.tolist())) == n_neighbors


@pytest.mark.parametrize("X", [normal(400, 70), with_ties(300, 5), np.ones((40, 3), np.float32)])
@pytest.mark.parametrize(("min_samples", "alpha"), [(1, 1.0), (5, 1.0), (5, 0.7), (39, 1.3)])
def test_spanning_tree_has_the_least_weight(X: np.ndarray, min_samples: int, alpha: float) -> None:
    neighbors = nearest_neighbors(X, min_samples + 1)
    tree = mutual_reachability_tree(X, neighbors, min_samples, alpha=alpha)
    distance = cdist(X.astype(float), X.astype(float))
    core = np.sort(distance, axis=1)[:, min_samples]
    reach = np.maximum(np.maximum(distance / alpha, core[:, None]), core)
    exact = minimum_spanning_tree(reach + 1).data - 1  # an edge of weight 0 is no edge to scipy
    assert tree.shape == (len(X) - 1, 3)
    np.testing.assert_allclose(np.sort(tree[:, 2]), np.sort(exact), rtol=1e-3, atol=2e-4)
    parent = list(range(len(X)))
    for low, high, _ in tree.astype(int):
        assert low < high
        while parent[low] != low:
            low = parent[low]  # noqa: PLW2901
        while parent[high] != high:
            high = parent[high]  # noqa: PLW2901
        assert low != high, "the tree has a cycle"
        parent[high] = low


@pytest.mark.parametrize("eps", [0.3, 1.0, 2.0])
def test_radius_components_are_dbscan(eps: float) -> None:
    X = np.concatenate([normal(5000, 2), normal(200, 2, seed=1) + 8])
    labels, is_core = radius_components(X, eps, 5)
    exact = SklearnDBSCAN(eps=eps, min_samples=5).fit(X)
    np.testing.assert_array_equal(np.flatnonzero(is_core), exact.core_sample_indices_)
    np.testing.assert_array_equal(labels < 0, exact.labels_ < 0)
    core = exact.core_sample_indices_
    assert adjusted_rand_score(labels[core], exact.labels_[core]) == 1


def test_moments_survive_a_large_offset() -> None:
    X = (normal(9000, 12) + 100).astype(np.float32)
    measured = moments(X)
    exact = np.cov(X.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(measured.mean, X.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(measured.covariance, exact, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(
    n_samples=st.integers(1, 3000),
    n_features=st.integers(1, 9),
    n_clusters=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_lloyd_step_matches_its_definition(
    n_samples: int, n_features: int, n_clusters: int, seed: int
) -> None:
    X, centers = normal(n_samples, n_features, seed), normal(n_clusters, n_features, seed + 1)
    step = lloyd_step(X, centers)
    sqdist = cdist(X, centers, "sqeuclidean")
    chosen = sqdist[np.arange(n_samples), step.labels]
    np.testing.assert_allclose(chosen, sqdist.min(axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(step.counts, np.bincount(step.labels, minlength=n_clusters))
    np.testing.assert_allclose(step.sums, cluster_sums(X, step.labels, n_clusters), atol=1e-3)
    np.testing.assert_array_equal(nearest_center(X, centers), step.labels)


def test_unit_rows_keep_zero_rows_and_may_write_in_place() -> None:
    X = normal(10, 4)
    X[3] = 0
    unit = unit_rows(X)
    lengths = np.linalg.norm(unit, axis=1)
    np.testing.assert_allclose(np.delete(lengths, 3), 1, rtol=1e-6)
    assert lengths[3] == 0
    assert unit_rows(X, out=X) is X
    np.testing.assert_array_equal(X, unit)


def test_blocks_come_in_order_and_errors_pass() -> None:
    assert list(map_blocks(lambda rows: rows.start, 10, 3)) == [0, 3, 6, 9]

    def fails(rows: slice) -> None:
        if rows.start == 6:
            raise ValueError("block 6")

    with pytest.raises(ValueError, match="block 6"):
        list(map_blocks(fails, 10, 3))


def test_blocks_within_blocks_do_not_wait_for_each_other() -> None:
    def outer(rows: slice) -> list[int]:
        return list(map_blocks(lambda inner: rows.start + inner.start, 4, 2))

    assert list(map_blocks(outer, 40, 10)) == [[0, 2], [10, 12], [20, 22], [30, 32]]


def test_a_forked_child_has_threads_of_its_own() -> None:
    script = (
        "import os\n"
        "from gpucluster.ops import blocks\n"
        "from gpucluster.ops.blocks import map_blocks\n"
        "assert list(map_blocks(lambda rows: rows.start, 9, 3)) == [0, 3, 6]\n"
        "blocks.one_blas_thread.__enter__()  # as another thread would\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    assert blocks.one_blas_thread._users == 0\n"
        "if not child:\n"
        "    os._exit(list(map_blocks(lambda rows: rows.start, 9, 3)) != [0, 3, 6])\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_labels_do_not_depend_on_the_number_of_cores() -> None:
    """The same fit pinned to one core and on all of them, bit for bit."""
    script = (
        "import os, hashlib, numpy as np\n"
        "if os.environ['PIN'] == '1': os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from gpucluster.algorithms import KMeans\n"
        "X = np.random.default_rng(0).normal(size=(20000, 64)).astype('float32')\n"
        "found = KMeans(n_clusters=300, n_init=1).fit(X)\n"
        "print(hashlib.sha256(found.labels_.tobytes()).hexdigest(), found.info['n_iter'])\n"
    )
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot pin a process to a core")
    results = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PIN": pin},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for pin in ("0", "1")
    }
    assert len(results) == 1


@pytest.mark.parametrize(
    ("offset", "is_unit", "far"),
    [(0, False, False), (3, False, True), (3, True, True), (0, True, False)],
)
def test_a_sample_tells_whether_rows_lie_far_from_zero(
    offset: float, is_unit: bool, far: bool
) -> None:
    X = (offset + np.random.default_rng(0).normal(size=(9000, 8))).astype(np.float32)
    assert lies_far(X, is_unit=is_unit) is far
