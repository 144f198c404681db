"""Whole runs on real files: what is on disk, what is reused, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import silhouette_score

import gpucluster
from gpucluster.errors import (
    BadRowsError,
    Cancelled,
    ConfigError,
    DtypeError,
    FallbackWarning,
    GpuclusterWarning,
    RunLockedError,
    RunNotFoundError,
    SchemaMismatchError,
    StageCrashedError,
)
from gpucluster.events import Event, StageFinished

KMEANS = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 4, "n_init": 2}}


def documents(n_rows: int = 400, n_features: int = 16, seed: int = 0) -> pa.Table:
    stream = np.random.default_rng(seed)
    group = np.arange(n_rows) % 4
    X = np.eye(4, n_features)[group] * 3 + stream.normal(size=(n_rows, n_features)) * 0.4
    return pa.table(
        {
            "document_id": [f"d{row}" for row in range(n_rows)],
            "text": [f"text {row} of group {group[row]}" for row in range(n_rows)],
            "label": [f"g{g}" for g in group],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(X.astype(np.float16).ravel()), n_features
            ),
        }
    )


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pq.write_table(documents(), tmp_path / "docs.parquet", row_group_size=90)
    return tmp_path / "docs.parquet"


def test_a_run_has_everything_it_promises(parquet: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out", truth_column="label")
    assert run.path == tmp_path / "out" / run.run_id
    assert run.num_clusters == 4
    assert run.external_metrics["ami"] > 0.9
    assert run.labels_.dtype == np.int32
    members, centroids = run.members, run.centroids
    assert members.num_rows == 400
    assert set(members["document_id"].to_pylist()) == {f"d{row}" for row in range(400)}
    sizes = centroids["num_members"].to_pylist()
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 400
    assert centroids["cluster_id"].to_pylist() == ["cl_0", "cl_1", "cl_2", "cl_3"]
    medoids = set(centroids["medoid_document_id"].to_pylist())
    assert medoids <= set(members["document_id"].to_pylist())
    manifest = json.loads((run.path / "manifest.json").read_text())
    stages = [stage["name"] for stage in manifest["stages"]]
    assert stages == ["load", "cluster", "measure", "calibrate", "write"]
    for stage in manifest["stages"]:
        assert {"device", "backend", "executor", "reason", "seconds", "peak_bytes"} <= set(stage)
        assert stage["peak_bytes"] > 0
    assert set(manifest["files"]) >= {"members.parquet", "centroids.parquet", "rejected.parquet"}
    assert gpucluster.open_run(run.path, verify=True).metrics == run.metrics


def test_metrics_of_a_run_are_those_of_its_labels(parquet: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out")
    X = np.stack(documents()["embedding"].to_numpy()).astype(np.float64)
    exact = silhouette_score(X, run.labels_, metric="cosine")
    assert run.metrics["silhouette_score"] == pytest.approx(exact, abs=1e-4)
    assert run.metrics["should_recluster"] in {0, 1}


def test_members_join_documents_in_sql(parquet: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out")
    rows = duckdb.sql(
        f"""
        SELECT m.cluster_id, count(*) AS n, count(DISTINCT d.label) AS labels
        FROM '{run.path}/members.parquet' m JOIN '{parquet}' d USING (document_id)
        GROUP BY cluster_id ORDER BY n DESC
        """
    ).fetchall()
    assert sum(row[1] for row in rows) == 400
    assert len(rows) == 4


def test_doing_it_again_returns_the_finished_run(parquet: Path, tmp_path: Path) -> None:
    first = gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out")
    stamp = (first.path / "manifest.json").stat().st_mtime_ns
    second = gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out")
    assert second.run_id == first.run_id
    assert (second.path / "manifest.json").stat().st_mtime_ns == stamp
    anew = gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out", fresh=True)
    assert anew.run_id != first.run_id
    np.testing.assert_array_equal(anew.labels_, first.labels_)


def test_another_input_is_another_run(tmp_path: Path) -> None:
    """Equal clean vectors are not enough: rejected rows, positions and truth count too."""
    table = documents()
    ids = table["document_id"].to_pylist()
    X = np.stack(table["embedding"].to_numpy()).astype(np.float32)
    bad = np.full((1, 16), np.nan, np.float32)
    corrected = table.set_column(2, "label", [sorted(table["label"].to_pylist())])
    inputs = [
        ((ids, X), None),
        (([*ids, "bad"], np.concatenate([X, bad])), None),
        ((["bad", *ids], np.concatenate([bad, X])), None),
        (table, "label"),
        (corrected, "label"),
    ]
    runs = [
        gpucluster.cluster(data, KMEANS, out=tmp_path, truth_column=truth) for data, truth in inputs
    ]
    assert len({run.run_id for run in runs}) == 5
    assert [run.manifest.counts.num_rejected for run in runs] == [0, 1, 1, 0, 0]
    assert runs[2].members.sort_by("row")["row"][0].as_py() == 1
    assert runs[3].external_metrics["ami"] > 0.9 > runs[4].external_metrics["ami"]
    assert len({run.manifest.data_sha256 for run in runs}) == 1  # so the stages are shared


def test_a_run_on_another_device_is_another_run(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out", device="cpu")
    monkeypatch.setattr("gpucluster.device.select.probe_gpu", lambda: None)
    with pytest.raises(StageCrashedError):
        gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out", device="gpu")


def test_what_cannot_run_is_refused_by_the_plan(parquet: Path) -> None:
    for fields, message in (
        ({"algorithm": "kmeans", "algorithm_params": {"n_clusters": 9999}}, "got 9999"),
        ({"algorithm": "hdbscan", "preprocessing_steps": [{"method": "umap"}]}, "got 50 for rows"),
        ({**KMEANS, "dimension_reduction": {"method": "umap", "components": 2}}, None),
    ):
        if message is None:
            assert gpucluster.plan(parquet, **fields).stage("display") is not None
            continue
        with pytest.raises(ConfigError, match=message):
            gpucluster.plan(parquet, **fields)


def test_a_named_text_column_is_noted_and_must_exist(parquet: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out", text_column="text")
    assert run.manifest.source["columns"]["text"] == "text"
    with pytest.raises(SchemaMismatchError, match="did you mean"):
        gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out", text_column="texts")


@pytest.mark.filterwarnings("ignore::gpucluster.errors.GpuclusterWarning")
def test_an_earlier_stage_is_reused_when_a_later_setting_changes(
    parquet: Path, tmp_path: Path
) -> None:
    steps = [{"method": "whitening"}, {"method": "umap", "n_components": 3, "n_neighbors": 10}]

    def reused(**params: int) -> dict[str, bool]:
        seen: list[Event] = []
        gpucluster.cluster(
            parquet,
            algorithm="hdbscan",
            algorithm_params=params,
            preprocessing_steps=steps,
            out=tmp_path / "out",
            observer=seen.append,
        )
        return {e.record.name: e.record.reused for e in seen if isinstance(e, StageFinished)}

    assert not any(reused(min_cluster_size=20).values())
    again = reused(min_cluster_size=30)
    assert again["prepare.0.whitening"]
    assert again["prepare.1.umap"]
    assert not again["cluster"]


def test_labels_do_not_depend_on_how_the_rows_are_stored(parquet: Path, tmp_path: Path) -> None:
    table = documents()
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    for i, start in enumerate(range(0, 400, 130)):
        pq.write_table(table.slice(start, 130), pieces / f"{i:03}.parquet", row_group_size=7)
    X = np.stack(table["embedding"].to_numpy()).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    with (tmp_path / "X.ids.txt").open("w") as file:
        file.writelines(f"d{row}\n" for row in range(400))
    runs = [
        gpucluster.cluster(data, KMEANS, out=tmp_path / f"out{i}")
        for i, data in enumerate([parquet, pieces, table, tmp_path / "X.npy"])
    ]
    assert len({run.manifest.data_sha256 for run in runs}) == 1
    for run in runs[1:]:
        np.testing.assert_array_equal(run.labels_, runs[0].labels_)
    files = {run.manifest.files["centroids.parquet"].sha256 for run in runs[:3]}
    assert len(files) == 1


def test_bad_rows_are_set_aside_and_the_rest_is_as_if_they_were_not_there(tmp_path: Path) -> None:
    table = documents()
    X = np.stack(table["embedding"].to_numpy()).astype(np.float32)
    clean = gpucluster.cluster(X, KMEANS, out=tmp_path / "clean")
    dirty = np.insert(X, [5, 200], [[np.nan] * 16, [0.0] * 16], axis=0)
    run = gpucluster.cluster(dirty, KMEANS, out=tmp_path / "dirty")
    assert run.rejected.to_pydict()["reason"] == ["nan", "zero_norm"]
    assert run.rejected.to_pydict()["row"] == [5, 201]
    assert run.manifest.counts.num_rejected == 2
    np.testing.assert_array_equal(run.labels_, clean.labels_)
    with pytest.raises(BadRowsError, match="zero_norm"):
        gpucluster.cluster(dirty, KMEANS, out=tmp_path / "x", on_bad_rows="error")
    assert not (tmp_path / "x").exists()


def test_sampling_draws_the_same_rows_whatever_their_order(tmp_path: Path) -> None:
    table = documents()
    order = np.random.default_rng(3).permutation(400)
    runs = [
        gpucluster.cluster(data, KMEANS, sample_size=100, out=tmp_path / f"{i}")
        for i, data in enumerate([table, table.take(order)])
    ]
    drawn = [set(run.members["document_id"].to_pylist()) for run in runs]
    assert len(drawn[0]) == 100
    assert runs[0].manifest.sampled
    assert runs[0].manifest.stages[0].method == "sample of 100 rows"
    assert drawn[0] == drawn[1]


def test_a_feature_uri_chooses_among_vector_columns(tmp_path: Path) -> None:
    table = documents().rename_columns({"embedding": "one"})
    table = table.append_column("other", documents(seed=9)["embedding"])
    with pytest.raises(ConfigError, match="vector_column"):
        gpucluster.cluster(table, KMEANS, out=tmp_path / "out")
    run = gpucluster.cluster(
        table, KMEANS, feature_uris=["gpucluster://text@v1/other"], out=tmp_path / "out"
    )
    with pytest.warns(FallbackWarning, match="no column 'nothing': 'embedding' is used"):
        gpucluster.cluster(
            documents(), KMEANS, feature_uris=["gpucluster://text@v1/nothing"], out=tmp_path / "o"
        )
    assert run.manifest.source["columns"]["vector"] == "other"
    assert set(run.centroids["feature_name"].to_pylist()) == {"gpucluster://text@v1/other"}


def test_a_folder_may_hold_its_own_runs(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(parquet.parent)
    first, second = (gpucluster.cluster(".", KMEANS) for _ in range(2))
    assert first.run_id == second.run_id


def test_what_is_no_device_or_loses_values_is_refused(parquet: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device: got 'tpu'"):
        gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out", device="tpu")
    masked = np.ma.masked_less(np.ones((20, 4)), 0)
    with pytest.raises(DtypeError, match="its mask would be lost"):
        gpucluster.cluster(masked, KMEANS, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_display_coordinates(parquet: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(
        parquet, KMEANS, dimension_reduction={"method": "pca", "components": 3}, out=tmp_path / "o"
    )
    assert run.members["z"].null_count == 0
    assert run.centroids["x"].null_count == 0


def test_cancelling_keeps_finished_stages_and_publishes_nothing(
    parquet: Path, tmp_path: Path
) -> None:
    cancel = gpucluster.CancelToken()

    def stop_after_preparing(event: Event) -> None:
        if isinstance(event, StageFinished) and event.record.name.startswith("prepare"):
            cancel.cancel()

    steps = [{"method": "pca", "n_components": 4}]
    with pytest.raises(Cancelled):
        gpucluster.cluster(
            parquet,
            KMEANS,
            preprocessing_steps=steps,
            out=tmp_path / "out",
            observer=stop_after_preparing,
            cancel=cancel,
        )
    (folder,) = (tmp_path / "out").iterdir()
    with pytest.raises(RunNotFoundError):
        gpucluster.open_run(folder)
    seen: list[Event] = []
    run = gpucluster.cluster(
        parquet, KMEANS, preprocessing_steps=steps, out=tmp_path / "out", observer=seen.append
    )
    assert run.path == folder
    finished = {e.record.name: e.record.reused for e in seen if isinstance(e, StageFinished)}
    assert finished["prepare.0.pca"]


def test_warnings_of_a_reused_stage_are_said_again(parquet: Path, tmp_path: Path) -> None:
    for params in ({"n_clusters": 3}, {"n_clusters": 4}):
        with pytest.warns(GpuclusterWarning, match="of the mean eigenvalue"):
            run = gpucluster.cluster(
                parquet,
                algorithm="kmeans",
                algorithm_params=params,
                preprocessing_steps=[{"method": "whitening", "regularization": 1e-7}],
                out=tmp_path / "out",
            )
        assert [warned.code for warned in run.manifest.warnings] == ["whitening_near_full"]


def test_two_processes_never_work_on_one_run(parquet: Path, tmp_path: Path) -> None:
    def again(event: Event) -> None:
        if isinstance(event, StageFinished) and event.record.name == "cluster":
            with pytest.raises(RunLockedError):
                gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out")
            refused.append(1)

    refused: list[int] = []
    gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out", observer=again)
    assert refused == [1]


def test_bad_chains_are_refused_before_anything_is_computed(parquet: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="arbitrary directions"):
        gpucluster.cluster(
            parquet,
            KMEANS,
            preprocessing_steps=[{"method": "whitening"}, {"method": "pca", "n_components": 2}],
            out=tmp_path / "out",
        )
    with pytest.raises(ConfigError, match="n_clusters: got 9999"):
        gpucluster.cluster(
            parquet, algorithm="kmeans", algorithm_params={"n_clusters": 9999}, out=tmp_path / "out"
        )


@pytest.fixture
def aborting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installed third-party algorithm whose native code aborts."""
    site = tmp_path / "site"
    info = site / "aborting-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aborting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gpucluster.algorithms]\naborts = aborting:Aborts\n")
    (site / "aborting.py").write_text(
        "import os\n"
        "from typing import ClassVar\n"
        "from gpucluster.algorithms import Algorithm, Cost\n"
        "class Aborts(Algorithm):\n"
        "    name: ClassVar[str] = 'aborts'\n"
        "    may_abort: ClassVar[bool] = True\n"
        "    def cost(self, n_samples, n_features, device): return Cost(0, 0.0)\n"
        "    def _fit_cpu(self, X, reporter): os.abort()\n"
        "    def _fit_gpu(self, X, reporter): os.abort()\n"
    )
    monkeypatch.syspath_prepend(site)
    from gpucluster.algorithms import catalogue

    catalogue.cache_clear()
    yield
    catalogue.cache_clear()


@pytest.mark.usefixtures("aborting")
def test_native_death_of_a_stage_is_an_error_that_names_it(parquet: Path, tmp_path: Path) -> None:
    with pytest.raises(StageCrashedError, match=r"cluster.*SIGABRT"):
        gpucluster.cluster(parquet, algorithm="aborts", out=tmp_path / "out")


def test_auto_falls_back_to_the_cpu_when_the_gpu_path_dies_and_says_so(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a device that claims to be there, the supervised fit fails as on a broken driver."""
    monkeypatch.setattr("gpucluster.device.select.probe_gpu", lambda: None)
    with pytest.warns(FallbackWarning, match="the CPU path runs instead") as told:
        run = gpucluster.cluster(parquet, KMEANS, out=tmp_path / "out", device="auto")
    stages = {stage.name: stage.device for stage in run.manifest.stages}
    assert stages["cluster"] == stages["measure"] == "cpu"
    failed = ["stage cluster", "stage measure", "stage calibrate"]
    assert [str(each.message).split(":")[0] for each in told] == failed
    assert [warned.code for warned in run.manifest.warnings] == ["gpu_failed"] * 3
    with pytest.raises(StageCrashedError):
        gpucluster.cluster(parquet, KMEANS, out=tmp_path / "gpu", device="gpu")


DENSITY = {"algorithm": "dbscan", "algorithm_params": {"eps": 0.47, "min_samples": 8}}


def test_a_noise_policy_places_noise_and_can_be_undone(parquet: Path, tmp_path: Path) -> None:
    kept = gpucluster.cluster(parquet, DENSITY, out=tmp_path / "out")
    placed = gpucluster.cluster(
        parquet, DENSITY, noise_policy="assign_above:0.85", out=tmp_path / "out"
    )
    assert kept.manifest.counts.num_noise > placed.manifest.counts.num_noise
    assert kept.manifest.counts.num_noise_assigned == 0
    members = placed.members
    moved = np.array(members["assigned_by"].to_pylist()) == "noise"
    assert moved.sum() == placed.manifest.counts.num_noise_assigned > 0
    similarity = members["nearest_cluster_similarity"].to_numpy()
    assert (similarity[moved] >= 0.85 - 1e-2).all()
    index = members["cluster_index"].to_numpy()
    undone = np.where(moved, -1, index)[np.argsort(members["row"].to_numpy())]
    np.testing.assert_array_equal(undone, kept.labels_)
    assert placed.metrics["noise_ratio"] == placed.manifest.counts.num_noise / 400
    assert placed.manifest.definition["vector_config"]["noise_policy"] == "assign_above:0.85"
    assert sum(placed.centroids["num_members"].to_pylist()) == (index >= 0).sum()


def test_a_medoid_may_stand_for_a_cluster(parquet: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(
        parquet, KMEANS, effective_feature_method="medoid", out=tmp_path / "out"
    )
    vectors = np.array(run.centroids["centroid_vector"].to_pylist())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    by_id = {row["document_id"]: row for row in run.members.to_pylist()}
    for cluster in run.centroids.to_pylist():
        medoid = by_id[cluster["medoid_document_id"]]
        assert medoid["cosine_similarity_to_centroid"] == pytest.approx(1, abs=1e-5)


def test_layers_are_kept_with_the_run(tmp_path: Path) -> None:
    pq.write_table(documents(600, 24), tmp_path / "docs.parquet")
    run = gpucluster.cluster(tmp_path / "docs.parquet", out=tmp_path / "out")
    described = run.manifest.algorithm_info["granularity"]["layers"]
    layers = run.layers
    assert layers.column_names == [
        "document_id",
        "row",
        *(f"layer_{i}" for i in range(len(described))),
    ]
    assert layers["row"].to_pylist() == list(range(600))
    for number, facts in enumerate(described):
        assert layers[f"layer_{number}"].to_numpy().max() + 1 == facts["n_clusters"]
    assert gpucluster.open_run(run.path, verify=True).layers.equals(layers)
    flat = gpucluster.cluster(tmp_path / "docs.parquet", KMEANS, out=tmp_path / "out")
    assert flat.layers is None
    assert run.metrics["silhouette_score_reduced"] > run.metrics["silhouette_score"]
    assert flat.metrics["silhouette_score_reduced"] is None


def test_the_default_run_leaves_the_same_bytes_on_any_number_of_cores(tmp_path: Path) -> None:
    """Large enough for inverted lists, whitening and two pairs of halves."""
    pq.write_table(documents(9_000, 96), tmp_path / "docs.parquet")
    script = (
        "import os, sys\n"
        "if sys.argv[2] == '1': os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import gpucluster, gpucluster.ops.neighbors as neighbors\n"
        "neighbors.EXACT_LIMIT_FLOP = 1e9\n"
        "run = gpucluster.cluster(sys.argv[1], out=sys.argv[3])\n"
        "assert run.num_clusters == 4, run.num_clusters\n"
        "print(run.path)\n"
    )
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot pin a process to a core")
    found = []
    for name, cores in (("a", "1"), ("b", "all"), ("c", "all")):
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "docs.parquet", cores, tmp_path / name],
            capture_output=True,
            text=True,
            check=True,
        )
        path = Path(done.stdout.strip())
        files = (file for file in path.rglob("*") if file.suffix in {".parquet", ".npy"})
        found.append({str(file.relative_to(path)): file.read_bytes() for file in files})
    assert len(found[0]) >= 6
    assert found[0] == found[1] == found[2]
