"""One definition in many forms; contradictions and unknown names are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpucluster.algorithms import HDBSCAN, KMeans, catalogue
from gpucluster.definition import ClusterDefinition, definition_schema
from gpucluster.device.select import Decision
from gpucluster.dialects import read_body
from gpucluster.errors import ConfigError, TooFewSamplesError, WillNotFitError
from gpucluster.planner import make_plan
from gpucluster.preprocess import UMAP, Conditioning, Whitening

parse = ClusterDefinition.parse
CPU = Decision("cpu", "cpu", "asked for")


def test_both_dialects_mean_the_same() -> None:
    first = parse(
        {
            "collection_ids": ["col"],
            "vector_config": {
                "feature_uris": ["mixpeek://text@v1/embedding"],
                "clustering_method": "kmeans",
                "algorithm_params": {"n_clusters": 20},
                "dimension_reduction": {"method": "umap", "components": 3},
            },
        }
    )
    second = parse(
        {
            "source_collection_ids": ["col"],
            "feature_addresses": ["mixpeek://text@v1/embedding"],
            "algorithm": "kmeans",
            "algorithm_config": {"num_clusters": 20},
            "dimensionality_reduction": {"method": "umap", "n_components": 3},
        }
    )
    assert first.to_dict() == second.to_dict()
    assert first.vector_config.algorithm == KMeans(n_clusters=20)


def test_the_canonical_form_reads_back_as_itself() -> None:
    definition = parse(algorithm="hdbscan", preprocessing_steps=[{"method": "whitening"}])
    assert parse(json.loads(json.dumps(definition.to_dict()))).to_dict() == definition.to_dict()


def test_fields_go_on_top_of_a_definition() -> None:
    base = parse({"algorithm": "hdbscan", "cluster_name": "a"}, random_state=3)
    changed = parse(base, algorithm_params={"min_cluster_size": 9}, random_state=4)
    assert changed.cluster_name == "a"
    assert changed.vector_config.algorithm == HDBSCAN(min_cluster_size=9)
    assert changed.random_state == 4
    assert parse(base) is base


def test_steps_may_be_objects() -> None:
    definition = parse(preprocessing_steps=[Whitening(), UMAP(n_components=5)])
    assert [s.method for s in definition.vector_config.preprocessing_steps] == ["whitening", "umap"]


def test_the_seed_reaches_every_stage_that_names_none() -> None:
    definition = parse(
        random_state=7,
        algorithm="kmeans",
        preprocessing_steps=[{"method": "umap"}, {"method": "umap", "random_state": 1}],
    ).with_seeds()
    first, second = definition.vector_config.preprocessing_steps
    assert (first.random_state, second.random_state) == (7, 1)
    assert definition.vector_config.algorithm.random_state == 7


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"algoritm": "kmeans"}, r"algoritm: unknown setting. did you mean algorithm\?"),
        ({"algorithm": "kmean"}, "did you mean kmeans"),
        ({"algorithm": "kmeans", "algorithm_params": {"n_cluster": 3}}, "did you mean n_clusters"),
        (
            {"algorithm": "kmeans", "vector_config": {"clustering_method": "hdbscan"}},
            "clustering_method: got 'hdbscan', but .* given as 'kmeans'",
        ),
        (
            {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3, "num_clusters": 4}},
            "n_clusters and num_clusters say different things",
        ),
        (
            {"algorithm": "hdbscan", "algorithm_params": {"min_cluster_size": 0}},
            r"algorithm_params.min_cluster_size: got 0, expected greater than or equal to 2",
        ),
        ({"algorithm": "hdbscan", "kmeans_parameters": {}}, "given as 'hdbscan'"),
        ({"algorithm_params": {"n_clusters": 3}}, "parameters without an algorithm"),
        (
            {"preprocessing_steps": [{"method": "umpa"}]},
            "preprocessing_steps.0.method: .*umpa.*umap",
        ),
        ({"vector_config": 3}, "vector_config: got 3"),
        ({"llm_labeling": {"enabeld": True}}, "did you mean enabled"),
        ({"max_bad_fraction": 2}, "max_bad_fraction: got 2"),
        ({"cluster_type": "attribute"}, "attribute_config: missing"),
        ({"cluster_type": "colour"}, "cluster_type: got 'colour'"),
        ({"metadata": {"a": {"b": float("nan")}}}, "metadata.a.b: got nan"),
    ],
)
def test_refusals_name_the_field(body: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(body)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_labelling_block_without_enabled_is_enabled() -> None:
    assert parse({"llm_labeling": {"provider": "openai", "model": "m"}}).llm_labeling.enabled
    assert not parse({"llm_labeling": {"enabled": False}}).llm_labeling.enabled


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"algorithm": "kmeans", "algorithm_params": {"n_clusters": 5}}'),
        ("a.yaml", "algorithm: kmeans\nalgorithm_params: {n_clusters: 5}\n"),
        ("a.toml", 'algorithm = "kmeans"\n[algorithm_params]\nn_clusters = 5\n'),
        ("b.toml", '[tool.gpucluster]\nalgorithm = "kmeans"\nkmeans_parameters = {n_clusters = 5}'),
    ],
)
def test_file_formats(tmp_path: Path, name: str, text: str) -> None:
    Path(tmp_path, name).write_text(text)
    assert parse(read_body(tmp_path / name)).vector_config.algorithm == KMeans(n_clusters=5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is no JSON"),
        ("a.yaml", "a: [", "is no YAML"),
        ("a.yaml", "!!python/object/apply:os.system [ls]", "is no YAML"),
        ("a.toml", "= 3", "is no TOML"),
        ("a.json", "[1]", r"holds \[1\], expected an object"),
        ("a.ini", "", "got suffix '.ini'"),
        ("a.json", '{"algorithm": "kmeans", "algorithm": "hdbscan"}', "algorithm: is given twice"),
        ("a.yaml", "algorithm: kmeans\nalgorithm: hdbscan\n", "algorithm: is given twice"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    Path(tmp_path, name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_body(tmp_path / name)


def test_a_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        read_body("nowhere.yaml")


def test_absurd_nesting_is_refused() -> None:
    body: dict = {}
    for _ in range(100):
        body = {"metadata": body}
    with pytest.raises(ConfigError, match="nested deeper"):
        parse(body)


def test_schema_names_every_algorithm_and_its_parameters() -> None:
    schema = definition_schema()
    config = schema["$defs"]["VectorConfig"]["properties"]
    assert config["clustering_method"]["enum"] == [*catalogue(), None]
    kmeans = next(s for s in config["algorithm_params"]["anyOf"] if s["title"] == "kmeans")
    assert kmeans["properties"]["n_clusters"]["default"] == 8
    for algorithm in config["algorithm_params"]["anyOf"]:
        for name, field in algorithm["properties"].items():
            assert field.get("description"), f"{algorithm['title']}.{name} has no description"


def test_plan_chooses_by_size() -> None:
    small = make_plan(parse(), 5000, 384, CPU)
    chosen = small.definition.vector_config
    assert chosen.algorithm == HDBSCAN(min_cluster_size="auto", cluster_selection_method="auto")
    assert chosen.preprocessing_steps == (Conditioning(), UMAP(n_components=16, n_neighbors=20))
    assert chosen.noise_policy == "assign_near"
    kept = make_plan(parse(noise_policy="keep"), 5000, 384, CPU).definition.vector_config
    assert kept.noise_policy == "keep"
    assert [s.name for s in small.stages] == [
        "load",
        "prepare.0.conditioning",
        "prepare.1.umap",
        "cluster",
        "measure",
        "calibrate",
        "write",
    ]
    million = make_plan(parse(), 1_000_000, 384, CPU)
    assert million.definition.vector_config.clustering_method == "hdbscan"
    large = make_plan(parse(), 4_000_000, 384, CPU)
    assert large.definition.vector_config.clustering_method == "kmeans"
    assert large.definition.vector_config.algorithm_params["n_clusters"] == 2000
    tiny = make_plan(parse(), 100, 384, CPU)
    assert tiny.definition.vector_config.preprocessing_steps == ()
    named = make_plan(parse(algorithm="hdbscan"), 5000, 384, CPU)
    assert named.definition.vector_config.preprocessing_steps == ()


def test_plan_grows_with_the_data_and_refuses_what_will_not_fit() -> None:
    definition = parse(algorithm="kmeans")
    sizes = [make_plan(definition, n, 768, CPU).peak_bytes for n in (10**4, 10**5, 10**6)]
    assert sizes == sorted(sizes)
    sampled = make_plan(parse(algorithm="kmeans", sample_size=1000), 10**6, 768, CPU)
    assert sampled.peak_bytes < sizes[2]
    with pytest.raises(WillNotFitError, match=r"stage needs about .* GB of memory") as caught:
        make_plan(definition, 10**10, 768, CPU).require_room()
    assert caught.value.needed_bytes > caught.value.available_bytes


def test_plan_needs_two_rows() -> None:
    with pytest.raises(TooFewSamplesError, match="insufficient documents"):
        make_plan(parse(), 1, 8, CPU)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("concatenate", ["cluster"]),
        ("weighted", ["weigh", "cluster"]),
        ("independent", ["feature.0.cluster", "feature.1.cluster"]),
    ],
)
def test_the_plan_names_the_stages_of_several_features(strategy: str, expected: list[str]) -> None:
    uris = ["gpucluster://b@1/c", "gpucluster://b@1/d"]
    definition = parse(
        {"feature_uris": uris, "multi_feature_strategy": strategy, "algorithm": "kmeans"}
    )
    made = make_plan(definition, 500, 24, CPU, ((uris[0], 8), (uris[1], 16)))
    names = [stage.name for stage in made.stages]
    assert names == ["load", *expected, "measure", "calibrate", "write"]
    assert all(stage.bytes > 0 for stage in made.stages)
