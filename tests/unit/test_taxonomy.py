"""Which clusters become nodes, and how stable they are."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpucluster
from gpucluster.assignment import Assigned, Chosen
from gpucluster.errors import UnstableClustersError
from gpucluster.taxonomy import Promotion
from gpucluster.taxonomy.selection import select
from gpucluster.taxonomy.stability import Stability
from gpucluster.types import NOISE

K, D = 6, 16


@given(st.data())
def test_nodes_lie_below_the_next_ancestor_that_is_one(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    parents = np.array([data.draw(st.integers(-1, node - 1)) for node in range(n)], np.int32)
    chosen = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    names = [f"c{node}" for node in range(n)]
    table = pa.table({"cluster_id": names, "stable_id": [f"st_{node}" for node in range(n)]})
    run = types.SimpleNamespace(run_id="run_a", fitted_centroids=table, parents=parents)
    ids = [data.draw(st.sampled_from([f"c{node}", f"st_{node}"])) for node in chosen]
    found = select(run, Promotion(name="x", cluster_ids=ids), {})
    assert set(found.nodes.tolist()) == chosen
    n_roots = int((found.parents == NOISE).sum())
    assert (found.parents[:n_roots] == NOISE).all()
    for place, (node, parent) in enumerate(zip(found.nodes, found.parents, strict=True)):
        assert parent < place
        above = int(parents[node])
        while above != NOISE and above not in chosen:
            above = int(parents[above])
        assert above == (NOISE if parent == NOISE else found.nodes[parent])


def test_what_is_below_the_floor_is_refused_forced_or_left_out() -> None:
    names = [f"cl_{i}" for i in range(4)]
    stable = [f"st_{i}" for i in range(4)]
    run = types.SimpleNamespace(
        run_id="run_a",
        fitted_centroids=pa.table({"cluster_id": names, "stable_id": stable}),
        parents=np.full(4, NOISE, np.int32),
    )
    values = (0.9, 0.75, 0.5, None)
    known = {
        name: Stability(value, int(value is not None))
        for name, value in zip(names, values, strict=True)
    }
    asked = Promotion(name="x", min_stability=0.75)
    with pytest.raises(
        UnstableClustersError, match=r"2 of 4 .* than 0.75: cl_2 \(0.500\), cl_3 \(no history\)"
    ):
        select(run, asked, known)
    for change, expected in (({"force": True}, 4), ({"skip_unstable": True}, 2)):
        request = Promotion(name="x", min_stability=0.75, **change)
        found = select(run, request, known)
        assert len(found.nodes) == expected
        assert len(found.skipped) == 4 - expected
    only = Promotion(name="x", min_stability=0.75, cluster_ids=["cl_1", "st_0"])
    assert select(run, only, known).nodes.tolist() == [0, 1]


def test_rows_count_as_the_last_chosen_cluster_that_they_came_by() -> None:
    parents = np.array([NOISE, NOISE, 0, 0, 2], np.int32)
    directions = np.eye(5, dtype=np.float32)
    chosen = Chosen.among(np.array([0, 4]), parents, directions)
    assert chosen.places.tolist() == [0, NOISE, 0, 0, 1]
    assert chosen.parents.tolist() == [NOISE, 0]
    labels = np.array([NOISE, NOISE, 0, 1, 2, 3, 4], np.int32)
    nearest = np.array([0, 1, 0, 1, 2, 3, 4], np.int32)
    X = np.ones((7, 5), np.float32)
    similarity = np.linspace(0.3, 0.9, 7).astype(np.float32)
    found = chosen.counted(Assigned(labels, nearest, similarity), X)
    assert found.labels.tolist() == [NOISE, NOISE, 0, NOISE, 0, 0, 1]
    assert found.nearest.tolist() == [0, NOISE, 0, NOISE, 0, 0, 1]
    beside = 1 / np.sqrt(5)  # of a row to the centroid of the first, where it was nearer to another
    expected = [similarity[0], np.nan, similarity[2], np.nan, beside, beside, similarity[6]]
    np.testing.assert_allclose(found.similarity, expected, rtol=1e-6)


def test_stability_is_the_share_that_was_found_again(tmp_path: Path) -> None:
    """By hand: the Jaccard index of documents in both runs, averaged over two passages."""
    rng = np.random.default_rng(3)
    centers = np.random.default_rng(7).normal(size=(K, D))
    X = centers[rng.integers(0, K, 1200)] + 0.6 * rng.normal(size=(1200, D))
    X, ids = X.astype(np.float32), [f"d{row}" for row in range(1200)]
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": K, "n_init": 1}}
    runs = [
        gpucluster.cluster((ids[:n], X[:n]), settings, out=tmp_path / "out", device="cpu")
        for n in (150, 400, 1200)
    ]
    first = runs[0].promote("first").nodes
    assert first["stability"].to_pylist() == [None] * K
    assert first["stability_runs"].to_pylist() == [0] * K
    members = [
        {
            cluster: set(np.flatnonzero(run.labels_ == i).tolist())
            for i, cluster in enumerate(run.centroids["stable_id"].to_pylist())
        }
        for run in runs
    ]

    def passage(now: int, cluster: str) -> tuple[str, float]:
        shared = set(range((150, 400)[now - 1]))
        own = members[now][cluster] & shared
        each = {
            name: len(own & other) / len(own | other) for name, other in members[now - 1].items()
        }
        best = max(each, key=each.__getitem__)
        return best, each[best]

    nodes = runs[2].promote("third").nodes.to_pydict()
    n_averaged = 0
    for name, value, count in zip(
        nodes["node_id"], nodes["stability"], nodes["stability_runs"], strict=True
    ):
        expected = []
        for now in (2, 1):
            before, jaccard = passage(now, name)
            expected.append(jaccard)
            if before != name:
                break
        if value is None:
            continue
        assert value == pytest.approx(np.mean(expected), abs=1e-6)
        assert count == len(expected)
        n_averaged += count == 2
    assert n_averaged
