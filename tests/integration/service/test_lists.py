"""Lists: what is shown of a thing finds it, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.serving import serving
from tests.helpers.stocked import fill

LISTS = {
    "clusters": "/v1/clusters/list",
    "templates": "/v1/clusters/templates/list",
    "executions": "/v1/clusters/kept/executions/list",
    "collections": "/v1/collections/list",
    "taxonomies": "/v1/taxonomies/list",
    "applications": "/v1/taxonomies/kept/applications/list",
    "tasks": "/v1/tasks/list",
}
MADE_UP = {"taxonomies": ("config", "ready")}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("lists") / "root") as (client, _):
        fill(client)
        yield client


def values(shown: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Give the dot path of each value that can be compared, times apart, and elements of lists."""
    if isinstance(shown, dict):
        for name, inner in shown.items():
            yield from values(inner, (*path, name))
    elif isinstance(shown, list):
        yield from ((".".join(path), [each]) for each in shown if isinstance(each, str))
    elif shown not in (None, "") and not path[-1].endswith("_at"):
        yield ".".join(path), shown


def found(client, path: str, name: str, value: Any):
    operator = "contains" if isinstance(value, list) else "eq"
    one = value[0] if isinstance(value, list) else value
    return client.post(path, json={"filters": {"field": name, "operator": operator, "value": one}})


@pytest.mark.parametrize("listed", LISTS)
def test_what_is_shown_finds_it_or_is_refused(client, listed):
    path, made_up = LISTS[listed], MADE_UP.get(listed, ())
    results = client.post(path, json={}).json()["results"]
    assert results
    refused = set()
    for one in results:
        for name, value in values(one):
            answer = found(client, path, name, value)
            if name.partition(".")[0] in made_up:
                assert answer.status_code == 422, name
                refused.add(name.partition(".")[0])
            else:
                assert one in answer.json()["results"], (name, value)
    assert refused == set(made_up)


@pytest.mark.parametrize("where", ["filters", "sort"])
def test_a_field_that_is_made_up_is_refused_with_what_there_is(client, where):
    name = "config.cluster_ids"
    given = {
        "filters": {"NOT": [{"OR": [{"field": name, "operator": "contains", "value": "x"}]}]},
        "sort": {"field": name},
    }
    answer = client.post("/v1/taxonomies/list", json={where: given[where]})
    (problem,) = answer.json()["detail"]
    assert problem["loc"][:2] == ["body", where]
    assert "cluster_id is the one of config.cluster_ids" in problem["msg"]
    assert "there are taxonomy_id, taxonomy_name," in problem["msg"]
    assert "config," not in problem["msg"]


def test_tasks_are_sorted_by_what_they_show(client):
    body = {"sort": {"field": "additional_data.result.num_clusters", "direction": "desc"}}
    first, *_ = client.post("/v1/tasks/list", json=body).json()["results"]
    assert first["additional_data"]["result"]["num_clusters"] == 3
