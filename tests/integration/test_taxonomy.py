"""Clusters become a taxonomy, and documents join its nodes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster.artifacts import Run
from gpucluster.errors import (
    Cancelled,
    ConfigError,
    CorruptArtifactError,
    SchemaTooNewError,
    ShapeError,
    TaxonomyNotFoundError,
    UnstableClustersError,
)
from gpucluster.events import CancelToken
from gpucluster.taxonomy import list_taxonomies
from tests.helpers.topics import documents, topic_run

K, D = 6, 16
KMEANS = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": K, "n_init": 1}}
NESTED = {
    "algorithm": "kmeans",
    "algorithm_params": {"n_clusters": 3, "n_init": 1},
    "hierarchical": True,
}
CENTERS = np.random.default_rng(7).normal(size=(K, D)).astype(np.float32)


def rows(n: int, seed: int, spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (CENTERS[rng.integers(0, K, n)] + spread * rng.normal(size=(n, D))).astype(np.float32)


def write(path: Path, X: np.ndarray, first: int = 0) -> Path:
    ids = [f"d{row}" for row in range(first, first + len(X))]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    pq.write_table(pa.table({"document_id": ids, "embedding": vectors}), path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("taxonomy")


@pytest.fixture(scope="module")
def base(place: Path) -> gpucluster.Run:
    """The second run of a definition, over more documents than the first."""
    X = rows(900, 1)
    gpucluster.cluster(write(place / "old.parquet", X[:600]), KMEANS, out=place / "out")
    return gpucluster.cluster(write(place / "more.parquet", X), KMEANS, out=place / "out")


@pytest.fixture(scope="module")
def new(place: Path) -> Path:
    """Half of the documents of the run, and as many others."""
    return write(place / "new.parquet", np.vstack([rows(900, 1)[450:], rows(450, 2)]), first=450)


@pytest.fixture(scope="module")
def divided(place: Path) -> gpucluster.Run:
    """A hierarchy whose rows find their root by cosine."""
    rng = np.random.default_rng(5)
    roots = 4 * np.eye(3, D)[rng.integers(0, 3, 1500)]
    X = roots + np.roll(np.eye(D), 5, axis=0)[rng.integers(0, 3, 1500)] * 2
    X += 0.15 * rng.normal(size=X.shape)
    return gpucluster.cluster(
        write(place / "nested.parquet", X.astype(np.float32)),
        NESTED | {"assign_by": "cosine"},
        out=place / "nested",
        device="cpu",
    )


SETTINGS: list[dict[str, object]] = [
    KMEANS,
    KMEANS | {"preprocessing_steps": [{"method": "whitening"}]},
    KMEANS | {"assign_by": "cosine"},
    {"algorithm": "hdbscan", "algorithm_params": {"min_cluster_size": 15}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("threshold", ["auto", 0.9])
@pytest.mark.usefixtures("base")
def test_all_nodes_take_in_what_the_run_would(
    place: Path, new: Path, tmp_path: Path, settings: dict[str, object], threshold: object
) -> None:
    run = gpucluster.cluster(place / "more.parquet", settings, out=tmp_path, device="cpu")
    taxonomy = run.promote("topics", threshold=threshold)
    expected = run.assign(new, scope="all", threshold=threshold, device="cpu")
    shutil.rmtree(run.path)  # a version needs its run no more
    found = taxonomy.apply(new, device="cpu")
    np.testing.assert_array_equal(found.labels_, expected.labels_)
    names = np.array([*taxonomy.nodes["node_id"].to_pylist(), "-1"])
    by_row = np.argsort(found.members["row"].to_numpy())
    members = np.array(found.members["cluster_id"].to_pylist())[by_row]
    np.testing.assert_array_equal(members, names[expected.labels_])
    np.testing.assert_allclose(
        found.members["nearest_cluster_similarity"].to_numpy(),
        expected.members["nearest_cluster_similarity"].to_numpy(),
    )
    manifest = found.manifest
    assert (manifest.mode, manifest.base_run_id) == ("assign", f"{taxonomy.taxonomy_id}-v1")
    assert manifest.taxonomy is not None
    assert manifest.taxonomy["version"] == 1
    assert taxonomy.apply(new, device="cpu").manifest == manifest  # finished before


def test_nodes_are_the_clusters_under_their_stable_ids(base: gpucluster.Run) -> None:
    nodes = base.promote("nodes").nodes.to_pydict()
    centroids = base.centroids.to_pydict()
    assert nodes["node_id"] == centroids["stable_id"]
    assert nodes["source_cluster_id"] == centroids["cluster_id"]
    assert nodes["source_run_id"] == [base.run_id] * K
    assert nodes["centroid_vector"] == centroids["centroid_vector"]
    assert nodes["num_members"] == centroids["num_members"]
    assert nodes["label"] == [None] * K
    kept = base.model_entry("assignment")
    np.testing.assert_array_equal(nodes["threshold"], kept["arrays"]["thresholds"])
    at = base.promote("nodes", threshold=0.25).nodes["threshold"].to_pylist()
    assert at == [0.25] * K


@pytest.mark.parametrize("chosen", [["cl_2"], ["cl_4", "cl_1"], ["cl_0", "cl_3", "cl_5"]])
def test_some_nodes_take_in_nothing_else(
    base: gpucluster.Run, new: Path, tmp_path: Path, chosen: list[str]
) -> None:
    taxonomy = base.promote("some", cluster_ids=chosen, out=tmp_path)
    assert sorted(taxonomy.nodes["source_cluster_id"].to_pylist()) == sorted(chosen)
    run = taxonomy.apply(new, device="cpu")
    whole = base.assign(new, scope="all", threshold="auto", device="cpu", out=tmp_path / "whole")
    source = [*taxonomy.nodes["source_cluster_id"].to_pylist(), "-1"]
    before = np.array([*base.centroids["cluster_id"].to_pylist(), "-1"])[whole.labels_]
    expected = np.where(np.isin(before, chosen), before, "-1")
    np.testing.assert_array_equal(np.array(source)[run.labels_], expected)
    assert 0 < (run.labels_ >= 0).sum() < len(run.labels_)
    members = run.members.to_pandas()
    own = set(taxonomy.nodes["node_id"].to_pylist())
    assert set(members["cluster_id"]) <= own | {"-1"}
    assert set(members["nearest_cluster_id"].dropna()) <= own
    near = members["nearest_cluster_id"].notna()
    assert members["nearest_cluster_similarity"].notna().equals(near)
    assert run.num_clusters == len(chosen)
    assert run.manifest.drift is not None
    fitted = np.isin(base.labels_, [int(name[3:]) for name in chosen])
    # rows of other clusters count as outside, and 1 % of a cluster is below its threshold
    assert run.manifest.drift["noise_ratio_base"] == pytest.approx(1 - fitted.mean(), abs=0.02)


def test_a_hierarchy_is_kept(divided: gpucluster.Run, place: Path, tmp_path: Path) -> None:
    assert (divided.parents >= 0).any()
    taxonomy = divided.promote("nested", out=tmp_path)
    assert taxonomy.is_hierarchical
    names = dict(
        zip(
            divided.centroids["cluster_id"].to_pylist(),
            divided.centroids["stable_id"].to_pylist(),
            strict=True,
        )
    )
    parents = [names.get(name) for name in divided.centroids["parent_cluster_id"].to_pylist()]
    assert taxonomy.nodes["parent_node_id"].to_pylist() == parents
    docs = place / "nested.parquet"
    found = taxonomy.apply(docs, device="cpu")
    expected = divided.assign(docs, scope="all", threshold="auto", out=tmp_path, device="cpu")
    np.testing.assert_array_equal(found.labels_, expected.labels_)
    for path, name in zip(
        found.members["cluster_path"].to_pylist(),
        found.members["cluster_id"].to_pylist(),
        strict=True,
    ):
        assert (path[-1] if path else "-1") == name


@pytest.mark.parametrize("rule", ["cosine", "fit"])
@pytest.mark.usefixtures("divided")
def test_of_a_hierarchy_any_part_may_be_nodes(place: Path, tmp_path: Path, rule: str) -> None:
    """Rows go their way through all clusters, and count as the last node that they came by."""
    docs = place / "nested.parquet"
    run = gpucluster.cluster(docs, NESTED | {"assign_by": rule}, out=tmp_path, device="cpu")
    names = run.centroids["cluster_id"].to_pylist()
    expected = run.assign(docs, scope="all", threshold="auto", device="cpu")
    leaf = names[-1]
    root = leaf.partition("_sub_")[0]
    assert leaf != root
    for chosen in ([leaf], [root], [root, leaf], [names[0], leaf]):
        taxonomy = run.promote("part", cluster_ids=chosen)
        found = taxonomy.apply(docs, device="cpu")
        own = dict(zip(taxonomy.nodes["node_id"].to_pylist(), chosen_names(taxonomy), strict=True))
        paths = dict(
            zip(
                expected.members["document_id"].to_pylist(),
                expected.members["cluster_path"].to_pylist(),
                strict=True,
            )
        )
        assert found.manifest.counts.num_points == 1500
        assert found.manifest.counts.num_noise < 1500
        for name, cluster, nearest, similarity in zip(
            *(
                found.members[column].to_pylist()
                for column in (
                    *("document_id", "cluster_id", "nearest_cluster_id"),
                    "nearest_cluster_similarity",
                )
            ),
            strict=True,
        ):
            inside = [each for each in paths[name] if each in chosen]
            assert own.get(cluster, "-1") == (inside[-1] if inside else "-1")
            assert (nearest is None) == (similarity is None)
            if cluster != "-1":
                assert nearest == cluster
        check_similarity(found, docs)


def chosen_names(taxonomy: gpucluster.Taxonomy) -> list[str]:
    return taxonomy.nodes["source_cluster_id"].to_pylist()


def check_similarity(run: gpucluster.Run, docs: Path) -> None:
    X = pq.read_table(docs)["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, D)
    members = run.members
    inside = members["cluster_index"].to_numpy() >= 0
    nodes = np.array(run.centroids["centroid_vector"].to_pylist())
    rows, own = (members[name].to_numpy()[inside] for name in ("row", "cluster_index"))
    dots = np.einsum("ij,ij->i", X[rows], nodes[own])
    cosine = dots / np.linalg.norm(X[rows], axis=1) / np.linalg.norm(nodes[own], axis=1)
    said = members["cosine_similarity_to_centroid"].to_numpy(zero_copy_only=False)[inside]
    np.testing.assert_allclose(said, np.clip(cosine, 0, 1), atol=1e-5)


def test_without_history_no_floor_is_reached(base: gpucluster.Run, tmp_path: Path) -> None:
    alone = gpucluster.cluster(rows(300, 8), KMEANS, out=tmp_path, device="cpu")
    assert len(alone.promote("any").nodes) == K
    with pytest.raises(UnstableClustersError, match=r"6 of 6 clusters.*cl_0 \(no history\)") as no:
        alone.promote("some", min_stability=0)
    assert no.value.clusters == {f"cl_{i}": None for i in range(K)}
    assert len(alone.promote("some", min_stability=0.9, force=True).nodes) == K
    with pytest.raises(ConfigError, match="is left to promote"):
        alone.promote("none", min_stability=0, skip_unstable=True)


def test_names_go_with_the_nodes(tmp_path: Path) -> None:
    run = gpucluster.label(topic_run(tmp_path), provider="keywords")
    taxonomy = run.promote("topics")
    assert taxonomy.nodes["label"].to_pylist() == run.centroids["label"].to_pylist()
    assert taxonomy.nodes["keywords"].to_pylist() == run.centroids["keywords"].to_pylist()
    docs = documents(60, seed=1)
    found = taxonomy.apply(docs, device="cpu")
    labels = found.cluster_labels
    topic = dict(zip(docs["document_id"].to_pylist(), docs["topic"].to_pylist(), strict=True))
    said: dict[str, set[str]] = {}
    for name, cluster in zip(
        *found.assigned_documents()[:1], found.members["cluster_id"], strict=True
    ):
        if cluster.as_py() != "-1":
            said.setdefault(labels[cluster.as_py()], set()).add(topic[name.as_py()])
    assert len(said) == 6
    assert all(len(topics) == 1 for topics in said.values())
    again = gpucluster.label(run, provider="keywords", include_keywords=False).promote("topics")
    assert again.version == 2


def test_versions_never_change(base: gpucluster.Run, new: Path, tmp_path: Path) -> None:
    first = base.promote("topics", out=tmp_path, description="what it is about")
    content = {path: path.read_bytes() for path in first.run.path.rglob("*") if path.is_file()}
    assert base.promote("topics", out=tmp_path).version == 1  # nothing is different
    second = base.promote("topics", cluster_ids=["cl_1"], out=tmp_path)
    assert (second.taxonomy_id, second.version, second.versions) == (first.taxonomy_id, 2, (1, 2))
    assert base.promote("topics", out=tmp_path).version == 3
    assert {path: path.read_bytes() for path in content} == content
    assert len(gpucluster.open_taxonomy(tmp_path).nodes) == K
    assert len(gpucluster.open_taxonomy(tmp_path, version=2).nodes) == 1
    assert second.at(1).nodes.equals(first.nodes)
    assert gpucluster.open_taxonomy(second.run.path).version == 2
    runs = [first.apply(new, device="cpu"), second.apply(new, device="cpu")]
    assert runs[0].run_id != runs[1].run_id
    # a run that joined nodes is none that others are based on, and a series of its own
    series = gpucluster.history(tmp_path).to_arrow()["series"].to_pylist()
    assert len(series) == 2
    assert len(set(series)) == 1


def test_clone_patch_and_delete(base: gpucluster.Run, new: Path, tmp_path: Path) -> None:
    first = base.promote("topics", out=tmp_path, metadata={"owner": "us"})
    second = base.promote("topics", out=tmp_path, cluster_ids=["cl_0", "cl_1"])
    copy = second.clone("copy", description="of the second")
    assert copy.record.source_taxonomy_id == first.taxonomy_id
    assert (copy.version, copy.record.metadata) == (1, {"owner": "us"})
    assert copy.nodes.equals(second.nodes)
    copy.run.verify()
    with pytest.raises(ConfigError, match="'copy' already"):
        second.clone("copy")
    with pytest.raises(ConfigError, match="'topics' already"):
        copy.patch(name="topics")
    before = [path.read_bytes() for path in sorted(copy.run.path.rglob("*")) if path.is_file()]
    renamed = copy.patch(name="other", metadata=None)
    assert (renamed.name, renamed.record.description) == ("other", "of the second")
    assert renamed.record.metadata == {}
    assert renamed.taxonomy_id == copy.taxonomy_id
    after = [path.read_bytes() for path in sorted(renamed.run.path.rglob("*")) if path.is_file()]
    assert after == before
    assert base.promote("other", out=tmp_path).taxonomy_id == copy.taxonomy_id
    taken = base.promote("copy", out=tmp_path)  # the name is free again, the id is not
    assert taken.taxonomy_id != copy.taxonomy_id
    assert {each.name for each in list_taxonomies(tmp_path)} == {"topics", "other", "copy"}
    with pytest.raises(TaxonomyNotFoundError, match=r"holds 3 taxonomies.*topics"):
        gpucluster.open_taxonomy(tmp_path)
    joined = first.apply(new, device="cpu")
    first.delete()
    assert not first.folder.exists()
    assert Run.open(joined.path, verify=True).labels_ is not None
    with pytest.raises(TaxonomyNotFoundError):
        gpucluster.open_taxonomy(first.folder)
    assert base.promote("topics", out=tmp_path).version == 1


def test_an_updated_run_has_the_history_of_its_fit(base: gpucluster.Run, tmp_path: Path) -> None:
    shutil.copytree(base.path.parent, tmp_path / "out", ignore=shutil.ignore_patterns("tax_*"))
    here = gpucluster.open_run(tmp_path / "out" / base.run_id)
    moved = here.assign(write(tmp_path / "n.parquet", rows(200, 9), 5000), update=True)
    taxonomy = moved.promote("moved", min_stability=0.1)
    expected = here.promote("fit").nodes["stability"]
    assert taxonomy.nodes["stability"].equals(expected)
    assert taxonomy.nodes["centroid_vector"].equals(moved.centroids["centroid_vector"])
    again = write(tmp_path / "m.parquet", rows(200, 10), 6000)
    found = taxonomy.apply(again, device="cpu")
    expected = moved.assign(again, scope="all", threshold="auto", device="cpu")
    np.testing.assert_array_equal(found.labels_, expected.labels_)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cluster_ids": ["cl_77"]}, "has no cluster 'cl_77'. did you mean"),
        ({"cluster_ids": []}, "cluster_ids: got none"),
        ({"cluster_ids": [1]}, "expected ids of clusters"),
        ({"min_stability": 1.5}, "min_stability: got 1.5"),
        ({"min_stability": True}, "min_stability: got True"),
        ({"min_stability": 0.5, "force": True, "skip_unstable": True}, "ask for one of them"),
        ({"threshold": 2}, "threshold: got 2"),
        ({"name": " "}, "taxonomy_name: got"),
        ({"name": 3}, "taxonomy_name: got 3"),
        ({"description": 3}, "description: got 3"),
        ({"metadata": {"a": len}}, "metadata: got"),
    ],
    ids=str,
)
def test_bad_requests_are_explained(
    base: gpucluster.Run, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        gpucluster.promote(base, **({"name": "x", "out": tmp_path} | options))
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_promoted(base: gpucluster.Run, new: Path, tmp_path: Path) -> None:
    pq.write_table(documents(40), tmp_path / "topics.parquet")
    groups = gpucluster.cluster(
        tmp_path / "topics.parquet",
        cluster_type="attribute",
        attribute_config={"attributes": ["topic"]},
        out=tmp_path,
    )
    with pytest.raises(ConfigError, match="groups by attributes"):
        groups.promote("x")
    taxonomy = base.promote("x", out=tmp_path)
    for door in (gpucluster.open_run, lambda path: gpucluster.promote(path, "y")):
        with pytest.raises(ConfigError, match="version of a taxonomy"):
            door(taxonomy.run.path)
    with pytest.raises(ConfigError, match="version of a taxonomy"):
        gpucluster.assign(new, run=taxonomy.run.path)
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        base.promote("y", out=tmp_path, cancel=token)
    assert [each.name for each in list_taxonomies(tmp_path)] == ["x"]


def test_what_cannot_join(base: gpucluster.Run, new: Path, tmp_path: Path) -> None:
    taxonomy = base.promote("x", out=tmp_path)
    with pytest.raises(ShapeError, match="vectors of 5 values"):
        taxonomy.apply(np.ones((3, 5), np.float32))
    with pytest.raises(ConfigError, match="threshold: got 'often'"):
        taxonomy.apply(new, threshold="often")
    with pytest.raises(TaxonomyNotFoundError, match="has no version 2. it has 1"):
        taxonomy.at(2)
    with pytest.raises(ConfigError, match="version: got 0"):
        taxonomy.at(0)
    with pytest.raises(TaxonomyNotFoundError, match="no taxonomy at"):
        gpucluster.open_taxonomy(tmp_path / "nowhere")
    path = taxonomy.run.path / "model" / "assignment" / "thresholds.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match="thresholds.npy"):
        taxonomy.apply(new)


def test_a_damaged_record_is_told(base: gpucluster.Run, tmp_path: Path) -> None:
    taxonomy = base.promote("x", out=tmp_path)
    path = taxonomy.folder / "taxonomy.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"taxonomy_name": "y"}))
    with pytest.raises(CorruptArtifactError, match=r"taxonomy.json is damaged"):
        gpucluster.open_taxonomy(taxonomy.folder)
    path.write_text(json.dumps(fields | {"schema_version": 9}))
    with pytest.raises(SchemaTooNewError):
        gpucluster.open_taxonomy(taxonomy.folder)


def test_the_commands_say_what_was_done(base: gpucluster.Run, new: Path, tmp_path: Path) -> None:
    def said(*args: object) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "gpucluster", *map(str, args), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout)

    alone = gpucluster.cluster(rows(300, 8), KMEANS, out=tmp_path / "alone", device="cpu")
    code, answer = said("promote", alone.path, "--name", "x", "--min-stability", "0.5")
    assert code == 5
    assert answer["error"]["code"] == "clusters_unstable"
    code, answer = said("promote", base.path, "--name", "x", "--out", tmp_path)
    assert (code, answer["version"], answer["num_nodes"], len(answer["nodes"])) == (0, 1, K, K)
    code, answer = said("classify", new, "--taxonomy", tmp_path)
    assert (code, answer["mode"]) == (0, "assign")
    assert answer["base_run_id"].startswith("tax_")
    code, answer = said("classify", new, "--taxonomy", tmp_path, "--version", "7")
    assert code == 5
    assert answer["error"]["code"] == "taxonomy_not_found"
