"""Several features, several collections, attributes, and samples whose rest is assigned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster.errors import ConfigError, SchemaMismatchError, ShapeError, TooFewSamplesError

TEXT, IMAGE = "mixpeek://text@v1/text_emb", "mixpeek://image@v1/image_emb"
BOTH = {"feature_uris": [TEXT, IMAGE]}
KMEANS = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 4, "n_init": 2}}


def vectors(X: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(X.astype(np.float32).ravel()), X.shape[1])


def goods(first: int, count: int, seed: int) -> pa.Table:
    """Four kinds of goods; images tell pairs of them apart, texts tell all of them."""
    stream = np.random.default_rng(seed)
    kind = np.arange(count) % 4
    text = np.eye(4, 12)[kind] * 3 + stream.normal(size=(count, 12)) * 0.3
    image = np.eye(2, 8)[kind // 2] * 3 + stream.normal(size=(count, 8)) * 0.3
    return pa.table(
        {
            "document_id": [f"d{row}" for row in range(first, first + count)],
            "label": [f"kind {k}" for k in kind],
            "category": [["garden", "kitchen"][k // 2] for k in kind],
            "brand": [None if row % 50 == 0 else f"b{row % 3}" for row in range(count)],
            "price": stream.integers(1, 100, count),
            "text_emb": vectors(text),
            "image_emb": vectors(image),
        }
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    pq.write_table(goods(0, 400, 0), tmp_path / "shop.parquet", row_group_size=77)
    return tmp_path / "shop.parquet"


@pytest.fixture
def collections(tmp_path: Path, shop: Path) -> list[Path]:
    """Two collections that name their columns differently."""
    other = goods(400, 200, 1).rename_columns(
        ["sku", "label", "category", "brand", "price", "t", "i"]
    )
    pq.write_table(other, tmp_path / "other.parquet")
    columns = {"shop": ("text_emb", "image_emb", "document_id"), "other": ("t", "i", "sku")}
    paths = []
    for name, (text, image, ids) in columns.items():
        manifest = {
            "collection_id": name,
            "files": [f"{name}.parquet"],
            "id_column": ids,
            "truth_column": "label",
            "features": {TEXT: {"column": text, "dim": 12}, IMAGE: {"column": image, "dim": 8}},
        }
        paths.append(tmp_path / f"{name}.collection.json")
        paths[-1].write_text(json.dumps(manifest))
    return paths


def test_two_features_of_two_collections(collections: list[Path], tmp_path: Path) -> None:
    run = gpucluster.cluster(collections, KMEANS, **BOTH, out=tmp_path / "out")
    assert run.manifest.counts.num_points == 600
    assert run.external_metrics["ami"] == pytest.approx(1, abs=0.02)
    assert len(run.centroids["centroid_vector"][0]) == 20
    assert run.centroids["feature_name"][0].as_py() == f"{TEXT} + {IMAGE}"
    assert run.manifest.features["feature_weights"] == {TEXT: 1.0, IMAGE: 1.0}
    names = [part["collection_id"] for part in run.manifest.source["collections"]]
    assert names == ["shop", "other"]
    again = gpucluster.cluster(collections, KMEANS, **BOTH, out=tmp_path / "out")
    assert again.manifest.completed_at == run.manifest.completed_at


def test_collections_must_agree_in_dimension(collections: list[Path], tmp_path: Path) -> None:
    manifest = json.loads(collections[1].read_text())
    manifest["features"][TEXT] = {"column": "i", "dim": 8}
    collections[1].write_text(json.dumps(manifest))
    with pytest.raises(ShapeError, match=r"text_emb has 12 values in shop, 8 in other"):
        gpucluster.cluster(collections, KMEANS, feature_uris=[TEXT], out=tmp_path / "out")
    assert not list(tmp_path.glob("out/run_*"))


def test_an_unknown_feature_is_refused(shop: Path, tmp_path: Path) -> None:
    other = "mixpeek://text@v1/text_embedding"
    match = r"'text_embedding' is not among .*mean 'text_emb'"
    with pytest.raises(SchemaMismatchError, match=match):
        gpucluster.cluster(shop, KMEANS, feature_uris=[other, IMAGE], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_change_the_space(shop: Path, tmp_path: Path) -> None:
    only_image = gpucluster.cluster(
        shop,
        {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 2}},
        **BOTH,
        feature_weights={TEXT: 0.0},
        truth_column="category",
        out=tmp_path / "out",
    )
    assert only_image.external_metrics["ami"] == pytest.approx(1)
    vector = np.array(only_image.centroids["centroid_vector"][0].as_py())
    assert (vector[:12] == 0).all()


def test_learned_weights_are_in_the_manifest(shop: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(
        shop,
        KMEANS,
        **BOTH,
        multi_feature_strategy="weighted",
        weight_learning_config={"max_iterations": 6, "sample_size": 200},
        truth_column="label",
        out=tmp_path / "out",
    )
    learned = run.manifest.features
    assert learned["learned"]
    assert set(learned["feature_weights"]) == {TEXT, IMAGE}
    assert learned["learning_quality_score"] >= learned["equal_weights_score"]
    assert any(stage.name == "weigh" for stage in run.manifest.stages)


def test_independent_features_divide_each_other(shop: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(
        shop,
        {"algorithm": "hdbscan", "algorithm_params": {"min_cluster_size": 20}},
        feature_uris=[IMAGE, TEXT],
        multi_feature_strategy="independent",
        truth_column="label",
        out=tmp_path / "out",
    )
    assert run.manifest.features["clusters"] == {IMAGE: 2, TEXT: 4}
    assert run.num_clusters == 2
    assert run.manifest.hierarchy["hierarchy_detected"]
    ids = run.centroids["cluster_id"].to_pylist()
    assert ids == ["cl_0", "cl_1", "cl_0_sub_0", "cl_0_sub_1", "cl_1_sub_0", "cl_1_sub_1"]
    assert run.external_metrics["ami_level_1"] == pytest.approx(1, abs=0.02)
    overlaps = run.manifest.features["overlaps"]
    assert {(pair["parent_feature"], pair["child_feature"]) for pair in overlaps} == {(IMAGE, TEXT)}


def test_a_run_for_each_feature(shop: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(
        shop,
        {"algorithm": "hdbscan", "algorithm_params": {"min_cluster_size": 20}},
        feature_uris=[IMAGE, TEXT],
        multi_feature_strategy="independent",
        output_strategy="per_feature",
        out=tmp_path / "out",
    )
    assert run.num_clusters == 2
    (other,) = run.manifest.related
    assert other["feature_uri"] == TEXT
    texts = gpucluster.open_run(tmp_path / "out" / other["run_id"])
    assert texts.num_clusters == 4
    assert sorted(pair["child"] for pair in other["inside_ours"]) == [f"cl_{i}" for i in range(4)]
    assert other["around_ours"] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_weights": {"mixpeek://a@v1/b": 1}}, "is no feature of feature_uris"),
        ({"feature_weights": {TEXT: 0, IMAGE: 0}}, "feature_weights: all are 0"),
        ({"feature_weights": {TEXT: 2}}, "feature_weights.*less than or equal to 1"),
        ({"output_strategy": "per_feature"}, "needs multi_feature_strategy: independent"),
        ({"weight_learning_config": {}}, "needs multi_feature_strategy: weighted"),
        ({"overlap_threshold": 0.5}, "overlap_threshold.*greater than 0.5"),
        (
            {"multi_feature_strategy": "independent", "hierarchical": True},
            "independent features make the levels themselves",
        ),
        ({"feature_uris": [TEXT, TEXT]}, "a feature is named twice"),
    ],
)
def test_contradictions_are_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        gpucluster.ClusterDefinition.parse(BOTH, **settings)
    assert "\n" not in str(raised.value)


def test_attributes_group_documents(shop: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(
        shop,
        vector_column="text_emb",
        cluster_type="attribute",
        attribute_config={"attributes": ["category", "brand"], "hierarchical_grouping": True},
        out=tmp_path / "out",
    )
    nodes = {node["cluster_id"]: node for node in run.centroids.to_pylist()}
    assert nodes["cl_0"]["label"] in {"garden", "kitchen"}
    assert {node["label"] for node in nodes.values() if node["hierarchy_level"] == 1} == {
        f"{c}_{b}" for c in ("garden", "kitchen") for b in ("b0", "b1", "b2", "null")
    }
    assert run.manifest.algorithm_info["num_null"] == {"category": 0, "brand": 8}
    counts = pq.read_table(shop).group_by(["category", "brand"]).aggregate([([], "count_all")])
    expected = {
        f"{row['category']}_{row['brand'] or 'null'}": row["count_all"]
        for row in counts.to_pylist()
    }
    found = {n["label"]: n["num_members"] for n in nodes.values() if n["hierarchy_level"] == 1}
    assert found == expected
    assert nodes["cl_0"]["algorithm"] == "attribute"


def test_attributes_flat_and_their_errors(shop: Path, tmp_path: Path) -> None:
    given = {"vector_column": "text_emb", "out": tmp_path / "out", "cluster_type": "attribute"}
    run = gpucluster.cluster(shop, attribute_config={"attributes": ["category", "brand"]}, **given)
    assert run.num_clusters == 8
    assert run.centroids["label"][0].as_py().split("_")[0] in {"garden", "kitchen"}
    with pytest.raises(ConfigError, match="attribute_config: missing"):
        gpucluster.cluster(shop, **given)
    with pytest.raises(SchemaMismatchError, match="no field 'brnd'.*'brand'"):
        gpucluster.cluster(shop, attribute_config={"attributes": ["brnd"]}, **given)
    with pytest.raises(ConfigError, match="needs cluster_type: attribute"):
        gpucluster.ClusterDefinition.parse(attribute_config={"attributes": ["brand"]})


def test_the_rest_of_a_sample_joins_its_clusters(shop: Path, tmp_path: Path) -> None:
    run = gpucluster.cluster(
        shop,
        KMEANS,
        vector_column="text_emb",
        sample_size=120,
        sample_mode="fit_then_assign",
        truth_column="label",
        dimension_reduction={"method": "pca"},
        out=tmp_path / "out",
    )
    counts = run.manifest.counts
    assert (counts.num_points, counts.num_sample_assigned) == (400, 280)
    assert run.external_metrics["ami"] > 0.95
    assert run.external_metrics["num_labelled"] == 400
    members = run.members.to_pylist()
    by = {member["assigned_by"] for member in members}
    assert by == {"fit", "sample"}
    for member in members:
        assert (member["x"] is None) == (member["assigned_by"] == "sample")
        assert member["nearest_cluster_similarity"] is not None
    assert sum(run.centroids["num_members"].to_pylist()) == 400
    assert sorted(member["row"] for member in members) == list(range(400))
    only = gpucluster.cluster(
        shop, KMEANS, vector_column="text_emb", sample_size=120, out=tmp_path / "out"
    )
    fitted = {m["document_id"]: m["cluster_id"] for m in members if m["assigned_by"] == "fit"}
    assert fitted == {m["document_id"]: m["cluster_id"] for m in only.members.to_pylist()}


def test_far_rows_are_noise_where_the_fit_knows_noise(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    near = np.eye(2, 6)[np.arange(400) % 2] * 3 + stream.normal(size=(400, 6)) * 0.2
    far = -np.ones((40, 6)) + stream.normal(size=(40, 6)) * 3
    X = np.concatenate([near, far]).astype(np.float32)
    run = gpucluster.cluster(
        X,
        {"algorithm": "dbscan", "algorithm_params": {"eps": 0.15, "min_samples": 5}},
        sample_size=300,
        sample_mode="fit_then_assign",
        out=tmp_path,
    )
    labels = run.labels_
    assert run.manifest.counts.num_noise > 20
    assert (labels[:400] >= 0).mean() > 0.9
    assert run.metrics["noise_ratio"] == pytest.approx((labels < 0).mean())


def test_filters_choose_rows_and_an_empty_result_writes_nothing(shop: Path, tmp_path: Path) -> None:
    given = {"vector_column": "text_emb", "out": tmp_path / "out"}
    run = gpucluster.cluster(shop, KMEANS, filters={"category": "garden"}, **given)
    assert run.manifest.counts.num_points == 200
    assert run.manifest.counts.num_filtered == 200
    runs = set((tmp_path / "out").glob("run_*"))
    with pytest.raises(TooFewSamplesError, match="no row matches the filter"):
        gpucluster.cluster(shop, KMEANS, filters={"category": "cellar"}, **given)
    assert set((tmp_path / "out").glob("run_*")) == runs
