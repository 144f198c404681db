"""Clusters keep their identity from run to run, and every change has its name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster import finished
from gpucluster.errors import (
    ConfigError,
    CorruptArtifactError,
    FallbackWarning,
    GpuclusterWarning,
    RunNotFoundError,
    ShapeError,
)
from gpucluster.succession import definition_key

D = 12
CENTERS = np.eye(10, D, dtype=np.float32)


def points(clusters: dict[int, int], seed: int, start: int = 0) -> tuple[list[str], np.ndarray]:
    """So many documents around each of some centres, with ids that tell which."""
    rng = np.random.default_rng(seed)
    ids, rows = [], []
    for cluster, count in clusters.items():
        for number in range(start, start + count):
            ids.append(f"c{cluster}-{number}")
            rows.append(CENTERS[cluster] + 0.15 * rng.normal(size=D))
    return ids, np.array(rows, np.float32)


def both(*parts: tuple[list[str], np.ndarray]) -> tuple[list[str], np.ndarray]:
    return [name for ids, _ in parts for name in ids], np.vstack([X for _, X in parts])


def kmeans(data: object, k: int, out: Path, **fields: object) -> gpucluster.Run:
    fields = {"cluster_name": "topics", **fields}
    return gpucluster.cluster(
        data,
        algorithm="kmeans",
        algorithm_params={"n_clusters": k, "n_init": 5},
        out=out,
        device="cpu",
        **fields,
    )


def truth(run: gpucluster.Run) -> dict[str, str]:
    """The centre that each cluster lies at, by its stable id."""
    stable = dict(
        zip(
            run.centroids["cluster_id"].to_pylist(),
            run.centroids["stable_id"].to_pylist(),
            strict=True,
        )
    )
    table = run.members.select(["document_id", "cluster_id"]).to_pydict()
    return {
        stable[cluster]: ids.split("-")[0] for ids, cluster in zip(*table.values(), strict=True)
    }


OLD = {0: 100, 1: 80, 2: 60, 3: 50}


def test_identity_is_carried_on_by_the_documents_of_both_runs(tmp_path: Path) -> None:
    old = points(OLD, 1)
    first = kmeans(old, 4, tmp_path)
    assert first.manifest.lineage is None
    assert first.lineage is None
    assert len(set(first.centroids["stable_id"].to_pylist())) == 4
    # cluster 3 is gone, 4 and 5 are new, 2 has grown past the others
    ids, X = old
    kept = [i for i, name in enumerate(ids) if not name.startswith("c3")]
    still = [ids[i] for i in kept], X[kept]
    now = both(still, points({4: 70, 5: 40}, 2), points({2: 300}, 3, start=60))
    second = kmeans(now, 5, tmp_path)
    lineage = second.manifest.lineage
    assert lineage["previous_run_id"] == first.run_id
    assert lineage["matched_by"] == "documents"
    assert lineage["num_shared"] == 240
    kinds = {"survived": 3, "split": 0, "merged": 0, "born": 2, "died": 1}
    assert {kind: lineage[kind] for kind in kinds} == kinds
    assert lineage["agreement"] == {"ari": 1.0, "kept": 1.0}
    before, after = truth(first), truth(second)
    assert {name: at for name, at in after.items() if name in before} == {
        name: at for name, at in before.items() if at != "c3"
    }
    assert second.centroids["cluster_id"][0].as_py() == "cl_0"  # numbers change: 2 is the largest
    assert after[second.centroids["stable_id"][0].as_py()] == "c2"
    table = second.lineage.to_pylist()
    assert {(row["kind"], row["num_shared"]) for row in table} == {
        ("survived", 100),
        ("survived", 80),
        ("survived", 60),
        ("died", 0),
        ("born", 0),
    }
    dead = next(row for row in table if row["kind"] == "died")
    assert before[dead["stable_id"]] == "c3"
    assert dead["cluster_id"] is None
    third = kmeans(both(now, points({0: 5}, 9, start=100)), 5, tmp_path)
    assert third.manifest.lineage["previous_run_id"] == second.run_id
    assert truth(third) == after


def test_splits_and_mergers_are_told(tmp_path: Path) -> None:
    data = points({0: 60, 1: 50, 2: 40, 3: 30}, 1)
    fine = kmeans(data, 4, tmp_path / "a")
    near = data[1].copy()
    near[:110, :2] = near[:110, :2].mean(axis=1, keepdims=True)  # 0 and 1 become one
    coarse = kmeans((data[0], near), 3, tmp_path / "a", previous=fine)
    assert coarse.manifest.lineage["merged"] == 1
    assert coarse.manifest.lineage["survived"] == 2
    merged = [row for row in coarse.lineage.to_pylist() if row["kind"] == "merged"]
    assert sorted(row["num_shared"] for row in merged) == [50, 60]
    back = gpucluster.compare(coarse, fine)
    assert back.counts == {"survived": 2, "split": 1, "merged": 0, "born": 0, "died": 0}
    split = [row for row in back.table.to_pylist() if row["kind"] == "split"]
    assert [row["share_of_previous"] for row in split] == pytest.approx([60 / 110, 50 / 110])


def test_runs_without_a_common_document_are_matched_by_centroids_when_named(tmp_path: Path) -> None:
    first = kmeans(points(OLD, 1), 4, tmp_path)
    second = kmeans(points({0: 90, 1: 70, 2: 50, 6: 60}, 5, start=1000), 4, tmp_path)
    assert second.manifest.lineage["matched_by"] == "centroids"
    before, after = truth(first), truth(second)
    shared = {name: at for name, at in after.items() if name in before}
    assert sorted(shared.values()) == ["c0", "c1", "c2"]
    assert all(before[name] == at for name, at in shared.items())


def test_runs_that_nobody_named_follow_each_other_by_documents_only(tmp_path: Path) -> None:
    first = kmeans(points(OLD, 1), 4, tmp_path, cluster_name=None)
    other = kmeans(points(OLD, 2, start=1000), 4, tmp_path, cluster_name=None)
    assert first.manifest.definition_key == other.manifest.definition_key
    assert other.manifest.lineage is None
    more = both(points(OLD, 1), points({0: 10}, 3, start=500))
    follows = kmeans(more, 4, tmp_path, cluster_name=None)
    assert follows.manifest.lineage["previous_run_id"] == first.run_id  # not the latest one
    chosen = kmeans(more, 4, tmp_path / "b", cluster_name=None, previous=other.path)
    assert chosen.manifest.lineage["previous_run_id"] == other.run_id


def test_another_definition_is_not_followed_and_none_can_be_asked_for(tmp_path: Path) -> None:
    data = points(OLD, 1)
    kmeans(data, 4, tmp_path, cluster_name=None)
    assert kmeans(data, 5, tmp_path, cluster_name=None).manifest.lineage is None
    kmeans(data, 4, tmp_path)
    assert kmeans(data, 5, tmp_path, previous=None).manifest.lineage is None
    with pytest.raises(RunNotFoundError):
        kmeans(data, 6, tmp_path, previous=tmp_path / "nowhere")


def test_a_damaged_run_beside_is_passed_over(tmp_path: Path) -> None:
    data = points(OLD, 1)
    first = kmeans(data, 4, tmp_path)
    (tmp_path / "run_0").mkdir()
    (tmp_path / "run_0" / "manifest.json").write_text("{")
    second = kmeans(both(data, points({0: 3}, 2, start=900)), 4, tmp_path)
    assert second.manifest.lineage["previous_run_id"] == first.run_id


def test_labels_of_unchanged_clusters_are_kept(tmp_path: Path) -> None:
    data = points({0: 60, 1: 50, 2: 40}, 1)
    first = kmeans(data, 3, tmp_path)
    table = first.centroids
    names = [f"about {at}" for at in truth(first).values()]
    by_stable = dict(zip(truth(first), names, strict=True))
    labels = [by_stable[name] for name in table["stable_id"].to_pylist()]
    named = table.set_column(
        table.schema.get_field_index("label"), table.schema.field("label"), [labels]
    )
    object.__setattr__(first, "__dict__", {**first.__dict__, "centroids": named})
    # of cluster 2 most documents are replaced by others elsewhere
    ids, X = data
    moved = X.copy()
    moved[[i for i, name in enumerate(ids) if name.startswith("c2-1")]] = CENTERS[7]
    second = kmeans((ids, moved), 4, tmp_path / "b", previous=first)
    found = dict(
        zip(
            second.centroids["stable_id"].to_pylist(),
            second.centroids["label"].to_pylist(),
            strict=True,
        )
    )
    assert sorted(label for label in found.values() if label) == ["about c0", "about c1"]
    assert all(by_stable[name] == label for name, label in found.items() if label)


def test_a_hierarchy_is_followed_level_by_level(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    tops = np.eye(3, 12)
    subs = np.vstack([tops[i] + 0.5 * np.eye(12)[3 + 2 * i + j] for i in range(3) for j in (0, 1)])
    X = (subs[rng.integers(0, 6, 1200)] + 0.06 * rng.normal(size=(1200, 12))).astype(np.float32)
    ids = [f"d{i}" for i in range(1200)]
    asked = {"hierarchical": True, "max_hierarchy_depth": 2}
    first = kmeans((ids, X), 3, tmp_path, **asked)
    second = kmeans((ids[:1100], X[:1100]), 3, tmp_path, **asked)
    table = second.lineage.to_pylist()
    for level, count in ((0, 3), (1, 6)):
        rows = [row for row in table if row["hierarchy_level"] == level]
        assert [row["kind"] for row in rows] == ["survived"] * count
    ids_of = [set(run.centroids["stable_id"].to_pylist()) for run in (first, second)]
    assert ids_of[0] == ids_of[1]
    assert len(ids_of[0]) == 9


def test_identity_changes_no_label_and_no_run_id(tmp_path: Path) -> None:
    data = points(OLD, 1)
    kmeans(points(OLD, 1), 3, tmp_path / "a")
    followed = kmeans(data, 4, tmp_path / "a")
    alone = kmeans(data, 4, tmp_path / "b")
    assert followed.manifest.lineage is not None
    assert followed.run_id == alone.run_id
    np.testing.assert_array_equal(followed.labels_, alone.labels_)


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    first = kmeans(points(OLD, 1), 4, tmp_path / "a")
    ids, X = points(OLD, 1, start=1000)
    five = np.ascontiguousarray(X[:, :5])
    narrow = kmeans((ids, five), 3, tmp_path / "b", cluster_name="narrow")
    with pytest.raises(ShapeError, match="has centroids of 12 values, .* of 5"):
        first.compare(narrow)
    with pytest.raises(ConfigError, match="have no document in common"):
        first.compare(narrow, by="documents")
    with pytest.raises(ConfigError, match="by: got 'x'"):
        first.compare(first, by="x")
    joined = first.assign(X, device="cpu", out=tmp_path / "c")
    with pytest.raises(ConfigError, match="has joined the clusters of"):
        first.compare(joined)
    content = bytearray((narrow.path / "members.parquet").read_bytes())
    content[100:-400] = bytes(byte ^ 0xFF for byte in content[100:-400])
    (narrow.path / "members.parquet").write_bytes(content)
    with pytest.raises(CorruptArtifactError):
        gpucluster.compare(first, gpucluster.open_run(narrow.path))


def test_a_run_beside_itself_is_unchanged(tmp_path: Path) -> None:
    run = kmeans(points(OLD, 1), 4, tmp_path)
    found = gpucluster.compare(run.path, run)
    assert found.counts == {"survived": 4, "split": 0, "merged": 0, "born": 0, "died": 0}
    assert found.stable_ids == run.centroids["stable_id"].to_pylist()
    assert found.metrics["noise_ratio"] == (0.0, 0.0)


def test_runs_of_noise_alone_can_be_compared(tmp_path: Path) -> None:
    ids, X = points({0: 30}, 1)
    noise = gpucluster.cluster(
        (ids, X),
        algorithm="dbscan",
        algorithm_params={"eps": 1e-6, "min_samples": 5},
        out=tmp_path,
        device="cpu",
    )
    assert noise.num_clusters == 0
    other = kmeans((ids, X), 2, tmp_path)
    assert gpucluster.compare(noise, other).counts["born"] == 2
    assert gpucluster.compare(other, noise).counts["died"] == 2
    assert gpucluster.compare(noise, noise).table.num_rows == 0


def test_the_command_line(tmp_path: Path) -> None:
    def cli(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpucluster", "compare", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    first = kmeans(points(OLD, 1), 4, tmp_path)
    second = kmeans(both(points(OLD, 1), points({7: 90}, 2)), 5, tmp_path)
    done = cli(first.path, second.path, "--table", tmp_path / "lineage.parquet")
    assert done.returncode == 0, done.stderr
    assert "4 survived, 0 split, 0 merged, 1 born, 0 died" in done.stdout
    assert "100.0 % keep their cluster" in done.stdout
    assert pq.read_table(tmp_path / "lineage.parquet").equals(finished.compare(first, second).table)
    answer = json.loads(cli(first.path, second.path, "--json", "--by", "centroids").stdout)
    assert answer["matched_by"] == "centroids"
    assert len(answer["links"]) == 5
    failed = cli(first.path, tmp_path / "none")
    assert failed.returncode == 5
    assert failed.stderr.count("\n") == 1
    shown = subprocess.run(
        [sys.executable, "-m", "gpucluster", "show", second.path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"since {first.run_id} (by documents)" in shown.stdout


# What once went wrong


def test_a_new_version_goes_on_with_the_same_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = points(OLD, 1)
    first = kmeans(data, 4, tmp_path)
    for module in ("gpucluster", "gpucluster.stages", "gpucluster.publication"):
        monkeypatch.setattr(f"{module}.__version__", "99.0")
    second = kmeans(both(data, points({0: 3}, 2, start=900)), 4, tmp_path)
    assert second.manifest.gpucluster_version == "99.0"
    assert second.manifest.definition_key == first.manifest.definition_key
    assert second.manifest.lineage["survived"] == 4


def test_a_key_is_of_what_groups_rows() -> None:
    def key(**fields: object) -> str:
        return definition_key(gpucluster.ClusterDefinition.parse(**fields))

    asked = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 4}}
    assert key(**asked) == key(**asked, random_state=42, assign_by="cosine", description="x")
    assert key(**asked) != key(**asked, random_state=1)
    assert key(**asked) != key(**{**asked, "algorithm_params": {"n_clusters": 5}})
    assert key(**asked, cluster_name="a") == key(cluster_name="a", algorithm="hdbscan")
    assert key(**asked, cluster_name="a") != key(**asked, cluster_name="b")


def test_the_runs_of_features_do_not_follow_each_other(tmp_path: Path) -> None:
    ids, X = points(OLD, 1)
    uris = [f"gpucluster://x@v1/{name}" for name in ("first", "second")]
    vectors = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(Y).ravel()), D)
        for name, Y in (("first", X), ("second", X[:, ::-1]))
    }
    asked = {
        "cluster_name": "both",
        "algorithm": "kmeans",
        "algorithm_params": {"n_clusters": 4},
        "feature_uris": uris,
        "multi_feature_strategy": "independent",
        "output_strategy": "per_feature",
        "out": tmp_path,
        "device": "cpu",
    }
    first = gpucluster.cluster(pa.table({"document_id": ids, **vectors}), **asked)
    assert first.manifest.lineage is None
    fewer = pa.table({"document_id": ids, **vectors}).slice(0, 280)
    second = gpucluster.cluster(fewer, **asked)
    assert second.manifest.lineage["previous_run_id"] == first.run_id
    with pytest.raises(ConfigError, match="previous: got one run for several features"):
        gpucluster.cluster(fewer, **asked, previous=first)


def test_a_choice_that_changes_nothing_is_said(tmp_path: Path) -> None:
    data = points(OLD, 1)
    first = kmeans(points(OLD, 1), 3, tmp_path)
    run = kmeans(data, 4, tmp_path, previous=None)
    assert run.manifest.lineage is None
    with pytest.warns(FallbackWarning, match="was finished before and follows no run"):
        assert kmeans(data, 4, tmp_path, previous=first).run_id == run.run_id
    ids, X = points({0: 40, 1: 30}, 3, start=2000)
    narrow = kmeans((ids, np.ascontiguousarray(X[:, :4])), 2, tmp_path / "b", cluster_name="n")
    with pytest.warns(FallbackWarning, match="has centroids of another dimension"):
        follows = kmeans(points(OLD, 9, start=5000), 4, tmp_path / "c", previous=narrow)
    assert follows.manifest.lineage is None


def test_a_run_that_assigned_stands_for_the_one_that_found_the_clusters(tmp_path: Path) -> None:
    data = points(OLD, 1)
    first = kmeans(data, 4, tmp_path)
    joined = first.assign(points({0: 60}, 2, start=900), update=True, device="cpu")
    later = kmeans(
        both(data, points({0: 3}, 4, start=700)), 4, tmp_path / "b", previous=joined.path
    )
    assert later.manifest.lineage["previous_run_id"] == first.run_id


def test_members_that_cannot_be_read_stop_no_new_run(tmp_path: Path) -> None:
    data = points(OLD, 1)
    oldest = kmeans(data, 4, tmp_path)
    damaged = kmeans(both(data, points({0: 3}, 2, start=900)), 4, tmp_path)
    file = damaged.path / "members.parquet"
    content = bytearray(file.read_bytes())
    content[100:-400] = bytes(byte ^ 0xFF for byte in content[100:-400])
    file.write_bytes(content)
    with pytest.warns(GpuclusterWarning, match="is not followed"):
        run = kmeans(both(data, points({0: 5}, 2, start=800)), 4, tmp_path)
    assert run.manifest.lineage["previous_run_id"] == oldest.run_id


@pytest.mark.parametrize("name", ["x.csv", "RUN/members.parquet"])
def test_a_table_goes_to_no_place_where_it_harms(tmp_path: Path, name: str) -> None:
    run = kmeans(points(OLD, 1), 4, tmp_path)
    comparison = gpucluster.compare(run, run)
    with pytest.raises(ConfigError, match="table: got"):
        comparison.to_parquet(str(tmp_path / name).replace("RUN", run.run_id))
    gpucluster.open_run(run.path, verify=True)
    comparison.to_parquet(tmp_path / "ünï table.parquet")
    assert pq.read_table(tmp_path / "ünï table.parquet").equals(comparison.table)
