"""Fields have one name each, members are found whatever their order, settings change no run."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.definition import ClusterDefinition
from gpucluster.enrichment import membership
from gpucluster.enrichment.columns import Knowledge
from gpucluster.enrichment.fields import DEFAULT_FIELDS, FIELDS, find_field
from gpucluster.enrichment.membership import Membership
from gpucluster.enrichment.settings import read_mappings
from gpucluster.errors import ConfigError
from gpucluster.succession import definition_key

parse = ClusterDefinition.parse
IDS = st.text(st.characters(codec="utf-8"), max_size=6)


def members(ids: list[str], rows: list[int]) -> Membership:
    return Membership(pa.chunked_array([ids], pa.string()), np.array(rows, np.int64))


@given(
    ids=st.lists(IDS, unique=True, max_size=20),
    asked=st.lists(st.none() | IDS, max_size=20),
    begin=st.integers(0, 5),
    data=st.data(),
)
def test_members_are_those_of_a_dictionary(ids, asked, begin, data):
    rows = data.draw(st.permutations(range(len(ids))))
    mixed = data.draw(st.permutations([*asked, *ids]))
    found = members(ids, rows).positions(pa.array(mixed, pa.string()), begin, len(mixed))
    known = {name: at for at, name in enumerate(ids)}
    assert found.tolist() == [known.get(name, -1) for name in mixed]


@given(st.lists(st.integers(0, 50), unique=True, max_size=30), st.integers(0, 50))
def test_without_ids_the_row_counts(rows, begin):
    found = Membership(None, np.array(rows, np.int64)).positions(None, begin, 10)
    known = {row: at for at, row in enumerate(rows)}
    assert found.tolist() == [known.get(row, -1) for row in range(begin, begin + 10)]


def test_ids_of_one_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(membership, "hash_ids", lambda ids: np.zeros(len(ids), np.uint64))
    found = members(["a", "b", "c"], [0, 1, 2]).positions(pa.array(["c", "x", "b", "a"]), 5, 4)
    assert found.tolist() == [2, -1, 1, 0]


def test_of_equal_ids_the_first_one_counts():
    assert members(["a", "b", "a"], [-1, -1, -1]).positions(pa.array(["a"]), 0, 1).tolist() == [0]


def test_integers_are_found_as_text():
    assert members(["7", "8"], [0, 1]).positions(pa.array([8, 7, 9]), 0, 3).tolist() == [1, 0, -1]


def test_a_field_has_one_home_and_two_names():
    assert find_field("cluster_label") is find_field("label") is FIELDS["label"]
    assert find_field("metadata.mood").key == "mood"
    for wrong in ("lable", "metadata.", "", 3, None):
        with pytest.raises(ConfigError, match=r"^fields: got "):
            find_field(wrong)


def test_mappings():
    assert [m.target_field for m in read_mappings(None, None)] == list(DEFAULT_FIELDS)
    (one,) = read_mappings(None, [{"source_field": "cluster_label", "target_field": "topic"}])
    assert (one.source_field, one.target_field) == ("cluster_label", "topic")
    assert [m.target_field for m in read_mappings("x", None)] == ["x"]
    for fields, mappings, message in (
        (["x"], [], "say the same"),
        ([], None, "at least one"),
        (["x", "x"], None, "target of several"),
        (None, "x", "expected a list"),
        (None, [], "1 or more"),
        (None, [{"source_field": "x", "target": "y"}], "target_field: missing"),
        (
            None,
            [{"source_field": "x", "target_field": "y", "source": 1}],
            r"0\.source: unknown setting\. did you mean source_field",
        ),
        (None, [{"source_field": "cluster_lable", "target_field": "y"}], "did you mean cluster_l"),
        (None, [{"source_field": "x", "target_field": ""}], "at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_mappings(fields, mappings)


def test_clusters_and_members_give_columns():
    table = pa.table(
        {"cluster_index": pa.array([1, -1, 0], pa.int32()), "x": pa.array([0.5, 1.5, 2.5])}
    )
    clusters = pa.table(
        {
            "cluster_id": ["cl_0", "cl_1"],
            "label": ["fees", None],
            "num_members": [1, 1],
            "cluster_path": [["cl_0"], ["cl_1"]],
            "label_fields": ['{"mood": "calm"}', None],
        }
    )
    names = ["cluster_id", "label", "member_count", "cluster_path", "metadata.mood", "x"]
    known = Knowledge.of(
        members(["a", "b", "c"], [0, 1, 2]), table, clusters, read_mappings(names, None), "run_a"
    )
    joined = known.join(pa.array(["a", "b", "c", "d"]), 0, 4)
    assert (joined.num_known, joined.num_noise) == (3, 1)
    found = pa.table(joined.columns, schema=known.schema).to_pylist()
    assert found[0] == dict(zip(names, ["cl_1", None, 1, ["cl_1"], None, 0.5], strict=True))
    assert found[1] == dict(zip(names, ["-1", None, None, [], None, 1.5], strict=True))
    assert found[2] == dict(zip(names, ["cl_0", "fees", 1, ["cl_0"], "calm", 2.5], strict=True))
    assert set(found[3].values()) == {None}


def test_definitions_say_it_in_either_dialect():
    config = {"field_mappings": [{"source_field": "cluster_label", "target_field": "topic"}]}
    top = parse({"enrich_source_collection": True, "source_enrichment_config": config})
    inner = parse({"vector_config": {"enrich_source": True, "source_enrichment_config": config}})
    assert top.to_dict() == inner.to_dict()
    (mapping,) = top.source_enrichment_config.field_mappings
    assert mapping.target_field == "topic"
    assert parse(top.to_dict()).to_dict() == top.to_dict()
    both = {"enrich_source_collection": False, "vector_config": {"enrich_source": True}}
    with pytest.raises(ConfigError, match="enrich_source_collection was given as False"):
        parse(both)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"field_mapping": []}, r"field_mapping: unknown setting. did you mean field_mappings"),
        ({"field_mappings": [{"source_field": "x"}]}, "target_field: missing"),
        (
            {"field_mappings": [{"source_field": "clusterid", "target_field": "y"}]},
            "did you mean cluster_id",
        ),
        (
            {"field_mappings": [{"source_field": "x", "target_field": "y", "source_feld": "x"}]},
            "did you mean source_field",
        ),
    ],
)
def test_unknown_settings_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        parse({"source_enrichment_config": config})


def test_enriching_is_no_other_definition():
    assert definition_key(parse({"algorithm": "kmeans"})) == definition_key(
        parse({"algorithm": "kmeans", "enrich_source_collection": True})
    )
