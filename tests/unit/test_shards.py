"""Shards: the same bits whoever works on them, and whatever becomes of who does."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.algorithms import KMeans
from gpucluster.device import fleet as fleet_module
from gpucluster.device.select import Decision, Device
from gpucluster.device.storage import lent, like, on_disk
from gpucluster.errors import Cancelled, InternalError
from gpucluster.events import CancelToken, Progress, Reporter
from gpucluster.execution import fit_algorithm
from gpucluster.ops import half_lloyd
from gpucluster.ops import shards as module
from gpucluster.ops.lloyd import Lloyd
from gpucluster.ops.moments import centred_product, moments
from gpucluster.ops.normalize import row_norms, spread, unit_rows, without_offset
from gpucluster.ops.shards import ByRow, Shard, Shards, Written, shard_rows
from tests.helpers.fleets import FickleFleet


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE_ROWS", 16)


def rows(n_samples: int = 3000, n_features: int = 6, seed: int = 0) -> Any:
    stream = np.random.default_rng(seed)
    groups = stream.normal(size=(8, n_features))[stream.integers(8, size=n_samples)]
    return (3 * groups + stream.normal(size=groups.shape)).astype(np.float32)


def there(X: Any, fleet: FickleFleet) -> Any:
    """Return the same rows, where a fleet sees them."""
    found = on_disk(X.shape, fleet.site)
    found[:] = X
    return found


def total(shard: Shard, weights: Any) -> Any:
    return (shard.X * weights[:, None]).sum(axis=0, dtype=np.float32)


def plus(one: Any, other: Any) -> Any:
    one += other
    return one


def where(shard: Shard, labels: Any) -> tuple[int, int, int]:
    return shard.start, len(shard.X), int(labels[0])


def count(shard: Shard) -> int:
    shard.kept["calls"] = shard.kept.get("calls", 0) + 1
    return int(shard.kept["calls"])


def write(shard: Shard, out: Any) -> None:
    out[:] = shard.start


@settings(max_examples=40, deadline=None)
@given(n_samples=st.integers(1, 5000), threads=st.integers(1, 40), seed=st.integers(0, 2**16))
def test_sums_have_the_same_bits_everywhere(
    tmp_path_factory: pytest.TempPathFactory, n_samples: int, threads: int, seed: int
) -> None:
    fleet = FickleFleet(tmp_path_factory.mktemp("shared"), seed, threads=threads)
    X, weights = rows(n_samples, 3, seed), np.arange(n_samples, dtype=np.float32)
    here = Shards(X, "test").reduce(total, plus, ByRow(weights))
    found = Shards(there(X, fleet), "test").reduce(total, plus, ByRow(weights))
    np.testing.assert_array_equal(here, found)


def test_sums_are_added_as_a_tree_of_eights() -> None:
    parts = [np.float32(0.1) * np.float32(i) for i in range(77)]
    level = parts
    while len(level) > 1:
        cut = [level[i : i + 8] for i in range(0, len(level), 8)]
        level = [sum(group[1:], group[0]) for group in cut]
    assert module._Tree(lambda one, other: one + other).total(iter(parts)) == level[0]


@pytest.mark.parametrize("n_samples", [1, 16, 17, 2048, 70_000])
def test_shards_cover_the_rows_in_order(tmp_path: Path, n_samples: int) -> None:
    X, labels = rows(n_samples, 2), np.arange(n_samples, dtype=np.int32)
    for data in (X, there(X, FickleFleet(tmp_path))):
        found = list(Shards(data, "test").map(where, ByRow(labels)))
        assert [start for start, _, _ in found] == [first for _, _, first in found]
        assert [start for start, _, _ in found] == list(range(0, n_samples, shard_rows(*X.shape)))
        assert sum(count for _, count, _ in found) == n_samples
        assert len(found) <= module.SHARDS


def test_what_a_shard_keeps_is_there_in_the_next_call_and_gone_with_the_shards(
    tmp_path: Path,
) -> None:
    fleet = FickleFleet(tmp_path, loss=0)
    for data in (rows(), there(rows(), fleet)):
        shards = Shards(data, "test")
        assert set(shards.map(count)) == {1}
        assert set(shards.map(count)) == {2}
    assert fleet_module._KEPT
    del shards, data
    gc.collect()
    assert not fleet_module._KEPT


def test_work_writes_where_others_see_it_and_nowhere_else(tmp_path: Path) -> None:
    X = there(rows(), FickleFleet(tmp_path))
    seen = like(X, (len(X), 1), np.int64, to_lend=True)
    assert lent(seen) is not None
    list(Shards(X, "test").map(write, Written(seen)))
    starts = np.arange(len(X)) // shard_rows(*X.shape) * shard_rows(*X.shape)
    np.testing.assert_array_equal(seen[:, 0], starts)
    with pytest.raises(InternalError, match="do not see"):
        list(Shards(X, "test").map(write, Written(np.zeros((len(X), 1)))))


def test_large_arrays_go_by_files_that_are_gone_with_them(tmp_path: Path) -> None:
    fleet = FickleFleet(tmp_path)
    X, means = there(rows(), fleet), np.zeros((500, 100))
    fleet.sent.clear()
    list(Shards(X, "test").map(_size, means))
    assert max(fleet.sent) < 2000
    assert len(list(tmp_path.iterdir())) == 2
    assert fleet.lend(means) == fleet.lend(means)
    assert fleet.lend(5) == 5
    assert fleet.lend(means[:2]).__class__ is np.ndarray
    del means
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 1
    del X
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def _size(shard: Shard, means: Any) -> int:
    return int(means.size)


@settings(max_examples=15, deadline=None)
@given(
    n_samples=st.integers(40, 4000),
    n_clusters=st.integers(1, 40),
    loss=st.sampled_from([0.0, 0.1, 0.6]),
    threads=st.sampled_from([1, 64]),
    seed=st.integers(0, 2**16),
)
def test_kmeans_is_the_same_whatever_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    n_samples: int,
    n_clusters: int,
    loss: float,
    threads: int,
    seed: int,
) -> None:
    fleet = FickleFleet(tmp_path_factory.mktemp("shared"), seed, loss, threads)
    X = rows(n_samples, seed=seed)
    X[: n_samples // 2] = np.round(X[: n_samples // 2])  # ties
    start = X[:n_clusters].copy()
    start[-1] = 1e3  # an empty cluster
    here, far = Lloyd(X, start), Lloyd(there(X, fleet), start)
    for _ in range(6):
        np.testing.assert_array_equal(here.sums, far.sums)
        np.testing.assert_array_equal(here.counts, far.counts)
        assert here.move(here.means()) == far.move(far.means())
    np.testing.assert_array_equal(here.labels, far.labels)
    np.testing.assert_array_equal(here.sqdist(), far.sqdist())


def test_rows_that_rest_send_less_than_the_centres(tmp_path: Path) -> None:
    fleet = FickleFleet(tmp_path, loss=0)
    X = there(rows(20_000, 64), fleet)
    lloyd = Lloyd(X, np.array(X[:100]))
    for _ in range(5):
        lloyd.move(lloyd.means())
    fleet.sent.clear()
    lloyd.move(lloyd.means())
    assert len(fleet.sent) <= module.SHARDS
    assert max(fleet.sent) < 4000  # where the centres lie, and the groups of centres


@pytest.mark.parametrize("n_samples", [5, 3000, 9000])
def test_preparation_is_the_same_on_a_fleet(tmp_path: Path, n_samples: int) -> None:
    X = rows(n_samples) + np.float32(50)
    fleet = FickleFleet(tmp_path)
    far = there(X, fleet)
    here, there_ = moments(X), moments(far)
    np.testing.assert_array_equal(here.mean, there_.mean)
    np.testing.assert_array_equal(here.covariance, there_.covariance)
    matrix = np.linalg.inv(here.covariance + np.eye(6))
    for work in (
        lambda X: centred_product(X, here.mean, matrix),
        unit_rows,
        row_norms,
        without_offset,
        lambda X: spread(X)[0],
    ):
        np.testing.assert_array_equal(work(X), work(far))
    assert spread(X)[1] == spread(far)[1]
    assert fleet.n_calls >= 6
    unit = unit_rows(X)
    np.testing.assert_array_equal(unit_rows(far, out=far), unit)  # once, whoever died at it


def test_progress_is_told_and_a_stop_is_heard(tmp_path: Path) -> None:
    for data in (rows(), there(rows(), FickleFleet(tmp_path))):
        events: list[Any] = []
        cancel = CancelToken()
        reporter = Reporter("test", events.append, cancel)
        list(Shards(data, "test", reporter, tells=True).map(count))
        told = [event.done for event in events if isinstance(event, Progress)]
        assert told == sorted(told)
        assert told[-1] == len(data)
        cancel.cancel()
        with pytest.raises(Cancelled):
            list(Shards(data, "test", reporter).map(count))


def test_nothing_to_add_up_is_said() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Shards(np.empty((0, 3), np.float32), "test").reduce(total, plus, ByRow(np.empty(0)))


def assert_workers_agree(tmp_path: Path, device: Device) -> None:
    """Fit k-means by a fleet of a device, and here."""
    X = rows(400, 6)
    fleet = FickleFleet(tmp_path, loss=0.2, device=device)
    far = there(X, fleet)
    kmeans = KMeans(n_clusters=9, n_init=1, random_state=3)
    here = kmeans.fit(X)
    decision = Decision("gpu", device, "")
    found, used = fit_algorithm(kmeans, far, decision, Reporter("cluster"))
    np.testing.assert_array_equal(found.labels_, here.labels_)
    assert found.info == here.info
    assert used == device
    assert found.backend == ("cupy" if device == "gpu" else "numba")
    assert fleet.n_calls > 3


def test_workers_with_a_gpu_find_what_those_without_find(tmp_path: Path, device: Device) -> None:
    assert_workers_agree(tmp_path, device)


def test_rows_without_room_on_the_gpu_come_in_blocks(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = []
    each_block = half_lloyd.each_block
    monkeypatch.setattr(half_lloyd, "resident_bytes", lambda *_: 1 << 60)
    monkeypatch.setattr(half_lloyd, "each_block", lambda *args: came.append(each_block(*args)))
    assert_workers_agree(tmp_path, device)
    assert bool(came) == (device == "gpu")
