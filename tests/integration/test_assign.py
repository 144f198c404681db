"""Rows of a later day join the clusters of a finished run."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster import incremental, parts
from gpucluster.artifacts import LocalStore
from gpucluster.errors import (
    BadRowsError,
    Cancelled,
    ConfigError,
    CorruptArtifactError,
    DuplicateIdsError,
    FallbackWarning,
    GpuclusterError,
    InputError,
    RunNotFoundError,
    SchemaMismatchError,
    SchemaTooNewError,
    ShapeError,
    TooFewSamplesError,
)
from gpucluster.events import CancelToken, Event, Progress
from tests.helpers.faults import ALL_KILLS, KILLS, Faulty, due, is_killed, temporary_files

K, D = 6, 16
KMEANS = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": K, "n_init": 1}}
CENTERS = np.random.default_rng(7).normal(size=(K, D)).astype(np.float32)


def rows(n: int, seed: int, spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (CENTERS[rng.integers(0, K, n)] + spread * rng.normal(size=(n, D))).astype(np.float32)


def write(path: Path, X: np.ndarray, first: int = 0, **columns: object) -> Path:
    ids = [f"d{row}" for row in range(first, first + len(X))]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    pq.write_table(pa.table({"document_id": ids, "embedding": vectors, **columns}), path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("assign")


@pytest.fixture(scope="module")
def old(place: Path) -> Path:
    return write(place / "old.parquet", rows(600, 1))


@pytest.fixture(scope="module")
def new(place: Path) -> Path:
    """Half of the old documents, and 500 new ones."""
    return write(place / "new.parquet", np.vstack([rows(600, 1)[300:], rows(500, 2)]), first=300)


@pytest.fixture(scope="module")
def base(place: Path, old: Path) -> gpucluster.Run:
    return gpucluster.cluster(old, KMEANS, out=place / "out", device="cpu")


def by_hand(X: np.ndarray, run: gpucluster.Run, threshold: float) -> np.ndarray:
    """What the rule of k-means says, in float64: the nearest mean, then the cosine to it."""
    unit = X / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    means = np.array(run.centroids["centroid_vector"].to_pylist())
    nearest = (unit @ means.T - 0.5 * (means**2).sum(axis=1)).argmax(axis=1)
    cosine = np.einsum("ij,ij->i", unit, means[nearest]) / np.linalg.norm(means[nearest], axis=1)
    return np.where(cosine >= threshold, nearest, -1)


@pytest.mark.parametrize("threshold", [-1, 0.5, 0.9, 0.97])
def test_labels_are_those_of_the_rule(
    base: gpucluster.Run, new: Path, tmp_path: Path, threshold: float
) -> None:
    run = base.assign(new, threshold=threshold, out=tmp_path, device="cpu")
    np.testing.assert_array_equal(run.labels_, by_hand(rows(500, 2), base, threshold))
    manifest = run.manifest
    assert (manifest.mode, manifest.base_run_id) == ("assign", base.run_id)
    counts = manifest.counts
    assert (counts.num_rows, counts.num_known, counts.num_points) == (800, 300, 500)
    assert counts.num_noise == (run.labels_ == -1).sum()
    assert run.metrics["noise_ratio"] == pytest.approx(counts.num_noise / 500)
    members = run.members.to_pandas()
    assert sorted(members["document_id"]) == sorted(f"d{row}" for row in range(600, 1100))
    assert set(members["assigned_by"]) == {"assign"}
    inside = members["cluster_index"] >= 0
    assert members.loc[~inside, "cosine_similarity_to_centroid"].isna().all()
    assert (members.loc[inside, "cosine_similarity_to_centroid"] >= threshold).all()
    assert (members.loc[~inside, "nearest_cluster_similarity"] < threshold).all()
    if inside.any():
        assert run.metrics["mean_cosine_to_centroid"] == pytest.approx(
            members.loc[inside, "cosine_similarity_to_centroid"].mean(), rel=1e-5
        )
    sizes = run.centroids["num_members"].to_numpy()
    np.testing.assert_array_equal(sizes, np.bincount(run.labels_[run.labels_ >= 0], minlength=K))
    assert run.centroids["cluster_id"].equals(base.centroids["cluster_id"])
    assert run.centroids["centroid_vector"].equals(base.centroids["centroid_vector"])


def test_a_threshold_is_reached_by_what_equals_it(base: gpucluster.Run, place: Path) -> None:
    free = base.assign(rows(50, 5), threshold=-1, out=place / "equal", device="cpu")
    order = np.argsort(free.members["row"].to_numpy())
    cosine = free.members["nearest_cluster_similarity"].to_numpy()[order]
    again = base.assign(rows(50, 5), threshold=float(cosine[7]), out=place / "equal", device="cpu")
    np.testing.assert_array_equal(again.labels_ >= 0, cosine >= cosine[7])
    assert again.labels_[7] >= 0


STEPS = [[], ["center"], ["whitening"], ["whitening", "l2_normalize"]]


@pytest.mark.parametrize("steps", STEPS, ids="-".join)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("normalize", [True, False])
def test_kmeans_places_its_own_rows_again(
    old: Path, tmp_path: Path, steps: list[str], metric: str, normalize: bool
) -> None:
    run = gpucluster.cluster(
        old,
        algorithm="kmeans",
        algorithm_params={"n_clusters": 12, "metric": metric, "n_init": 1},
        preprocessing_steps=[{"method": step} for step in steps],
        normalize_features=normalize,
        out=tmp_path,
        device="cpu",
    )
    assert run.manifest.assignment["rule"] == "fit"
    again = run.assign(old, threshold=-1, scope="all", device="cpu")
    agreement = float((again.labels_ == run.labels_).mean())
    assert agreement == pytest.approx(run.manifest.assignment["agreement"])
    assert agreement >= 0.99


@pytest.mark.parametrize("rule", ["cosine", "fit"])
@pytest.mark.parametrize("algorithm", ["hdbscan", "gaussian_mixture", "agglomerative"])
def test_agreement_is_published_for_any_algorithm(
    old: Path, tmp_path: Path, algorithm: str, rule: str
) -> None:
    params = {
        "hdbscan": {"min_cluster_size": 20},
        "gaussian_mixture": {"n_components": K},
        "agglomerative": {"n_clusters": K},
    }[algorithm]
    run = gpucluster.cluster(
        old,
        algorithm=algorithm,
        algorithm_params=params,
        assign_by=rule,
        out=tmp_path,
        device="cpu",
    )
    facts = run.manifest.assignment
    again = run.assign(old, threshold=-1, scope="all", device="cpu")
    inside = run.labels_ >= 0
    assert facts["rule"] == rule
    assert facts["agreement"] == pytest.approx((again.labels_ == run.labels_)[inside].mean())
    assert ("agreement_reason" in facts) == (facts["agreement"] < 0.99)


def test_agreement_in_a_layout_is_that_of_rows_which_are_placed_in_it(
    old: Path, tmp_path: Path
) -> None:
    run = gpucluster.cluster(
        old,
        algorithm="hdbscan",
        algorithm_params={"min_cluster_size": 20},
        preprocessing_steps=[{"method": "umap", "n_components": 2, "n_epochs": 30}],
        assign_by="fit",
        out=tmp_path,
        device="cpu",
    )
    again = run.assign(old, threshold=-1, scope="all", device="cpu")
    inside = run.labels_ >= 0
    agreement = float((again.labels_ == run.labels_)[inside].mean())
    assert run.manifest.assignment["agreement"] == pytest.approx(agreement)


def test_auto_leaves_out_a_hundredth_of_what_the_fit_had(
    base: gpucluster.Run, old: Path, tmp_path: Path
) -> None:
    run = base.assign(old, threshold="auto", scope="all", out=tmp_path, device="cpu")
    left_out = (run.labels_ == -1).mean()
    assert left_out == pytest.approx(base.manifest.assignment["auto_rejects"])
    assert 0.005 <= left_out <= 0.02
    assert run.manifest.drift["noise_ratio_rise"] == pytest.approx(0, abs=1e-9)
    assert run.manifest.drift["share_divergence"] == pytest.approx(0, abs=1e-9)


def test_the_cut_of_files_changes_no_label(
    base: gpucluster.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = rows(900, 3)
    whole = write(tmp_path / "whole.parquet", X)
    folder = tmp_path / "cut"
    folder.mkdir()
    for number, start in enumerate(range(0, 900, 170)):
        write(folder / f"{number}.parquet", X[start : start + 170], first=start)
    one = base.assign(whole, scope="all", out=tmp_path / "a", device="cpu")
    monkeypatch.setattr(parts, "PART_ROWS", 100)
    monkeypatch.setattr(incremental, "BATCH_BYTES", 40 * D * 4)
    other = base.assign(folder, scope="all", out=tmp_path / "b", device="cpu")
    assert len(list(other.path.glob("members-*.parquet"))) > 5
    np.testing.assert_array_equal(one.labels_, other.labels_)
    assert one.metrics == pytest.approx(other.metrics)
    assert one.centroids.drop(["run_id"]).equals(other.centroids.drop(["run_id"]))


# Interruptions


def assign_small(base: gpucluster.Run, data: Path, out: Path, durable: object = None) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_ROWS", 120)
        patch.setattr(incremental, "BATCH_BYTES", 64 * D * 4)
        if durable is not None:
            patch.setattr(incremental, "open_store", lambda root: LocalStore(root, durable))
        return base.assign(data, out=out, device="cpu")


@pytest.mark.parametrize("fault", KILLS)
def test_killed_at_every_durable_operation_each_document_has_one_row(
    base: gpucluster.Run, new: Path, tmp_path: Path, fault: str
) -> None:
    counter = Faulty()
    reference = assign_small(base, new, tmp_path / "reference", counter)
    numbers = due(counter.operations, fault)
    assert len(counter.operations) > 100
    numbers = numbers[:: 1 if ALL_KILLS else 4]
    for n in numbers:
        out = tmp_path / str(n)
        dying = functools.partial(assign_small, base, new, out, Faulty(n, fault))
        assert is_killed(dying)
        with contextlib.suppress(RunNotFoundError):
            gpucluster.open_run(out / reference.run_id, verify=True)
        run = assign_small(base, new, out)
        assert run.manifest.content_sha256 == reference.manifest.content_sha256
        ids = run.members["document_id"].to_pylist()
        assert sorted(ids) == sorted(f"d{row}" for row in range(600, 1100))
        gpucluster.open_run(run.path, verify=True)
        assert len(temporary_files(out)) <= 1
    print(f"\n{fault}: {len(numbers)} of {len(counter.operations)} operations")  # noqa: T201


def test_a_resumed_run_compares_no_row_twice(
    base: gpucluster.Run, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 120)
    monkeypatch.setattr(incremental, "BATCH_BYTES", 64 * D * 4)
    seen: list[int] = []
    real = incremental.place_rows

    def counting(assigner: object, X: np.ndarray, *others: object) -> object:
        seen.append(len(X))
        return real(assigner, X, *others)

    monkeypatch.setattr(incremental, "place_rows", counting)
    cancel = CancelToken()

    def stop_late(event: Event) -> None:
        if isinstance(event, Progress) and event.done > 600:
            cancel.cancel()

    with pytest.raises(Cancelled):
        base.assign(new, out=tmp_path, device="cpu", observer=stop_late, cancel=cancel)
    first = sum(seen)
    seen.clear()
    run = base.assign(new, out=tmp_path, device="cpu")
    assert run.manifest.counts.num_points == 500
    assert 0 < sum(seen) < 500
    assert sum(seen) + first < 500 + 120 + 64  # at most a part is done again
    seen.clear()
    assert base.assign(new, out=tmp_path, device="cpu").run_id == run.run_id
    assert not seen  # a finished run is returned


def test_another_file_under_the_same_name_is_another_run(
    base: gpucluster.Run, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.parquet", rows(40, 8), first=5000)
    first = base.assign(path, out=tmp_path / "out", device="cpu")
    write(path, rows(41, 9), first=5000)
    second = base.assign(path, out=tmp_path / "out", device="cpu")
    assert first.run_id != second.run_id
    assert second.manifest.counts.num_points == 41


# Which run, which rows


def test_a_folder_stands_for_its_latest_full_run(old: Path, new: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(RunNotFoundError, match="no run at"):
        gpucluster.assign(new, run=tmp_path / "out")
    runs = [
        gpucluster.cluster(old, KMEANS, random_state=seed, out=tmp_path / "out", device="cpu")
        for seed in (1, 2, 3)
    ]
    found = gpucluster.assign(new, run=tmp_path / "out", device="cpu")
    assert found.manifest.base_run_id == runs[-1].run_id
    pinned = gpucluster.assign(new, run=runs[0].path, device="cpu")
    assert pinned.manifest.base_run_id == runs[0].run_id
    through = gpucluster.assign(new, run=pinned, threshold=0.7, device="cpu")
    assert through.manifest.base_run_id == runs[0].run_id


def test_documents_without_ids_are_all_new(base: gpucluster.Run, tmp_path: Path) -> None:
    X = rows(30, 4)
    run = base.assign(X, out=tmp_path, device="cpu")
    assert run.manifest.assignment["scope"] == "all"
    assert run.manifest.counts.num_points == 30
    with pytest.raises(ConfigError, match="scope: documents without ids"):
        base.assign(X, scope="new", out=tmp_path, device="cpu")


def test_nothing_new_is_a_run_of_nobody(base: gpucluster.Run, old: Path, tmp_path: Path) -> None:
    run = base.assign(old, out=tmp_path, device="cpu")
    assert run.manifest.counts.num_points == 0
    assert run.manifest.counts.num_known == 600
    assert run.members.num_rows == 0
    assert run.manifest.drift is None
    assert run.metrics["noise_ratio"] is None
    assert run.metrics["should_recluster"] == 0
    assert "noise_ratio" in run.manifest.not_evaluated


def test_filters_of_the_definition_hold_unless_others_are_given(tmp_path: Path) -> None:
    X, kind = rows(400, 1), ["a", "b"] * 200
    data = write(tmp_path / "docs.parquet", X, kind=kind)
    only_a = {"field": "kind", "operator": "eq", "value": "a"}
    run = gpucluster.cluster(data, KMEANS, filters=only_a, out=tmp_path / "out", device="cpu")
    more = write(tmp_path / "more.parquet", rows(100, 2), first=400, kind=["a", "b"] * 50)
    found = run.assign(more, device="cpu")
    assert (found.manifest.counts.num_points, found.manifest.counts.num_filtered) == (50, 50)
    other = run.assign(more, filters={**only_a, "value": "b"}, device="cpu")
    assert set(other.members["row"].to_pylist()) == set(range(1, 100, 2))


def test_columns_of_the_base_run_are_found_again(tmp_path: Path) -> None:
    X = rows(200, 1)
    names = {"key": [f"k{row}" for row in range(200)], "emb": X, "other": X[:, ::-1] * 2}
    lists = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(value).ravel()), D)
        if isinstance(value, np.ndarray)
        else value
        for name, value in names.items()
    }
    path = tmp_path / "two.parquet"
    pq.write_table(pa.table(lists), path)
    columns = {"id_column": "key", "vector_column": "emb"}
    run = gpucluster.cluster(path, KMEANS, out=tmp_path / "out", device="cpu", **columns)
    found = run.assign(path, scope="all", threshold=-1, device="cpu")
    assert found.manifest.source["columns"]["vector"] == "emb"
    np.testing.assert_array_equal(found.labels_, run.labels_)


def test_rows_that_cannot_be_compared_are_quarantined(
    base: gpucluster.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 100)
    monkeypatch.setattr(incremental, "BATCH_BYTES", 50 * D * 4)
    X = rows(400, 6)
    X[10], X[300, 2], X[399] = 0, np.nan, np.inf
    data = write(tmp_path / "bad.parquet", X, first=9000)
    run = base.assign(data, out=tmp_path / "out", device="cpu")
    assert run.manifest.counts.num_rejected == 3
    assert run.rejected.to_pylist() == [
        {"document_id": "d9010", "row": 10, "reason": "zero_norm"},
        {"document_id": "d9300", "row": 300, "reason": "nan"},
        {"document_id": "d9399", "row": 399, "reason": "inf"},
    ]
    X[:100] = np.nan
    data = write(tmp_path / "worse.parquet", X, first=9000)
    with pytest.raises(BadRowsError, match="of 400 rows cannot be clustered"):
        base.assign(data, out=tmp_path / "out", device="cpu")


def test_an_id_twice_is_refused_wherever_it_is(
    base: gpucluster.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 100)
    monkeypatch.setattr(parts, "CHECKED_IDS", 90)
    monkeypatch.setattr(incremental, "BATCH_BYTES", 50 * D * 4)
    X = rows(400, 6)
    ids = [f"n{row}" for row in range(400)]
    ids[399] = ids[3]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D)
    pq.write_table(pa.table({"document_id": ids, "embedding": vectors}), tmp_path / "x.parquet")
    with pytest.raises(DuplicateIdsError, match="ids must be unique, 1 are not: 'n3'"):
        base.assign(tmp_path / "x.parquet", out=tmp_path / "out", device="cpu")
    ids[399] = None
    pq.write_table(pa.table({"document_id": ids, "embedding": vectors}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="row 399: the id is null"):
        base.assign(tmp_path / "x.parquet", out=tmp_path / "out", device="cpu")


# Hierarchies and features


def test_rows_descend_as_far_as_they_are_similar(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    tops = np.eye(3, 12)
    subs = np.vstack([tops[i] + 0.5 * np.eye(12)[3 + 2 * i + j] for i in range(3) for j in (0, 1)])
    X = (subs[rng.integers(0, 6, 1200)] + 0.06 * rng.normal(size=(1200, 12))).astype(np.float32)
    run = gpucluster.cluster(
        X,
        algorithm="kmeans",
        algorithm_params={"n_clusters": 3},
        hierarchical=True,
        max_hierarchy_depth=2,
        out=tmp_path,
        device="cpu",
    )
    levels = run.centroids["hierarchy_level"].to_pylist()
    assert levels.count(0) == 3
    assert levels.count(1) == 6
    assert run.manifest.assignment["agreement"] == 1
    assert run.manifest.assignment["agreement_of_deepest"] > 0.95
    again = run.assign(X, threshold="auto", device="cpu")
    assert (again.labels_ == run.labels_).mean() > 0.95
    between = tops.astype(np.float32)  # of no child more than of the other
    shallow = run.assign(between, threshold=0.92, device="cpu")
    paths = {len(path) for path in shallow.members["cluster_path"].to_pylist()}
    assert paths <= {0, 1}
    sizes = again.centroids["num_members"].to_numpy()
    parents = again.centroids["parent_cluster_id"].to_pylist()
    ids = again.centroids["cluster_id"].to_pylist()
    for root in range(3):
        children = [i for i, parent in enumerate(parents) if parent == ids[root]]
        own = int((again.labels_ == root).sum())
        assert sizes[root] == sizes[children].sum() + own


def test_several_features_are_weighted_as_in_the_fit(tmp_path: Path) -> None:
    X = rows(300, 1)
    both = {
        "document_id": [f"d{row}" for row in range(300)],
        "first": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D),
        "second": pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(X[:, :4]).ravel() * 7), 4
        ),
    }
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table(both), path)
    uris = [f"gpucluster://x@v1/{name}" for name in ("first", "second")]
    run = gpucluster.cluster(
        path,
        KMEANS,
        feature_uris=uris,
        feature_weights={uris[0]: 1.0, uris[1]: 0.2},
        out=tmp_path / "out",
        device="cpu",
    )
    again = run.assign(path, scope="all", threshold=-1, device="cpu")
    np.testing.assert_array_equal(again.labels_, run.labels_)


def test_attribute_groups_are_not_joined_by_vectors(tmp_path: Path) -> None:
    data = write(tmp_path / "docs.parquet", rows(60, 1), kind=["a", "b"] * 30)
    run = gpucluster.cluster(
        data,
        cluster_type="attribute",
        attribute_config={"attributes": ["kind"]},
        out=tmp_path / "out",
        device="cpu",
    )
    assert run.manifest.assignment is None
    with pytest.raises(ConfigError, match="groups by attributes"):
        run.assign(data)


# Centroids that move


def test_updated_centroids_are_the_means_of_all_members(
    base: gpucluster.Run, old: Path, tmp_path: Path
) -> None:
    X = rows(500, 2)
    fresh = write(tmp_path / "fresh.parquet", X, first=600)
    run = gpucluster.assign(
        fresh, run=base, update=True, threshold=-1, out=base.path.parent, device="cpu"
    )
    assert run.manifest.mode == "update"
    every = np.vstack([rows(600, 1), X]).astype(np.float64)
    unit = every / np.linalg.norm(every, axis=1, keepdims=True)
    labels = np.concatenate([base.labels_, run.labels_])
    expected = np.stack([unit[labels == cluster].mean(axis=0) for cluster in range(K)])
    found = np.array(run.centroids["centroid_vector"].to_pylist())
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert run.centroids["num_members"].to_pylist() == np.bincount(labels).tolist()
    assert run.manifest.drift["centroid_shift"] < 0.1
    # it can be the base of later ones, which leave out what moved it
    later = gpucluster.assign(
        write(tmp_path / "later.parquet", np.vstack([X[400:], rows(20, 9)]), first=1000),
        run=run,
        device="cpu",
    )
    assert later.manifest.base_run_id == run.run_id
    assert later.manifest.counts.num_known == 100
    assert later.manifest.counts.num_points == 20


def test_an_update_that_left_the_fit_says_so(base: gpucluster.Run, tmp_path: Path) -> None:
    away = 2 * np.random.default_rng(1).normal(size=D)  # all clusters drift into one direction
    X = (rows(3000, 2) + away).astype(np.float32)
    run = base.assign(X, update=True, threshold=-1, device="cpu")
    assert run.manifest.drift["centroid_shift"] > 0.5
    fired = {reason["metric"]: reason for reason in run.manifest.recluster_reasons}
    assert fired["centroid_shift"]["threshold"] == 0.5
    assert fired["centroid_shift"]["baseline_run_id"] == base.run_id
    assert run.metrics["should_recluster"] == 1


def test_only_means_move(old: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(
        old, KMEANS, effective_feature_method="medoid", out=tmp_path, device="cpu"
    )
    with pytest.raises(ConfigError, match="update: .* has the medoid of each cluster"):
        run.assign(old, update=True, scope="all")


# What goes wrong


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 1.01}, "threshold: got 1.01, expected a cosine similarity in"),
        ({"threshold": float("nan")}, "threshold: got nan"),
        ({"threshold": "most"}, "threshold: got 'most', expected a cosine similarity"),
        ({"threshold": None}, "threshold: got None"),
        ({"threshold": [0.5]}, "threshold: got"),
        ({"threshold": True}, "threshold: got True"),
        ({"threshold": 10**400}, "threshold: got 1000"),
        ({"scope": "old"}, "scope: got 'old', expected new or all"),
        ({"scope": ["new"]}, "scope: got"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_read(
    base: gpucluster.Run, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        base.assign("/nowhere.parquet", **options)


def test_vectors_of_another_kind_are_refused(base: gpucluster.Run, tmp_path: Path) -> None:
    before = sorted(base.path.parent.iterdir())
    with pytest.raises(ShapeError, match="has vectors of 5 values, the centroids of .* have 16"):
        base.assign(np.ones((3, 5), np.float32))
    assert sorted(base.path.parent.iterdir()) == before


def damaged(run: gpucluster.Run, out: Path) -> Path:
    copy = out / run.run_id
    subprocess.run(["cp", "-r", run.path, copy], check=True)
    return copy


@pytest.mark.parametrize(
    "name", ["centroids.parquet", "members.parquet", "model/assignment/thresholds.npy"]
)
def test_a_damaged_base_is_an_error_and_nothing_is_written(
    base: gpucluster.Run, new: Path, tmp_path: Path, name: str
) -> None:
    copy = damaged(base, tmp_path)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (copy / name).write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=r"is damaged|damaged:"):
        gpucluster.assign(new, run=copy, device="cpu")
    assert [path.name for path in tmp_path.iterdir() if path.name != run_folder(copy)] == []


def run_folder(path: Path) -> str:
    return path.name


def test_a_newer_base_is_an_error(base: gpucluster.Run, new: Path, tmp_path: Path) -> None:
    copy = damaged(base, tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(SchemaTooNewError, match="schema version 99"):
        gpucluster.assign(new, run=copy)
    with pytest.raises(SchemaTooNewError, match="schema version 99"):
        gpucluster.assign(new, run=tmp_path)  # which run is the latest is not known


def test_memory_does_not_grow_with_the_rows(base: gpucluster.Run, tmp_path: Path) -> None:
    """Four times the rows take about the same: the peak of a process of its own is compared."""
    code = (
        "import sys, resource, gpucluster\n"
        "run = gpucluster.assign(sys.argv[1], run=sys.argv[2], out=sys.argv[3], device='cpu')\n"
        "print(run.manifest.counts.num_points, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = {}
    for n in (400_000, 1_600_000):
        path = tmp_path / f"{n}.parquet"
        with pq.ParquetWriter(
            path, pa.schema([("document_id", pa.int64()), ("embedding", pa.list_(pa.float32(), D))])
        ) as writer:
            for start in range(0, n, 100_000):
                vectors = pa.array(rows(100_000, start).ravel())
                writer.write_table(
                    pa.table(
                        [
                            pa.array(np.arange(start, start + 100_000) + 10**6),
                            pa.FixedSizeListArray.from_arrays(vectors, D),
                        ],
                        schema=writer.schema,
                    )
                )
        done = subprocess.run(
            [sys.executable, "-c", code, path, base.path, tmp_path / "out"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        points, peak = map(int, done.stdout.split())
        assert points == n
        peaks[n] = peak
    assert peaks[1_600_000] < 1.3 * peaks[400_000]


def test_the_command_line(base: gpucluster.Run, new: Path, tmp_path: Path) -> None:
    def cli(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpucluster", "assign", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = cli(new, "--run", base.path, "--out", tmp_path, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert f"the clusters of {base.run_id}" in done.stdout
    assert "300 rows are in the base run, left out" in done.stdout
    answer = json.loads(
        cli(new, "--run", base.path, "--out", tmp_path, "--threshold", "auto", "--json").stdout
    )
    assert answer["mode"] == "assign"
    assert answer["assignment"]["threshold"] == "auto"
    assert answer["drift"]["num_new"] == 500
    for args, code, said in (
        ((new,), 2, "missing option '--run'"),
        (("--run", base.path), 2, "missing INPUT"),
        ((new, "--run", base.path, "--threshold", "2"), 2, "threshold: got 2"),
        ((new, "--run", base.path, "--threshold", "x"), 2, "--threshold: got 'x'"),
        ((new, "--run", tmp_path / "none"), 5, "there is no such folder"),
    ):
        failed = cli(*args)
        assert failed.returncode == code, failed.stderr
        assert said in failed.stderr
        assert len(failed.stderr.splitlines()) == 1


def test_errors_are_of_the_tree(base: gpucluster.Run) -> None:
    with pytest.raises(GpuclusterError, match="no such file"):
        base.assign("/nowhere.parquet")


# What once went wrong


@pytest.mark.parametrize("rule", ["cosine", "fit"])
@pytest.mark.parametrize("normalize", [True, False])
def test_equal_documents_stay_members_of_their_cluster(
    tmp_path: Path, rule: str, normalize: bool
) -> None:
    rng = np.random.default_rng(5)
    templates = (3 * rng.normal(size=(8, 33))).astype(np.float32)
    X = templates[rng.integers(0, 8, 400)]
    ids = [f"d{i}" for i in range(400)]
    run = gpucluster.cluster(
        (ids, X),
        algorithm="kmeans",
        algorithm_params={"n_clusters": 8, "n_init": 2},
        assign_by=rule,
        normalize_features=normalize,
        out=tmp_path,
        device="cpu",
    )
    again = run.assign((ids, X), threshold="auto", scope="all", device="cpu")
    assert run.manifest.assignment["auto_rejects"] == 0
    assert (again.labels_ >= 0).all()


@pytest.mark.parametrize("threshold", [0.62, 0.8, 0.93, 0.97, 0.975])
def test_the_rows_of_the_fit_are_no_drift_under_any_threshold(
    base: gpucluster.Run, old: Path, tmp_path: Path, threshold: float
) -> None:
    drift = base.assign(old, threshold=threshold, scope="all", out=tmp_path, device="cpu").manifest
    assert drift.drift["noise_ratio_rise"] == pytest.approx(0, abs=1e-9)
    assert drift.drift["growth"] == 0
    assert drift.drift["mean_cosine_fall"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["int", "str"])
def test_ids_that_are_numbers_of_rows_are_ids(tmp_path: Path, kind: str) -> None:
    def table(first: int, n: int, seed: int) -> pa.Table:
        ids = np.arange(first, first + n)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows(n, seed).ravel()), D)
        names = pa.array(ids) if kind == "int" else pa.array(ids.astype(str))
        return pa.table({"document_id": names, "embedding": vectors})

    run = gpucluster.cluster(table(0, 300, 1), KMEANS, out=tmp_path, device="cpu")
    found = run.assign(table(200, 200, 2), device="cpu")
    assert (found.manifest.counts.num_known, found.manifest.counts.num_points) == (100, 100)


def test_growth_counts_all_rows_since_the_fit(tmp_path: Path) -> None:
    X = rows(3000, 3)
    ids = [f"d{i}" for i in range(3000)]
    sampled = gpucluster.cluster(
        (ids[:2400], X[:2400]),
        KMEANS,
        sample_size=300,
        sample_mode="fit_then_assign",
        out=tmp_path / "a",
        device="cpu",
    )
    found = sampled.assign((ids[2400:2700], X[2400:2700]), device="cpu")
    assert found.manifest.drift["growth"] == pytest.approx(300 / 2400)
    run = gpucluster.cluster((ids[:500], X[:500]), KMEANS, out=tmp_path / "b", device="cpu")
    for step in range(3):
        part = slice(500 + 200 * step, 700 + 200 * step)
        run = run.assign((ids[part], X[part]), update=True, threshold=-1, device="cpu")
        assert run.manifest.drift["growth"] == pytest.approx(0.4 * (step + 1))
    assert [reason["metric"] for reason in run.manifest.recluster_reasons] == ["growth"]
    assert run.manifest.recluster_reasons[0]["baseline_run_id"] != run.manifest.base_run_id
    nameless = gpucluster.cluster(X[:600], KMEANS, out=tmp_path / "c", device="cpu")
    assert nameless.assign(X[600:900], device="cpu").manifest.drift["growth"] == 0.5


def test_a_night_without_documents_changes_nothing_for_the_next(
    base: gpucluster.Run, tmp_path: Path
) -> None:
    night = write(tmp_path / "night.parquet", rows(100, 2), first=600)
    first = base.assign(night, update=True, threshold=-1, out=tmp_path / "out", device="cpu")
    nobody = first.assign(night, update=True, threshold=-1, device="cpu")
    again = nobody.assign(night, update=True, threshold=-1, device="cpu")
    for run in (nobody, again):
        assert run.manifest.counts.num_points == 0
        assert run.manifest.counts.num_known == 100
        assert run.centroids["num_members"].equals(first.centroids["num_members"])
        assert run.centroids["medoid_document_id"].equals(first.centroids["medoid_document_id"])


def test_what_moved_the_centroids_may_not_move_them_again(
    base: gpucluster.Run, old: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="would move them twice"):
        base.assign(old, update=True, scope="all", out=tmp_path, device="cpu")


def test_means_of_directions_move_by_directions(tmp_path: Path) -> None:
    X = rows(600, 1) * np.exp(np.random.default_rng(2).normal(size=(600, 1))).astype(np.float32) * 9
    ids = [f"d{i}" for i in range(600)]
    run = gpucluster.cluster(
        (ids[:400], X[:400]),
        algorithm="kmeans",
        algorithm_params={"n_clusters": K, "metric": "cosine"},
        normalize_features=False,
        out=tmp_path,
        device="cpu",
    )
    moved = run.assign((ids[400:], X[400:]), update=True, threshold=-1, device="cpu")
    lengths = np.linalg.norm(moved.model["assignment"]["arrays"]["means"], axis=1)
    assert (lengths <= 1).all()
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    labels = np.concatenate([run.labels_, moved.labels_])
    expected = np.stack([unit[labels == cluster].mean(axis=0) for cluster in range(K)])
    found = moved.model["assignment"]["arrays"]["means"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_reader_is_read_once(tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows(200, 1).ravel()), D)
    names = {"id": [f"a{i}" for i in range(200)], "key": [f"k{i}" for i in range(200)]}
    table = pa.table({**names, "embedding": vectors})
    run = gpucluster.cluster(table, KMEANS, id_column="key", out=tmp_path, device="cpu")
    found = run.assign(table.to_reader(), scope="all", device="cpu")
    assert found.manifest.counts.num_rows == 200
    assert found.members["document_id"][0].as_py().startswith("k")


def test_sparse_vectors_and_other_models_are_refused(tmp_path: Path) -> None:
    kind = pa.struct([("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float32()))])
    rng = np.random.default_rng(0)
    values = [
        {"indices": sorted(rng.choice(30, 5, replace=False).tolist()), "values": [1.0] * 5}
        for _ in range(80)
    ]
    ids = [f"d{i}" for i in range(80)]
    sparse = pa.table({"document_id": ids, "sparse": pa.array(values, kind)})
    run = gpucluster.cluster(sparse, KMEANS, out=tmp_path / "sparse", device="cpu")
    with pytest.raises(SchemaMismatchError, match="sparse vectors, which are reduced anew"):
        run.assign(sparse, scope="all", device="cpu")

    uri = "gpucluster://text@v1/embedding"

    def collection(name: str, model: str, seed: int) -> Path:
        write(tmp_path / f"{name}.parquet", rows(100, seed), first=1000 * seed)
        manifest = {
            "collection_id": name,
            "files": [f"{name}.parquet"],
            "features": {uri: {"column": "embedding", "model": model, "dim": D}},
        }
        path = tmp_path / f"{name}.collection.json"
        path.write_text(json.dumps(manifest))
        return path

    fields = {"feature_uris": [uri]}
    one = collection("one", "model-1", 1)
    base = gpucluster.cluster(one, KMEANS, out=tmp_path / "out", device="cpu", **fields)
    base.assign(collection("two", "model-1", 2), device="cpu")
    with pytest.raises(SchemaMismatchError, match="is computed by model-2"):
        base.assign(collection("three", "model-2", 3), device="cpu")


def test_another_column_than_that_of_the_base_is_said(tmp_path: Path) -> None:
    X = rows(100, 1)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D)
    run = gpucluster.cluster(pa.table({"emb": vectors}), KMEANS, out=tmp_path, device="cpu")
    with pytest.warns(FallbackWarning, match="has no column 'emb'"):
        run.assign(pa.table({"other": vectors}), device="cpu")


def test_rows_in_memory_are_told_apart_by_what_the_filter_reads(tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows(100, 1).ravel()), D)
    ids = [f"d{i}" for i in range(100)]

    def table(kind: list[str]) -> pa.Table:
        return pa.table({"document_id": ids, "embedding": vectors, "kind": kind})

    run = gpucluster.cluster(table(["a"] * 100), KMEANS, out=tmp_path, device="cpu")
    only_a = {"field": "kind", "operator": "eq", "value": "a"}
    found = [
        run.assign(table(kind), filters=only_a, scope="all", device="cpu")
        for kind in (["a", "b"] * 50, ["b", "a"] * 50)
    ]
    assert found[0].run_id != found[1].run_id
    assert found[1].members["row"].to_numpy().min() == 1
    with pytest.raises(TooFewSamplesError, match="no row matches the filter"):
        run.assign(table(["b"] * 100), filters=only_a, scope="all", device="cpu")


def test_an_id_of_a_bad_row_counts_as_well(base: gpucluster.Run, tmp_path: Path) -> None:
    X = rows(200, 6)
    X[5] = np.nan
    ids = [f"n{row}" for row in range(200)]
    ids[5] = ids[150]
    with pytest.raises(DuplicateIdsError, match="'n150'"):
        base.assign((ids, X), out=tmp_path, device="cpu")


def test_one_bad_row_does_not_keep_a_small_batch_out(base: gpucluster.Run, tmp_path: Path) -> None:
    X = rows(20, 6)
    X[3] = 0
    found = base.assign(([f"n{row}" for row in range(20)], X), out=tmp_path, device="cpu")
    assert (found.manifest.counts.num_rejected, found.manifest.counts.num_points) == (1, 19)


def test_a_check_that_was_interrupted_is_not_skipped(
    base: gpucluster.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 100)
    monkeypatch.setattr(incremental, "BATCH_BYTES", 50 * D * 4)
    X = rows(400, 6)
    ids = [f"n{row}" for row in range(400)]
    ids[399] = ids[3]
    for _ in range(2):
        with pytest.raises(DuplicateIdsError):
            base.assign((ids, X), out=tmp_path, device="cpu")
        for folder in tmp_path.glob("run_*/checkpoints/part-00000*"):  # may be deleted
            (folder / "done.json").unlink()


def test_the_estimator_places_its_own_rows_again() -> None:
    X = rows(500, 1) * np.exp(np.random.default_rng(1).normal(size=(500, 1))).astype(np.float32)
    for metric in ("euclidean", "cosine"):
        model = gpucluster.Clusterer("kmeans", n_clusters=K, metric=metric, device="cpu").fit(X)
        assert (model.predict(X) == model.labels_).mean() >= 0.99
    assert (model.predict(X, threshold=-1) == model.labels_).mean() >= 0.99
    left_out = model.predict(X, threshold="auto") == -1
    assert 0.002 < left_out.mean() < 0.03
    assert (model.predict(-X, threshold=0.9) == -1).all()
    with pytest.raises(ConfigError, match="threshold: got 3"):
        model.predict(X, threshold=3)


def test_a_base_that_is_elsewhere_is_named(base: gpucluster.Run, new: Path, tmp_path: Path) -> None:
    joined = base.assign(new, out=tmp_path, device="cpu")
    with pytest.raises(RunNotFoundError, match=f"{base.run_id}, which is not beside it"):
        gpucluster.assign(new, run=joined)
    moved = base.assign(new, update=True, out=tmp_path, device="cpu")
    later = gpucluster.assign(new, run=moved, device="cpu")  # it needs no run before
    assert later.manifest.counts.num_known == 800
