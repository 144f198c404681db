"""What is wrong with a value is named where it was written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gpucluster import ClusterDefinition
from gpucluster.errors import ConfigError
from gpucluster.fields import locate
from gpucluster.wire.executions import ExecuteRequest
from gpucluster.wire.triggers import CreateTriggerRequest

EQUAL = {"field": "a", "operator": "eq", "value": 1}
FILTERS = {
    "AND": [EQUAL, {"OR": [EQUAL, {"NOT": [{"AND": [EQUAL]}]}]}],
    "OR": [{"field": "b", "operator": "in", "value": [1, "x"]}],
    "case_sensitive": True,
}
WHOLE = {
    "collection_ids": ["x"],
    "vector_config": {
        "feature_uris": ["mixpeek://a@v1/b"],
        "clustering_method": "kmeans",
        "algorithm_params": {"n_clusters": 4},
        "preprocessing_steps": [{"method": "whitening"}, {"method": "umap", "n_components": 5}],
        "dimension_reduction": {"method": "pca", "components": 2},
    },
    "filters": FILTERS,
    "llm_labeling": {"provider": "keywords", "max_samples_per_cluster": 3},
    "source_enrichment_config": {
        "field_mappings": [{"source_field": "cluster_id", "target_field": "c"}]
    },
    "quality_thresholds": {"silhouette_score": 0.3},
}


def objects(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the ways to all objects in a value."""
    if isinstance(value, dict):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in items:
        if isinstance(inner, dict | list):
            yield from objects(inner, (*path, step))


@pytest.mark.parametrize("path", [path for path in objects(WHOLE) if path], ids=str)
def test_a_misspelt_field_is_named_where_it_stands_with_the_nearest(path):
    given = json.loads(json.dumps(WHOLE))
    place = given
    for step in path:
        place = place[step]
    known = next(iter(place))
    place[known + "z"] = place[known]
    with pytest.raises(ConfigError) as caught:
        ClusterDefinition.parse(given)
    assert caught.value.path == ".".join(map(str, (*path, known + "z")))
    assert f"did you mean {known}?" in str(caught.value)


@pytest.mark.parametrize(
    ("model", "loc", "steps"),
    [
        (ExecuteRequest, ("assignment_threshold", "constrained-float"), ("assignment_threshold",)),
        (ExecuteRequest, ("filters", "AND", 0, "condition"), ("filters", "AND", 0)),
        (ExecuteRequest, ("filters", "AND", 0, "group", "ORR"), ("filters", "AND", 0, "ORR")),
        (CreateTriggerRequest, ("cron", "schedule_config"), ("schedule_config",)),
        (CreateTriggerRequest, ("conditional", "schedule_config", "drift", "metric"),
         ("schedule_config", "metric")),
        (ExecuteRequest, ("filters", "AND", 0, "condition", "value", "float"),
         ("filters", "AND", 0, "value")),
        (ExecuteRequest, ("filters", "OR", 1, "condition", "value", "list", 2, "float"),
         ("filters", "OR", 1, "value", 2)),
        (ExecuteRequest, ("filters", "AND", 0, "condition", "value", "dict", "list", "str"),
         ("filters", "AND", 0, "value", "list")),
        (None, ("a", 1, "b"), ("a", 1, "b")),
    ],
)  # fmt: skip
def test_tags_and_names_of_types_are_no_steps(model, loc, steps):
    assert locate(model, loc).steps == steps
