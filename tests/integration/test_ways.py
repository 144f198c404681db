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


@pytest.mark.parametrize("kind", [pa.string_view(), pa.list_view(pa.string())])
def test_attributes_may_be_views(kind: pa.DataType, shop: Path, tmp_path: Path) -> None:
    table = pq.read_table(shop)
    values = table["category"].to_pylist()
    values = [[value] for value in values] if pa.types.is_list_view(kind) else values
    viewed = table.append_column("viewed", pa.array(values, kind))
    given = {"vector_column": "text_emb", "out": tmp_path / "out", "cluster_type": "attribute"}
    run = gpucluster.cluster(viewed, attribute_config={"attributes": ["viewed"]}, **given)
    assert set(run.centroids["label"].to_pylist()) == {"garden", "kitchen"}


def test_a_sample_larger_than_what_matches_is_none(shop: Path, tmp_path: Path) -> None:
    given = {"vector_column": "text_emb", "filters": {"category": "garden"}}
    given |= {"sample_size": 300, "sample_mode": "fit_then_assign"}
    run = gpucluster.cluster(shop, KMEANS, out=tmp_path / "out", **given)
    assert run.manifest.sampled is False
    methods = {stage.name: stage.method for stage in run.manifest.stages}
    assert methods["load"] == "exact"
    assert "assign" not in methods
    assert set(run.members["assigned_by"].to_pylist()) == {"fit"}
    plan = gpucluster.plan(shop, KMEANS, **given)
    assert plan.stage("load").method == "sample of at most 300 rows"


def test_a_fit_that_is_refused_leaves_no_folder(shop: Path, tmp_path: Path) -> None:
    given = {"vector_column": "text_emb", "out": tmp_path / "out"}
    bins = {"bandwidth": 1, "bin_seeding": True, "min_bin_freq": 900}
    with pytest.raises(ConfigError, match="min_bin_freq"):
        gpucluster.cluster(shop, algorithm="mean_shift", algorithm_params=bins, **given)
    attributes = {"cluster_type": "attribute", "attribute_config": {"attributes": ["text_emb"]}}
    with pytest.raises(ConfigError, match="makes no groups"):
        gpucluster.cluster(shop, **attributes, **given)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ConfigError, match=r"affinity: got precomputed.*a run reads vectors"):
        gpucluster.plan(
            shop,
            algorithm="spectral",
            algorithm_params={"affinity": "precomputed"},
            vector_column="text_emb",
        )


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


def test_a_changed_attribute_is_another_run(shop: Path, tmp_path: Path) -> None:
    given = {
        "vector_column": "text_emb",
        "cluster_type": "attribute",
        "attribute_config": {"attributes": ["category"]},
        "out": tmp_path / "out",
    }
    first = gpucluster.cluster(shop, **given)
    table = pq.read_table(shop)
    place = table.column_names.index("category")
    changed = pa.array(["attic"] * 100 + table["category"].to_pylist()[100:])
    pq.write_table(table.set_column(place, "category", changed), shop)
    second = gpucluster.cluster(shop, **given)
    assert second.run_id != first.run_id
    assert "attic" in second.centroids["label"].to_pylist()


def test_changed_rows_beside_the_sample_are_another_run(shop: Path, tmp_path: Path) -> None:
    given = {"vector_column": "text_emb", "sample_size": 120, "truth_column": "label"}
    assigned = {"sample_mode": "fit_then_assign", "out": tmp_path / "out", **given}
    first = gpucluster.cluster(shop, KMEANS, **assigned)
    table = pq.read_table(shop)
    sampled = {m["row"] for m in first.members.to_pylist() if m["assigned_by"] == "fit"}
    X = np.array(table["text_emb"].to_pylist(), np.float32)
    free = np.setdiff1d(np.arange(len(X)), sorted(sampled))[:50]
    X[free] = X[free[::-1]]
    place = table.column_names.index("text_emb")
    pq.write_table(table.set_column(place, "text_emb", vectors(X)), shop, row_group_size=31)
    second = gpucluster.cluster(shop, KMEANS, **assigned)
    assert second.run_id != first.run_id
    pq.write_table(table, shop, row_group_size=400)  # the cut of the file is not the data
    assert gpucluster.cluster(shop, KMEANS, **assigned).run_id == first.run_id


def test_independent_features_are_of_unit_length_each(shop: Path, tmp_path: Path) -> None:
    density = {"algorithm": "dbscan", "algorithm_params": {"eps": 0.4, "min_samples": 5}}
    single = gpucluster.cluster(
        shop,
        density,
        feature_uris=[IMAGE, TEXT],
        multi_feature_strategy="independent",
        out=tmp_path / "out",
    )
    alone = gpucluster.cluster(shop, density, feature_uris=[IMAGE], out=tmp_path / "out")
    np.testing.assert_array_equal(single.labels_at(0), alone.labels_)


def test_a_child_that_leaves_much_over_is_still_a_child(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    wide = np.eye(2, 4)[np.arange(400) % 2] + stream.normal(size=(400, 4)) * 0.05
    narrow = stream.normal(size=(400, 4))
    narrow[:100:2] = np.array([9, 0, 0, 0]) + stream.normal(size=(50, 4)) * 0.05
    table = pa.table(
        {"id": np.arange(400), "image_emb": vectors(wide), "text_emb": vectors(narrow)}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    run = gpucluster.cluster(
        tmp_path / "x.parquet",
        {"algorithm": "dbscan", "algorithm_params": {"eps": 0.2, "min_samples": 20}},
        feature_uris=[IMAGE, TEXT],
        multi_feature_strategy="independent",
        out=tmp_path / "out",
    )
    (overlap,) = run.manifest.features["overlaps"]
    assert run.centroids["cluster_id"].to_pylist()[2:] == [f"cl_{overlap['parent']}_sub_0"]


def test_the_noise_policy_holds_for_the_rest_of_a_sample(shop: Path, tmp_path: Path) -> None:
    density = {"algorithm": "dbscan", "algorithm_params": {"eps": 0.3, "min_samples": 5}}
    given = {"vector_column": "text_emb", "sample_size": 200, "out": tmp_path / "out"}
    run = gpucluster.cluster(
        shop, density, sample_mode="fit_then_assign", noise_policy="assign_above:-1", **given
    )
    assert run.manifest.counts.num_noise == 0
    assert run.manifest.counts.num_noise_assigned > 0
    kept = gpucluster.cluster(shop, density, sample_mode="fit_then_assign", **given)
    assert kept.manifest.counts.num_noise > 0
    sampled = set(gpucluster.cluster(shop, density, **given).members["row"].to_pylist())
    moved = {m["row"] for m in run.members.to_pylist() if m["assigned_by"] == "noise"}
    assert moved & sampled
    assert moved - sampled


def test_a_sweep_is_of_the_rows_that_match(shop: Path) -> None:
    given = {"vector_column": "text_emb", "algorithm": "hdbscan", "preprocessing_steps": []}
    given |= {"algorithm_params": {"min_samples": 5}, "device": "cpu"}
    whole = gpucluster.sweep(shop, sizes=[20], **given)
    half = gpucluster.sweep(shop, sizes=[20], filters={"category": "garden"}, **given)
    assert (whole.rows[0].n_clusters, half.rows[0].n_clusters) == (4, 2)
    both = gpucluster.sweep(
        shop, sizes=[20], feature_uris=[TEXT, IMAGE], **{**given, "vector_column": None}
    )
    assert both.rows[0].n_clusters == 4


@pytest.mark.parametrize("strategy", ["single", "per_feature"])
def test_a_feature_without_a_column_stops_before_any_run(
    strategy: str, shop: Path, tmp_path: Path
) -> None:
    given = {"multi_feature_strategy": "independent", "output_strategy": strategy}
    uris = [TEXT, "mixpeek://video@v1/video_emb"]
    with pytest.raises(SchemaMismatchError, match="'video_emb' is not among"):
        gpucluster.cluster(shop, KMEANS, feature_uris=uris, **given, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="got one column for 2 features"):
        gpucluster.cluster(
            shop, KMEANS, **BOTH, **given, vector_column="text_emb", out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"sample_size": 10, "sample_mode": "fit_then_assign"},
        {"noise_policy": "assign_above:0"},
        {"multi_feature_strategy": "weighted"},
        {"algorithm": "kmeans"},
    ],
)
def test_attribute_clustering_refuses_what_it_does_not_use(settings: dict[str, object]) -> None:
    attributes = {"cluster_type": "attribute", "attribute_config": {"attributes": ["a"]}}
    with pytest.raises(ConfigError, match="attribute clustering does not use it"):
        gpucluster.ClusterDefinition.parse(attributes, **settings)


@pytest.mark.parametrize(
    "params",
    [
        {"cluster_selection_method": "leaf"},
        {"max_cluster_size": 9},
        {"cluster_selection_epsilon": 0.1},
        {"granularities": 1},
    ],
)
def test_the_levels_of_one_tree_have_one_selection(params: dict[str, object]) -> None:
    tree = {"algorithm": "hdbscan", "hierarchical": True, "hierarchy_method": "condensed_tree"}
    with pytest.raises(ConfigError, match=f"algorithm_params.{next(iter(params))}: got"):
        gpucluster.ClusterDefinition.parse(tree, algorithm_params=params)
