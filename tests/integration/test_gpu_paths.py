"""Every path of a GPU gives what the path of the CPU gives: on stand-ins, and on a GPU.

The stand-ins round as numpy does, so what is compared here is the flow around kernels and
libraries. Labels agree but for rows that lie between two clusters (adjusted Rand index), numbers
to the tolerances at the tests.
"""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

import gpucluster
from gpucluster.algorithms import (
    DBSCAN,
    HDBSCAN,
    OPTICS,
    Agglomerative,
    Algorithm,
    GaussianMixture,
    KMeans,
    MeanShift,
    Spectral,
    catalogue,
)
from gpucluster.device.kernels import SEGMENT_SUMS, launch, read_source
from gpucluster.errors import OutOfMemoryError
from gpucluster.events import Reporter
from gpucluster.ops.neighbors import nearest_neighbors
from gpucluster.preprocess import PCA, STEP_TYPES, UMAP, Step, Whitening
from gpucluster.preprocess.normalize import Center, L2Normalize
from gpucluster.preprocess.pca import RemoveTopComponents

STAND_INS = Path(__file__).parents[1] / "stand_ins"
pytestmark = pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")

EVERY = {
    "kmeans": KMeans(n_clusters=4),
    "kmeans-cosine": KMeans(n_clusters=4, metric="cosine"),
    "dbscan": DBSCAN(eps=2.5),
    "dbscan-cosine": DBSCAN(eps=0.05, metric="cosine"),
    "hdbscan": HDBSCAN(min_cluster_size=15),
    "hdbscan-leaf": HDBSCAN(min_cluster_size=15, cluster_selection_method="leaf", min_samples=3),
    "agglomerative-ward": Agglomerative(n_clusters=4),
    "agglomerative-average": Agglomerative(n_clusters=4, linkage="average"),
    "agglomerative-complete": Agglomerative(n_clusters=4, linkage="complete", affinity="cosine"),
    "agglomerative-single": Agglomerative(n_clusters=4, linkage="single"),
    "spectral-rbf": Spectral(n_clusters=4),
    "spectral-neighbors": Spectral(n_clusters=4, affinity="nearest_neighbors"),
    **{
        f"gaussian_mixture-{form}": GaussianMixture(n_components=4, covariance_type=form)
        for form in ("full", "tied", "diag", "spherical")
    },
    "gaussian_mixture-random": GaussianMixture(n_components=4, init_params="random"),
    "mean_shift": MeanShift(bandwidth=4),
    "mean_shift-estimated": MeanShift(),
    "mean_shift-bins": MeanShift(bandwidth=4, bin_seeding=True, cluster_all=False),
    "optics": OPTICS(min_samples=10, xi=0.5, min_cluster_size=0.1),
    "optics-dbscan": OPTICS(cluster_method="dbscan", eps=2.5),
}
algorithms = pytest.mark.parametrize("algorithm", EVERY.values(), ids=EVERY.keys())

STEPS = [
    Whitening(),
    Whitening(regularization=0.5, regularization_mode="relative"),
    UMAP(n_components=2, n_neighbors=10, n_epochs=100),
    UMAP(n_components=2, n_neighbors=10, n_epochs=100, metric="euclidean"),
    PCA(n_components=4),
    L2Normalize(),
    Center(),
    RemoveTopComponents(n_components=2),
]


def blobs(n_samples: int = 300, n_features: int = 12, seed: int = 0) -> tuple[Any, Any]:
    centers = np.random.default_rng(seed).normal(size=(4, n_features)) * 4
    X, y = make_blobs(n_samples, centers=centers, cluster_std=0.6, random_state=seed)
    return np.ascontiguousarray(X, np.float32), y


def test_every_algorithm_and_step_is_here() -> None:
    assert {type(algorithm) for algorithm in EVERY.values()} == set(catalogue().values())
    with_path = {step for step in STEP_TYPES.values() if step.has_gpu_path}
    assert with_path <= {type(step) for step in STEPS}


@algorithms
def test_an_algorithm_finds_the_clusters_of_the_cpu(algorithm: Algorithm, device: str) -> None:
    X, y = blobs()
    X.setflags(write=False)
    assert algorithm.gpu_obstacle(X) is None
    here, there = algorithm.fit(X), algorithm.fit(X, device=device)
    assert adjusted_rand_score(here.labels_, there.labels_) > 0.99
    assert adjusted_rand_score(y, there.labels_) > adjusted_rand_score(y, here.labels_) - 0.01
    assert there.n_clusters_ == here.n_clusters_
    bandwidths = [each.info.get("bandwidth", 0) for each in (here, there)]
    assert bandwidths[0] == pytest.approx(bandwidths[1], rel=1e-4)
    assert isinstance(there.labels_, np.ndarray)
    json.dumps(dict(there.info))
    if device == "gpu":
        assert there.backend in {"cupy", "cuml"}


# What many rows or features take another way for, at numbers that are small enough here.
LARGE: dict[str, tuple[Algorithm, dict[str, Any]]] = {
    "spectral-lanczos": (Spectral(n_clusters=4), {"ops.eigenvectors.FULL_ROWS": 20}),
    "spectral-landmarks": (
        Spectral(n_clusters=4, gamma=0.05),
        {"algorithms.spectral.EXACT_ROWS": 100, "algorithms.spectral.N_LANDMARKS": 90},
    ),
    "gaussian_mixture-low_rank": (
        GaussianMixture(n_components=4),
        {"algorithms.gaussian_mixture.EXACT_PRODUCTS": 1},
    ),
    "mean_shift-landmarks": (
        MeanShift(bandwidth=6),
        {
            "algorithms.mean_shift.EXACT_LIMIT_FLOP": 1e4,
            "algorithms.mean_shift.N_LANDMARKS": 90,
        },
    ),
    "ward-landmarks": (
        Agglomerative(n_clusters=4),
        {"algorithms.agglomerative.WARD_EXACT_S": 0.0, "algorithms.agglomerative.LANDMARKS": 90},
    ),
    "average-landmarks": (
        Agglomerative(n_clusters=4, linkage="average"),
        {"algorithms.agglomerative.MATRIX_ROWS": 100, "algorithms.agglomerative.LANDMARKS": 90},
    ),
    "optics-compared": (
        OPTICS(min_samples=10, xi=0.5, min_cluster_size=0.1),
        {"ops.ordering.COMPARED_ROWS": 4, "algorithms.optics.LISTED": 12},
    ),
}


@pytest.mark.parametrize(("algorithm", "sizes"), LARGE.values(), ids=LARGE.keys())
def test_so_it_does_where_there_is_more(
    algorithm: Algorithm, sizes: dict[str, Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in sizes.items():
        monkeypatch.setattr(f"gpucluster.{name}", value)
    X, y = blobs(400, 40)
    here, there = algorithm.fit(X), algorithm.fit(X, device=device)
    assert there.method == here.method
    assert adjusted_rand_score(y, here.labels_) > 0.95
    assert adjusted_rand_score(here.labels_, there.labels_) > 0.99


@pytest.mark.parametrize(("n_bytes", "method"), [(64 << 30, "exact"), (1 << 30, "streamed")])
def test_rows_that_do_not_fit_come_block_by_block(
    n_bytes: int, method: str, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpucluster.ops.seeding.SEEDING_ROWS", 100)
    monkeypatch.setattr("gpucluster.ops.streaming.STREAM_BYTES", 4096)
    stand_in.stand_in.total_bytes = n_bytes
    X, _ = blobs(600)
    found = KMeans(n_clusters=4).fit(X, device="gpu")
    assert found.method == method
    np.testing.assert_array_equal(found.labels_, KMeans(n_clusters=4).fit(X).labels_)


def test_affinities_that_are_given(device: str) -> None:
    X, y = blobs(160)
    affinities = np.exp(-0.02 * np.square(X[:, None] - X).sum(axis=2)).astype(np.float32)
    found = Spectral(n_clusters=4, affinity="precomputed").fit(affinities, device=device)
    assert adjusted_rand_score(y, found.labels_) == 1


def test_rows_far_from_the_origin(device: str) -> None:
    X, y = blobs(200)
    X += 300
    for algorithm in (EVERY["kmeans"], EVERY["mean_shift"], EVERY["gaussian_mixture-full"]):
        assert adjusted_rand_score(y, algorithm.fit(X, device=device).labels_) > 0.99


@algorithms
def test_equal_rows_are_no_obstacle_or_one_that_is_known(algorithm: Algorithm, device: str) -> None:
    X, _ = blobs(120)
    X = np.concatenate([X, X[:30], X[:30]])
    if algorithm.gpu_obstacle(X) is not None:
        pytest.skip("it says that it cannot")
    here, there = algorithm.fit(X), algorithm.fit(X, device=device)
    assert adjusted_rand_score(here.labels_, there.labels_) > 0.99
    np.testing.assert_array_equal(there.labels_[:30], there.labels_[120:150])


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.method)
def test_a_step_learns_what_the_cpu_learns(step: Step, device: str) -> None:
    X, y = blobs()
    X.setflags(write=False)
    here, there = (step.fit(X, each, Reporter()) for each in ("cpu", device))
    assert all(isinstance(array, np.ndarray) for array in there.arrays.values())
    json.dumps(dict(there.info))
    before, after = step.output(X, here.arrays), step.output(X, there.arrays)
    assert after.dtype == np.float32
    if isinstance(step, UMAP):  # another layout, of the same clusters
        found = KMeans(n_clusters=4).fit(after).labels_
        assert adjusted_rand_score(y, found) > 0.95
    else:  # an axis may point either way
        signs = np.sign((before * after).sum(axis=0)) if isinstance(step, PCA) else 1
        np.testing.assert_allclose(after * signs, before, rtol=1e-3, atol=1e-3)


def test_neighbours_are_those_of_the_cpu(device: str) -> None:
    from gpucluster.device.arrays import to_device, to_host

    X, _ = blobs()
    here, there = nearest_neighbors(X, 10), nearest_neighbors(to_device(X, device), 10)
    sqdist = to_host(there.sqdist)
    np.testing.assert_allclose(sqdist, here.sqdist, rtol=1e-3, atol=1e-3)
    assert (to_host(there.rows) == here.rows).mean() > 0.99


def test_a_full_device_is_an_error_of_ours(stand_in: Any) -> None:
    X, _ = blobs()
    stand_in.stand_in.total_bytes = X.nbytes + 4096
    with pytest.raises(OutOfMemoryError, match="ran out of GPU memory"):
        GaussianMixture(n_components=4).fit(X, device="gpu")
    assert stand_in.stand_in.used_bytes() < X.nbytes + 4096


def test_a_fit_leaves_nothing_on_the_device(stand_in: Any) -> None:
    X, _ = blobs()
    for algorithm in EVERY.values():
        algorithm.fit(X, device="gpu")
        assert stand_in.stand_in.used_bytes() == 0, algorithm.name


WHOLE = np.arange(12, dtype=np.float32).reshape(3, 4)
REFUSED: dict[str, tuple[type[Exception], Callable[[Any, Any], object]]] = {
    "an operand of the host": (TypeError, lambda cp, x: x + WHOLE),
    "an operand before it": (TypeError, lambda cp, x: WHOLE + x),
    "an array of numpy in place": (TypeError, lambda cp, x: operator.iadd(WHOLE.copy(), x)),
    "an argument of the host": (TypeError, lambda cp, x: cp.maximum(x, WHOLE)),
    "a list with one of the host": (TypeError, lambda cp, x: cp.concatenate([x, WHOLE])),
    "to be read by numpy": (TypeError, lambda cp, x: np.asarray(x)),
    "a block from the host": (ValueError, lambda cp, x: operator.setitem(x, 0, WHOLE[0])),
    "where= of a ufunc": (TypeError, lambda cp, x: cp.add(x, x, where=x > 0)),
    "where= of a sum": (TypeError, lambda cp, x: cp.sum(x, where=x > 0)),
    "out= of einsum": (TypeError, lambda cp, x: cp.einsum("ij->i", x, out=x[:, 0])),
    "another sort": (ValueError, lambda cp, x: cp.argsort(x, kind="quicksort")),
    "a tuple of keys": (AttributeError, lambda cp, x: cp.lexsort((x[0], x[1]))),
    "a count of numpy": (TypeError, lambda cp, x: cp.argpartition(x, np.int64(1))),
    "to sort what has gaps": (NotImplementedError, lambda cp, x: x[:, ::2].sort()),
    "to be a range": (TypeError, lambda cp, x: range(x[0, 0].astype(int))),
    "other sums at places": (TypeError, lambda cp, x: cp.subtract.at(x, cp.arange(3), 1)),
    "the largest of a ufunc": (NotImplementedError, lambda cp, x: cp.maximum.reduce(x)),
    "what numpy alone has": (AttributeError, lambda cp, x: cp.no_such_function(x)),
}
TAKEN: dict[str, Callable[[Any, Any], object]] = {
    "numbers of numpy": lambda cp, x: (np.float64(2) * x).dtype == np.float64,
    "numbers of Python": lambda cp, x: (2.0 * x).dtype == np.float32,
    "functions of numpy": lambda cp, x: isinstance(np.sqrt(np.concatenate([x, x])), cp.ndarray),
    "places by the host": lambda cp, x: x[np.array([0, 2])].shape == (2, 4),
    "places by a list": lambda cp, x: x[:, [0, 2]].flags.c_contiguous,
    "a mask of the host": lambda cp, x: operator.setitem(x, WHOLE > 5, WHOLE[WHOLE > 5]) is None,
    "sums as arrays": lambda cp, x: isinstance(x.sum(), cp.ndarray) and x[0, 0].ndim == 0,
    "views of one value": lambda cp, x: operator.setitem(x[1, 2], (), 7) or float(x[1, 2]) == 7,
    "results in C order": lambda cp, x: (x.T + x.T).flags.c_contiguous,
    "copies in their order": lambda cp, x: x.T.astype(np.float64).flags.f_contiguous,
    "weights in float64": lambda cp, x: cp.bincount(cp.arange(4), x[0]).dtype == np.float64,
    "a matrix of keys": lambda cp, x: cp.lexsort(x).tolist() == [0, 1, 2, 3],
    "a factor that fails": lambda cp, x: bool(cp.isnan(cp.linalg.cholesky(-cp.eye(3))).any()),
}
DEVICES = ["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize(("error", "act"), REFUSED.values(), ids=REFUSED.keys())
def test_cupy_refuses(error: type[Exception], act: Callable[..., object], device: str) -> None:
    import cupy

    with pytest.raises(error):
        act(cupy, cupy.asarray(WHOLE))


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("act", TAKEN.values(), ids=TAKEN.keys())
def test_cupy_takes(act: Callable[..., object], device: str) -> None:
    import cupy

    assert act(cupy, cupy.asarray(WHOLE))


def test_the_stand_in_tells_what_a_gpu_leaves_undefined(stand_in: Any) -> None:
    x = stand_in.empty((2, 2), np.float32)
    assert bool(stand_in.isnan(x).all())
    with pytest.raises(RuntimeError, match="an index occurs twice"):
        x[stand_in.asarray([0, 0])] = stand_in.asarray([[1, 2], [3, 4]], dtype=np.float32)


def test_a_kernel_gets_the_types_that_it_declares(stand_in: Any) -> None:
    spec = SEGMENT_SUMS["float32"]
    X, order = stand_in.ones((4, 2), np.float32), stand_in.arange(4, dtype=np.int32)
    starts, sums = stand_in.asarray(np.array([0, 4])), stand_in.empty((1, 2), np.float64)
    launch(spec, X, order, starts, 1, 2, sums)
    assert sums.tolist() == [[4, 4]]
    kernel = stand_in.RawModule(code=read_source(spec.file)).get_function(spec.name)
    with pytest.raises(TypeError, match="n_parts is a int32, got int"):
        kernel((1,), (spec.threads,), (X, order, starts, 1, np.int32(2), sums))
    with pytest.raises(TypeError, match="X is a float32"):
        kernel((1,), (spec.threads,), (X.T, order, starts, np.int32(1), np.int32(2), sums))


KMEANS = {"n_clusters": 20, "n_init": 1, "max_iter": 5}
CHAINS: dict[str, dict[str, Any]] = {
    "kmeans": {"algorithm": "kmeans", "algorithm_params": KMEANS},
    "hierarchical": {"algorithm": "kmeans", "algorithm_params": KMEANS, "hierarchical": True},
    "umap+hdbscan": {
        "algorithm": "hdbscan",
        "algorithm_params": {"min_cluster_size": 25},
        "preprocessing_steps": [
            {"method": "whitening"},
            {"method": "umap", "n_components": 5, "n_neighbors": 15, "n_epochs": 50},
        ],
    },
}


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("chain", CHAINS)
def test_a_whole_run(chain: str, device: str, sample_path: Path, tmp_path: Path) -> None:
    here, there = (
        gpucluster.cluster(
            sample_path, device=each, out=tmp_path / each, text_column="text", **CHAINS[chain]
        )
        for each in ("cpu", "gpu")
    )
    assert there.manifest.device.device == device
    # two layouts of UMAP differ, and with them what HDBSCAN finds
    agreement = adjusted_rand_score(here.labels_, there.labels_)
    assert agreement > (0.99 if chain == "kmeans" else 0.4)
    score = "silhouette_score"
    assert there.metrics[score] == pytest.approx(here.metrics[score], abs=0.05)
    for threshold in (0.6, "auto"):  # the same clusters, joined from either device
        joined = [
            there.assign(sample_path, threshold=threshold, scope="all", device=each)
            for each in ("cpu", "gpu")
        ]
        assert joined[1].manifest.stages[0].device == device
        np.testing.assert_array_equal(joined[0].labels_, joined[1].labels_)


def test_the_command_line_in_a_process_of_its_own(sample_path: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(STAND_INS), os.environ.get("PYTHONPATH", "")])
    params = [f"--param={name}={value}" for name, value in KMEANS.items()]
    command = ["run", sample_path, "--algorithm", "kmeans", *params, "--text-column", "text"]
    done = subprocess.run(
        [sys.executable, "-m", "gpucluster", *command, "--device", "gpu", "--out", tmp_path],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (manifest,) = tmp_path.glob("run_*/manifest.json")
    assert json.loads(manifest.read_text())["device"]["device"] == "gpu"
