"""Digits that must survive: any scale, any offset, any number of cores."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_info, threadpool_limits

from gpucluster.algorithms import KMeans
from gpucluster.ops import nearest
from gpucluster.ops.assign import lloyd_step, nearest_center
from gpucluster.ops.blocks import map_blocks
from gpucluster.ops.normalize import row_norms, unit_rows


def normal(n_samples: int, n_features: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_samples, n_features)).astype(np.float32)


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e19, 1e20, 1e37])
def test_unit_rows_do_not_depend_on_the_scale(scale: float) -> None:
    X = normal(200, 12)
    scaled = X * np.float32(scale)
    np.testing.assert_allclose(unit_rows(scaled), unit_rows(X), atol=1e-6)
    exact = np.linalg.norm(scaled.astype(np.float64), axis=1)
    np.testing.assert_allclose(row_norms(scaled), exact, rtol=1e-12)


def test_nearest_center_keeps_its_digits_at_a_large_offset() -> None:
    X = normal(3000, 8) + np.float32(3000)
    centers = X[:40].copy()
    exact = cdist(X.astype(np.float64), centers.astype(np.float64), "sqeuclidean")
    labels = nearest_center(X, centers)
    chosen = exact[np.arange(len(X)), labels]
    np.testing.assert_allclose(chosen, exact.min(axis=1), atol=1e-4)
    step = lloyd_step(X, centers)
    np.testing.assert_array_equal(step.labels, labels)
    np.testing.assert_allclose(step.sqdist, chosen, atol=1e-4)


@pytest.mark.parametrize("tile_centers", [7, 31])
def test_tiles_of_centers_do_not_change_the_result(
    tile_centers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.random.default_rng(0).integers(0, 4, (2500, 3)).astype(np.float32)  # ties everywhere
    centers = X[:60].copy()
    whole = lloyd_step(X, centers)
    monkeypatch.setattr(nearest, "TILE_CENTERS", tile_centers)
    tiled = lloyd_step(X, centers)
    np.testing.assert_array_equal(tiled.labels, whole.labels)
    np.testing.assert_array_equal(tiled.sums, whole.sums)
    np.testing.assert_array_equal(tiled.counts, whole.counts)


def test_overlapping_work_gives_blas_its_threads_back() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        first_inside, second_inside = threading.Event(), threading.Event()

        def first() -> None:
            for _ in map_blocks(lambda rows: rows.start, 2, 1):
                first_inside.set()
                assert second_inside.wait(10)

        def second() -> None:
            assert first_inside.wait(10)
            for _ in map_blocks(lambda rows: rows.start, 2, 1):
                second_inside.set()
                one.join(10)  # the first to enter leaves first
                during.append(blas_threads())

        during: list[list[int]] = []
        one, two = threading.Thread(target=first), threading.Thread(target=second)
        one.start()
        two.start()
        two.join(20)
        assert during == [[1] * len(before)] * 2
        assert blas_threads() == before


def test_overlapping_fits_agree_and_give_blas_its_threads_back() -> None:
    X = normal(4000, 8)
    found: list[np.ndarray] = []
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        threads = [
            threading.Thread(
                target=lambda: found.append(KMeans(n_clusters=5, n_init=1).fit(X).labels_)
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert blas_threads() == before
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
def test_preparation_does_not_depend_on_the_number_of_cores() -> None:
    """The same steps pinned to one core, with one thread, and on all cores, bit for bit."""
    script = (
        "import os, hashlib, numpy as np\n"
        "if os.environ['PIN'] == '1': os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from gpucluster.events import Reporter\n"
        "from gpucluster.preprocess import PCA, UMAP, Whitening\n"
        "stream = np.random.default_rng(0)\n"
        "X = (stream.normal(size=(3000, 60)) @ stream.normal(size=(60, 60))).astype('float32')\n"
        "def tell(*arrays):\n"
        "    for a in arrays:\n"
        "        print(hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest())\n"
        "white = Whitening().fit(X, 'cpu', Reporter()).arrays\n"
        "pca = PCA(n_components=20)\n"
        "umap = UMAP(n_components=2, n_neighbors=10, n_epochs=20)\n"
        "tell(white['mean'], white['eigenvalues'], white['matrix'], Whitening().output(X, white))\n"
        "tell(pca.output(X, pca.fit(X, 'cpu', Reporter()).arrays), umap._start(X))\n"
        "tell(umap.fit(X, 'cpu', Reporter()).arrays['layout'])\n"
    )
    results = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for env in ({"PIN": "0"}, {"PIN": "1"}, {"PIN": "0", "OMP_NUM_THREADS": "1"})
    ]
    assert len(results[0]) == 7
    assert results[1] == results[0]
    assert results[2] == results[0]
