"""Attribute groups are those of GROUP BY."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.errors import ConfigError
from gpucluster.grouping import AttributeConfig, group

GOODS = pa.table(
    {
        "category": ["Electronics", "Toys", "Electronics", None, "Electronics"],
        "brand": ["Apple", "Lego", "Sony", "Lego", "Apple"],
        "tags": [["a", "b"], ["b"], ["c", "b"], [], None],
        "price": [1.5, 2.0, 3.0, 4.0, 5.0],
    }
)


def test_flat_names_join_values() -> None:
    found = group(GOODS, AttributeConfig(attributes=("category", "brand")))
    assert found.names == (("Electronics_Apple", "Toys_Lego", "Electronics_Sony", "null_Lego"),)
    assert found.levels.tolist() == [[0, 1, 2, 3, 0]]
    assert found.num_null == {"category": 1, "brand": 0}


def test_a_level_for_each_attribute() -> None:
    config = AttributeConfig(attributes=("category", "brand"), hierarchical_grouping=True)
    found = group(GOODS, config)
    assert found.names[0] == ("Electronics", "Toys", "null")
    assert found.names[1] == ("Electronics_Apple", "Toys_Lego", "Electronics_Sony", "null_Lego")
    assert found.levels.tolist() == [[0, 1, 0, 2, 0], [0, 1, 2, 3, 0]]


@pytest.mark.parametrize(
    ("method", "names"),
    [("most_frequent", ("b", "null")), ("first", ("a", "b", "c", "null")), ("last", ("b", "null"))],
)
def test_one_value_of_a_list_groups_a_document(method: str, names: tuple[str, ...]) -> None:
    found = group(GOODS, AttributeConfig(attributes=("tags",), aggregation_method=method))
    assert found.names == (names,)
    assert found.num_null == {"tags": 2}


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_texts_of_any_type_make_the_same_groups(kind: pa.DataType) -> None:
    goods = pa.table({"brand": GOODS["brand"].cast(kind)})
    assert group(goods, AttributeConfig(attributes=("brand",))).names == (
        ("Apple", "Lego", "Sony"),
    )


def test_groups_that_would_be_called_the_same_are_quoted() -> None:
    goods = pa.table({"a": ["null", None, "x_y", "x"], "b": ["1", "1", "z", "y_z"]})
    assert group(goods, AttributeConfig(attributes=("a",))).names == (
        ('"null"', "null", "x_y", "x"),
    )
    assert group(goods, AttributeConfig(attributes=("a", "b"))).names == (
        ('"null"_"1"', 'null_"1"', '"x_y"_"z"', '"x"_"y_z"'),
    )
    with pytest.raises(ValueError, match="each attribute once"):
        AttributeConfig(attributes=("a", "a"))


def test_floating_point_makes_no_groups() -> None:
    with pytest.raises(ConfigError, match="price is double, which makes no groups"):
        group(GOODS, AttributeConfig(attributes=("price",)))


@given(
    st.lists(
        st.tuples(st.sampled_from([None, "x", "y", "null", "x_y"]), st.integers(0, 3)), min_size=1
    )
)
def test_groups_are_those_of_sql(rows: list[tuple[str | None, int]]) -> None:
    table = pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]})
    table = table.set_column(0, "a", table["a"].cast(pa.string()))
    config = AttributeConfig(attributes=("a", "b"), hierarchical_grouping=True)
    found = group(table, config)
    for level, by in zip(found.levels, ("a", "a, b"), strict=True):
        counts = duckdb.from_arrow(table).aggregate("count(*)", by).fetchall()
        assert sorted(np.bincount(level)) == sorted(count for (count,) in counts)
    for child in np.unique(found.levels[1]):
        assert len(set(found.levels[0][found.levels[1] == child])) == 1
