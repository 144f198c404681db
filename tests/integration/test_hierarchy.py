"""Whole runs that divide their clusters: what is on disk, what is reused, what is shown."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import gpucluster
from gpucluster import stages
from gpucluster.cli import main
from gpucluster.errors import Cancelled, ConfigError
from gpucluster.events import Event, StageStarted

# three roots of five parts of ten kinds, as directions in the plane: no layout is needed
N_ROOTS, N_PARTS, N_KINDS, N_ROWS = 3, 5, 10, 20
KMEANS = {
    "algorithm": "kmeans",
    "algorithm_params": {"n_clusters": N_ROOTS, "n_init": 3},
    "hierarchical": True,
}


def documents() -> pa.Table:
    stream = np.random.default_rng(0)
    root, part, kind, _ = np.indices((N_ROOTS, N_PARTS, N_KINDS, N_ROWS)).reshape(4, -1)
    degrees = 120 * root + 20 * part + kind + stream.normal(scale=0.05, size=root.size)
    X = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
    order = stream.permutation(root.size)
    return pa.table(
        {
            "document_id": [f"d{row}" for row in range(root.size)],
            "text": [f"of part {r}-{p}" for r, p in zip(root[order], part[order], strict=True)],
            "label": [f"{r}-{p}" for r, p in zip(root[order], part[order], strict=True)],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(X[order].astype(np.float32).ravel()), 2
            ),
        }
    )


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pq.write_table(documents(), tmp_path / "docs.parquet")
    return tmp_path / "docs.parquet"


def test_three_levels_on_disk(parquet: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(
        parquet,
        KMEANS,
        out=tmp_path / "out",
        truth_column="label",
        device="cpu",
    )
    manifest = run.manifest
    assert run.num_clusters == N_ROOTS
    assert [stage.name for stage in manifest.stages] == [
        *("load", "cluster", "divide", "measure", "calibrate", "write")
    ]
    assert manifest.not_run == ()
    assert manifest.hierarchy["hierarchy_detected"] is True
    assert manifest.hierarchy["levels"] == 3
    assert manifest.hierarchy["num_nodes"] == run.centroids.num_rows
    assert run.external_metrics["ami_level_1"] > run.external_metrics["ami"]
    assert run.external_metrics["ami_level_1"] > 0.95

    nodes = run.centroids.to_pylist()
    by_id = {node["cluster_id"]: node for node in nodes}
    assert [node["cluster_index"] for node in nodes] == list(range(len(nodes)))
    assert [node["cluster_id"] for node in nodes[:N_ROOTS]] == ["cl_0", "cl_1", "cl_2"]
    members = run.members.to_pylist()
    own = dict.fromkeys(by_id, 0)
    for member in members:
        own[member["cluster_id"]] += 1
        assert member["cluster_path"][-1] == member["cluster_id"]
        assert by_id[member["cluster_id"]]["cluster_index"] == member["cluster_index"]
        for above, below in zip(member["cluster_path"], member["cluster_path"][1:], strict=False):
            assert by_id[below]["parent_cluster_id"] == above
    for node in nodes:
        children = [by_id[child] for child in node["child_cluster_ids"]]
        assert node["num_members"] == own[node["cluster_id"]] + sum(
            child["num_members"] for child in children
        )
        assert all(child["hierarchy_level"] == node["hierarchy_level"] + 1 for child in children)
        assert (node["leaf_reason"] is None) == bool(children)
    reasons = [node["leaf_reason"] for node in nodes if node["leaf_reason"]]
    assert manifest.hierarchy["leaf_reasons"] == {r: reasons.count(r) for r in sorted(set(reasons))}
    assert manifest.hierarchy["num_leaves"] == len(reasons)

    assert set(run.labels_at(0).tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(run.labels_at(9), run.labels_)
    with pytest.raises(ConfigError, match="level: got -1, expected 0 or more"):
        run.labels_at(-1)
    flat = gpucluster.cluster(
        parquet, {**KMEANS, "hierarchical": False}, out=tmp_path / "out", device="cpu"
    )
    np.testing.assert_array_equal(flat.labels_, run.labels_at(0))
    assert flat.metrics == run.metrics  # of the top level
    assert flat.manifest.hierarchy is None
    assert "leaf_reason" not in flat.centroids.column_names
    assert gpucluster.open_run(run.path, verify=True).manifest == manifest


def test_coordinates_of_nodes_are_means_of_their_members(parquet: Path, tmp_path: Path) -> None:
    reduction = {"method": "pca", "components": 2}
    run = gpucluster.cluster(
        parquet, KMEANS, dimension_reduction=reduction, out=tmp_path / "o", device="cpu"
    )
    members = run.members.to_pandas()
    for node in run.centroids.to_pylist():
        inside = members[[node["cluster_id"] in path for path in members["cluster_path"]]]
        assert len(inside) == node["num_members"]
        assert node["x"] == pytest.approx(inside["x"].mean(), abs=1e-4)


def test_a_division_is_resumed_from_its_checkpoint(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gpucluster.cluster(parquet, KMEANS, out=tmp_path / "whole", device="cpu")
    cancel = gpucluster.CancelToken()

    def stop(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "measure":
            cancel.cancel()

    with pytest.raises(Cancelled):
        gpucluster.cluster(
            parquet, KMEANS, out=tmp_path / "out", device="cpu", observer=stop, cancel=cancel
        )

    def never(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(stages, "grow", never)
    resumed = gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out", device="cpu")
    assert {stage.name for stage in resumed.manifest.stages if stage.reused} == {
        *("cluster", "divide")
    }
    np.testing.assert_array_equal(resumed.labels_, whole.labels_)
    assert resumed.manifest.content_sha256 == whole.manifest.content_sha256


def test_all_noise_divides_nothing(parquet: Path, tmp_path: Path) -> None:
    nothing = {"algorithm": "hdbscan", "algorithm_params": {"min_cluster_size": 5000}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that all is noise
        run = gpucluster.cluster(
            parquet, nothing, hierarchical=True, out=tmp_path / "out", device="cpu"
        )
    assert run.num_clusters == 0
    assert run.manifest.counts.num_noise == run.manifest.counts.num_points
    assert run.manifest.hierarchy == {
        "hierarchy_detected": False,
        "levels": 0,
        "num_nodes": 0,
        "num_leaves": 0,
        "leaf_reasons": {},
    }
    assert set(run.members["cluster_id"].to_pylist()) == {"-1"}


def test_the_plan_has_the_division(parquet: Path) -> None:
    plan = gpucluster.plan(parquet, KMEANS, device="cpu")
    stage = plan.stage("divide")
    assert stage is not None
    assert stage.bytes > 0
    assert stage.seconds > 0
    assert gpucluster.plan(parquet, KMEANS, hierarchical=False).stage("divide") is None
    with pytest.raises(ConfigError, match="hierarchy_method"):
        gpucluster.plan(parquet, KMEANS, hierarchy_method="condensed_tree")


def test_the_command_line_shows_the_tree(parquet: Path, tmp_path: Path) -> None:
    command = ["run", str(parquet), "--algorithm", "kmeans", "--param", f"n_clusters={N_ROOTS}"]
    command += ["--hierarchical", "--out", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    for line in (
        lambda text: text.startswith("cl_0 "),
        lambda text: text.startswith("  cl_0_sub_0 "),
        lambda text: text.startswith("    cl_0_sub_0_sub_0 "),
        lambda text: text.startswith("hierarchy  3 levels, "),
    ):
        assert any(map(line, lines)), done.stdout
    (path,) = (tmp_path / "out").glob("run_*")
    shown = CliRunner().invoke(main, ["show", str(path), "--json", "--clusters", "1"])
    assert json.loads(shown.stdout)["hierarchy"]["levels"] == 3
    text = CliRunner().invoke(main, ["show", str(path), "--clusters", "1"]).stdout
    assert "cl_1 " not in text
    assert "of part" in text  # the texts of the medoids of the parts too


@pytest.mark.filterwarnings("ignore:hdbscan.min_cluster_size:gpucluster.errors.GpuclusterWarning")
def test_one_tree_gives_all_levels(parquet: Path, tmp_path: Path) -> None:
    definition = {
        "algorithm": "hdbscan",
        "algorithm_params": {"min_cluster_size": 300, "min_samples": 5},
        "hierarchical": True,
        "hierarchy_method": "condensed_tree",
    }
    run = gpucluster.cluster(parquet, definition, out=tmp_path / "out", device="cpu")
    assert not [stage for stage in run.manifest.stages if stage.name == "divide"]
    flat = gpucluster.cluster(
        parquet, definition, hierarchical=False, out=tmp_path / "out", device="cpu"
    )
    np.testing.assert_array_equal(run.labels_at(0), flat.labels_)
    assert run.manifest.hierarchy["hierarchy_detected"]
    assert run.manifest.hierarchy["levels"] >= 2
    again = gpucluster.cluster(
        parquet, definition, noise_policy="assign_above:0.99", out=tmp_path / "out", device="cpu"
    )
    (stage,) = (stage for stage in again.manifest.stages if stage.name == "cluster")
    assert stage.reused
    assert again.manifest.hierarchy == run.manifest.hierarchy
