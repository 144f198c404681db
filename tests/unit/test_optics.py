"""OPTICS against scikit-learn, against its definition, and against a matrix of distances."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.spatial.distance import cdist
from sklearn.cluster import OPTICS as SklearnOPTICS
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from gpucluster.algorithms import OPTICS
from gpucluster.algorithms import optics as optics_module
from gpucluster.errors import ConfigError, GpuclusterWarning
from gpucluster.events import Cancelled, CancelToken, Reporter
from gpucluster.ops import ordering as ordering_module
from gpucluster.ops.neighbors import nearest_neighbors
from gpucluster.ops.normalize import unit_rows
from gpucluster.ops.ordering import Ordering, density_ordering, ordering_of_distances


def digits(n_samples: int = 700, n_features: int = 12, offset: float = 0.0) -> np.ndarray:
    """Return images of digits, rotated into other dimensions, without ties."""
    stream = np.random.default_rng(0)
    images = load_digits().data[:n_samples]
    rotated = images @ stream.normal(size=(64, n_features)) / 64
    return (rotated + stream.normal(scale=1e-3, size=rotated.shape) + offset).astype(np.float32)


def repeated() -> np.ndarray:
    return np.concatenate([digits(150), digits(40), digits(40), np.repeat(digits(2), 25, axis=0)])


AWKWARD = {
    "plain": digits(500),
    "wide": digits(300, 90),
    "far": digits(400, offset=300),
    "unit": unit_rows(digits(300, 90)),
    "outlier": np.concatenate([digits(300), np.full((1, 12), 1e6, np.float32)]),
    "tiny": (digits(300) * 1e-20).astype(np.float32),
}


def distances_of(X: np.ndarray) -> np.ndarray:
    return cdist(X.astype(np.float64), X.astype(np.float64))


def ordering_of(X: np.ndarray, min_samples: int, listed: int, **params: Any) -> Ordering:
    return density_ordering(X, nearest_neighbors(X, listed, exact=True), min_samples, **params)


def assert_same(found: Ordering, expected: Ordering) -> None:
    np.testing.assert_array_equal(found.order, expected.order)
    np.testing.assert_array_equal(found.position, expected.position)
    np.testing.assert_array_equal(found.predecessor, expected.predecessor)
    np.testing.assert_allclose(found.reachability, expected.reachability, rtol=1e-12)
    np.testing.assert_allclose(found.core_distances, expected.core_distances, rtol=1e-12)


def sklearn_model(X: np.ndarray, **params: Any) -> Any:
    # of its searches, those whose core distances have the roundings of its reachabilities
    algorithm = "brute" if "p" in params else "kd_tree"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SklearnOPTICS(algorithm=algorithm, **params).fit(X.astype(np.float64))


@pytest.mark.parametrize(("listed", "compared"), [(5, 128), (16, 8), (60, 128)])
@pytest.mark.parametrize("limit", [np.inf, 1.2])
@pytest.mark.parametrize("name", AWKWARD)
def test_the_ordering_is_that_of_all_distances(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: float, listed: int, compared: int
) -> None:
    monkeypatch.setattr(ordering_module, "COMPARED_ROWS", compared)
    X = AWKWARD[name]
    expected = ordering_of_distances(distances_of(X), 5, limit=limit)
    assert_same(ordering_of(X, 5, listed, limit=limit), expected)


@pytest.mark.parametrize("min_samples", [2, 5, 20])
@pytest.mark.parametrize("max_eps", [np.inf, 1.2])
def test_the_ordering_is_that_of_scikit_learn(min_samples: int, max_eps: float) -> None:
    X = digits()
    expected = sklearn_model(X, min_samples=min_samples, max_eps=max_eps)
    assert np.isinf(expected.reachability_).sum() > 1 or max_eps == np.inf
    found = ordering_of(X, min_samples, max(min_samples, 16), limit=max_eps)
    np.testing.assert_array_equal(found.order, expected.ordering_)
    np.testing.assert_array_equal(found.predecessor, expected.predecessor_)
    np.testing.assert_allclose(found.reachability, expected.reachability_, rtol=1e-12)
    np.testing.assert_allclose(found.core_distances, expected.core_distances_, rtol=1e-12)


def assert_each_step_takes_the_least(
    found: Ordering, X: np.ndarray, min_samples: int, limit: float = np.inf
) -> None:
    """Assert that `found` is an ordering by the definition, however ties are broken."""
    n_samples = len(X)
    distances = distances_of(X)
    core = np.sort(distances, axis=1)[:, min_samples - 1]
    core[core > limit] = np.inf
    weight = np.maximum(np.where(distances <= limit, distances, np.inf), core[:, None])
    np.testing.assert_allclose(found.core_distances, core, rtol=1e-12)
    np.testing.assert_array_equal(np.sort(found.order), np.arange(n_samples))
    reach = np.full(n_samples, np.inf)
    for step, row in enumerate(found.order):
        left = found.order[step:]
        assert found.reachability[row] == pytest.approx(reach[left].min(), rel=1e-12)
        if np.isinf(reach[row]):
            assert row == left.min()
            assert found.predecessor[row] == -1
        else:
            source = found.predecessor[row]
            assert found.position[source] < step
            assert found.reachability[row] == pytest.approx(weight[source, row], rel=1e-12)
        reach = np.minimum(reach, weight[row])


@settings(max_examples=40, deadline=None)
@given(
    n_samples=st.integers(2, 90),
    n_features=st.integers(1, 4),
    min_samples=st.integers(2, 8),
    listed=st.integers(2, 20),
    limit=st.sampled_from([np.inf, 1.0, 2.0]),
    seed=st.integers(0, 2**16),
)
def test_on_a_lattice_every_step_takes_the_least_there_is(
    n_samples: int, n_features: int, min_samples: int, listed: int, limit: float, seed: int
) -> None:
    X = np.random.default_rng(seed).integers(0, 4, (n_samples, n_features)).astype(np.float32)
    min_samples = min(min_samples, n_samples)
    found = ordering_of(X, min_samples, max(min_samples, min(listed, n_samples)), limit=limit)
    assert_each_step_takes_the_least(found, X, min_samples, limit)


@pytest.mark.parametrize("listed", [5, 16])
def test_among_equal_rows_every_step_takes_the_least_there_is(listed: int) -> None:
    X = repeated()
    assert_each_step_takes_the_least(ordering_of(X, 5, listed), X, 5)


def test_labels_are_the_same_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    X = digits(700, 40)
    expected = OPTICS(xi=0.02).fit(X).labels_
    monkeypatch.setattr("gpucluster.ops.blocks.n_threads", lambda: 1)
    np.testing.assert_array_equal(OPTICS(xi=0.02).fit(X).labels_, expected)
    assert expected.max() > 2


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"xi": 0.02},
        {"xi": 0.2, "min_samples": 2},
        {"min_cluster_size": 25},
        {"min_cluster_size": 0.05, "xi": 0.01},
        {"predecessor_correction": False},
        {"max_eps": 1.3},
        {"cluster_method": "dbscan", "eps": 1.1},
        {"cluster_method": "dbscan", "max_eps": 1.1},
        {"cluster_method": "dbscan", "max_eps": 1.6, "eps": 1.2, "min_samples": 10},
    ],
    ids=str,
)
def test_labels_are_those_of_scikit_learn(params: dict[str, Any]) -> None:
    X = digits(500)
    expected = sklearn_model(X, **{"max_eps": np.inf, **params}).labels_
    found = OPTICS(**params).fit(X)
    assert adjusted_rand_score(expected, found.labels_) == 1
    assert found.n_clusters_ == expected.max() + 1
    assert found.n_clusters_ > 0
    assert found.method == OPTICS(**params).cost(*X.shape, "cpu").method == "exact"
    assert found.probabilities_ is None


@pytest.mark.parametrize("p", [1, 1.5, 3])
def test_minkowski_with_a_power_is_that_of_scikit_learn(p: float) -> None:
    X = digits(200)
    expected = sklearn_model(X, p=p, xi=0.02)
    found = OPTICS(p=p, xi=0.02).fit(X)
    assert found.backend == "scipy"
    assert expected.labels_.max() > 1
    assert adjusted_rand_score(expected.labels_, found.labels_) == 1


def test_cosine_is_euclidean_on_unit_rows_with_radii_in_its_unit() -> None:
    X = digits(600, 30, offset=0.3)
    cosine = OPTICS(metric="cosine", cluster_method="dbscan", eps=0.02, max_eps=0.05).fit(X)
    unit = OPTICS(cluster_method="dbscan", eps=0.2, max_eps=0.1**0.5).fit(unit_rows(X))
    np.testing.assert_array_equal(cosine.labels_, unit.labels_)
    assert cosine.n_clusters_ > 1
    assert 0 < cosine.info["n_core"] < len(X)


def test_the_gpu_path_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions run on numpy, with the comparisons that a GPU does."""
    X = digits(900, 40)
    expected = ordering_of(X, 5, 16)
    compared = []
    on_gpu = ordering_module._State.compare_on_gpu

    def counted(state: Any, rows: np.ndarray) -> None:
        compared.append(len(rows))
        on_gpu(state, rows)

    monkeypatch.setattr(ordering_module._State, "compare_on_gpu", counted)
    monkeypatch.setattr(ordering_module, "is_on_gpu", lambda _: True)
    monkeypatch.setattr("gpucluster.ops.neighbors.is_on_gpu", lambda _: True)
    assert_same(ordering_of(X, 5, 16), expected)
    assert sum(compared) > 100
    repeats = repeated()
    np.testing.assert_allclose(
        np.sort(ordering_of(repeats, 5, 16).reachability),
        np.sort(ordering_of_distances(distances_of(repeats), 5).reachability),
        rtol=1e-4,
    )


@pytest.mark.parametrize("limit", [np.inf, 1.2])
@pytest.mark.parametrize("min_samples", [2, 5, 40])
def test_the_plot_of_distinct_rows_repeated_is_that_of_all(min_samples: int, limit: float) -> None:
    X = digits(150)
    weights = np.random.default_rng(0).integers(1, 9, len(X))
    all_rows = distances_of(np.repeat(X, weights, axis=0))
    expected = ordering_of_distances(all_rows, min_samples, limit=limit)
    by_lists = ordering_of(X, min_samples, 60, weights=weights, limit=limit)
    by_matrix = ordering_of_distances(distances_of(X), min_samples, weights=weights, limit=limit)
    assert_same(by_lists, by_matrix)
    found = by_lists.repeated(weights)
    np.testing.assert_array_equal(np.argsort(found.order), found.position)
    np.testing.assert_allclose(found.core_distances, expected.core_distances, rtol=1e-5)
    first = np.cumsum(weights) - weights
    np.testing.assert_allclose(found.reachability[first], expected.reachability[first], rtol=1e-5)
    # a copy is tied with others at the core distance; walked later, it can be reached from nearer
    assert (found.reachability >= expected.reachability * (1 - 1e-5)).all()
    assert np.mean(np.isclose(found.reachability, expected.reachability, rtol=1e-5)) > 0.8


@pytest.mark.parametrize("params", [{}, {"xi": 0.02}, {"cluster_method": "dbscan", "eps": 1.2}])
def test_copies_are_walked_once_and_counted_all(params: dict[str, Any]) -> None:
    X = digits(300)
    copies = np.random.default_rng(0).integers(0, 300, 400)
    repeated = np.concatenate([X, X[copies]])
    found = OPTICS(min_samples=8, **params).fit(repeated)
    np.testing.assert_array_equal(found.labels_[300:], found.labels_[copies])
    assert found.info["duplicates"]["n_duplicate_rows"] == 400
    theirs = sklearn_model(repeated, min_samples=8, **params)
    assert found.info["n_reached"] == np.isfinite(theirs.reachability_).sum()
    # where a valley of xi begins among ties, scikit-learn may part a row from its copies
    least = 0.999 if "eps" in params else 0.8
    assert adjusted_rand_score(theirs.labels_, found.labels_) > least


def test_equal_rows_are_at_distance_zero() -> None:
    X = np.repeat(unit_rows(digits(60, 40)), 6, axis=0)
    found = ordering_of(X, 5, 16)
    assert (found.core_distances == 0).all()
    assert (found.reachability == 0).sum() == 5 * 60


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"min_samples": 1}, "greater than or equal to 2"),
        ({"eps": 3}, "only cluster_method: dbscan cuts the plot there"),
        ({"xi": 0}, "greater than 0"),
        ({"xi": 1}, "less than 1"),
        ({"max_eps": 0}, "greater than 0"),
        ({"min_cluster_size": 1}, "greater than or equal to 2"),
        ({"min_cluster_size": 1.5}, "less than 1"),
        ({"metric": "cosine", "p": 3}, "which has no power"),
        ({"cluster_method": "dbscan"}, "neither eps nor max_eps"),
        ({"cluster_method": "dbscan", "eps": 2, "max_eps": 1}, "eps is 2, above max_eps 1"),
    ],
    ids=str,
)
def test_refuses(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OPTICS(**params)


def test_a_power_has_a_limit_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optics_module, "POWER_MAX_ROWS", 99)
    with pytest.raises(ConfigError, match=r"optics.p: got 3, .* there are 100 rows"):
        OPTICS(p=3).fit(digits(100))
    OPTICS(p=3).fit(digits(99))
    OPTICS().fit(digits(100))


@pytest.mark.parametrize("params", [{"min_samples": 7}, {"min_cluster_size": 7}], ids=str)
def test_more_than_the_rows_is_all_noise_and_said(params: dict[str, int]) -> None:
    with pytest.warns(GpuclusterWarning, match=r"there are 6 rows: everything is noise"):
        found = OPTICS(**params).fit(np.eye(6, dtype=np.float32))
    np.testing.assert_array_equal(found.labels_, np.full(6, -1))


def test_a_share_of_the_rows_makes_a_cluster() -> None:
    assert OPTICS(min_cluster_size=0.1).smallest_cluster(500) == 50
    assert OPTICS(min_cluster_size=0.001).smallest_cluster(500) == 2
    assert OPTICS(min_cluster_size=30).smallest_cluster(500) == 30
    assert OPTICS(min_samples=9).smallest_cluster(500) == 9


def test_memory_stays_within_its_plan() -> None:
    """In a process of its own, whose high-water mark nothing else raises."""
    code = (
        "import numpy as np\n"
        "from gpucluster.algorithms import OPTICS\n"
        "from gpucluster.device.memory import PeakMemory\n"
        "X = np.random.default_rng(0).normal(3, size=(12_000, 64)).astype(np.float32)\n"
        "OPTICS(metric='cosine').fit(X[:300])\n"
        "peak = PeakMemory()\n"
        "peak.reset()\n"
        "before = peak.read()\n"
        "OPTICS(metric='cosine').fit(X)\n"
        "print(peak.read() - before, OPTICS(metric='cosine').cost(*X.shape, 'cpu').bytes)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    used, planned = map(int, done.stdout.split())
    assert used < planned < 20 * used


def test_where_nothing_is_dense_everything_is_noise() -> None:
    found = OPTICS(max_eps=1e-6).fit(digits(200))
    np.testing.assert_array_equal(found.labels_, np.full(200, -1))
    assert found.info == {"n_core": 0, "n_reached": 0}


def test_a_walk_can_be_cancelled() -> None:
    cancel = CancelToken()
    X = digits(200)
    neighbors = nearest_neighbors(X, 16, exact=True)
    cancel.cancel()
    for ordering in (
        lambda reporter: density_ordering(X, neighbors, 5, reporter=reporter),
        lambda reporter: ordering_of_distances(distances_of(X), 5, reporter=reporter),
    ):
        with pytest.raises(Cancelled):
            ordering(Reporter("cluster", cancel=cancel))
