"""K-means: what it says, what it costs, and its sum of squares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.algorithms import KMeans
from gpucluster.errors import NotConvergedWarning
from gpucluster.events import Cancelled, CancelToken, Event, Progress, Reporter


def test_kmeans_says_when_it_stops_early() -> None:
    X = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    with pytest.warns(NotConvergedWarning, match="stopped at max_iter 1 "):
        KMeans(n_clusters=20, max_iter=1, n_init=1).fit(X)


def test_kmeans_says_when_it_finds_fewer_clusters() -> None:
    X = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    with pytest.warns(NotConvergedWarning, match="found 2 clusters of the 5 asked for"):
        found = KMeans(n_clusters=5).fit(X)
    assert found.n_clusters_ == 2


def test_kmeans_seeding_can_be_cancelled_and_is_in_the_cost() -> None:
    X = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    cancel, seen = CancelToken(), []

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.unit == "centres":
            seen.append(event.done)
            if event.done == 10:
                cancel.cancel()

    with pytest.raises(Cancelled):
        KMeans(n_clusters=50).fit(X, reporter=Reporter("cluster", stop, cancel))
    assert seen == list(range(2, 11))
    shape = (50_000, 384, "cpu")
    random = KMeans(n_clusters=300, init="random").cost(*shape).seconds
    assert KMeans(n_clusters=300).cost(*shape).seconds > random + 1


@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")
@given(
    n_samples=st.integers(4, 60),
    n_features=st.integers(1, 6),
    n_clusters=st.integers(2, 4),
    seed=st.integers(0, 2**16),
)
def test_kmeans_inertia_is_the_float64_sum(
    n_samples: int, n_features: int, n_clusters: int, seed: int
) -> None:
    X = np.random.default_rng(seed).normal(size=(n_samples, n_features)).astype(np.float32)
    found = KMeans(n_clusters=n_clusters, n_init=1, tol=0, random_state=seed).fit(X)
    assert 1 <= found.n_clusters_ <= n_clusters
    exact = sum(
        float(np.square(X[rows] - X[rows].mean(axis=0, dtype=np.float64)).sum(dtype=np.float64))
        for k in range(found.n_clusters_)
        if len(rows := np.flatnonzero(found.labels_ == k))
    )
    assert found.info["inertia"] >= exact - 1e-6
    assert found.info["inertia"] == pytest.approx(exact, rel=1e-4, abs=1e-4)
