"""Mean shift finds what scikit-learn's finds; its parts are what their definitions say."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.cluster import MeanShift as SklearnMeanShift
from sklearn.cluster import estimate_bandwidth, get_bin_seeds
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from gpucluster.algorithms import MeanShift, canonical_labels, mean_shift
from gpucluster.errors import ConfigError, GpuclusterWarning, NotConvergedWarning
from gpucluster.events import Cancelled, CancelToken, Reporter
from gpucluster.ops import blocks, shifting
from gpucluster.ops.duplicates import equal_groups
from gpucluster.ops.shifting import FlatKernel, Modes, bin_seeds, separate


def blobs(n_samples: int, n_features: int, centers: int, seed: int = 0, std: float = 1.0):
    X, y = make_blobs(n_samples, n_features, centers=centers, cluster_std=std, random_state=seed)
    return np.ascontiguousarray(X, np.float32), y


@pytest.fixture
def landmarks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mean_shift, "EXACT_LIMIT_FLOP", 0)
    monkeypatch.setattr(mean_shift, "N_LANDMARKS", 300)


@pytest.mark.parametrize("n_samples", [2, 3, 7, 150])
@pytest.mark.parametrize("n_features", [1, 8])
def test_the_bandwidth_is_that_of_scikit_learn(n_samples: int, n_features: int) -> None:
    X, _ = blobs(n_samples, n_features, 3, std=0.5)
    found = MeanShift().fit(X)
    assert found.info["bandwidth"] == pytest.approx(estimate_bandwidth(X), rel=1e-5)
    assert found.info["bandwidth_rows"] == n_samples


@pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")
def test_the_bandwidth_of_many_rows_is_that_of_a_seeded_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mean_shift, "BANDWIDTH_ROWS", 100)
    X, _ = blobs(400, 4, 1)
    one, again, other = (
        MeanShift(random_state=seed).fit(X).info["bandwidth"] for seed in (1, 1, 2)
    )
    assert one == again != other
    assert one == pytest.approx(estimate_bandwidth(X), rel=0.2)
    assert MeanShift().fit(X).info["bandwidth_rows"] == 100


@pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")
@pytest.mark.parametrize("cluster_all", [True, False])
@pytest.mark.parametrize(("bin_seeding", "min_bin_freq"), [(False, 1), (True, 1), (True, 4)])
@pytest.mark.parametrize(
    ("n_features", "bandwidth"), [(2, None), (2, 0.8), (3, 2.0), (10, 4.0), (10, 3.0)]
)
def test_labels_are_those_of_scikit_learn(
    n_features: int,
    bandwidth: float | None,
    bin_seeding: bool,
    min_bin_freq: int,
    cluster_all: bool,
) -> None:
    X, _ = blobs(120, n_features, 4)
    settings = {
        "bandwidth": bandwidth,
        "bin_seeding": bin_seeding,
        "min_bin_freq": min_bin_freq,
        "cluster_all": cluster_all,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = SklearnMeanShift(**settings).fit(X)
    except ValueError:
        pytest.skip("the grid leaves scikit-learn without a start")
    found = MeanShift(**settings).fit(X)
    assert found.method == "exact"
    assert found.n_clusters_ == len(np.unique(theirs.labels_[theirs.labels_ >= 0]))
    assert adjusted_rand_score(theirs.labels_, found.labels_) > 0.995
    np.testing.assert_array_equal(found.labels_ < 0, theirs.labels_ < 0)


@pytest.mark.parametrize("bandwidth", [21.3, 26.1])
def test_labels_on_real_rows_are_those_of_scikit_learn(bandwidth: float) -> None:
    X = PCA(10, random_state=0).fit_transform(load_digits().data[:150]).astype(np.float32)
    X = np.ascontiguousarray(X)
    theirs = SklearnMeanShift(bandwidth=bandwidth).fit(X)
    found = MeanShift(bandwidth=bandwidth).fit(X)
    assert adjusted_rand_score(theirs.labels_, found.labels_) > 0.99


def test_stopping_early_is_said_and_does_as_many_steps_as_scikit_learn() -> None:
    X, _ = blobs(200, 3, 2, std=3)
    with pytest.warns(NotConvergedWarning, match=r"stopped at max_iter 2: \d+ of 200 starts"):
        found = MeanShift(bandwidth=3, max_iter=2).fit(X)
    theirs = SklearnMeanShift(bandwidth=3, max_iter=2).fit(X)
    assert found.info["n_iter"] == theirs.n_iter_ == 2
    assert adjusted_rand_score(theirs.labels_, found.labels_) > 0.99


def test_one_cluster_of_everything_is_said_with_the_bandwidth() -> None:
    X, _ = blobs(100, 2, 3)
    with pytest.warns(GpuclusterWarning, match="found one cluster: bandwidth is 1000"):
        found = MeanShift(bandwidth=1000).fit(X)
    assert found.n_clusters_ == 1


def test_rows_that_no_bandwidth_can_tell_apart() -> None:
    """Of equal rows only: the estimated bandwidth is zero."""
    X = np.repeat(np.array([[3, 1], [7, 7.5], [-0.3, 2]], np.float32), [50, 48, 52], axis=0)
    found = MeanShift().fit(X)
    assert found.info["bandwidth"] == 0
    np.testing.assert_array_equal(found.labels_, np.repeat([1, 2, 0], [50, 48, 52]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one cluster is right here
        assert MeanShift().fit(np.full((9, 3), 0.1, np.float32)).n_clusters_ == 1


def test_tight_groups_far_from_each_other() -> None:
    """Distances within the groups are far below the rounding of float32 products."""
    middles = np.array([[120, 30], [120.2, 30], [-170, -60], [-170, -60.2]])
    X, y = make_blobs(200, centers=middles, cluster_std=0.01, random_state=0)
    found = MeanShift(bandwidth=0.06).fit(np.ascontiguousarray(X, np.float32))
    assert adjusted_rand_score(y, found.labels_) == 1


def test_a_large_offset_changes_nothing() -> None:
    X, _ = blobs(200, 4, 4)
    X = np.round(X * 64) / 64  # so that the offset rounds nothing
    near = MeanShift(bandwidth=3).fit(X)
    far = MeanShift(bandwidth=3).fit(X + np.float32(1024))
    np.testing.assert_array_equal(near.labels_, far.labels_)


@pytest.mark.usefixtures("landmarks_only")
@pytest.mark.parametrize("bin_seeding", [False, True])
def test_landmarks_find_the_same_clusters_and_say_so(bin_seeding: bool) -> None:
    X, y = blobs(3000, 4, 6, std=0.8)
    algorithm = MeanShift(bandwidth=2.5, bin_seeding=bin_seeding)
    found = algorithm.fit(X)
    assert found.method == algorithm.cost(*X.shape, "cpu").method == "landmarks"
    assert found.info["n_landmarks"] == 300
    assert adjusted_rand_score(y, found.labels_) > 0.99


def test_landmarks_come_close_to_all_rows_where_density_is_not_clear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, _ = blobs(2000, 5, 8, std=2.5)
    exact = MeanShift(bandwidth=5).fit(X)
    monkeypatch.setattr(mean_shift, "EXACT_LIMIT_FLOP", 0)
    monkeypatch.setattr(mean_shift, "N_LANDMARKS", 500)
    found = MeanShift(bandwidth=5).fit(X)
    assert exact.n_clusters_ > 2
    assert adjusted_rand_score(exact.labels_, found.labels_) > 0.9


@pytest.mark.usefixtures("landmarks_only")
def test_the_spread_of_a_landmark_counts() -> None:
    """In many dimensions means lie nearer to each other than rows do, most of all of noise."""
    drawn = np.random.default_rng(0)
    y = drawn.integers(0, 5, 3000)
    X = drawn.normal(0, 1 / np.sqrt(300), (3000, 300)).astype(np.float32)
    noise = drawn.random(3000) < 0.1
    X[~noise] += np.eye(5, 300, dtype=np.float32)[y[~noise]]
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    found = MeanShift(bandwidth=0.95).fit(X)
    assert adjusted_rand_score(y[~noise], found.labels_[~noise]) > 0.95


@pytest.mark.usefixtures("landmarks_only")
def test_a_bandwidth_below_the_landmarks_is_said() -> None:
    X, _ = blobs(2000, 8, 2)
    with pytest.warns(GpuclusterWarning, match=r"\d+% of the rows are in landmarks"):
        found = MeanShift(bandwidth=0.01).fit(X)
    assert found.n_clusters_ > 1


def test_no_cell_with_rows_enough_is_refused() -> None:
    X, _ = blobs(50, 2, 3)
    with pytest.raises(ConfigError, match=r"min_bin_freq: got 51, but no cell"):
        MeanShift(bandwidth=1, bin_seeding=True, min_bin_freq=51).fit(X)


@pytest.mark.filterwarnings("ignore:mean_shift found one cluster")
def test_cells_without_rows_near_their_middle_are_said() -> None:
    X = 0.45 + np.linspace(0, 1e-3, 180, dtype=np.float32).reshape(6, 30)
    with pytest.warns(GpuclusterWarning, match="every row is a start"):
        found = MeanShift(bandwidth=1, bin_seeding=True).fit(X)
    assert found.n_clusters_ == 1


@pytest.mark.parametrize("bad", [{"bandwidth": 0}, {"bandwidth": -1}, {"min_bin_freq": 0}])
def test_parameters_out_of_range_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        MeanShift(**bad)


@pytest.mark.parametrize("limit", [0, 1e12])
def test_labels_do_not_depend_on_the_number_of_cores(
    monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    X, _ = blobs(1500, 6, 5, std=3)
    monkeypatch.setattr(mean_shift, "EXACT_LIMIT_FLOP", limit)
    monkeypatch.setattr(mean_shift, "N_LANDMARKS", 400)
    labels = []
    for cores in (1, 3):
        monkeypatch.setattr(blocks, "n_threads", lambda cores=cores: cores)
        labels.append(MeanShift(bandwidth=5).fit(X).labels_)
    np.testing.assert_array_equal(*labels)


@pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")
@pytest.mark.parametrize("bandwidth", [1e-3, 0.3, 4.0, None])
@pytest.mark.parametrize("limit", [0, 1e12])
def test_the_planned_bytes_are_enough(
    monkeypatch: pytest.MonkeyPatch, limit: float, bandwidth: float | None
) -> None:
    monkeypatch.setattr(mean_shift, "EXACT_LIMIT_FLOP", limit)
    X, _ = blobs(2000, 40, 5)
    algorithm = MeanShift(bandwidth=bandwidth)
    algorithm.fit(X[:50])  # whatever is imported is imported now
    tracemalloc.start()
    try:
        algorithm.fit(X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= algorithm.cost(*X.shape, "cpu").bytes


def test_cancel_stops_a_climb() -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        MeanShift(bandwidth=1).fit(blobs(50, 2, 2)[0], reporter=Reporter("cluster", cancel=cancel))


@settings(max_examples=40, deadline=None)
@given(
    n_points=st.integers(1, 60),
    n_seeds=st.integers(1, 9),
    n_features=st.integers(1, 6),
    bandwidth=st.floats(0.2, 4),
    seed=st.integers(0, 2**16),
)
def test_a_ball_holds_what_lies_within_the_bandwidth(
    n_points: int, n_seeds: int, n_features: int, bandwidth: float, seed: int
) -> None:
    drawn = np.random.default_rng(seed)
    points = drawn.normal(size=(n_points, n_features)).astype(np.float32)
    seeds = drawn.normal(size=(n_seeds, n_features)).astype(np.float32)
    weights = drawn.integers(1, 9, n_points)
    spread = drawn.random(n_points)
    sqdist = ((seeds[:, None].astype(np.float64) - points) ** 2).sum(axis=2) + spread
    assume((np.abs(sqdist - bandwidth**2) > 1e-4).all())
    means, mass = FlatKernel(points, bandwidth, weights, spread).around(seeds)
    inside = (sqdist <= bandwidth**2) * weights
    np.testing.assert_array_equal(mass, inside.sum(axis=1))
    expected = inside @ points.astype(np.float64) / np.maximum(mass, 1)[:, None]
    np.testing.assert_allclose(means, expected, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(n_modes=st.integers(1, 200), bandwidth=st.floats(0.05, 3), seed=st.integers(0, 2**16))
def test_a_centre_stays_when_no_denser_one_is_near(
    n_modes: int, bandwidth: float, seed: int
) -> None:
    drawn = np.random.default_rng(seed)
    centers = drawn.normal(size=(n_modes, 2)).astype(np.float32)
    mass = drawn.integers(1, 6, n_modes).astype(np.float64)
    order = sorted(range(n_modes), key=lambda i: (mass[i], tuple(centers[i])), reverse=True)
    expected: list[int] = []
    for i in order:
        gaps = np.linalg.norm(centers[expected].astype(np.float64) - centers[i], axis=1)
        if not (gaps <= bandwidth).any():
            expected.append(i)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shifting, "TILE_SEEDS", 16)  # many blocks
        patch.setattr(shifting, "TILE_ROWS", 32)
        kept = separate(Modes(centers, mass, 0, n_modes, 0), bandwidth)
    np.testing.assert_array_equal(kept, centers[expected])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.5]), min_size=3, max_size=3)))
def test_equal_rows_share_a_group(rows: list[list[float]]) -> None:
    X = np.array(rows, np.float32).reshape(-1, 3)
    for dtype in (np.float32, np.float64):
        first, group = equal_groups(X.astype(dtype))
        np.testing.assert_array_equal(X[first[group]], X)
        np.testing.assert_array_equal(
            canonical_labels(group),
            canonical_labels(np.unique(X, axis=0, return_inverse=True)[1].ravel()),
        )


@pytest.mark.parametrize("min_bin_freq", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 12.5])
def test_cells_are_those_of_scikit_learn(min_bin_freq: int, offset: float) -> None:
    X, _ = blobs(300, 2, 3)
    theirs = get_bin_seeds(X + np.float32(offset), 0.7, min_bin_freq)
    ones = np.ones(len(X), np.int64)
    ours = bin_seeds(X, np.full(2, offset, np.float32), 0.7, min_bin_freq, ones) + offset
    assert len(ours) < len(X)
    np.testing.assert_allclose(
        np.array(sorted(map(tuple, ours))), np.array(sorted(map(tuple, theirs))), atol=1e-4
    )


def test_a_cell_counts_the_rows_that_its_points_stand_for() -> None:
    points = np.array([[0.1], [0.2], [5.0]], np.float32)
    found = bin_seeds(points, None, 1.0, 4, np.array([1, 1, 4]))
    np.testing.assert_array_equal(found, [[5]])
